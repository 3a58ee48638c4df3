"""Old datasets, `collate_fn` and `forward_step` in the words of the training loop. Knows no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from flagai.data.batching import BatchPlan
from flagai.errors import ConfigError, DataError, ModelError
from flagai.models import plans
from flagai.parallel import world

_NOT_FOR_THE_MODEL = ("uid", "meta", "mode")
_PREFIX = "data:"
_SEED_STEP = 1_000_003

Step = Callable[[dict[str, Any], Any, Any], Mapping[str, Any]]


class Forward(nn.Module):
    """A model called by way of the trainer's `forward_step(data, model, mems)`."""

    takes_whole_batch = True

    def __init__(self, model: Any, step: Step) -> None:
        super().__init__()
        self.model = model
        self.step = step
        self.flagai_plan = plans.plan_of(model)
        """how the model inside is divided; the names of a plan are endings"""

    def forward(self, **batch: Tensor) -> Mapping[str, Any]:
        outputs = self.step(unpacked(batch), self.model, None)
        if outputs.get("loss") is None:
            raise ModelError(
                f"forward_step gave no loss (only {', '.join(outputs)})",
                where="Trainer.forward_step",
                expected="a dict with loss and logits",
                fix="put `labels` into each batch, or compute the loss in forward_step",
            )
        return outputs


class OldTask:
    """What the loop reads of a task: batches by the old collate function, and the model's own mean loss."""

    metric_names: ClassVar[tuple[str, ...]] = ("improvements",)
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    best_metric = "improvements"
    options = SimpleNamespace(name="the dataset")

    def __init__(self, collate_fn: Callable[[list[Any]], Any] | None) -> None:
        self._collate_fn = collate_fn or torch.utils.data.default_collate
        self.last_meta: Any = None
        """what the last batch had under `meta`, for metrics"""

    def collate(self, samples: Sequence[Any]) -> dict[str, Any]:
        """One batch: the samples' tensors under prefixed names, and ids and mask by which the loop counts tokens."""
        data = self._collate_fn(list(samples))
        if not isinstance(data, Mapping):
            raise DataError(
                f"collate_fn gave a {type(data).__name__}",
                where="Trainer.train",
                expected="a dict of tensors, one entry for each argument of the model",
            )
        self.last_meta = data.get("meta")
        return _counted(data, len(samples)) | {
            _PREFIX + name: _tensor(name, value) for name, value in data.items() if name not in _NOT_FOR_THE_MODEL
        }

    def collate_training(self, samples: Sequence[Any], *, epoch: int, seed: int) -> dict[str, Any]:
        """The same: what the collate function draws is its own affair."""
        return self.collate(samples)

    def loss(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The model's mean loss, weighted by the examples of the batch."""
        loss = outputs["loss"].float().mean()
        count = num_rows(unpacked(batch))
        return loss * count, loss.new_tensor(float(count))


def unpacked(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The old batch again."""
    return {name.removeprefix(_PREFIX): value for name, value in batch.items() if name.startswith(_PREFIX)}


def num_rows(data: Mapping[str, Tensor]) -> int:
    """Examples in a batch."""
    first = next((data[name] for name in ("labels", "input_ids") if name in data), None)
    first = next(iter(data.values())) if first is None else first
    return len(first) if first.ndim else 1


def _counted(data: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    ids = data.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 2:
        array = ids.cpu().numpy()
        return {"input_ids": array, "attention_mask": (array != 0).astype(np.int64)}
    return {"input_ids": np.ones((count, 1), np.int64), "attention_mask": np.ones((count, 1), np.int64)}


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the batch has {name!r} of {type(value).__name__}",
            where="collate_fn",
            expected="tensors, arrays or numbers (beside uid, meta and mode, which the model does not get)",
        ) from error


class SampledPlan:
    """The batches of a DataLoader's own sampler: a function of seed and epoch, if it draws from torch's stream."""

    def __init__(self, loader: Any, *, accumulation: int, seed: int) -> None:
        if getattr(loader, "batch_sampler", None) is None:
            raise ConfigError(
                "the DataLoader has no batches of indices",
                where="Trainer.train",
                expected="a DataLoader over a map-style Dataset with a batch_size",
                fix="hand over the Dataset itself",
            )
        if world.size() > 1 and isinstance(loader.sampler, torch.utils.data.DistributedSampler):
            raise ConfigError(
                "the DataLoader has a DistributedSampler, and its batches are shared out here",
                where="Trainer.train",
                expected="a DataLoader that gives the same batches on all processes",
                fix="leave the sampler out, or hand over the Dataset itself",
            )
        self._sampler, self._accumulation, self._seed = loader.batch_sampler, accumulation, seed
        self._epochs: dict[int, list[np.ndarray]] = {}

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """All steps of an epoch, each an array of indices."""
        if epoch not in self._epochs:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed + _SEED_STEP * epoch)
                batches = [np.asarray(batch, dtype=np.int64) for batch in self._sampler]
            starts = range(0, len(batches), self._accumulation)
            self._epochs[epoch] = [np.concatenate(batches[i : i + self._accumulation]) for i in starts]
        return self._epochs[epoch]

    def num_steps(self, epoch: int) -> int:
        return len(self.epoch(epoch))

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, step within it) of the 0-based global step."""
        epoch = 0
        while step >= self.num_steps(epoch):
            step -= self.num_steps(epoch)
            epoch += 1
        return epoch, step

    def step(self, step: int) -> np.ndarray:
        epoch, inner = self.locate(step)
        return self.epoch(epoch)[inner]


def is_loader(source: Any) -> bool:
    return isinstance(source, torch.utils.data.DataLoader)


def dataset_of(source: Any) -> Any:
    """The samples of a Dataset or a DataLoader. Raises ConfigError for data without length or index."""
    data = source.dataset if is_loader(source) else source
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise ConfigError(
            f"{type(data).__name__} has no length or no index",
            where="Trainer.train",
            expected="a map-style Dataset (`__len__` and `__getitem__`), or a DataLoader over one",
        )
    if not len(data):
        raise DataError("the dataset is empty", where="Trainer.train", expected="at least one example")
    return data


def collate_of(source: Any, collate_fn: Any) -> Any:
    """The collate function given, else the DataLoader's own."""
    return collate_fn if collate_fn is not None or not is_loader(source) else source.collate_fn


def plan_of(source: Any, *, batch_size: int, accumulation: int, seed: int) -> Any:
    """Which examples each optimizer step sees: shuffled by the seed, or as the DataLoader's sampler says."""
    if is_loader(source):
        return SampledPlan(source, accumulation=accumulation, seed=seed)
    # Lengths are not known before a sample is made: all count alike.
    lengths = [1] * len(dataset_of(source))
    return BatchPlan(lengths, batch_size=batch_size * accumulation, seed=seed, data_hash="dataset")
