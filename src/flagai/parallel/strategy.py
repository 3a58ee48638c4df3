"""What a trainer asks of a backend: a handful of verbs. Knows no task, no model family and no backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from flagai.parallel.parts import Entries, Part, Read

Batch = Mapping[str, torch.Tensor]
Loss = Callable[[Mapping[str, torch.Tensor], Batch], tuple[torch.Tensor, torch.Tensor]]
Answer = Callable[[Any, Batch], Mapping[str, Any]]
"""(model, batch) → outputs, by more than one call of the model (`Task.generate`)"""


class Strategy(ABC):
    """Places a model and runs its steps. The trainer calls the verbs in this order:

    `place` → `optimizer` → (`accumulate` → `clip` → `step`)* with `evaluate` in between.
    """

    device: torch.device
    precision: str
    """"fp32", "bf16" or "fp16"; what "auto" has become"""
    skips_overflow: bool = False
    """whether `step` leaves the weights alone when gradients overflowed (fp16 with a scaler)"""
    takes_meta: bool = False
    """whether `place` takes a model whose parameters are on meta and wait for `fill`"""

    @property
    @abstractmethod
    def model(self) -> torch.nn.Module:
        """The placed model; the names of its parameters are those of the single-device model."""

    @abstractmethod
    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model on its devices; the caller goes on with what is returned."""

    @abstractmethod
    def optimizer(self, factory: Callable[[torch.nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        """Build the optimizer over the placed parameters (one built earlier would train nothing, in silence)."""

    @abstractmethod
    def data_axis(self) -> tuple[int, int]:
        """(index, count): which share of every step's examples this process takes."""

    @abstractmethod
    def accumulate(self, micro_batches: Iterable[Mapping[str, Any]], loss: Loss) -> tuple[float, float]:
        """Forward and backward over the micro-batches: (loss sum, count), summed over all processes."""

    @abstractmethod
    def clip(self, max_norm: float | None) -> float:
        """Divide the gradients by the count of `accumulate` and clip them; returns their norm before clipping."""

    @abstractmethod
    def step(self, learning_rates: Sequence[float]) -> None:
        """One optimizer step, a learning rate for each parameter group; gradients are gone afterwards."""

    @abstractmethod
    def evaluate(
        self, batch: Mapping[str, Any], loss: Loss | None = None, answer: Answer | None = None
    ) -> tuple[Mapping[str, Any], tuple[float, float] | None]:
        """Outputs of the model in evaluation, and (loss sum, count) where a loss is given. No gradients.

        Args:
            answer: where given, what it makes are the outputs; a loss is of the model's own outputs all the same.
        """

    @abstractmethod
    def reduce(self, scalars: Sequence[float]) -> list[float]:
        """Sums over all processes."""

    @abstractmethod
    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters and saved buffers as the single-device model has them: name and whole tensor, one at a time.

        All processes call it and get all of it, whatever lies where.
        """

    @abstractmethod
    def parts(self) -> Iterator[Part]:
        """What this process holds of weights and optimizer, for saving where no process could hold the whole.

        All processes together give each number once. Every process gives its parts in the same order at every call.
        Moments have the name of their key in the optimizer's state; `MASTER` is that of weights in fp32 beside
        weights in fewer bits.
        """

    @abstractmethod
    def fill(self, read: Read, names: Collection[str] | None = None) -> None:
        """Put saved weights into the placed model (from `meta`, too); each process reads no more than it holds.

        Args:
            names: of the tensors that are saved; the others keep what they hold. None: all are.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What is small: {"random": {stream: tensor}, "scaler": {name: value}}; all processes call it and get all.

        The streams of the first process are named "cpu" (and "cuda"), those of process n "cpu/n".
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, Any], entries: Entries, read: Read) -> None:
        """Put back what `state` gave, and the optimizer's moments; the next step is then that of the undisturbed run.

        Args:
            entries: parameter → moment → its shape as saved. Parameters that are not trained here are passed over.
            read: as for `fill`; asked for no more than this process holds.
        """

    @abstractmethod
    def barrier(self, name: str) -> None:
        """Wait for all processes; `name` tells which meeting one of them missed."""
