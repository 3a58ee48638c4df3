"""What the processes of a `world` do: train a tiny model for a few steps under a strategy, and tell what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from spread_models import VOCABULARY, model_of
from torch import Tensor, nn
from torch.nn import functional

from flagai.data.batching import cut
from flagai.parallel.axes import Sizes
from flagai.parallel.native import SingleProcess
from flagai.parallel.spread import Spread
from flagai.parallel.strategy import Strategy

ROWS = (8, 7, 6, 8, 5, 8, 3, 8, 1, 8, 8, 2, 8, 7, 8, 8, 4, 8, 1, 5)
"""examples of each of 20 steps: some batches leave one process without an example"""


def batch_of(family: str, step: int, part: np.ndarray) -> dict[str, Any]:
    """One micro-batch: the examples of `part`, each a function of its number, padded to the longest of them."""
    rows = [np.random.default_rng((step, int(i))) for i in part]
    lengths = [int(rng.integers(6, 24)) for rng in rows]
    drawn = [(rng.integers(3, VOCABULARY, 24), rng.random(24), rng.integers(3, VOCABULARY, 24)) for rng in rows]
    tokens, chance, labels = (np.stack(values)[:, : max(lengths)] for values in zip(*drawn, strict=True))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = tokens * mask
    asked = (chance < 0.4) & (mask > 0)
    asked[:, 1] = True
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "asked": asked, "labels": labels}
    if family == "glm":
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        batch |= {
            "position_ids": np.stack([places, places // 5], axis=1),
            "context_length": np.array([length // 2 for length in lengths]),
            "logits_to_keep": asked,
        }
    if family.startswith("t5"):
        batch["decoder_input_ids"] = ids
    if family.endswith(" kept"):
        batch["logits_to_keep"] = asked
    return batch


def loss_of(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed cross entropy of the tokens that are asked for (or of the rows), and their number."""
    logits, labels, asked = outputs["logits"], batch["labels"], batch["asked"]
    if logits.dim() == 2 and logits.shape[-1] != VOCABULARY:
        return functional.cross_entropy(logits, labels[:, 0] % 3, reduction="sum"), labels.new_tensor(len(logits))
    kept = logits if logits.dim() == 2 else logits[asked]
    return functional.cross_entropy(kept, labels[asked], reduction="sum"), asked.sum()


