"""The words in which a model says how it may be divided: plain data. It knows no mesh, no process and no torch.

A plan names modules by the end of their dotted names, one `*` for one part of it: "layers.*.attention.query" is found
in a body, in a model with a head and in a wrapper alike. A model of your own becomes tensor-parallel with a few lines:

    Plan(
        tensor={"up": Columns(), "down": Rows()},   # y = down(relu(up(x)))
        divides=(("hidden layer", 64),),
    )
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol


class Tree(Protocol):
    """What is asked of a model here: its modules by name."""

    def named_modules(self) -> Any:
        """(dotted name, module) of all of them."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A linear layer whose outputs are divided, or a table whose columns are; its input is whole.

    Args:
        groups: so many layers of equal size lie fused in its rows (q, k and v: 3); each of them is divided.
        gather: the output is put together again, as at the end of a model.
        optional: whether a model may have no such module.
    """

    groups: int = 1
    gather: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A linear layer whose inputs are divided, as they come out of `Columns`; its output is summed up, whole."""

    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """An embedding whose rows are divided; each id is looked up where its row is."""

    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A module that each part applies to its own share, such as a norm of each head: its gradients are summed."""

    optional: bool = False


Split = Columns | Rows | Vocabulary | Shared


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A second list of layers, each of which reads what the first one gives, as a decoder does.

    Args:
        layers: the list of layers.
        before: the modules that make its first hidden state.
        reads: the module around the first list; its `last_hidden_state` is what is read.
    """

    layers: str
    before: tuple[str, ...]
    reads: str


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Where a model may be cut into stages: between two of its layers.

    Args:
        layers: the list of layers.
        before: the modules that make the first hidden state; all that is neither here nor a layer comes behind them.
        after: modules behind the last layer that belong to it, because a `reader` comes next.
        reader: a second list of layers; a model that has none (an encoder alone) may be cut all the same.
        everywhere: inside layers, what each stage needs of those that lie before its own.
        beside: layer → a function of the hidden states and the layer's other arguments that gives what such a layer
            returns, where that is more than hidden states.
    """

    layers: str
    before: tuple[str, ...]
    after: tuple[str, ...] = ()
    reader: Reader | None = None
    everywhere: tuple[str, ...] = ()
    beside: Callable[[Any], Callable[..., Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How a divided model keeps a parameter, compared with the single-device model.

    Args:
        transposed: [out, in] instead of [in, out].
        groups, parts: rows of `groups` fused layers in the order of `parts` processes: part 0 of each layer first.
    """

    transposed: bool = False
    groups: int = 1
    parts: int = 1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the models of one family are divided.

    Args:
        family: its name in messages.
        tensor: modules → how each is divided between the processes of one tensor group.
        divides: what the number of those processes must divide: an attribute of the configuration, or (name, number).
        counted: modules → their attributes that count heads or columns and are divided with them.
        prepare: makes a model divisible that is not as it stands; gives the parameters that it keeps otherwise.
        stages: where it may be cut; None where it may not.
        tokens: modules inside a layer that need all tokens of a text; between them each process may work on its share.
        recompute: modules whose activations are worth computing twice; by default the layers of `stages`.
    """

    family: str = "this model"
    tensor: Mapping[str, Split] = field(default_factory=dict)
    divides: tuple[str | tuple[str, int], ...] = ()
    counted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prepare: Callable[[Any], dict[str, Kept]] | None = None
    stages: Stages | None = None
    tokens: tuple[str, ...] = ()
    recompute: str | None = None

    @property
    def block(self) -> str | None:
        """The pattern of one layer: what is recomputed, sharded or prefetched as a whole."""
        if self.recompute is not None:
            return self.recompute
        return None if self.stages is None else f"{self.stages.layers}.*"


def matches(name: str, pattern: str) -> bool:
    """Whether the last parts of a dotted name fit a pattern, part by part."""
    wanted, there = pattern.split("."), name.split(".")
    return len(there) >= len(wanted) and all(map(fnmatchcase, there[-len(wanted) :], wanted))


def find(model: Tree, pattern: str) -> dict[str, Any]:
    """The modules of a model that a pattern means, by their dotted names, in the model's order."""
    return {name: module for name, module in model.named_modules() if name and matches(name, pattern)}
