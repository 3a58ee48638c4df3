"""One stage of a pipeline: a model of which this process holds some layers, run by its own `forward`. Knows no family.

Nothing is traced and no forward is written again. Layers of other stages are replaced by stand-ins under their names:
in front of ours one that hands in the hidden states of the stage before, behind ours one that takes them out and ends
the call. Masks and positions are made by the model's own code, on every stage, from the same batch. Where a decoder
reads what an encoder gives, that travels along from stage to stage, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flagai.models.kept_logits import call_model
from flagai.models.plan import Plan, Stages, find
from flagai.parallel.plan import bounds, check_stages, lists_of

Receive = Callable[[Tensor], Tensor]
"""a tensor of the shape that comes → what came, needing a gradient"""


class _Reached(Exception):
    """The hidden states behind the last layer of a stage."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _StandIn(nn.Module):
    """In the place of a layer that lives on another stage: hands the hidden states on.

    Args:
        keeps: paths inside the layer of what this stage needs of it; they stay under their names.
    """

    def __init__(self, layer: nn.Module, stages: Stages, keeps: Sequence[str] = ()) -> None:
        super().__init__()
        plain = {key: value for key, value in vars(layer).items() if isinstance(value, str | int | float | bool)}
        self.__dict__.update({key: value for key, value in plain.items() if not key.startswith("_")})
        self._outputs = None if stages.beside is None else stages.beside(layer)
        for path in keeps:
            if (kept := _at(layer, path)) is not None:
                _put(self, path, kept)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """[…, hidden] → the same, beside what such a layer returns."""
        hidden = self.hand_on(hidden_states)
        return hidden if self._outputs is None else self._outputs(hidden, *args, **kwargs)

    def hand_on(self, hidden: Tensor) -> Tensor:
        """As it came."""
        return hidden


class _Entry(_StandIn):
    """Right in front of our layers: in comes what the stage before has computed."""

    receive: Receive

    def hand_on(self, hidden: Tensor) -> Tensor:
        """Only the shape of what comes is looked at: zeros that the model's own code made."""
        return self.receive(hidden)


class _Exit(_StandIn):
    """Right behind our layers: the rest of the model is not ours."""

    def hand_on(self, hidden: Tensor) -> Tensor:
        """Ends the call."""
        raise _Reached(hidden)


@dataclass(kw_only=True)
class _Run:
    """Layers [first, end) of all, one behind the other on this process; `views` are the lists as they look then."""

    first: int
    end: int
    entry: _Entry | None = None
    views: list[dict[str, nn.Module]] = field(default_factory=list)


