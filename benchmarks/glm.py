"""GLM speed beside flagai 1.8.4 and a plain dense-mask implementation: same weights, tokens and threads.

    python benchmarks/glm.py --peer-python <python with flagai 1.8.4> --rounds 3 --save

A 12 × 768 GLM of random weights does three things: a forward pass with logits at every token, a training step (forward,
loss over the targets, backward, clip, AdamW), and 64 tokens written one after the other behind a [gMASK]. Before that,
logits, the losses of three steps and the written tokens of all are compared. `--layers 2 --hidden 128 --vocab 1024
--rounds 1` is a quick look. Who the others are: `glm_peer_dense.py`, `glm_peer_flagai184.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
from glm_peer_case import WORKS, Case, flops, labelled, matmul_peak, options, reading_peak, run, show, weights_read

OURS, DENSE, PEER, BF16 = ENGINES = ("flagai fp32", "dense mask", "flagai 1.8.4", "flagai bf16")
PEAK = "peak: "
CLOSE = 1e-4
AIMS = {("generate", PEER): " (aim 3)", ("train", PEER): " (aim 1.3)"}
Rows = dict[str, list[dict[str, Any]]]


def one(arguments: argparse.Namespace) -> None:
    """The contender that `--one` names, in this process."""
    work, _, engine = arguments.one.partition(": ")
    if engine == PEER:
        script = str(Path(__file__).with_name("glm_peer_flagai184.py"))
        os.execv(arguments.peer_python, [arguments.peer_python, script, *sys.argv[1:]])
    if arguments.one == PEAK:
        show(_peaks(arguments))
    elif engine == DENSE:
        from glm_peer_dense import Dense

        show(run(Dense, arguments, work))
    else:
        from glm_ours import Ours, OursBf16

        show(run(OursBf16 if engine == BF16 else Ours, arguments, work))


def _peaks(arguments: argparse.Namespace) -> dict[str, float]:
    import torch

    torch.set_num_threads(arguments.threads)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {f"matmul {name}": matmul_peak(kind, arguments.device) for name, kind in kinds.items()} | {
        f"reading {name}": reading_peak(kind, arguments.device) for name, kind in kinds.items()
    }


def main(arguments: argparse.Namespace) -> None:
    """Compare, run in rounds, report."""
    engines = [name for name in ENGINES if name != PEER or Path(arguments.peer_python).is_file()]
    if PEER not in engines:
        print(f"{PEER} is skipped: --peer-python names no Python that has it", file=sys.stderr)
    load = os.getloadavg()
    agreement = [] if arguments.no_check else agree(engines)
    names = [f"{work}: {engine}" for work in WORKS for engine in engines]
    names = [name for name in names if not arguments.only or name in arguments.only]
    rows: Rows = {name: [] for name in names}
    peaks: dict[str, float] = {}
    for number in range(arguments.rounds):
        for name, value in harness._in_process(__file__, PEAK).items():
            peaks[name] = max(value, peaks.get(name, 0.0))
        for name in names:
            rows[name].append(harness._in_process(__file__, name))
            print(f"round {number + 1}  {name:28} {rows[name][-1]['speed']:9.1f} tokens/s", file=sys.stderr, flush=True)
    case = Case.of(arguments)
    text = "\n".join([report(rows, arguments, case, peaks, load), "", *agreement, *notes(case, peaks)])
    print(text)
    if arguments.save:
        stem = f"glm_{datetime.now(UTC):%Y-%m-%d}_{arguments.threads}-threads"
        stem += "" if arguments.mode == "token" else f"_{arguments.mode}"
        harness.RESULTS.mkdir(exist_ok=True)
        (harness.RESULTS / f"{stem}.md").write_text(text + "\n", encoding="utf-8")
        kept = json.dumps({"peaks": peaks, "rows": rows}, indent=1)
        (harness.RESULTS / f"{stem}.json").write_text(kept + "\n", encoding="utf-8")


def agree(engines: list[str]) -> list[str]:
    """Lines that say how close all are to our fp32; ends the run where an fp32 contender is not close."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        answers = {}
        for number, engine in enumerate(engines):
            sys.argv.append(f"--check={folder}/{number}.npz")
            harness._in_process(__file__, f"forward: {engine}")
            sys.argv.pop()
            with np.load(f"{folder}/{number}.npz") as file:
                answers[engine] = dict(file)
    lines, ours = [], answers.pop(OURS)
    for engine, theirs in answers.items():
        logits = float(np.abs(theirs["logits"] - ours["logits"]).max())
        losses = float(np.abs(theirs["losses"] - ours["losses"]).max())
        same = int(np.logical_and.accumulate(theirs["tokens"] == ours["tokens"]).sum())
        line = (
            f"- {engine} against {OURS}: logits (largest {np.abs(ours['logits']).max():.2f}) differ by at most "
            f"{logits:.1e}, the losses of three steps by {losses:.1e}; of {len(ours['tokens'])} tokens written, "
            f"the first {same} are the same"
        )
        print(line, file=sys.stderr, flush=True)
        if engine != BF16 and (logits > CLOSE or losses > CLOSE or same < len(ours["tokens"])):
            raise SystemExit("they do not compute the same, so their speeds cannot be compared")
        lines.append(line + ".")
    return lines


