"""Checkpoints of several processes: each writes its boxes into one folder, whoever reads it gets the same run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint_jobs as jobs
import numpy as np
import pytest
import spread_world as worlds  # found by checkpoint_jobs
from checkpoint_runs import same
from safetensors.torch import load_file

WAYS: dict[str, dict[str, int]] = {
    "ddp": {"replicate": 2},
    "fsdp": {"shard": 2},
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
}
LOSS, WEIGHT = 1e-5, 1e-4
"""largest differences in fp32 after a change of layout"""


@pytest.fixture(scope="module")
def two() -> Iterator[Any]:
    with worlds.world(2) as made:
        yield made


@pytest.mark.parametrize(("family", "asynchronous"), [("glm", False), ("gpt2", True)], ids=["at once", "behind"])
@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_of_two_is_that_of_one(
    two: Any, way: str, family: str, asynchronous: bool, tmp_path: Path
) -> None:
    """The same layout goes on bit for bit, dropout on; one process reads the same numbers."""
    arguments = {"family": family, "root": str(tmp_path / "c")}
    begun = two.run("checkpoint_jobs:begin", sizes=WAYS[way], asynchronous=asynchronous, **arguments)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-2"]
    again = two.run("checkpoint_jobs:go_on", sizes=WAYS[way], meta=family == "gpt2", **arguments)
    for found in again:
        assert found["losses"] == begun[0]["losses"]
        assert same(found["end"], begun[0]["end"])
    alone = jobs.go_on(sizes=None, steps=0, **arguments)
    assert same(alone["weights"], begun[0]["weights"])
    assert same(alone["moments"], begun[0]["moments"])
    if way != "ddp":  # a copy needs all there is; a part no more than its share and what is too small to be cut
        assert all(found["read"] < 0.75 * alone["read"] for found in again)


@pytest.mark.parametrize(("there", "here"), [("fsdp", "tensor"), ("pipeline", "ddp"), ("tensor", "one process")])
def test_another_layout_goes_on(two: Any, there: str, here: str, tmp_path: Path) -> None:
    arguments = {"family": "bert", "root": str(tmp_path / "c")}
    begun = two.run("checkpoint_jobs:begin", sizes=WAYS[there], **arguments)[0]
    if here == "one process":
        found = jobs.go_on(sizes=None, dropout=0.0, **arguments)
    else:
        found = two.run("checkpoint_jobs:go_on", sizes=WAYS[here], dropout=0.0, **arguments)[0]
    assert same(found["weights"], begun["weights"]) and same(found["moments"], begun["moments"])
    expected = two.run("checkpoint_jobs:go_on", sizes=WAYS[there], dropout=0.0, **arguments)[0]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=0, atol=10 * LOSS)
    assert all(np.abs(found["end"][name] - value).max() < WEIGHT for name, value in expected["end"].items())


@pytest.mark.parametrize(("asynchronous", "name"), [(True, "pwrite"), (False, "fsync")])
def test_one_process_that_cannot_write(two: Any, asynchronous: bool, name: str, tmp_path: Path) -> None:
    results = two.run("checkpoint_jobs:fail", root=str(tmp_path), asynchronous=asynchronous, name=name)
    (first, first_text, left), (second, second_text, _) = results
    assert (first, second) == ("OtherRankError", "OutputError")
    assert "rank 1 stopped" in first_text and "disk is full" in first_text and "disk is full" in second_text
    assert left == ["step-1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-2"]


@pytest.mark.parametrize(
    ("way", "family"), [("fsdp", "headed"), ("pipeline", "headed"), ("tensor", "bert"), ("ddp", "bert")]
)
def test_a_model_folder_of_two_is_that_of_one(two: Any, way: str, family: str, tmp_path: Path) -> None:
    assert all(two.run("checkpoint_jobs:model_folder", family=family, sizes=WAYS[way], folder=str(tmp_path / "two")))
    run = jobs.Run(family)
    run.model.save_pretrained(tmp_path / "one")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    for name in names:
        one, other = tmp_path / "one" / name, tmp_path / "two" / name
        same_content = (
            same(load_file(one), load_file(other)) if name.endswith("rs") else one.read_text() == other.read_text()
        )
        assert same_content, name


def test_all_agree_on_the_newest(two: Any, tmp_path: Path) -> None:
    root = tmp_path / "c"
    assert two.run("checkpoint_jobs:look", root=str(root), hidden_from=-1) == ["none", "none"]
    two.run("checkpoint_jobs:begin", family="bert", sizes=WAYS["ddp"], root=str(root))
    shutil.copytree(root / "step-2", root / "step-3")
    (root / "step-3/config.json").write_text("{}")
    assert two.run("checkpoint_jobs:look", root=str(root), hidden_from=-1) == ["step-2", "step-2"]
    one, other = two.run("checkpoint_jobs:look", root=str(root), hidden_from=1)
    assert one.startswith("OtherRankError: rank 1") and "shared disk" in other


LARGEST = 90.0
"""MiB of the largest tensor, the table of words"""
SLACK = 120.0
"""MiB for what is loaded on the way: modules, buffers of the processes' talk"""


@pytest.mark.proof
@pytest.mark.parametrize("way", ["one process", "fsdp", "tensor"])
def test_no_process_holds_more_than_its_share(way: str, tmp_path: Path) -> None:
    """A model of 417 MiB and moments of 835: a save takes one tensor on top, a load the moments and one tensor."""
    for load in (False, True):
        if way == "one process":
            with worlds.world(1) as one:
                results = one.run("checkpoint_jobs:memory", root=str(tmp_path), sizes=None, load=load)
        else:
            with worlds.world(2) as two:
                results = two.run("checkpoint_jobs:memory", root=str(tmp_path), sizes=WAYS[way], load=load)
        for found in results:
            print(way, "load" if load else "save", {key: round(value) for key, value in found.items()})
            assert found["weights"] < (420 if way == "one process" else 270)
            assert found["extra"] < (found["moments"] if load else 0) + LARGEST + SLACK


def test_the_processes_of_a_tensor_group_draw_alike_whoever_saved(two: Any, tmp_path: Path) -> None:
    """Copies draw dropout of their own; the halves of one tensor would be torn apart by that, and copies be alike."""
    for way, other in (("ddp", "tensor"), ("tensor", "ddp"), ("ddp", "fsdp")):
        root = str(tmp_path / f"{way}-{other}")
        two.run("checkpoint_jobs:begin", family="bert", sizes=WAYS[way], root=root)
        before = two.run("checkpoint_jobs:drawn", sizes=WAYS[way], root=root)
        after = two.run("checkpoint_jobs:drawn", sizes=WAYS[other], root=root)
        assert (after[0] == after[1]) == (other == "tensor")
        assert (before == after) == (other == "fsdp"), "two layouts of copies go on with the same streams"
