"""Writing speed beside Hugging Face's `generate` and flagai 1.8.4: same weights, prompts, tokens and threads.

    python benchmarks/generate.py --peer-python <python with flagai 1.8.4> --rounds 3 --save

GPT-2 124M, the shape of T5-base and a 12 × 768 GLM, all of random weights, write 64 tokens behind one prompt and behind
16 of mixed lengths, greedily and with 4 beams, in fp32 and bf16. The tokens are compared: in fp32 all contenders must
write the same. `--layers 2 --hidden 128 --vocab 1024 --answer 8 --rounds 1` is a quick look. Who the others are:
`generate_peer_hf.py`, `generate_peer_flagai184.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
from generate_peer_case import Case, options, reading_peak, run, show

OURS, GENERAL, PEER = "flagai", "flagai general", "flagai 1.8.4"
HF = ("HF dynamic", "HF static", "HF static compiled")
ENGINES = (OURS, GENERAL, *HF, PEER)
PEAK = "peak: "
Rows = dict[str, list[dict[str, Any]]]


def one(arguments: argparse.Namespace) -> None:
    """The contender that `--one` names, in this process."""
    engine = arguments.one.partition(": ")[2]
    if engine == PEER:
        script = str(Path(__file__).with_name("generate_peer_flagai184.py"))
        os.execv(arguments.peer_python, [arguments.peer_python, script, *sys.argv[1:]])
    if arguments.one == PEAK:
        show({"reading": reading_peak(arguments.threads)})
        return
    from generate_ours import ENGINES as ours
    from generate_peer_hf import ENGINES as theirs

    show(run({**ours, **theirs}[engine], arguments))


def main(arguments: argparse.Namespace) -> None:
    """Run in rounds, compare tokens, report."""
    names = [name for name in names_of(arguments) if not arguments.only or name in arguments.only]
    load = os.getloadavg()
    rows: Rows = {name: [] for name in names}
    failed: dict[str, str] = {}
    peak = 0.0
    for number in range(arguments.rounds):
        peak = max(peak, harness._in_process(__file__, PEAK)["reading"])
        for name in [name for name in names if name not in failed]:
            try:
                rows[name].append(harness._in_process(__file__, name))
            except SystemExit as error:
                failed[name] = str(error).strip().splitlines()[-1]
                print(f"{name} is left out: {failed[name]}", file=sys.stderr, flush=True)
                continue
            print(f"round {number + 1}  {name:48} {rows[name][-1]['speed']:9.1f} tokens/s", file=sys.stderr, flush=True)
    rows = {name: several for name, several in rows.items() if several}
    agreement = compare(rows)
    text = "\n".join([report(rows, arguments, peak, load), "", *agreement, *notes(arguments, peak, failed)])
    print(text)
    if arguments.save:
        harness.RESULTS.mkdir(exist_ok=True)
        stem = f"generate_{datetime.now(UTC):%Y-%m-%d}_{arguments.threads}-threads"
        (harness.RESULTS / f"{stem}.md").write_text(text + "\n", encoding="utf-8")
        kept = json.dumps({"reading_peak": peak, "failed": failed, "rows": rows}, indent=1)
        (harness.RESULTS / f"{stem}.json").write_text(kept + "\n", encoding="utf-8")


def names_of(arguments: argparse.Namespace) -> list[str]:
    """All contenders, work by work."""
    engines = [name for name in arguments.engines or ENGINES if name != PEER or Path(arguments.peer_python).is_file()]
    works = [
        f"{model} batch {batch} beam {beams} {precision}"
        for model in arguments.models
        for batch in arguments.batches
        for beams in arguments.beams
        for precision in arguments.precisions
    ]
    return [f"{work}: {engine}" for work in works for engine in engines if engine != PEER or _peer_can(work)]


def _peer_can(work: str) -> bool:
    """It writes one text at a time; its T5 reads everything anew for each token, which says nothing about speed."""
    return " batch 1 " in work and " beam 1 " in work and not work.startswith("t5")


def compare(rows: Rows) -> list[str]:
    """Lines that say whether all wrote the same; takes the tokens out of the rows."""
    tokens = {name: _taken(several) for name, several in rows.items()}
    lines = []
    for name, found in tokens.items():
        work, _, engine = name.partition(": ")
        ours = tokens.get(f"{work}: {OURS}")
        if engine == OURS or ours is None:
            continue
        share = sum(a == b for x, y in zip(ours, found, strict=False) for a, b in zip(x, y, strict=False))
        total = sum(map(len, ours))
        if share < total:
            what = "rounding parts them" if work.endswith("bf16") else "THEY DIFFER: their speeds cannot be compared"
            lines.append(f"- {name} and {OURS}: {share} of {total} tokens are the same ({what}).")
    return lines or ["- All contenders wrote the same tokens."]


def _taken(several: list[dict[str, Any]]) -> list[list[int]]:
    return [row.pop("tokens") for row in several][-1]


def report(rows: Rows, arguments: argparse.Namespace, peak: float, load: Any) -> str:
    """The house's page, with each row's share of what reading the weights allows."""
    for name, several in rows.items():
        arguments.one = name
        case = Case.of(arguments)
        for row in several:
            bound = weights_read(case) * (2 if case.precision == "bf16" else 4) / peak / 1e9
            row["share_of_bound"] = bound * 1e3 / row["ms_per_step"]
    best = {name: max(row["speed"] for row in several) for name, several in rows.items()}
    ratios = []
    for work in dict.fromkeys(name.partition(": ")[0] for name in rows):
        found = [f"{work}: {name}" for name in HF if f"{work}: {name}" in best]
        aim = "2" if " beam 1 " in work else "1.5"
        if found:
            fastest = max(found, key=lambda name: best[name])
            title = f"{work}: {OURS} / fastest of Hugging Face ({fastest.partition(': ')[2]}; aim {aim})"
            ratios.append((title, f"{work}: {OURS}", fastest))
        ratios += [(f"{work}: {OURS} / {other}", f"{work}: {OURS}", f"{work}: {other}") for other in (GENERAL, PEER)]
    return harness.report(rows, unit="tokens/s", ratios=ratios, arguments=arguments, load=load)


def weights_read(case: Case) -> float:
    """Numbers that writing a token must read: every matrix once, for all rows together."""
    square = case.hidden**2
    layer = (4 + 2 + 8 if case.model == "t5" else 12) * square  # a T5 decoder reads cross-attention's q and o too
    return float(case.layers * layer + case.vocab * case.hidden)


def notes(arguments: argparse.Namespace, peak: float, failed: dict[str, str]) -> list[str]:
    """What was measured, exactly."""
    return [
        f"- models: {arguments.layers} layers, hidden {arguments.hidden}, random weights; T5: as many on each side",
        f"- {arguments.answer} tokens for each prompt, no end token; one prompt has {arguments.context} tokens, "
        f"several have from a quarter of that to all of it; tokens/s count what is written, not the beams",
        f"- a call is timed as a whole: reading the prompts too, and for {OURS} the making of its writer; copies of "
        f"matrices that {OURS} keeps beside the model (`copies_mib`) were made in the untimed first call",
        f"- measured reading peak of {arguments.threads} threads: {peak:.1f} GB/s; the bound is reading every "
        f"matrix of the decoder and the head once a step",
        f"- {PEER} takes one text at a time; Hugging Face's `generate` of the GLM runs our model",
        *(f"- left out: {name}: {reason}" for name, reason in failed.items()),
    ]


if __name__ == "__main__":
    given = options(__doc__ or "").parse_args()
    one(given) if given.one else main(given)