def report(rows: Rows, arguments: argparse.Namespace, case: Case, peaks: dict[str, float], load: Any) -> str:
    """The house's page, with each row's share of what the machine can do by formula."""
    for name, several in rows.items():
        work, kind = name.partition(":")[0], "bf16" if name.endswith(BF16) else "fp32"
        for row in several:
            seconds = row["ms"] / 1e3
            row["share_of_matmul_peak"] = flops(case, work) / seconds / 1e9 / peaks[f"matmul {kind}"]
            if work == "generate":
                read = weights_read(case) * (2 if kind == "bf16" else 4)
                row["share_of_reading_peak"] = read / seconds / 1e9 / peaks[f"reading {kind}"]
    ratios = [
        (f"{work}, {ours} / {other}{AIMS.get((work, other), '') if ours == OURS else ''}", f"{work}: {ours}", theirs)
        for work in WORKS
        for ours, other in ((OURS, PEER), (OURS, DENSE), (BF16, PEER), (BF16, OURS))
        for theirs in [f"{work}: {other}"]
    ]
    return harness.report(rows, unit="tokens/s", ratios=ratios, arguments=arguments, load=load)


def notes(case: Case, peaks: dict[str, float]) -> list[str]:
    """What was measured, exactly."""
    at = ", ".join(
        f"{name} {value:.0f} {'GFLOP/s' if name.startswith('matmul') else 'GB/s'}" for name, value in peaks.items()
    )
    return [
        f"- model: {case.layers} layers, hidden {case.hidden}, {case.heads} heads, vocabulary {case.vocab}, "
        f"random weights",
        f"- forward, train: {case.rows} rows × {case.tokens} tokens of context and answers, no pads, {case.mode} mode "
        f"({labelled(case)} targets); dropout {case.dropout} in training; tokens/s count all {case.rows * case.tokens}",
        f"- generate: one text of {case.context} tokens, {case.answer} tokens greedily; tokens/s count those written",
        f"- measured peaks (2048-square products; a Linear 768 → 50048 for one token): {at}",
        f"- by formula: forward {flops(case, 'forward') / 1e9:.0f}, train {flops(case, 'train') / 1e9:.0f}, generate "
        f"{flops(case, 'generate') / 1e9:.1f} GFLOP; writing a token reads every matrix once",
        "- peak memory: resident set of the process while it works; beyond imports: less what importing took",
    ]


if __name__ == "__main__":
    given = options(__doc__ or "").parse_args()
    one(given) if given.one else main(given)
