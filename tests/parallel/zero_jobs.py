"""The jobs of `spread_jobs` under DeepSpeed's ZeRO, and some that only ZeRO has."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import numpy as np
import spread_jobs as jobs
import torch
import torch.distributed as dist
from spread_models import MODELS, Moody, model_of
from torch import Tensor, nn

from flagai.parallel.deepspeed import Zero
from flagai.parallel.strategy import Strategy


def make(stage: int, *, settings: dict[str, Any] | None = None, **options: Any) -> Zero:
    """The strategy; `settings` of its `zero_optimization` come in a deepspeed.json."""
    if settings is None:
        return _readable(Zero(stage, device="cpu", **options))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"zero_optimization": settings}, file)
        file.flush()
        return _readable(Zero(stage, device="cpu", file=file.name, **options))


def _readable(strategy: Zero) -> Zero:
    """Whole weights in a format that NumPy has."""
    whole = strategy.weights
    if strategy.precision == "bf16":
        strategy.weights = lambda: ((name, tensor.float()) for name, tensor in whole())  # type: ignore[method-assign]
    return strategy


def run(task: str, stage: int, **options: Any) -> Any:
    """A job of `spread_jobs` under a stage."""
    jobs.make = lambda sizes, **more: make(**sizes, **more)  # type: ignore[assignment]
    jobs.moments_of = moments_of
    return getattr(jobs, task)(sizes={"stage": stage}, **options)


def moments_of(strategy: Strategy) -> dict[str, Tensor]:
    """The whole moments, put together from the parts of all processes."""
    mine = [(p.name, p.key, p.whole, p.box, p.tensor.clone()) for p in strategy.parts() if p.key]
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    found: dict[str, Tensor] = {}
    for name, key, whole, box, tensor in (part for parts in told for part in parts):
        found.setdefault(f"{name}/{key}", torch.full(whole, float("nan")))[box.slices] = tensor
    return found


def evaluate_twice(family: str, stage: int, **options: Any) -> list[Any]:
    """(logits, loss) of a batch before there is an optimizer, and with one, after steps of size 0."""
    strategy = make(stage, **options)
    strategy.place(model_of(family))
    found = []
    for _ in range(2):
        outputs, scored = strategy.evaluate(jobs.batch_of(family, 0, np.arange(5)), jobs.loss_of)
        found.append((outputs["logits"].float().numpy().copy(), scored))
        if len(found) == 1:
            optimizer = strategy.optimizer(jobs.sgd)
            optimizer.param_groups[0]["lr"] = 0.0
            jobs.steps(strategy, family, (8,), 1)
    return found


def written(stage: int) -> tuple[list[int], list[float]]:
    """What GPT-2 writes through `answer`, and the losses of the steps around it."""
    strategy = make(stage, settings={"stage3_param_persistence_threshold": 0})
    strategy.place(model_of("gpt2"))
    strategy.optimizer(jobs.adamw)
    losses = jobs.steps(strategy, "gpt2", (8,), 1)
    answers, _ = strategy.evaluate(jobs.batch_of("gpt2", 0, np.arange(2)), answer=_write)
    losses += jobs.steps(strategy, "gpt2", (8,), 1, first=1)
    return answers["ids"].tolist(), [loss for loss, _ in losses]


def _write(model: Any, batch: Any) -> dict[str, Any]:
    ids = batch["input_ids"][:, :5]
    return {"ids": model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)}


def written_alone() -> tuple[list[int], list[float]]:
    """The same in one process."""
    strategy = jobs.make(None)
    strategy.place(model_of("gpt2"))
    strategy.optimizer(jobs.adamw)
    losses = jobs.steps(strategy, "gpt2", (8,), 1)
    answers, _ = strategy.evaluate(jobs.batch_of("gpt2", 0, np.arange(2)), answer=_write)
    losses += jobs.steps(strategy, "gpt2", (8,), 1, first=1)
    return answers["ids"].tolist(), [loss for loss, _ in losses]


def nothing_stays(folder: str) -> tuple[bool, list[str]]:
    """Whether torch's linear function is its own after stage 3, and what was compiled, which would go to `folder`."""
    os.environ["TORCH_EXTENSIONS_DIR"] = folder
    linear = nn.functional.linear
    run("train", 3, family="bert", rows=(8,))
    return nn.functional.linear is linear, os.listdir(folder) if os.path.isdir(folder) else []


def nobody(stage: int) -> list[Any]:
    """A step in which no process has an example."""
    strategy = make(stage)
    strategy.place(model_of("bert"))
    strategy.optimizer(jobs.adamw)
    jobs.steps(strategy, "bert", (8,), 1)
    before = {name: tensor.clone() for name, tensor in strategy.weights()}
    found = (strategy.accumulate([], jobs.loss_of), strategy.clip(1.0))
    strategy.step([0.1, 0.1])
    same = all(torch.equal(tensor, before[name]) for name, tensor in strategy.weights())
    return [*found, same, jobs.steps(strategy, "bert", (8,), 1, first=1)]


class Rowwise(torch.optim.Optimizer):
    """Looks at whole rows."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})


def error(kind: str) -> tuple[str, str]:
    """The error that a wrong request gives: its class and text."""
    from flagai.config import ParallelConfig
    from flagai.parallel.deepspeed import from_config

    requests: dict[str, Any] = {
        "fp16": lambda: make(2, precision="fp16"),
        "tensor": lambda: from_config(ParallelConfig(strategy="zero2", tensor=2), device="cpu"),
        "file": lambda: make(2, settings={"stage": 3}),
        "rows": lambda: _optimized(lambda model: Rowwise(model.parameters())),
        "frozen": lambda: _optimized(lambda model: torch.optim.SGD(model.requires_grad_(False).parameters())),
    }
    try:
        requests[kind]()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def _optimized(factory: Any) -> None:
    strategy = make(2)
    strategy.place(model_of("bert"))
    strategy.optimizer(factory)


class Phased(Moody):
    """A network of which all processes need a part in some steps and not in others."""

    now = True

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """As there."""
        x = self.table(input_ids)
        x = x + self.rare(x) if Phased.now else x
        return {"logits": 0.1 * self.out(x + self.down(torch.relu(self.up(x))))}


def phased(stage: int | None, **options: Any) -> list[tuple[float, float]]:
    """Losses and norms of steps with and without that part; None: in one process."""
    MODELS["phased"] = Phased
    strategy = jobs.make(None) if stage is None else make(stage, **options)
    strategy.place(model_of("phased"))
    strategy.optimizer(jobs.adamw)
    found = []
    for step, Phased.now in enumerate((True, False, False, True, True, False)):
        found += jobs.steps(strategy, "phased", (8,), 2, first=step)
    return found
