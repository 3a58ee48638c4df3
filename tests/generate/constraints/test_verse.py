"""Readings, forms and poems: known poems, the checker against the automata, and poems of models in every form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.generate.constraints.worlds import POET, faults, model, tokenizer, write

from flagai.errors import ConfigError
from flagai.generate.constraints.check import check
from flagai.generate.constraints.compile import compile_machine, make_automata
from flagai.generate.constraints.machine import Machine
from flagai.generate.constraints.parse import parse
from flagai.generate.constraints.pieces import Piece
from flagai.generate.constraints.readings import Reading, reading, readings
from flagai.generate.constraints.spec import FORMS, Verse
from flagai.generate.constraints.vocabulary import Vocabulary
from flagai.generate.generate import generate

CRANES = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
"""Wang Zhihuan; of the first pattern, the first line without rhyme"""


@pytest.mark.parametrize(
    ("syllable", "group", "level"),
    [
        *[("mā", "一麻", True), ("huá", "一麻", True), ("bó", "二波", True), ("gè", "二波", False)],
        *[("yuè", "三皆", False), ("jié", "三皆", True), ("xué", "三皆", True), ("wài", "四开", False)],
        *[("guī", "五微", True), ("wéi", "五微", True), ("niǎo", "六豪", False), ("yóu", "七尤", True)],
        *[("liú", "七尤", True), ("yuán", "八寒", True), ("yān", "八寒", True), ("yún", "九文", True)],
        *[("chūn", "九文", True), ("guāng", "十唐", True), ("wáng", "十唐", True), ("qióng", "十一庚", True)],
        *[("yīng", "十一庚", True), ("wēng", "十一庚", True), ("ér", "十二齐", True), ("yǔ", "十二齐", False)],
        *[("lǜ", "十二齐", False), ("qù", "十二齐", False), ("shī", "十三支", True), ("sì", "十三支", False)],
        *[("wú", "十四姑", True), ("shū", "十四姑", True), ("de", "二波", False)],
    ],
)
def test_syllables_have_their_group_and_tone(syllable: str, group: str, level: bool) -> None:
    assert reading(syllable) == Reading(group, level)


def test_characters_may_have_several_readings() -> None:
    assert reading("ng") is None and readings("，") == frozenset()
    assert {one.level for one in readings("中")} == {True, False}
    assert Reading("十唐", True) in readings("光")


def test_known_poems() -> None:
    assert check(CRANES, Verse(form="五言绝句")) == []
    # Of the first line the rest is the answer.
    assert check(CRANES[6:], Verse(form="五言绝句", given="白日依山尽，")) == []
    quiet = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"  # an old quatrain: rhymed, without a tone pattern
    assert check(quiet, Verse(form="五言绝句", tones=False)) == []
    assert check(quiet, Verse(form="五言绝句"))
    assert check(quiet, Verse(form="五言绝句", tones=False, rhyme="七尤"))


@pytest.mark.parametrize(
    ("poem", "said"),
    [
        (CRANES[:-1], "ends with ''"),
        (CRANES.replace("流。", "流，"), "line 2 ends with"),
        (CRANES.replace("黄河", "黄"), "5, 4, 5, 5"),
        (CRANES.replace("黄河", "黄a"), "no Chinese character"),
        (CRANES.replace("楼", "山"), "do not rhyme"),
        (CRANES.replace("入海", "来山"), "is not"),
        ("", "characters"),
    ],
)
def test_faults_of_a_poem_are_named(poem: str, said: str) -> None:
    assert any(said in fault for fault in check(poem, Verse(form="五言绝句")))


OTHERS = ("山", "流", "目", "东", "，", "a")
LETTERS = Vocabulary([Piece(one.encode()) for one in sorted({*CRANES, *OTHERS})])


def accepts(machine: Machine, poem: str) -> bool:
    """What the automata say, a token a character."""
    state: Any = machine.start
    for char in poem:
        found = LETTERS.pieces.index(Piece(char.encode()))
        state = None if state is None else machine.step(state, found)
    return state is not None and machine.accepts(state)


@pytest.mark.parametrize(
    "spec",
    [
        Verse(form="五言绝句"),
        Verse(form="五言绝句", tones=False),
        Verse(form="五言绝句", rhyme=False),
        Verse(form="五言绝句", rhyme="七尤"),
        Verse(form="五言绝句", rhyme="八寒"),
        Verse(form=(5, 5, 5, 5), tones=("中中中中仄", "中中中中平", "中中中中中", "中中中中平"), rhyme=True),
    ],
)
def test_automata_and_checker_agree(spec: Verse) -> None:
    machine, verdicts = Machine(LETTERS, make_automata([spec], LETTERS)), set()
    for at in range(len(CRANES)):
        for other in (CRANES[at], *OTHERS):
            poem = CRANES[:at] + other + CRANES[at + 1 :]
            verdicts.add(accepts(machine, poem))
            assert accepts(machine, poem) == (check(poem, spec) == []), poem
    assert verdicts == ({True, False} if spec.rhyme != "八寒" else {False})


@pytest.mark.parametrize("given", ["床前明月光，", CRANES, "白日依山尽，黄河入海流，", "白日依山尽，黄河入海月。"])
def test_a_wrong_beginning_is_an_error(given: str) -> None:
    known = Vocabulary([Piece(one.encode()) for one in sorted({*CRANES, *given})])
    with pytest.raises(ConfigError, match="beginning"):
        compile_machine((Verse(form="五言绝句", given=given),), known, frozenset())


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("form", FORMS)
def test_poems_of_other_families_pass(form: str, family: str) -> None:
    ways: list[dict[str, Any]] = [{"do_sample": True, "seed": 3, "num_return_sequences": 4}, {"num_beams": 2}]
    for way in ways:
        (answers,) = write("han", {"verse": form}, family=family, max_new_tokens=80, **way)
        assert [fault for one in answers for fault in faults("han", one.tokens, {"verse": form})] == []
        assert all(one.ended for one in answers)


@pytest.fixture(scope="module")
def poet() -> Any:
    from flagai.auto import AutoLoader

    loader = AutoLoader("poetry", str(POET))
    return loader.get_model(), loader.get_tokenizer()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tones", [True, False])
def test_poems_of_the_bundled_model_pass(poet: Any, form: str, tones: bool) -> None:
    network, tokens = poet
    spec = Verse(form=form, tones=tones)
    ids = torch.tensor([tokens.encode_context(f"{title}：{form}：[gMASK]") for title in ("静夜", "春雨")])
    found = generate(
        network, ids, tokenizer=tokens, constraints=(spec,), do_sample=True, top_p=0.9, seed=1, max_new_tokens=100
    )
    for (answer,) in found.answers:
        assert check(Vocabulary.of(tokens).text(answer.tokens), spec) == []
        assert answer.ended


def test_the_bundled_model_goes_on_from_a_first_line(poet: Any) -> None:
    network, tokens = poet
    spec = Verse(form="五言绝句", given="白日依山尽，")
    ids = torch.tensor([tokens.encode_context("登楼：五言绝句：白日依山尽，[gMASK]")])
    options: dict[str, Any] = {"max_new_tokens": 40, "num_beams": 3}
    ((answer,),) = generate(network, ids, tokenizer=tokens, constraints=(spec,), **options).answers
    text = Vocabulary.of(tokens).text(answer.tokens)
    assert len(text) == 18 and check(text, spec) == []


def test_nothing_asked_changes_nothing() -> None:
    ids = torch.tensor([[5, 6, 7], [8, 9, 4]])
    ways: list[dict[str, Any]] = [{"do_sample": True, "seed": 0, "num_return_sequences": 3}, {"num_beams": 3}, {}]
    for way in ways:
        options: dict[str, Any] = {"max_new_tokens": 12, **way}
        free = generate(model("han"), ids, tokenizer=tokenizer("han"), **options)
        asked = generate(model("han"), ids, tokenizer=tokenizer("han"), constraints=parse(None), **options)
        assert free.answers == asked.answers and torch.equal(free.sequences, asked.sequences)
