"""Steps a second of two copies (DDP) beside one process, and beside Hugging Face's Trainer with accelerate.

    python benchmarks/spread.py --rounds 3 --save

All train BertForSequenceClassification from all-MiniLM-L6-v2 on the packaged Banking77 split in fp32: 32 examples a
step over all processes, batches of like length, padded, fused AdamW, the same gradient clipping. Each process computes
with one thread, so that two processes have twice the cores of one. The first steps, in which buffers are made, are
left out of the time. Every contender is started by torchrun in processes of its own, one after the other, in rounds;
the memory in the table is that of the process that starts them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import harness

DATA = Path(str(files("flagai").joinpath("assets", "banking77")))
BATCH, UNTIMED = 32, 5


def flagai(arguments: argparse.Namespace, *, processes: int, packing: bool = False) -> dict[str, float] | None:
    """Our Trainer, as a user calls it; the numbers on the first process, None on others."""
    from flagai import Trainer, load_config
    from flagai.parallel import world
    from flagai.train.callbacks import Callback

    class Clock(Callback):
        began = ended = 0.0

        def on_step(self, state: Any, row: Any) -> None:
            self.ended = time.perf_counter()
            if state.step == UNTIMED:
                self.began = self.ended

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            {
                "model": "all-MiniLM-L6-v2",
                "task": {"name": "classification", "head": "linear"},
                "data": {"train": str(DATA / "train.jsonl"), "eval_fraction": 0.0},
                "train": {
                    "max_steps": arguments.steps,
                    "batch_size": BATCH,
                    "learning_rate": 2e-4,
                    "packing": packing,
                    "device": "cpu",
                    "save_steps": 10**6,
                },
                "parallel": {"strategy": "single" if processes == 1 else "ddp"},
                "output": f"{arguments.shared or folder}/run",
            }
        )
        Trainer(config, callbacks=[clock], offline=True).train()
    if not world.is_first():
        return None
    return {"speed": (arguments.steps - UNTIMED) / (clock.ended - clock.began)}


def hugging_face(arguments: argparse.Namespace) -> dict[str, float] | None:
    """transformers' Trainer on accelerate; the same examples a step, in batches of like length, as it makes them."""
    import torch
    from finetune import _Encoded, _rows
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from flagai.hub import resolve

    class Clock(TrainerCallback):
        began = ended = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ended = time.perf_counter()
            if state.global_step == UNTIMED:
                self.began = self.ended

    torch.manual_seed(42)
    folder, clock = resolve("all-MiniLM-L6-v2", offline=True), Clock()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = sorted({row["label"] for row in _rows("train")})
    train: Any = _Encoded(tokenizer, labels, "train")
    with tempfile.TemporaryDirectory() as output:
        options = TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=BATCH // arguments.processes,
            max_steps=arguments.steps,
            learning_rate=2e-4,
            weight_decay=0.01,
            warmup_steps=0.1,
            optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length",
            ddp_find_unused_parameters=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        run = Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(labels)),
            args=options,
            train_dataset=train,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[clock],
        )
        run.train()
        assert run.args.world_size == arguments.processes
    if options.process_index:
        return None
    return {"speed": (arguments.steps - UNTIMED) / (clock.ended - clock.began)}


def started(name: str, processes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a contender in so many processes under torchrun."""
    with tempfile.TemporaryDirectory() as shared:
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
            *(__file__, "--work", name, "--processes", str(processes), "--steps", str(arguments.steps)),
            *("--shared", shared),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"speed"')))


WORK = {
    "flagai": lambda a: flagai(a, processes=a.processes),
    "flagai packed": lambda a: flagai(a, processes=a.processes, packing=True),
    "HF Trainer": hugging_face,
}
CONTENDERS: dict[str, harness.Contender] = {
    "flagai, one process": lambda a: started("flagai", 1, a),
    "flagai, DDP 2": lambda a: started("flagai", 2, a),
    "flagai packed, DDP 2": lambda a: started("flagai packed", 2, a),
    "HF Trainer, one process": lambda a: started("HF Trainer", 1, a),
    "HF Trainer + accelerate, DDP 2": lambda a: started("HF Trainer", 2, a),
}
RATIOS = [
    ("flagai DDP 2 / flagai one process (2 is all that there is)", "flagai, DDP 2", "flagai, one process"),
    ("HF DDP 2 / HF one process", "HF Trainer + accelerate, DDP 2", "HF Trainer, one process"),
    ("flagai DDP 2 / HF DDP 2", "flagai, DDP 2", "HF Trainer + accelerate, DDP 2"),
    ("flagai packed DDP 2 / HF DDP 2", "flagai packed, DDP 2", "HF Trainer + accelerate, DDP 2"),
    ("flagai one process / HF one process", "flagai, one process", "HF Trainer, one process"),
]

if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--work", choices=list(WORK), help="be one of the processes of a contender")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--shared", default="", help="a folder that all processes of a contender see")
    given = options.parse_args()
    if given.work:
        import torch

        torch.set_num_threads(1)
        if (found := WORK[given.work](given)) is not None:
            print(json.dumps(found), flush=True)
    else:
        harness.main(given, CONTENDERS, unit="steps/s", ratios=RATIOS, script=__file__)
