"""Run contenders in turn, each in a process of its own, several rounds; keep the best; print and save ratios.

A script with contenders calls `main(CONTENDERS, …)`. With `--one NAME` it runs that contender and prints one JSON line;
without it, it calls itself so for each contender, round after round, so that all of them meet the same disturbances.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Contender = Callable[[argparse.Namespace], dict[str, Any]]
RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "transformers", "sentence-transformers", "numpy")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--one", help="run one contender and print its JSON line")
    options.add_argument("--only", nargs="*", help="contenders to run (default: all)")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--save", action="store_true", help="write a dated file to benchmarks/results/")
    return options


def main(
    arguments: argparse.Namespace,
    contenders: Mapping[str, Contender],
    *,
    unit: str,
    ratios: Sequence[tuple[str, str, str]],
    script: str,
) -> None:
    """Run and report.

    Args:
        unit: of `speed` in a contender's result; higher is better.
        ratios: (name, of contender, over contender) to print.
    """
    if arguments.one:
        print(json.dumps(_measured(contenders[arguments.one], arguments)))
        return
    names = arguments.only or list(contenders)
    load = os.getloadavg()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names:
            row = _in_process(script, name)
            rows[name].append(row)
            print(f"round {number + 1}  {name:34} {row['speed']:9.1f} {unit}", file=sys.stderr, flush=True)
    text = report(rows, unit=unit, ratios=ratios, arguments=arguments, load=load)
    print(text)
    if arguments.save:
        RESULTS.mkdir(exist_ok=True)
        name = f"{Path(script).stem}_{datetime.now(UTC):%Y-%m-%d}_{arguments.threads}-threads"
        (RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def report(
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    unit: str,
    ratios: Sequence[tuple[str, str, str]],
    arguments: argparse.Namespace,
    load: Sequence[float],
) -> str:
    """A page of Markdown: machine, best of each contender with all rounds, ratios of the bests."""
    best = {name: max(several, key=lambda row: row["speed"]) for name, several in rows.items()}
    extra = sorted({key for row in best.values() for key in row} - {"speed", "peak_memory_mib"})
    head = ["contender", f"best {unit}", "all rounds", "peak memory MiB", *extra]
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu()}, {arguments.threads} threads, load before: {load[0]:.1f}; "
        + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for name, row in best.items():
        rounds = " ".join(f"{item['speed']:.1f}" for item in rows[name])
        memory = min(item["peak_memory_mib"] for item in rows[name])
        cells = [name, f"{row['speed']:.1f}", rounds, f"{memory:.0f}", *(_cell(row.get(key)) for key in extra)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| ratio | value |", "|---|---|"]
    for name, over, under in ratios:
        if over in best and under in best:
            lines.append(f"| {name} | {best[over]['speed'] / best[under]['speed']:.2f} |")
    return "\n".join(lines)


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def best_of(function: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def matmul_peak() -> float:
    """The machine's bf16 matrix product in GFLOP/s: best of several 2048-square products."""
    import torch

    a = torch.randn(2048, 2048).bfloat16()
    return 2 * 2048**3 / best_of(lambda: a @ a, 10) / 1e9


def _measured(contender: Contender, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    row = contender(arguments)
    return row | {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _in_process(script: str, name: str) -> dict[str, Any]:
    command = [sys.executable, script, *sys.argv[1:], "--one", name]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
