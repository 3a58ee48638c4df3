"""A plan held against a model: which modules it means, and whether the model can be divided so. Changes nothing."""

from __future__ import annotations

from torch import nn

from flagai.errors import ModelError
from flagai.models.plan import Plan, Split, Stages, find
from flagai.parallel.adapters import check_adapters, is_wrapped, parts_of


def blocks(model: nn.Module, plan: Plan | None) -> list[nn.Module]:
    """The layers of a model: what is put together, or recomputed, at once."""
    if plan is not None and plan.block is not None:
        return list(find(model, plan.block).values())
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return [module for module in model.modules() if type(module).__name__ in names]


def runs(model: nn.Module, plan: Plan) -> list[dict[str, nn.Module]]:
    """The layers that this process holds, by name: those that follow one another without a gap together."""
    found: list[dict[str, nn.Module]] = [{}]
    for name, module in find(model, plan.block or "").items():
        if any(True for _ in module.parameters()):
            found[-1][name] = module
        elif found[-1]:
            found.append({})
    return [run for run in found if run]


def check_tensor(model: nn.Module, plan: Plan, parts: int, *, sequence: bool = False) -> None:
    """Whether a model can be divided so, before anything is changed. Raises ModelError."""
    if sequence and not (plan.tokens and plan.block):
        raise ModelError(
            f"the plan of {plan.family} does not say what needs all tokens of a text",
            where="parallel.sequence",
            expected="a plan with `tokens`: GLM, BERT, RoBERTa, ModernBERT, GPT-2, Llama-like ones",
            fix="take parallel.sequence out",
        )
    check_adapters(model, plan)
    for entry in plan.divides:
        name, number = _number(model, entry)
        if number is not None and number % parts:
            raise ModelError(
                f"{parts} processes cannot share {name} {number} of {plan.family}",
                where="parallel.tensor",
                expected=f"a number that divides {number}",
                fix=f"set parallel.tensor to one of: {', '.join(map(str, _divisors(model, plan)))}",
            )
    if not plan.tensor:
        raise ModelError(
            f"the plan of {plan.family} says nothing about tensor parallelism",
            where="parallel.tensor",
            expected="a plan with `tensor`",
            fix="take strategy fsdp, or add the lines to the plan",
        )
    for pattern, split in plan.tensor.items():
        if not split.optional and not find(model, pattern):
            raise ModelError(
                f"the plan of {plan.family} names {pattern!r}, which {type(model).__name__} does not have",
                where="parallel.tensor",
                expected="a pattern of the end of module names",
                fix="correct the plan, or mark the word as optional",
            )


def _divisors(model: nn.Module, plan: Plan) -> list[int]:
    known = [n for _, n in (_number(model, entry) for entry in plan.divides) if n is not None]
    return [d for d in range(1, min(known, default=1) + 1) if all(n % d == 0 for n in known)]


def _number(model: nn.Module, entry: str | tuple[str, int]) -> tuple[str, int | None]:
    if isinstance(entry, tuple):
        return entry
    number = getattr(getattr(model, "config", None), entry, None)
    return entry, number if isinstance(number, int) else None


def splits(model: nn.Module, plan: Plan) -> dict[str, tuple[nn.Module, Split]]:
    """Each module that a plan divides, by its name; those that hold nothing here (of another stage) are left out."""
    found: dict[str, tuple[nn.Module, Split]] = {}
    for pattern, split in plan.tensor.items():
        for name, module in find(model, pattern).items():
            for part, inner, how in parts_of(name, module, split) if is_wrapped(module) else ((name, module, split),):
                if any(True for _ in inner.parameters(recurse=False)):
                    found.setdefault(part, (inner, how))
    return found


def check_stages(model: nn.Module, plan: Plan | None, count: int) -> Stages:
    """Where the model is cut. Raises ModelError where it cannot be."""
    if plan is None or plan.stages is None:
        family = (
            plan.family if plan is not None else getattr(getattr(model, "config", None), "model_type", "this model")
        )
        raise ModelError(
            f"nothing says where {family} may be cut into stages",
            where="parallel.pipeline",
            expected="a plan with `stages`: GLM, BERT, RoBERTa, ModernBERT, GPT-2, OPT, T5, Llama-like ones",
            fix="use parallel.tensor or strategy fsdp, or set model.flagai_plan to a Plan with stages",
        )
    layers = sum(map(len, lists_of(model, plan.stages)))
    if layers < count:
        raise ModelError(
            f"{count} stages for {layers} layers",
            where="parallel.pipeline",
            expected="at least one layer a stage",
            fix=f"set parallel.pipeline to at most {layers}",
        )
    return plan.stages


def bounds(layers: int, index: int, count: int) -> tuple[int, int]:
    """[first, end) of the layers of a stage; the first and the last, which have tables too, get the fewer ones."""
    share, more = divmod(layers, count)
    order = [*range(1, count - 1), 0, count - 1][:count] if count > 1 else [0]
    sizes = [share] * count
    for stage in order[:more]:
        sizes[stage] += 1
    return sum(sizes[:index]), sum(sizes[: index + 1])


def lists_of(model: nn.Module, stages: Stages) -> list[nn.ModuleList]:
    """The lists of layers that a model is cut between: one, or two where a decoder reads what an encoder gives."""
    first = [layers_of(model, stages.layers)]
    if stages.reader is None or not find(model, stages.reader.layers):
        return first
    return [*first, layers_of(model, stages.reader.layers)]


def layers_of(model: nn.Module, pattern: str) -> nn.ModuleList:
    """The list of layers that a pattern means. Raises ModelError where it is none, or several."""
    found = find(model, pattern)
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(found)} modules {pattern!r}, not one list of layers",
            where="parallel.pipeline",
            expected="exactly one",
            fix="correct `stages` of its plan",
        )
    return next(iter(found.values()))
