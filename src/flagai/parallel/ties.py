"""Parameters that a model has under several names. Knows no model: it compares identities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.distributed.tensor import DTensor


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter; where another stage has it, whatever stands there."""
    path, _, leaf = name.rpartition(".")
    module = model
    for part in path.split(".") if path else ():
        module = module._modules.get(part) or nn.Identity()
    return module, leaf


@dataclass(frozen=True)
class Ties:
    """Groups of names that mean one parameter; the first of each is the one that `named_parameters` gives."""

    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Ties:
        """The ties of a model as it is."""
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        return cls(tuple(tuple(group) for group in names.values() if len(group) > 1))

    def renew(self, model: nn.Module) -> None:
        """Make one parameter of each group again, after its modules got new ones of equal content."""
        for group in self.groups:
            places = [_owner(model, name) for name in group]
            there = [(module, leaf) for module, leaf in places if module._parameters.get(leaf) is not None]
            parameters = [module._parameters[leaf] for module, leaf in there]
            # A plan names one of the modules, or all of them: what is divided is divided under every name.
            one = next((p for p in parameters if isinstance(p, DTensor)), next(iter(parameters), None))
            for module, leaf in there:
                module._parameters[leaf] = one

    def first(self, name: str) -> str:
        """The name under which a parameter is saved."""
        return next((group[0] for group in self.groups if name in group), name)
