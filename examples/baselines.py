"""What answers that were never learned reach on the data of a run: `python examples/baselines.py RUN.yaml`.

The source itself, its first sentence, and its first characters or words (as many as a title of the training part has).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flagai import load_config
from flagai.data.record import Record
from flagai.data.records import find_splits, read_records
from flagai.measure.baselines import untrained_answers
from flagai.measure.generation import generation_metrics

SHOWN = ("rouge_1", "rouge_2", "rouge_l", "bleu", "chrf", "distinct_2")


def splits_of(run: Path) -> dict[str, list[Record]]:
    """The records of a run's splits, as training reads them."""
    data = load_config(run).data
    columns = {name: column for name, column in data.columns.model_dump().items() if column}
    named: dict[str, Any] = {"train": data.train, "eval": data.eval, "test": data.test}
    paths = {split: Path(file) for split, file in named.items() if file}
    if paths["train"].is_dir():
        paths = find_splits(paths["train"]) | {split: path for split, path in paths.items() if split != "train"}
    order = [split for split in ("train", "eval", "test") if split in paths]
    return {split: read_records(paths[split], columns=columns, kind="target") for split in order}


def main(run: Path) -> None:
    splits = splits_of(run)
    targets = [record.get("label") for record in splits["train"]]
    print("| split | records | answer |", " | ".join(SHOWN), "|")
    print("|---" * (3 + len(SHOWN)) + "|")
    for split, records in list(splits.items())[1:]:
        golds = [record.get("label") for record in records]
        for name, answers in untrained_answers([record.text for record in records], targets).items():
            found = generation_metrics(golds, answers)
            print("|", split, "|", len(records), "|", name, "|", *(f"{found[key]:.3f} |" for key in SHOWN))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
