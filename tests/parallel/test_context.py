"""One text on several processes: equal to one process for every kind of mask, and what it does to dropout."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import spread_jobs as jobs
from spread_checks import LOSS, NORM, PROOF, ROWS, STEPS, agree, alone, differences, quick, unlike

METHODS = ("all-gather", "ulysses")
SIZES = {"context": 2}


@pytest.mark.parametrize(
    ("method", "family"),
    quick(
        list(product(METHODS, ("glm", "bert", "roberta", "modernbert", "gpt2", "opt", "llama", "qwen3", "classifier"))),
        but={
            ("all-gather", "glm"),
            ("all-gather", "llama"),
            ("all-gather", "modernbert"),
            ("ulysses", "glm"),
            ("ulysses", "gpt2"),
        },
    ),
)
def test_two_processes_train_as_one(two: Any, method: str, family: str) -> None:
    results = two.run("train", family=family, sizes=SIZES, context_method=method, rows=ROWS)
    agree(results, alone(family, rows=ROWS))


@PROOF
@pytest.mark.parametrize(("method", "family"), list(product(METHODS, ("glm", "bert", "llama"))))
def test_twenty_steps(two: Any, method: str, family: str) -> None:
    options = {"sizes": SIZES, "context_method": method, "accumulation": 3, "gradients": STEPS}
    agree(two.run("train", family=family, **options), alone(family, 3), gradients=STEPS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "kind", ["causal", "bidirectional", "padded", "padded left", "glm", "explicit", "odd", "one token"]
)
def test_every_mask(two: Any, method: str, kind: str) -> None:
    """Scores and gradients of every weight, with lengths that two does not divide and a text of one token."""
    expected = jobs.masked(None, kind)
    for found in two.run("masked", sizes=SIZES, kind=kind, context_method=method):
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=2e-5)
        assert found["gradients"].keys() == expected["gradients"].keys()
        for name, gradient in expected["gradients"].items():
            np.testing.assert_allclose(found["gradients"][name], gradient, atol=2e-5 * (1 + np.abs(gradient).max()))


def test_keys_that_are_not_gathered_are_noticed(two: Any) -> None:
    results = two.run("train", family="glm", sizes=SIZES, rows=ROWS, plant="own keys")
    assert differences(results[0], alone("glm", rows=ROWS))[0] > 10 * LOSS


def test_a_wrong_normaliser_is_noticed(two: Any) -> None:
    """Both processes know the sums of the whole text: counted twice, every gradient is half."""
    results = two.run("train", family="glm", sizes=SIZES, rows=ROWS, plant="every process counts")
    expected = alone("glm", rows=ROWS)
    assert differences(results[0], expected)[1] > 10 * NORM
    assert unlike(results[0], expected)[0] > 10


def test_a_packed_model_is_padded_again(two: Any) -> None:
    agree(two.run("train", family="glm", sizes=SIZES, rows=ROWS, packed=True), alone("glm", rows=ROWS))


@pytest.mark.parametrize("method", METHODS)
def test_dropout_differs_between_shares_and_not_behind_them(two: Any, method: str) -> None:
    one, other = two.run("dropped", family="bert", sizes=SIZES, context_method=method)
    assert one == other
    one, other = two.run("dropped", family="bert", sizes=SIZES, context_method=method, recompute=True)
    assert one == other


@pytest.mark.parametrize(
    ("method", "family"), quick(list(product(METHODS, ("gpt2", "llama"))), but={("ulysses", "gpt2")})
)
def test_writing_is_that_of_one_process(two: Any, method: str, family: str) -> None:
    expected = jobs.write(family, None)
    assert two.run("write", family=family, sizes=SIZES, context_method=method) == [expected, expected]


def test_a_run_goes_on_without_shared_texts(two: Any) -> None:
    rows = jobs.ROWS[:4]
    once = alone("gpt2", rows=rows)
    first = two.run("train", family="gpt2", sizes=SIZES, rows=rows[:2])[0]
    agree(
        [jobs.train("gpt2", None, rows=rows[2:], first=2, start=first)],
        once | {"steps": once["steps"][2:]},
        gradients=0,
    )


def test_parts_make_up_the_whole_once(two: Any) -> None:
    jobs.check_parts(two.run("parts", family="gpt2", sizes=SIZES))
