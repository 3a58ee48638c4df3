"""Fine-tuning speed beside Hugging Face's Trainer: same model, data, epochs, learning rate and threads.

    python benchmarks/finetune.py --rounds 3 --save

All train BertForSequenceClassification from all-MiniLM-L6-v2 on the packaged Banking77 split, batch 32, dynamic
padding, and are measured on the dev split afterwards, so that speed stands beside accuracy. Time is that of the steps
alone: loading, tokenising, evaluating and saving are outside for everyone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import harness

DATA = Path(str(files("flagai").joinpath("assets", "banking77")))
BATCH = 32


def flagai(arguments: argparse.Namespace, *, precision: str, packing: bool = True) -> dict[str, Any]:
    from flagai import Trainer, load_config
    from flagai.train.callbacks import Callback

    class Clock(Callback):
        began = ended = 0.0

        def on_start(self, state: Any, total_steps: int) -> None:
            self.began = time.perf_counter()

        def on_step(self, state: Any, row: Any) -> None:
            self.ended = time.perf_counter()
            self.state = state

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            {
                "model": "all-MiniLM-L6-v2",
                "task": {"name": "classification", "head": "linear"},
                "data": {"train": str(DATA / "train.jsonl"), "test": str(DATA / "dev.jsonl"), "eval_fraction": 0.0},
                "train": {
                    "epochs": arguments.epochs,
                    "max_steps": arguments.max_steps,
                    "batch_size": BATCH,
                    "learning_rate": arguments.learning_rate,
                    "precision": precision,
                    "packing": packing,
                    "device": "cpu",
                },
                "output": f"{folder}/run",
            }
        )
        result = Trainer(config, callbacks=[clock], offline=True).train()
    seconds = clock.ended - clock.began
    row = {"speed": clock.state.examples / seconds, "accuracy": result.metrics["test"]["accuracy"]}
    if precision == "bf16":
        row["share_of_bf16_peak"] = _flops(clock.state.tokens) / seconds / 1e9 / harness.matmul_peak()
    return row


def trainer(arguments: argparse.Namespace, *, tuned: bool) -> dict[str, Any]:
    """Hugging Face Trainer: as it comes (fp32, random batches), or tuned by hand (bf16, batches of like length)."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from flagai.hub import resolve

    torch.manual_seed(42)
    folder = resolve("all-MiniLM-L6-v2", offline=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = sorted({row["label"] for row in _rows("train")})
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels))
    by_hand = (
        {"bf16": True, "train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"} if tuned else {}
    )
    with tempfile.TemporaryDirectory() as output:
        options = TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=BATCH,
            num_train_epochs=arguments.epochs,
            max_steps=arguments.max_steps or -1,
            learning_rate=arguments.learning_rate,
            weight_decay=0.01,
            warmup_steps=0.1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            **by_hand,
        )
        train: Any = _Encoded(tokenizer, labels, "train")
        dev: Any = _Encoded(tokenizer, labels, "dev")
        run = Trainer(
            model=model,
            args=options,
            train_dataset=train,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        began = time.perf_counter()
        done = run.train()
        seconds = time.perf_counter() - began
        examples = min(done.global_step * BATCH, arguments.epochs * len(_rows("train")))
        # Its label ids, and not the file's: batches by length change the order of predictions too.
        measured: Any = run.predict(dev)
    right = measured.predictions.argmax(-1) == measured.label_ids
    return {"speed": examples / seconds, "accuracy": float(right.mean())}


class _Encoded:
    """A list of encoded rows, as Trainer's documentation shows it."""

    def __init__(self, tokenizer: Any, labels: list[str], split: str) -> None:
        rows = _rows(split)
        encoded = tokenizer([row["text"] for row in rows], truncation=True, max_length=256, padding=False)
        self._rows = [
            {key: encoded[key][i] for key in encoded} | {"labels": labels.index(row["label"])}
            for i, row in enumerate(rows)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


def _rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def _flops(tokens: int) -> float:
    """Of training: 6 a token and a weight of the matrices (embeddings are look-ups); attention itself left out."""
    layers, hidden, inner = 6, 384, 1536
    return 6.0 * tokens * layers * (4 * hidden * hidden + 2 * hidden * inner)


CONTENDERS: dict[str, harness.Contender] = {
    "flagai bf16": lambda a: flagai(a, precision="bf16"),
    "flagai bf16, buckets only": lambda a: flagai(a, precision="bf16", packing=False),
    "flagai fp32": lambda a: flagai(a, precision="fp32"),
    "HF Trainer, defaults (fp32)": lambda a: trainer(a, tuned=False),
    "HF Trainer, tuned (bf16, by length)": lambda a: trainer(a, tuned=True),
}
RATIOS = [
    ("flagai bf16 / HF Trainer defaults (aim 4)", "flagai bf16", "HF Trainer, defaults (fp32)"),
    ("flagai bf16 / HF Trainer tuned (aim 1.2)", "flagai bf16", "HF Trainer, tuned (bf16, by length)"),
    ("flagai fp32 / HF Trainer defaults (fp32/fp32)", "flagai fp32", "HF Trainer, defaults (fp32)"),
    ("packed / buckets only", "flagai bf16", "flagai bf16, buckets only"),
]

if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--max-steps", type=int, default=None)
    options.add_argument("--learning-rate", type=float, default=2e-4)
    harness.main(options.parse_args(), CONTENDERS, unit="samples/s", ratios=RATIOS, script=__file__)
