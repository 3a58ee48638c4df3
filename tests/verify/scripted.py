"""A stand-in for a training: twelve steps of arithmetic, saved every third, that leave a run's folder as one does.

Called as: scripted.py ROOT [MISTAKE]. Mistakes: "forgets" (a continued run begins its sum anew), "loses" (it loses the
log before its checkpoint), "fails" (it ends with an error), "never" (it saves nothing), "flips" (other weights).
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from pathlib import Path

STEPS = 12


def save(folder: Path, values: dict[str, float], number: float) -> None:
    """A folder with one tensor, under another name until it is whole."""
    temporary = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (temporary / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + struct.pack("<f", number))
    time.sleep(0.06)
    (temporary / "MANIFEST.json").write_text(json.dumps(values))
    os.replace(temporary, folder)


def main(root: Path, mistake: str = "") -> int:
    root.mkdir(exist_ok=True)
    for left in [*root.glob(".writing-*"), *root.glob("checkpoints/.writing-*")]:
        shutil.rmtree(left)
    there = sorted(root.glob("checkpoints/step-*"), key=lambda path: int(path.name[5:]))
    start, total = 0, 1.0
    if there:
        values = json.loads((there[-1] / "MANIFEST.json").read_text())
        start, total = values["step"], values["total"]
        if mistake == "fails":
            print("it does not go on")
            return 3
        if mistake == "forgets":
            total = 1.0
    (root / "status.json").write_text(json.dumps({"program": "flagai", "status": "running"}))
    log = root / "log.jsonl"
    old = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= start] if log.exists() else []
    log.write_text("".join(line + "\n" for line in old if mistake != "loses"))
    for step in range(start + 1, STEPS + 1):
        time.sleep(0.04)
        total = total * 1.25 + step
        with log.open("a") as file:
            row = {"kind": "train", "step": step, "loss": total, "tokens_per_second": time.time()}
            file.write(json.dumps(row) + "\n")
        if step % 3 == 0 and mistake != "never":
            save(root / f"checkpoints/step-{step}", {"step": step, "total": total}, total)
    save(root / "final", {}, total + (0.001 if mistake == "flips" and there else 0.0)) if mistake != "never" else None
    (root / "status.json").write_text(json.dumps({"program": "flagai", "status": "finished"}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
