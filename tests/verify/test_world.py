"""Processes that live long see worlds of any size, and an error in one of them is told and survived."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flagai.verify.world import JobError, World, world


@pytest.fixture(scope="module")
def three() -> Iterator[World]:
    with world(3) as made:
        yield made


def test_worlds_of_any_size_one_after_another(three: World) -> None:
    for size in (3, 1, 2):
        found = three.run("verify_jobs:place", size)
        assert [each["size"] for each in found] == [size] * size
        assert {each["sum"] for each in found} == {sum(range(size)) if size > 1 else 0}
    assert three.run("verify_jobs:place", 1)[0]["rank"] is None, "one process is none of several"


def test_the_error_of_one_is_told_and_the_next_job_runs(three: World) -> None:
    with pytest.raises(JobError, match="ValueError: on purpose") as caught:
        three.run("verify_jobs:fail", 2, on=1)
    assert "verify_jobs.py" in caught.value.trace and not caught.value.explained
    with pytest.raises(JobError, match="of ours") as caught:
        three.run("verify_jobs:refuse", 1)
    assert caught.value.explained
    with pytest.raises(JobError, match="died without a word"):
        three.run("verify_jobs:die", 2)
    with pytest.raises(JobError, match="gave no answer"):
        three.run("verify_jobs:wait", 1, patience=0.2)
    assert len(three.run("verify_jobs:place", 2)) == 2
