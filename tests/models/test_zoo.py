"""The table of names: complete for the original's June 2022 set, any case, no id twice in doubt."""

from __future__ import annotations

import re

import pytest

from flagai.hub import BUNDLED
from flagai.models import zoo

JUNE_2022 = [
    "bert-base-en",
    "roberta-base-ch",
    "t5-base-en",
    "t5-base-ch",
    "glm-large-ch",
    "glm-large-en",
    "gpt2-base-ch",
    "cpm-large-ch",
    *(f"opt-{size}-en" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b")),
]
ENCODERS = ("all-MiniLM-L6-v2", "BERT-base-en", "RoBERTa-base-ch")
GLM = {
    "GLM-large-ch": "THUDM/glm-large-chinese",
    "GLM-large-en": "THUDM/glm-large",
    "GLM-10b-ch": "THUDM/glm-10b-chinese",
    "GLM-10b-en": "THUDM/glm-10b",
    "GLM-2b": "THUDM/glm-2b",
    "GLM-515m": "THUDM/glm-515m",
    "GLM-roberta-large": "THUDM/glm-roberta-large",
}


@pytest.mark.parametrize("name", GLM)
def test_glm_has_its_place_on_the_hub(name: str) -> None:
    entry = zoo.find(name.lower())
    assert entry is not None and entry.runs and entry.family == "glm" and entry.huggingface == GLM[name]


WRITERS = (
    *("T5-base-en", "T5-base-ch", "GPT2-base-en", "CPM-large-ch", "CPM-large-ch-generation"),
    *(f"opt-{size}-en" for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")),
    *(f"galactica-{size}-en" for size in ("1.3b", "6.7b", "30b", "120b")),
)


@pytest.mark.parametrize("name", JUNE_2022)
def test_every_name_of_june_2022_is_known_in_any_case(name: str) -> None:
    entry = zoo.find(name)
    assert entry is not None and entry is zoo.find(name.upper()) is zoo.find(f" {entry.name} ")


def test_unknown_names_are_none() -> None:
    assert zoo.find("bert-base") is None
    assert zoo.find("") is None


def test_what_runs_says_where_it_comes_from_and_what_does_not_says_why() -> None:
    assert {entry.name for entry in zoo.ZOO if entry.runs} == {*ENCODERS, *GLM, *WRITERS, "glm-tiny-poetry-ch"}
    for entry in zoo.ZOO:
        assert entry.huggingface or entry.name in BUNDLED if entry.runs else entry.note


def test_ids_have_the_form_of_hub_ids_and_names_are_unique() -> None:
    for entry in zoo.ZOO:
        for hub_id in (entry.huggingface, entry.modelscope):
            assert hub_id is None or re.fullmatch(r"[\w-]+/[\w.-]+", hub_id)
    lowered = [entry.name.lower() for entry in zoo.ZOO]
    assert len(set(lowered)) == len(lowered)


def test_names_begin_with_what_runs() -> None:
    running = sorted([*ENCODERS, *GLM, *WRITERS, "glm-tiny-poetry-ch"], key=str.lower)
    assert zoo.names()[: len(running)] == running
    assert len(zoo.names()) == len(zoo.ZOO)
