"""One stage of a pipeline: a model of which this process holds some layers, run by its own `forward`. Knows no family.

Nothing is traced and no forward is written again. Layers of other stages are replaced by stand-ins under their names:
in front of ours one that hands in the hidden states of the stage before, behind ours one that takes them out and ends
the call. Masks and positions are made by the model's own code, on every stage, from the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flagai.models.plan import Plan, find
from flagai.parallel.plan import bounds, check_stages, layers_of

Receive = Callable[[Tensor], Tensor]
"""a tensor of the shape that comes → what came, needing a gradient"""


class _Reached(Exception):
    """The hidden states behind the last layer of a stage."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class _StandIn(nn.Module):
    """In the place of a layer that lives on another stage: hands the hidden states on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        plain = {key: value for key, value in vars(layer).items() if isinstance(value, str | int | float | bool)}
        self.__dict__.update({key: value for key, value in plain.items() if not key.startswith("_")})

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[…, hidden] → the same."""
        return hidden_states


class _Entry(_StandIn):
    """Right in front of our layers: in comes what the stage before has computed."""

    receive: Receive

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Only the shape of what comes is looked at: zeros that the model's own code made."""
        return self.receive(hidden_states)


class _Exit(_StandIn):
    """Right behind our layers: the rest of the model is not ours."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Ends the call."""
        raise _Reached(hidden_states)


class Stage:
    """A model cut in place.

    Args:
        model: whole, or on meta; afterwards it holds the parameters of this stage only, under their own names.
        index, count: which stage of how many.

    Raises:
        ModelError: a model that may not be cut, or has fewer layers than there are stages.
    """

    def __init__(self, model: nn.Module, plan: Plan | None, index: int, count: int) -> None:
        stages = check_stages(model, plan, count)
        layers = layers_of(model, stages.layers)
        first, end = bounds(len(layers), index, count)
        self.model, self.is_first, self.is_last = model, index == 0, index == count - 1
        self._entry: _Entry | None = None
        self._replace(layers, first, end)
        inside = {id(p) for p in layers.parameters()}
        before = {id(m) for name in stages.before for m in _subtrees(model, name)}
        for module in model.modules():
            ours = self.is_first if id(module) in before else self.is_last
            if not ours:
                _empty(module, but=inside)

    def forward(self, receive: Receive, inputs: Mapping[str, Any]) -> Any:
        """Hidden states for the next stage, or the outputs of the model on the last one."""
        if self._entry is not None:
            self._entry.receive = receive
        try:
            outputs = self.model(**inputs)
        except _Reached as reached:
            return reached.hidden
        assert self.is_last, "the model left out the layer behind the last one of this stage"
        return outputs

    def _replace(self, layers: nn.ModuleList, first: int, end: int) -> None:
        for i, layer in enumerate(layers):
            if i == first - 1:
                self._entry = _Entry(layer)
                layers[i] = self._entry
            elif i == end:
                layers[i] = _Exit(layer)
            elif not first <= i < end:
                layers[i] = _StandIn(layer)


def _subtrees(model: nn.Module, pattern: str) -> list[nn.Module]:
    return [part for module in find(model, pattern).values() if module is not None for part in module.modules()]


def _empty(module: nn.Module, *, but: set[int]) -> None:
    """Replace what a module holds by zeros that occupy no memory, so that its forward still runs."""
    for name, parameter in list(module._parameters.items()):
        if parameter is None or id(parameter) in but:
            continue
        del module._parameters[name]
        setattr(module, name, torch.zeros((), dtype=parameter.dtype).expand(parameter.shape))
