"""The tensors of a placed model under the names of the single-device model, wherever they lie. Knows no step.

`whole` puts tensors together one at a time, for what fits one process; `parts` and `fill` never do, for what does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flagai.models.plan import Kept
from flagai.parallel.axes import PIPELINE, Axes
from flagai.parallel.parts import MASTER, Entries, Part, Read, here, is_owner, saved_shape, whole_box
from flagai.parallel.replicas import local
from flagai.parallel.tensor import as_saved
from flagai.parallel.ties import Ties


class Held:
    """What lies on this process of a model.

    Args:
        model: placed: cut, divided, sharded.
        names: of all parameters and buffers that are saved, in the order of the single-device model.
        ties: of the single-device model.
        kept: parameters that are kept otherwise than there.
    """

    def __init__(self, model: nn.Module, names: list[str], ties: Ties, kept: Mapping[str, Kept], axes: Axes) -> None:
        self._axes, self._kept, self.names = axes, dict(kept), names
        self.tensors: dict[str, Tensor] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if (first := ties.first(name)) in names:
                self.tensors.setdefault(first, tensor)
        mine = [name for name in names if name in self.tensors]
        stages: list[Any] = [mine]
        if axes.sizes.pipeline > 1:
            stages = [None] * axes.sizes.pipeline
            dist.all_gather_object(stages, mine, group=axes.group(PIPELINE))
        self.stages: dict[str, list[int]] = {n: [i for i, s in enumerate(stages) if n in s] for n in names}

    def kept(self, name: str) -> Kept:
        """How a parameter is kept here."""
        return self._kept.get(name, Kept())

    def is_mine(self, name: str) -> bool:
        """Whether this stage speaks for a tensor that several stages may hold."""
        return self.stages[name][:1] == [self._axes.index(PIPELINE)]

    def names_of(self) -> dict[Tensor, str]:
        """The name of each parameter."""
        return {tensor: name for name, tensor in self.tensors.items() if isinstance(tensor, nn.Parameter)}

    def shared_stages(self) -> set[tuple[int, ...]]:
        """The sets of stages that hold a tensor together; the same on all processes."""
        return {tuple(stages) for stages in self.stages.values() if len(stages) > 1}

    def shared(self) -> list[tuple[nn.Parameter, tuple[int, ...]]]:
        """Parameters here that several stages hold, with these stages: their gradients must be summed."""
        several = ((self.tensors.get(name), tuple(stages)) for name, stages in self.stages.items() if len(stages) > 1)
        return [(t, stages) for t, stages in several if isinstance(t, nn.Parameter) and t.requires_grad]

    def whole(self, found: Mapping[tuple[str, str], Tensor]) -> Iterator[tuple[tuple[str, str], Tensor]]:
        """Tensors of all stages, each whole and as saved, on every process, one after the other; all must call.

        Args:
            found: (name, key) → the tensor as it lies here.
        """
        for (name, key), stage in self._everywhere(found):
            value = None
            if stage == self._axes.index(PIPELINE):
                tensor = found[name, key].detach()
                value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                value = as_saved(value, self.kept(name)) if value.dim() else value
            yield (name, key), self._told(value, stage)

    def parts(self, found: Mapping[tuple[str, str], Tensor]) -> Iterator[Part]:
        """What this process has to save, so that all processes together save each number once."""
        for (name, key), tensor in found.items():
            if not self.is_mine(name) or not is_owner(tensor, self._axes):
                continue
            kept = self.kept(name) if tensor.dim() else Kept()
            for there, box in here(tensor, kept):
                piece = local(tensor.detach())[box.slices]
                turned = piece.t() if kept.transposed and piece.dim() == 2 else piece
                yield Part(name, key, saved_shape(tensor, kept), there, turned)

    @torch.no_grad()
    def fill(self, name: str, key: str, tensor: Tensor, read: Read) -> None:
        """Put saved numbers into a tensor of this process, reading no more than lies here."""
        kept = self.kept(name) if tensor.dim() else Kept()
        for there, box in here(tensor, kept):
            value = read(name, key, there)
            turned = value.t() if kept.transposed and value.dim() == 2 else value
            local(tensor)[box.slices].copy_(turned)

    def fill_moments(self, optimizer: torch.optim.Optimizer, entries: Entries, read: Read) -> None:
        """Put saved moments beside the parameters that are trained here, and weights in fp32 into these."""
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, name in self.names_of().items():
            for key, shape in entries.get(name, {}).items() if parameter in trained else ():
                if key == MASTER:
                    self.fill(name, key, parameter, read)
                elif not shape:
                    optimizer.state[parameter][key] = read(name, key, whole_box(shape)).to(parameter.device, copy=True)
                else:
                    optimizer.state[parameter][key] = moment = torch.zeros_like(parameter)
                    self.fill(name, key, moment, read)

    def _everywhere(self, found: Mapping[tuple[str, str], Tensor]) -> list[tuple[tuple[str, str], int]]:
        """All entries of all stages in one order, each with the stage that speaks for it."""
        mine = [(entry, self._axes.index(PIPELINE)) for entry in found if self.is_mine(entry[0])]
        stages: list[Any] = [mine]
        if self._axes.sizes.pipeline > 1:
            stages = [None] * self._axes.sizes.pipeline
            dist.all_gather_object(stages, mine, group=self._axes.group(PIPELINE))
        return [entry for stage in stages for entry in stage]

    def _told(self, value: Tensor | None, stage: int) -> Tensor:
        """The tensor of one stage on all of them."""
        if self._axes.sizes.pipeline == 1:
            assert value is not None
            return value
        source, group = self._axes.rank_of(stage), self._axes.group(PIPELINE)
        facts: list[Any] = [None if value is None else (tuple(value.shape), value.dtype)]
        dist.broadcast_object_list(facts, source, group=group)
        shape, dtype = facts[0]
        if value is None:
            value = torch.empty(shape, dtype=dtype, device=self._axes.device)
        value = value.to(self._axes.device).contiguous()
        dist.broadcast(value, source, group=group)
        return value