class Stage:
    """A model cut in place.

    Args:
        model: whole, or on meta; afterwards it holds the parameters of this stage only, under their own names.
        index, count: which stage of how many.
        chunks: runs of layers on each process: run 0 of all stages comes first, then run 1.

    Raises:
        ModelError: a model that may not be cut, or has fewer layers than there are stages.
    """

    def __init__(self, model: nn.Module, plan: Plan | None, index: int, count: int, chunks: int = 1) -> None:
        stages = check_stages(model, plan, count * chunks)
        self.model, self._stages = model, stages
        self._lists = lists_of(model, stages)
        self._ends = [0]
        for layers in self._lists:
            self._ends.append(self._ends[-1] + len(layers))
        cuts = [bounds(self._ends[-1], chunk * count + index, count * chunks) for chunk in range(chunks)]
        self._runs = [_Run(first=first, end=end) for first, end in cuts]
        self._now, self._receive, self._read = self._runs[0], _nobody, torch.empty(0)
        self._replace()
        self._empty_others()
        if len(self._lists) > 1:
            assert stages.reader is not None
            for module in find(model, stages.reader.reads).values():
                module.register_forward_hook(self._pass)
        self._forward = model.forward
        model.forward = self._until_reached  # type: ignore[method-assign]

    @property
    def layers(self) -> nn.ModuleList:
        """The layers that are here, and what stands in for the others."""
        return nn.ModuleList([layer for layers in self._lists for layer in layers])

    @property
    def chunks(self) -> int:
        """How many runs of layers are here."""
        return len(self._runs)

    def is_first(self, chunk: int) -> bool:
        """Whether the first layer of all is in a run."""
        return self._runs[chunk].first == 0

    def is_last(self, chunk: int) -> bool:
        """Whether the last layer of all is in a run."""
        return self._runs[chunk].end == self._ends[-1]

    def forward(self, receive: Receive, inputs: Mapping[str, Any], chunk: int = 0) -> Any:
        """What the next stage needs, a tuple of tensors, or the outputs of the model at the end of all layers."""
        self._now, self._receive = self._runs[chunk], receive
        if self._now.entry is not None:
            self._now.entry.receive = receive
        resting = [layers._modules for layers in self._lists]
        if len(self._runs) > 1:
            for layers, view in zip(self._lists, self._now.views, strict=True):
                layers._modules = view  # type: ignore[assignment]
        try:
            outputs = call_model(self.model, inputs)
        finally:
            for layers, modules in zip(self._lists, resting, strict=True):
                layers._modules = modules
            self._read = torch.empty(0)
        assert self.is_last(chunk) or type(outputs) is tuple, "the model left out the layer behind those of this stage"
        return outputs

    def _until_reached(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward, which ends behind our layers; whoever stands around it sees a normal return."""
        try:
            return self._forward(*args, **kwargs)
        except _Reached as reached:
            middle = self._ends[1]
            if self._now.end < middle or len(self._lists) == 1:
                return (reached.hidden,)
            return (self._read,) if self._now.end == middle else (self._read, reached.hidden)

    def _pass(self, module: nn.Module, args: Any, output: Any) -> None:
        """What the second list reads: made here, or by a stage before."""
        if self._now.first >= self._ends[1]:
            output.last_hidden_state = self._receive(output.last_hidden_state)
        self._read = output.last_hidden_state

    def _replace(self) -> None:
        """Put stand-ins where layers of other stages are; each run of several sees a list of its own."""
        original = [list(layers) for layers in self._lists]
        alone = len(self._runs) == 1
        for run in self._runs:
            run.views = [
                {str(i): self._in_place_of(layer, run, which, i, keep=alone) for i, layer in enumerate(layers)}
                for which, layers in enumerate(original)
            ]
        for which, layers in enumerate(self._lists):
            if alone:
                layers._modules = self._runs[0].views[which]  # type: ignore[assignment]
                continue
            for i, layer in enumerate(original[which]):
                if not self._is_here(self._ends[which] + i):
                    layers[i] = _StandIn(layer, self._stages, self._keeps(which, i))
        kept = {id(p) for layers in self._lists for p in layers.parameters()}
        for which, layers in enumerate(original):  # a stand-in may know its layer: nothing of that may stay in memory
            for i, layer in enumerate(layers):
                for module in () if self._is_here(self._ends[which] + i) else layer.modules():
                    _empty(module, but=kept)

    def _is_here(self, place: int) -> bool:
        return any(run.first <= place < run.end for run in self._runs)

    def _in_place_of(self, layer: nn.Module, run: _Run, which: int, index: int, *, keep: bool) -> nn.Module:
        place = self._ends[which] + index
        keeps = self._keeps(which, index) if keep else ()
        if run.first <= place < run.end:
            return layer
        if place == run.end:
            return _Exit(layer, self._stages)
        if place == run.first - 1:
            run.entry = None if run.first == self._ends[which + 1] else _Entry(layer, self._stages, keeps)
            return run.entry or _StandIn(layer, self._stages, keeps)
        return _StandIn(layer, self._stages, keeps)

    def _keeps(self, which: int, index: int) -> tuple[str, ...]:
        """What a layer in front of ours leaves here, where layers of the same list follow it on this process."""
        place, end = self._ends[which] + index, self._ends[which + 1]
        needed = any(run.end > place + 1 and run.first < end and run.end > self._ends[which] for run in self._runs)
        return self._stages.everywhere if needed else ()

    def _empty_others(self) -> None:
        """Take away what is neither in our layers nor, around them, ours to compute."""
        inside = {id(p) for layers in self._lists for p in layers.parameters()}
        reader, stages = self._stages.reader, self._stages
        here = {0: stages.before}
        if reader is not None and len(self._lists) > 1:
            here |= {self._ends[1] - 1: stages.after, self._ends[1]: reader.before}
        owned = {
            id(module): self._is_here(place)
            for place, patterns in here.items()
            for pattern in patterns
            for module in _subtrees(self.model, pattern)
        }
        last = self.is_last(self.chunks - 1)
        for module in self.model.modules():
            if not owned.get(id(module), last):
                _empty(module, but=inside)


def _nobody(template: Tensor) -> Tensor:
    raise AssertionError("forward() says who receives")


def _at(layer: nn.Module, path: str) -> nn.Module | None:
    """The module at a path inside a layer, where it has one."""
    try:
        return layer.get_submodule(path)
    except AttributeError:
        return None


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    """A module under a path, with empty ones on the way."""
    *way, leaf = path.split(".")
    for name in way:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, module)


def _subtrees(model: nn.Module, pattern: str) -> list[nn.Module]:
    return [part for module in find(model, pattern).values() if module is not None for part in module.modules()]


def _empty(module: nn.Module, *, but: set[int]) -> None:
    """Replace what a module holds by zeros that occupy no memory, so that its forward still runs."""
    for name, parameter in list(module._parameters.items()):
        if parameter is None or id(parameter) in but:
            continue
        del module._parameters[name]
        setattr(module, name, torch.zeros((), dtype=parameter.dtype).expand(parameter.shape))
