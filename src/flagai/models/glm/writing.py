"""The tensors of a GLM into a folder of any layout, in any number of shards. It knows no tokenizer and no task.

Where the format is safetensors, one tensor at a time is in memory; where it is a pickle, one shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from flagai.errors import ConfigError
from flagai.models import pickles
from flagai.models.glm.configs import config_json
from flagai.models.glm.layouts import (
    WORDS,
    Layout,
    Shape,
    cut_of,
    is_head,
    lacks_gmask,
    original_name,
    our_names,
    with_gmask,
)
from flagai.models.glm.sources import Source
from flagai.models.safetensors_file import write_safetensors

if TYPE_CHECKING:
    from flagai.models.glm.configuration import GLMConfig

Progress = Callable[[int], None]
"""called with the bytes that were written since the last call"""

_MOST_BYTES: Final = 5_000_000_000
"""of a safetensors file, where no number of shards is asked for"""
_SLICED: Final = ("thudm", "flagai-original")
_CLASSIFIERS: Final = {
    "out_proj.weight": "GLMForSequenceClassification",
    "classifier.weight": "GLMForTokenClassification",
}


def is_sliced(layout: Layout) -> bool:
    """Whether the shards of a layout are model-parallel: a part of each tensor in each file."""
    return layout in _SLICED


@dataclass(frozen=True, kw_only=True)
class Writer:
    """What is written how.

    Args:
        source: the tensors; those of heads that the layout has no place for stay out (`left_out`).
        config: None only for THUDM's layout, which can do without.
        shards: number of files; None for one, or as many as keep each under 5 GB where the format is safetensors.
        dtype: of the tensors, None as they are.
    """

    source: Source
    config: GLMConfig | None
    layout: Layout
    shards: int | None = None
    dtype: torch.dtype | None = None

    def check(self) -> None:
        """Refuse a number of shards that the model cannot be cut into.

        Errors: `ConfigError`.
        """
        if self.shards is None:
            return
        if is_sliced(self.layout):
            self._check_slices(self.shards)
        elif not 1 <= self.shards <= len(self.names):
            raise ConfigError(
                f"{self.shards} shards",
                expected=f"1 to {len(self.names)}: each file holds a tensor at least",
                fix="choose such a number, or leave --shards out",
                where="--shards",
            )

    def _check_slices(self, shards: int) -> None:
        heads = self.config.num_attention_heads if self.config is not None else self.source.sizes.hidden_size
        sizes = {"rows of the vocabulary": self.source.sizes.vocab_size, "attention heads": heads}
        wrong = [f"{number} {what}" for what, number in sizes.items() if shards < 1 or number % shards]
        if wrong:
            common = math.gcd(*sizes.values())
            allowed = [str(number) for number in range(1, common + 1) if common % number == 0]
            raise ConfigError(
                f"{shards} shards do not divide {' and '.join(wrong)}",
                expected=f"one of: {', '.join(allowed)}: each shard has as many",
                fix="choose one of these, or leave --shards out for one shard",
                where="--shards",
            )

    @property
    def names(self) -> list[str]:
        """The published names that are written."""
        return [name for name in self.source.names if self._has_place(name)]

    @property
    def left_out(self) -> list[str]:
        """The published names of heads that the layout has no place for, and of those that no one wanted."""
        return [*(name for name in self.source.names if not self._has_place(name)), *self.source.left_out]

    def _has_place(self, name: str) -> bool:
        return self.layout == "flagai" or not name.startswith("classifier.")

    @property
    def num_bytes(self) -> int:
        """Of all tensors, as they will be stored."""
        return sum(_bytes(self.source.shapes[name], self._dtype(name)) for name in self.names)

    def _dtype(self, name: str) -> torch.dtype:
        return self.dtype or self.source.dtypes[name]

    def write(self, folder: Path, progress: Progress) -> None:
        """Weights, config.json and what else makes a folder of the layout, into an empty folder.

        Errors: OSError as it comes; those of `check`.
        """
        self.check()
        if is_sliced(self.layout):
            self._write_slices(folder, progress)
        else:
            self._write_safetensors(folder, progress)
        if self.config is not None:
            kinds = {str(self._dtype(name)).removeprefix("torch.") for name in self.names}
            classifier = next((kind for name, kind in _CLASSIFIERS.items() if name in self.names), "")
            values = config_json(
                self.config, self.layout, classifier=classifier, dtype=kinds.pop() if len(kinds) == 1 else ""
            )
            write_json(folder / "config.json", values)

    # safetensors

    def _write_safetensors(self, folder: Path, progress: Progress) -> None:
        groups = self._groups()
        files = _file_names(len(groups))
        index: dict[str, str] = {}
        for file, names in zip(files, groups, strict=True):
            entries = {key: value for name in names for key, value in self._entries(name).items()}
            write_safetensors(folder / file, entries, self._tensors(names, progress))
            index |= dict.fromkeys(entries, file)
        if len(files) > 1:
            values = {"metadata": {"total_size": self.num_bytes}, "weight_map": dict(sorted(index.items()))}
            write_json(folder / "model.safetensors.index.json", values)

    def _groups(self) -> list[list[str]]:
        """Names file by file, in order and of about equal size."""
        names, total = self.names, self.num_bytes
        wanted = self.shards or -(-total // _MOST_BYTES)
        groups: list[list[str]] = [[]]
        done = 0
        for left, name in zip(range(len(names), 0, -1), names, strict=True):
            # The next file begins where its share does, or where only one tensor is left for each file to come.
            full = done * wanted >= total * len(groups) or left == wanted - len(groups)
            if groups[-1] and len(groups) < wanted and full:
                groups.append([])
            groups[-1].append(name)
            done += _bytes(self.source.shapes[name], self._dtype(name))
        return groups

    def _keys(self, name: str) -> tuple[str, ...]:
        if self.layout == "flagai":
            return our_names(name)
        return (name if is_head(name) else f"glm.{name}",)

    def _entries(self, name: str) -> dict[str, tuple[Shape, torch.dtype]]:
        keys = self._keys(name)
        rows, *rest = self.source.shapes[name]
        return dict.fromkeys(keys, ((rows // len(keys), *rest), self._dtype(name)))

    def _tensors(self, names: Sequence[str], progress: Progress) -> Iterator[Tensor]:
        for name in names:
            apart = len(self._keys(name)) > 1
            for tensor in self.source.read_parts(name) if apart else (self.source.read(name),):
                if name == WORDS and lacks_gmask(self.source.sizes, self.source.found.layout, self.layout):
                    tensor = with_gmask(tensor)
                tensor = tensor.to(self._dtype(name))
                yield tensor
                progress(tensor.nbytes)

    # pickles of others

    def _write_slices(self, folder: Path, progress: Progress) -> None:
        ranks, step = self.shards or 1, self.source.iteration
        inner = folder / str(step) if self.layout == "thudm" else folder
        inner.mkdir(exist_ok=True)
        for rank in range(ranks):
            state: dict[str, Tensor] = {}
            for name in self.names:
                state[self._old_name(name)] = self.source.read(name, rank, ranks).to(self._dtype(name))
                progress(self._share(name, rank, ranks))
            pickles.save(self._wrapped(state, ranks, step), inner / self._slice_name(rank, ranks))
        if self.layout == "thudm":
            for tracker in ("latest_checkpointed_iteration.txt", "latest"):
                (folder / tracker).write_text(str(step), "utf-8")

    def _share(self, name: str, rank: int, ranks: int) -> int:
        """The bytes to report: what every shard holds whole counts once."""
        size = _bytes(self.source.shapes[name], self._dtype(name))
        return size // ranks if cut_of(name) != "whole" else size * (rank == 0)

    def _old_name(self, name: str) -> str:
        """A classifier of the original holds the model as `model`, and calls its own layers otherwise."""
        return original_name(name) if any(map(is_head, self.names)) else name

    def _slice_name(self, rank: int, ranks: int) -> str:
        if self.layout == "thudm":
            return f"mp_rank_{rank:02d}_model_states.pt"
        return "pytorch_model.bin" if ranks == 1 else f"pytorch_model_{rank:02d}.bin"

    def _wrapped(self, state: dict[str, Tensor], ranks: int, step: int) -> Mapping[str, Any]:
        if self.layout != "thudm":
            return {"module": state, "iteration": step}
        states = {"iteration": step, "global_steps": step, "skipped_steps": 0, "global_samples": 0}
        nothing = dict.fromkeys(("optimizer", "lr_scheduler", "client_lr_scheduler"))
        return {"module": state, "mp_world_size": ranks, "dp_world_size": 1, **states, **nothing}


def _bytes(shape: Shape, dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _file_names(number: int) -> list[str]:
    if number == 1:
        return ["model.safetensors"]
    return [f"model-{one:05d}-of-{number:05d}.safetensors" for one in range(1, number + 1)]


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """A JSON object as config.json is written everywhere: indented, UTF-8, a newline at the end."""
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