def forward_names(model: Any, family: str) -> Any:
    """As it is: batches name what each family reads."""
    return model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Plain steps: what is not learned from stays, and noise is not made larger."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Two groups, as in training; an epsilon above the noise of gradients that are zero in exact arithmetic."""
    groups: dict[bool, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault(parameter.dim() > 1, []).append(parameter)
    made = [{"params": p, "weight_decay": 0.01 if k else 0.0, "peak": 0.003} for k, p in groups.items()]
    return torch.optim.AdamW(made, lr=0.003, eps=1e-5, fused=True)


def steps(
    strategy: Strategy,
    family: str,
    rows: tuple[int, ...],
    accumulation: int,
    *,
    first: int = 0,
    clip: float | None = 20.0,
    after: Callable[[], None] = lambda: None,
) -> list[tuple[float, float]]:
    """(mean loss, gradient norm) of each step; `after` each of them something is done."""
    found = []
    groups = strategy._optimizer.param_groups  # type: ignore[attr-defined]
    for step, count in enumerate(rows, first):
        parts = cut(np.arange(count), accumulation=accumulation, axis=strategy.data_axis())
        total, number = strategy.accumulate([batch_of(family, step, part) for part in parts], loss_of)
        norm = strategy.clip(clip)
        strategy.step([group["lr"] for group in groups])
        found.append((total / number, norm))
        after()
    return found


def make(sizes: Mapping[str, int] | None, **options: Any) -> Strategy:
    """One process where no sizes are given."""
    if sizes is None:
        return SingleProcess(device="cpu", **options)
    return Spread(Sizes(**sizes), device="cpu", **options)


def moments_of(strategy: Strategy) -> dict[str, Tensor]:
    """The whole moments of the optimizer, "name/key", on every process."""
    if isinstance(strategy, Spread):
        return {f"{name}/{key}": value.cpu() for (name, key), value in strategy.held.whole(strategy._moments())}
    return {f"{part.name}/{part.key}": part.tensor for part in strategy.parts() if part.key}


class Gradients:
    """The gradients of each of the first `steps` of a training, whole, read back from AdamW's first moments.

    m = b m' + (1 - b) g, hence g = (m - b m') / (1 - b): tensor by tensor what the optimizer got, divided and clipped.
    """

    BETA = 0.9

    def __init__(self, strategy: Strategy, steps: int) -> None:
        self.strategy, self.left = strategy, steps
        self.before: dict[str, Tensor] = {}
        self.found: list[dict[str, np.ndarray]] = []

    def __call__(self) -> None:
        if not self.left:
            return
        self.left -= 1
        moments = moments_of(self.strategy)
        now = {name: value.double() for name, value in moments.items() if name.endswith("/exp_avg")}
        none = torch.zeros(())
        whole = {name: (now[name] - self.BETA * self.before.get(name, none)) / (1 - self.BETA) for name in now}
        self.found.append({name.removesuffix("/exp_avg"): g.float().numpy() for name, g in whole.items()})
        self.before = now


def _arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's state in a form that travels between processes."""
    arrays = {part: {k: v.numpy().copy() for k, v in state[part].items()} for part in ("optimizer", "random")}
    return {**arrays, "scaler": state["scaler"]}


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    tensors = {part: {k: torch.from_numpy(v) for k, v in state[part].items()} for part in ("optimizer", "random")}
    return {**tensors, "scaler": state["scaler"]}


def _to_meta(model: nn.Module) -> None:
    """Parameters without numbers, as a large model is built."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = empty.setdefault(id(parameter), nn.Parameter(parameter.to("meta")))


def _begin(strategy: Strategy, model: Any, start: Mapping[str, Any] | None, *, meta: bool) -> Any:
    """The placed model with the weights of `start`: read before placing, or after it where the model is on meta."""
    saved = {} if start is None else {name: torch.from_numpy(value) for name, value in start["weights"].items()}
    if start is not None and not meta:
        model.load_state_dict(saved, strict=False)
    if meta:
        _to_meta(model)
    placed = strategy.place(model)
    if meta:
        strategy.fill(lambda name, key, box: saved[name][box.slices])
    return placed


def train(
    family: str,
    sizes: Mapping[str, int] | None,
    *,
    accumulation: int = 1,
    rows: tuple[int, ...] = ROWS,
    optimizer: str = "adamw",
    first: int = 0,
    start: Mapping[str, Any] | None = None,
    meta: bool = False,
    plant: str = "",
    packed: bool = False,
    clip: float | None = 20.0,
    gradients: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Losses, norms, gradients, final weights and state of a training.

    Args:
        rows: examples of each step, from step `first` on.
        start: weights and state of another training.
        packed: without pads, as the trainer does it.
        plant: a mistake to make, which the comparison must notice.
        gradients: of how many steps all gradients are given; of none where the training goes on from another.
    """
    model = forward_names(model_of(family), family)
    strategy = make(sizes, **options)
    if packed:
        from flagai.models import packing

        assert packing.enable(model)
    placed = _begin(strategy, model, start, meta=meta)
    strategy.optimizer({"sgd": sgd, "adamw": adamw}[optimizer])
    if start is not None:
        state, moments = _tensors(start["state"]), _tensors(start["state"])["optimizer"]
        entries: dict[str, dict[str, tuple[int, ...]]] = {}
        for entry, value in moments.items():
            name, _, key = entry.rpartition("/")
            entries.setdefault(name, {})[key] = tuple(value.shape)
        strategy.load_state(state, entries, lambda name, key, box: moments[f"{name}/{key}"][box.slices])
    seen = Gradients(strategy, 0 if start is not None or optimizer != "adamw" else gradients)
    with _planted(strategy, plant):
        found = steps(strategy, family, rows, accumulation, first=first, clip=clip, after=seen)
    local = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in placed.parameters())
    return {
        "steps": found,
        "gradients": seen.found,
        "weights": {name: tensor.detach().numpy().copy() for name, tensor in strategy.weights()},
        "state": _arrays({**strategy.state(), "optimizer": moments_of(strategy)}),
        "numbers": local,
    }


