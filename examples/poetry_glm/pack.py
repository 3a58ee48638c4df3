"""A finished run → the folder that the package carries: weights in fp16, tokenizer, task, card, hashes, loss curve.

`python pack.py RUN FINISHED_RUN TARGET`; the card is `card.md` beside this file.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from flagai import AutoLoader
from flagai.auto import Loaded, save_folder
from flagai.hub import file_sha256
from flagai.report.charts import Series, line_chart

HERE = Path(__file__).parent
STYLE = """svg{background:#fff;font:11px sans-serif} .grid{stroke:#ddd} .tick{fill:#555} .end{text-anchor:end}
.middle{text-anchor:middle} .line{fill:none;stroke-width:1.5} .faint{opacity:.35}
.c1{stroke:#3366aa} .c2{stroke:#bb4411} .c3{stroke:#228855} .point{fill:#fff}"""
KINDS = ("loss_token", "loss_sentence", "loss_document")


def main(run: Path, finished: Path, target: Path) -> None:
    loader = AutoLoader("poetry", finished / "final")
    model, task = loader.get_model().to(torch.float16), loader.get_task()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    tokenizer = loader.get_tokenizer()
    model.generation_config.eos_token_id = [tokenizer.eop_token_id, tokenizer.eos_token_id]
    save_folder(target, Loaded(model, tokenizer, task))
    (target / "model.safetensors").chmod(0o644)
    shutil.copy(HERE / "card.md", target / "README.md")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(target.iterdir())
    }
    manifest = {"name": "glm-tiny-poetry-ch", "files": files}
    (target / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (HERE / "loss.svg").write_text(curve(run, finished), encoding="utf-8")
    print(f"{sum(one['bytes'] for one in files.values()) / 1e6:.1f} MB in {target}")


def curve(*runs: Path) -> str:
    """The loss of training and, by kind of blank, of the held-out poems, over the steps of both runs."""
    train: list[tuple[float, float]] = []
    held_out: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    before = 0
    for run in runs:
        rows = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
        train += [(before + row["step"], row["loss"]) for row in rows if row["kind"] == "train"]
        for row in (row for row in rows if row["kind"] == "eval"):
            for kind in KINDS:
                held_out[kind].append((before + row["step"], row[kind]))
        before += max(row["step"] for row in rows if "step" in row)
    series = [Series(name="training", points=train, faint=True)]
    series += [Series(name=kind, points=held_out[kind], color=i + 1, dots=True) for i, kind in enumerate(KINDS)]
    chart = str(line_chart("Loss", series, x_name="step"))
    start, end = chart.index("<svg"), chart.index("</svg>")
    return (
        chart[start:end].replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        + f"<style>{STYLE}</style></svg>\n"
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
