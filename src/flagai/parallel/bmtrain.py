"""Strategy bmtrain: parameters, gradients and optimizer cut between all processes by BMTrain. Knows no family.

BMTrain moves the numbers; counts, the norm, clipping, the loss scale and what is saved are those of `Spread`. It runs
on CUDA only. Written after its sources (1.0.1) and tested with a stand-in of the same interface on the CPU.
"""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from flagai.errors import ConfigError, MissingExtraError
from flagai.models.kept_logits import call_model
from flagai.models.plan import Plan
from flagai.models.plans import plan_of
from flagai.parallel import streams, world
from flagai.parallel.axes import Sizes
from flagai.parallel.bmtrain_model import prepare
from flagai.parallel.parts import MASTER, Entries, Part, Read, saved_names, whole_box, whole_part
from flagai.parallel.placing import check_buffers, on_device, same_everywhere
from flagai.parallel.precision import autocast, choose_device
from flagai.parallel.spread import Spread
from flagai.parallel.zero_pieces import Piece

if TYPE_CHECKING:
    from flagai.config import ParallelConfig


def from_config(config: ParallelConfig, *, device: str = "auto", precision: str = "fp32") -> BMTrain:
    """The strategy of the section `parallel`, in a process that a launcher started.

    Raises:
        ConfigError: no CUDA device, or settings that mean nothing to BMTrain.
        MissingExtraError: the package is not installed, or its library is not there.
    """
    if (kind := choose_device(device).type) != "cuda":
        raise ConfigError(
            f"strategy bmtrain on device {kind}",
            where="parallel.strategy",
            expected="CUDA: BMTrain has no other way",
            fix="take strategy zero3 or fsdp, which run on the CPU, too",
        )
    for key, plain in (("tensor", 1), ("context", 1), ("offload", False), ("reduce_dtype", None), ("sequence", False)):
        if (value := getattr(config, key)) != plain:
            raise ConfigError(
                f"parallel.{key} is {value} with strategy bmtrain",
                where=f"parallel.{key}",
                expected=f"{plain}",
                fix=f"take parallel.{key} out, or take strategy ddp, fsdp or zero3",
            )
    return BMTrain(_package(), device=device, precision=precision, plan=None, recompute=config.recompute)


def _package() -> Any:
    if importlib.util.find_spec("bmtrain") is None:
        raise MissingExtraError(
            "the package 'bmtrain' is not installed",
            expected="bmtrain 1.0 built for this CUDA and this torch",
            fix="see the documentation of strategy bmtrain: it has to be built from its sources",
        )
    import bmtrain  # type: ignore[import-not-found]

    return bmtrain