def parts(family: str, sizes: Mapping[str, int] | None, **options: Any) -> list[tuple[Any, ...]]:
    """What this process would save after two steps, and the whole weights and state to compare it with."""
    strategy = make(sizes, **options)
    strategy.place(model_of(family))
    strategy.optimizer(adamw)
    steps(strategy, family, (8, 5), 1)
    mine = [(p.name, p.key, p.whole, p.box.offset, p.box.shape, p.tensor.numpy().copy()) for p in strategy.parts()]
    whole = {(name, ""): tensor.detach().numpy().copy() for name, tensor in strategy.weights()}
    for entry, value in moments_of(strategy).items():
        name, _, key = entry.rpartition("/")
        whole[name, key] = value.numpy().copy()
    return [mine, whole]  # type: ignore[list-item]


def evaluate(family: str, sizes: Mapping[str, int] | None, **options: Any) -> dict[str, Any]:
    """Scores and loss of a batch, as evaluation gets them."""
    strategy = make(sizes, **options)
    strategy.place(model_of(family))
    outputs, scored = strategy.evaluate(batch_of(family, 0, np.arange(5)), loss_of)
    return {"logits": outputs["logits"].numpy().copy(), "loss": scored}


@contextmanager
def _planted(strategy: Any, mistake: str) -> Iterator[None]:
    """Make a mistake that a comparison must notice, for a while."""
    from flagai.parallel.context import Context
    from flagai.parallel.later import Later
    from flagai.parallel.world import total

    def own_keys(context: Context, mine: Tensor, length: int) -> Tensor:
        """Each process puts what it has in the place of all."""
        short = -(-length // context.count) - mine.shape[1]
        return functional.pad(mine, (0, 0, 0, short)).repeat(1, context.count, 1)[:, :length]

    def of_all(scalars: list[float]) -> list[float]:
        """Those of one group count as often as there are processes in it."""
        return total(torch.tensor(list(scalars), dtype=torch.float64)).tolist()

    places: dict[str, tuple[Any, str, Any]] = {
        "mean of means": (strategy, "reduce", list),
        "every process counts": (strategy, "reduce", of_all),
        "own keys": (Context, "gather", own_keys),
        "no weights": (Later, "catch_up", lambda later, place: None),
    }
    with mock.patch.object(*places[mistake]) if mistake else nullcontext():
        yield


def masked(sizes: Mapping[str, int] | None, kind: str, **options: Any) -> dict[str, Any]:
    """Scores and gradients of one batch under a kind of mask."""
    family = {"glm": "glm", "explicit": "glm", "bidirectional": "bert", "padded": "bert"}.get(kind, "gpt2")
    strategy = make(sizes, **options)
    strategy.place(model_of(family))
    strategy.optimizer(sgd)
    length = {"odd": 13, "one token": 1}.get(kind, 12)
    draws = np.random.default_rng(5)
    ids = draws.integers(3, VOCABULARY, (3, length))
    batch: dict[str, Any] = {"input_ids": ids, "labels": draws.integers(3, VOCABULARY, ids.shape)}
    batch |= {"attention_mask": np.ones(ids.shape, dtype=np.int64), "asked": np.ones(ids.shape, dtype=bool)}
    if kind.startswith("padded"):
        pads = [(0, 0), (9, 12), (2, 12)] if kind == "padded" else [(0, 0), (0, 5), (0, 10)]
        for row, (first, end) in enumerate(pads):
            batch["attention_mask"][row, first:end] = 0
            batch["asked"][row, first:end] = False
    if kind == "glm":
        batch["context_length"] = np.array([0, 5, 12])
    if kind == "explicit":  # each sees some, the third sees nothing
        batch["attention_mask"] = (draws.random((3, 1, length, length)) < 0.5) | np.eye(length, dtype=bool)
        batch["attention_mask"][:, :, 2] = False
    outputs, _ = strategy.evaluate(batch)
    strategy.accumulate([batch], loss_of)
    strategy.clip(None)
    gradients = {n: p.grad.numpy().copy() for n, p in strategy.model.named_parameters() if p.grad is not None}
    logits = np.where(batch["asked"][..., None], outputs["logits"].numpy(), 0.0)
    return {"logits": logits, "gradients": gradients}


def check_parts(found: list[Any]) -> None:
    """All processes together save each number once, and the right one."""
    whole = found[0][1]
    seen = {entry: np.zeros(value.shape, dtype=int) for entry, value in whole.items()}
    for mine, _ in found:
        for name, key, shape, offset, size, values in mine:
            assert shape == whole[name, key].shape
            place = tuple(slice(a, a + n) for a, n in zip(offset, size, strict=True))
            seen[name, key][place] += 1
            np.testing.assert_array_equal(values, whole[name, key][place])
    assert all((counts == 1).all() for counts in seen.values())


def write(family: str, sizes: Mapping[str, int] | None, **options: Any) -> list[list[int]]:
    """What the placed model writes behind some prompts, between two steps of training."""
    from flagai.generate.generate import generate

    strategy = make(sizes, **options)
    strategy.place(model_of(family))
    strategy.optimizer(adamw)
    steps(strategy, family, (8,), 2)
    batch = {"input_ids": np.random.default_rng(3).integers(3, VOCABULARY, (3, 7)), "attention_mask": np.ones((3, 7))}

    def answer(model: Any, moved: Mapping[str, Tensor]) -> dict[str, Any]:
        written = generate(model, moved["input_ids"], max_new_tokens=6)
        return {"written": written.sequences}

    found, _ = strategy.evaluate(batch, answer=answer)
    steps(strategy, family, (8,), 2, first=1)
    return found["written"].tolist()


def dropped(family: str, sizes: Mapping[str, int], **options: Any) -> tuple[Any, Any]:
    """With dropout: the gradient norm that this process sees, and the sum of its random numbers afterwards."""
    model = model_of(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    strategy = make(sizes, **options)
    strategy.place(model)
    strategy.optimizer(adamw)
    found = steps(strategy, family, (8, 8, 8), 1)
    weights = {name: tensor.detach().double().sum().item() for name, tensor in strategy.weights()}
    return found, weights, torch.rand(3).tolist()  # type: ignore[return-value]


def wrong_plan(**arguments: Any) -> dict[str, Any]:
    """ModernBERT by a plan that forgets that q, k and v are one fused layer."""
    from dataclasses import replace

    from flagai.models.plan import Columns
    from flagai.models.plans import PLANS

    plan = PLANS["modernbert"]
    plan = replace(plan, tensor={**plan.tensor, "attn.Wqkv": Columns()})
    return train("modernbert", plan=plan, **arguments)


def own(sizes: Mapping[str, int] | None, **options: Any) -> dict[str, Any]:
    """A user's module, divided by a plan of a few lines."""
    from flagai.models.plan import Columns, Plan, Rows, Vocabulary

    plan = Plan(
        tensor={"table": Vocabulary(), "up": Columns(), "down": Rows(), "out": Columns(gather=True)},
        divides=(("inner size", 64),),
    )
    return train("own", sizes, **({} if sizes is None else {"plan": plan}), **options)


def error(family: str, sizes: Mapping[str, int], when: str = "place", **options: Any) -> tuple[str, str]:
    """The error that a wrong request gives: its class and text."""
    try:
        strategy = make(sizes, **options)
        if when == "optimizer":
            strategy.optimizer(adamw)
        strategy.place(model_of(family))
        if when == "answer":
            strategy.evaluate(batch_of(family, 0, np.arange(2)), answer=lambda model, batch: {})
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""
