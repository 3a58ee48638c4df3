"""The layouts of a table, the search for the smallest change, and amounts of memory as they are written."""

from __future__ import annotations

import pytest

from flagai.config import load_config
from flagai.errors import ConfigError, ModelError
from flagai.planning.layouts import Layout, alternatives, changed
from flagai.planning.machine import read_size
from flagai.planning.search import smallest

GIB = 2**30


def layout(processes: int = 1, **settings: object) -> Layout:
    values = {"task": "classification", "train": {"batch_size": 16}, **settings}
    return Layout(config=load_config(values), processes=processes)


def test_the_table_has_every_strategy_once():
    names = [made.name for made in alternatives(layout(), 4)]
    assert names[0] == "one process"
    assert len(names) == len(set(names))
    wanted = {"ddp 4", "fsdp 4", "zero1 4", "zero2 4", "zero3 4", "tensor 4", "pipeline 4", "fsdp 4 + offload"}
    assert wanted <= set(names)
    assert not any("offload" in made.name for made in alternatives(layout(), 4, kind="cpu"))


def test_the_users_own_layout_comes_first():
    own = layout(4, parallel={"strategy": "fsdp", "tensor": 2})
    made = list(alternatives(own, 4))
    assert made[0].name == "fsdp 2 × tensor 2" and not made[0].changes
    assert made[1].name == "one process" and "parallel.strategy=single" in made[1].changes


def test_changes_are_said_as_on_a_command_line():
    made = changed(layout(), {"parallel.recompute": True, "train.precision": "fp32"})
    assert made.changes == ("parallel.recompute=true",)
    with pytest.raises(ConfigError):
        changed(layout(), {"parallel.sequence": True})


def peak(made: Layout) -> int:
    """A made-up need: 16 GiB that a cut of the batch, recomputing, bf16 and shards make smaller."""
    train, parallel = made.config.train, made.parallel
    activations = 8 * GIB / train.gradient_accumulation_steps / (4 if parallel.recompute else 1)
    return int((8 * GIB / made.sizes.shard) + activations * (0.5 if train.precision == "bf16" else 1))


@pytest.mark.parametrize(
    ("memory", "processes", "settings", "found"),
    [
        (16, 1, (), True),
        (12, 1, ("train.gradient_accumulation_steps=2",), True),
        (9.5, 1, ("train.gradient_accumulation_steps=8",), True),
        (7, 4, ("parallel.strategy=fsdp", "train.gradient_accumulation_steps=2"), True),
        (1, 1, (), False),
    ],
)
def test_the_smallest_change(memory: float, processes: int, settings: tuple[str, ...], found: bool):
    change = smallest(layout(), peak, lambda made: 0, int(memory * GIB), processes=processes, parts=16, kind="cuda")
    assert change.found is found
    if found:
        assert set(settings) == set(change.settings)
        assert change.needed is bool(settings)
        assert change.peak <= memory * GIB
    else:
        assert change.settings and change.peak > memory * GIB


def test_what_cannot_be_is_passed_over():
    def refused(made: Layout) -> int:
        if made.parallel.recompute:
            raise ModelError("no layers")
        return peak(made)

    change = smallest(layout(), refused, lambda made: 0, int(9.5 * GIB), processes=1, parts=16, kind="cpu")
    assert change.found and "parallel.recompute=true" not in change.settings


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GiB", 24 * 2**30), ("80GB", 80 * 10**9), ("1.5 TiB", 1.5 * 2**40), ("4096", 4096), ("2k", 2000)],
)
def test_amounts_of_memory(text: str, size: float):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "24 GiX", "1.2.3G", "-4G", "."])
def test_what_is_no_amount(text: str):
    with pytest.raises(ConfigError):
        read_size(text)