class BMTrain(Spread):
    """A model of which every process keeps a part.

    Parameters that no process used have gradients of zero here, where the other strategies have none: weight decay
    moves them.

    Args:
        library: the package `bmtrain`, or what has its interface.
        device: where `library` works.
        precision: "fp32", "bf16" or "fp16": autocast, as in one process; parameters stay as they are.
        plan: what a layer is; None: as for `bmtrain_model.prepare`.
        recompute: compute the activations of each layer again in backward.
    """

    takes_meta = False

    def __init__(
        self, library: Any, *, device: str, precision: str, plan: Plan | None = None, recompute: bool = False
    ) -> None:
        super().__init__(Sizes(shard=world.processes()), device=device, precision=precision, plan=plan)
        self._library, self._again, self._norm = library, recompute, 0.0
        _begin(library)

    def place(self, model: nn.Module) -> nn.Module:
        self._optimizer = None
        check_buffers(model)
        self._names = saved_names(model)
        same_everywhere(model, self.device)
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        model = on_device(model, self.device)
        plan = self._plan if self._plan is not None else plan_of(model)
        self._model = prepare(model, self._library, plan=plan, recompute=self._again)
        there = dict(self._model.named_parameters())
        self._pieces = {there[name]: (name, shape) for name, shape in shapes.items()}
        self._gradients = _Settled()  # type: ignore[assignment]
        streams.begin_own(self.axes)
        return self._model

    def optimizer(self, factory: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        assert not isinstance(self._model, nn.Identity), "place() comes before optimizer()"
        with self._shapes_shown():
            made = super().optimizer(factory)
        # Gradients are sums here, which the count of all examples divides: no scale of its own.
        self._manager = self._library.optim.OptimManager(loss_scale=None, grad_scale=1)
        self._manager.add_optimizer(made)
        return made

    def _run(self, batches: list[tuple[dict[str, Tensor], float]], score: Callable[..., Tensor]) -> None:
        for batch, weight in batches:
            with autocast(self.device, self.precision):
                outputs = call_model(self._model, self._inputs(batch))
            self._manager.backward(score(outputs, batch, weight))

    def clip(self, max_norm: float | None) -> float:
        """As `Strategy` says; each number of the gradients lies on one process."""
        gradients = [p.grad for p in self._pieces if p.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradient in gradients:
            squares += torch.linalg.vector_norm(gradient, dtype=torch.float32).double().square()
        count = (self._count or 1.0) * self._scale.value
        self._norm = math.sqrt(world.total(squares).item()) / count
        factor = 1 / count
        if max_norm is not None and self._norm > max_norm:
            factor *= max_norm / (self._norm + 1e-6)
        for gradient in gradients:
            gradient.mul_(factor)
        return self._norm

    def step(self, learning_rates: Sequence[float]) -> None:
        for group, rate in zip(self._trained().param_groups, learning_rates, strict=True):
            group["lr"] = rate
        if self._scale.update(self._norm):
            self._manager.step()
        self._manager.zero_grad()  # in place: a block keeps the memory of its gradients

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        pieces = {name: self._piece(p) for p, (name, _) in self._pieces.items()}
        buffers = dict(self._model.named_buffers())
        for name in self._names:
            yield name, self._whole(pieces[name]) if name in pieces else buffers[name]

    def parts(self) -> Iterator[Part]:
        for name, buffer in self._model.named_buffers():
            if name in self._names and world.is_first():
                yield whole_part(name, "", buffer)
        for parameter in self._pieces:
            piece = self._piece(parameter)
            yield from piece.parts("", piece.tensor)
            for key, value in self._moments_of(parameter).items():
                if value.dim():
                    yield from piece.parts(key, value)
                elif piece.start == 0 and piece.tensor.numel():
                    yield whole_part(piece.name, key, value)

    @torch.no_grad()
    def fill(self, read: Read, names: Collection[str] | None = None) -> None:
        for name, buffer in self._model.named_buffers():
            if name in self._names and (names is None or name in names):
                buffer.copy_(read(name, "", whole_box(buffer.shape)))
        for parameter, (name, _) in self._pieces.items():
            if names is None or name in names:
                piece = self._piece(parameter)
                piece.fill("", piece.tensor, read)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any], entries: Entries, read: Read) -> None:
        optimizer = self._trained()
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, (name, _) in self._pieces.items():
            piece = self._piece(parameter)
            for key, shape in entries.get(name, {}).items() if parameter in trained else ():
                if key == MASTER:
                    piece.fill(key, piece.tensor, read)
                elif not shape:
                    optimizer.state[parameter][key] = read(name, key, whole_box(shape)).to(parameter.device, copy=True)
                else:
                    optimizer.state[parameter][key] = moment = torch.zeros_like(piece.tensor)
                    piece.fill(key, moment, read)
        streams.restore(state["random"], self.axes)
        self._scale.load_state(state["scaler"])

    @contextmanager
    def _shapes_shown(self) -> Iterator[None]:
        """What chooses parameters by their shape (decay of matrices, not of vectors) sees that of the model."""
        parts = {parameter: parameter.data for parameter in self._pieces}
        for parameter, (_, shape) in self._pieces.items():
            parameter.data = parameter.data.new_empty(1).expand(shape)
        try:
            yield
        finally:
            for parameter, part in parts.items():
                parameter.data = part

    def _piece(self, parameter: nn.Parameter) -> Piece:
        """Where the part of a parameter lies that this process keeps; a block moves its numbers, hence asked anew."""
        name, shape = self._pieces[parameter]
        start = getattr(parameter, "_start_partition", None)
        return Piece(name, shape, start or 0, parameter.data.view(-1))

    def _moments_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = {} if self._optimizer is None else self._optimizer.state.get(parameter, {})
        return {key: value for key, value in state.items() if isinstance(value, Tensor)}

    def _whole(self, piece: Piece) -> Tensor:
        whole = torch.zeros(math.prod(piece.whole), dtype=piece.tensor.dtype, device=self.device)
        whole[piece.start : piece.start + piece.tensor.numel()] = piece.tensor
        return world.total(whole).view(piece.whole)


class _Settled:
    """Nothing of a gradient is pending behind backward."""

    def settle(self) -> None:
        """Nothing to do."""


def _begin(library: Any) -> None:
    """Start BMTrain, once in a process, and leave as they were what it seeds: the caller has seeded them."""
    if library.config["initialized"]:
        return
    drawn, numbers, arrays = torch.get_rng_state(), random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    library.init_distributed(seed=0)
    torch.set_rng_state(drawn)
    random.setstate(numbers)
    np.random.set_state(arrays)
    torch.set_num_threads(threads)
    if device is not None:
        torch.cuda.set_rng_state(device)
