"""How much processor time `flagai --help` and `import flagai` take: the best of several runs, since noise only adds.

Usage: python benchmarks/startup.py [--runs 5] [--limit 0.5]; exits with 1 if `--help` takes longer than the limit.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

COMMANDS = {
    "python -c pass": "pass",
    "import flagai": "import flagai",
    "flagai --help": "import sys; sys.argv = ['flagai', '--help']; from flagai.cli import main; main()",
}


def cpu_seconds(code: str) -> float:
    """User and system seconds of a fresh interpreter that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=0.5, help="CPU seconds that `flagai --help` may take")
    options = parser.parse_args()
    best = {name: min(cpu_seconds(code) for _ in range(options.runs)) for name, code in COMMANDS.items()}
    for name, seconds in best.items():
        print(f"{name:16} {seconds:.3f} s CPU (best of {options.runs})")
    return int(best["flagai --help"] > options.limit)


if __name__ == "__main__":
    sys.exit(main())
