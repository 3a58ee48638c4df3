"""What writing tasks read and give back: masks and their answers, titles, forms, lines; and each mistake by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.generate.poet import make_poet

from flagai import AutoLoader
from flagai.auto import most_tokens
from flagai.config import TaskConfig
from flagai.data.record import Record
from flagai.errors import CheckpointError, DataError, ModelError, UnknownNameError
from flagai.generate.options import GenerationOptions
from flagai.models.glm.commands import Commands
from flagai.models.glm.inputs_checks import check_control_tokens
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.models.tokenizers import build_tokenizer
from flagai.tasks.masks import join, split
from flagai.tasks.saved import task_from_json, task_to_json
from flagai.tasks.table import make_task
from flagai.tasks.writing import NOTHING


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_tokenizer(make_poet(tmp_path_factory.mktemp("poet")))


def task_of(tokenizer: Any, name: str = "lm", max_length: int = 64) -> Any:
    return make_task(TaskConfig(name=name), tokenizer, max_length=max_length)


@pytest.mark.parametrize(
    ("text", "answers", "whole"),
    [
        ("a [MASK] b", ["x"], "a x b"),
        ("a [MASK] b", [" x"], "a x b"),
        ("in [MASK], and [sMASK]", [" Paris", " so on."], "in Paris, and so on."),
        ("[MASK] a", [" The"], "The a"),
        ("床前[MASK]光[gMASK]", ["明月", "，"], "床前明月光，"),
        ("a[MASK]", [""], "a"),
    ],
)
def test_answers_take_the_place_of_masks(text: str, answers: list[str], whole: str) -> None:
    assert join(split(text), answers) == whole


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("静夜", "静夜：五言绝句：[gMASK]"),
        (" 静 夜\n", "静夜：五言绝句：[gMASK]"),
        ("静夜：七言律诗", "静夜：七言律诗：[gMASK]"),
        ("静夜:七言绝句:", "静夜：七言绝句：[gMASK]"),
        ("床前明月光，", "无题：五言绝句：床前明月光，[gMASK]"),
        ("床前明月光,疑是地上霜", "无题：五言绝句：床前明月光，疑是地上霜。[gMASK]"),
        ("故乡明月光是霜，", "无题：七言绝句：故乡明月光是霜，[gMASK]"),
        ("静夜：床前明月光，", "静夜：五言绝句：床前明月光，[gMASK]"),
        ("静夜：五言律诗：床前明月光，", "静夜：五言律诗：床前明月光，[gMASK]"),
        ("静夜：五言律诗：床前明月光", "静夜：五言律诗：床前明月光，[gMASK]"),
        ("床前[MASK]，疑是地上霜。", "无题：五言绝句：床前[MASK]，疑是地上霜。"),
        ("床前明月光,[sMASK]举头望明月,[gMASK]", "无题：五言绝句：床前明月光，[sMASK]举头望明月，[gMASK]"),
        ("一，二，三，四，[MASK]", "无题：五言律诗：一，二，三，四，[MASK]"),
        ("静夜：：床前明月光", "静夜：五言绝句：床前明月光，[gMASK]"),
        ("静夜：：故乡明月光是霜，", "静夜：七言绝句：故乡明月光是霜，[gMASK]"),
        ("静夜：：", "静夜：五言绝句：[gMASK]"),
        ("床前\0明[MASK]，", "无题：五言绝句：床前明[MASK]，"),
        ("静\0夜", "静夜：五言绝句：[gMASK]"),
    ],
)
def test_what_a_poet_reads(tokenizer: Any, text: str, context: str) -> None:
    draft = task_of(tokenizer, "poetry").draft(Record({"text": text}))
    assert draft.context == context
    hidden = draft.context[: draft.hidden]
    assert hidden.count("：") == 2 and hidden.endswith("：")


def test_a_poem_is_shown_without_what_was_put_before_it(tokenizer: Any) -> None:
    task = task_of(tokenizer, "poetry")
    task.generation = GenerationOptions()
    record = Record({"text": "静夜：床前[MASK]，疑是[MASK]。"})
    ids = [tokenizer.convert_tokens_to_ids(list(text)) for text in ("明月光", "地上霜")]
    row = {
        "answers": np.array([[[*ids[0], -1], [*ids[1], -1]]]),
        "logprobs": np.log([[0.5**4, 0.5**4]]),
        "lengths": np.array([[4, 4]]),
    }
    result = task.decode([row], task.encode(record), record)
    assert (result.text, result.blanks) == ("床前明月光，疑是地上霜。", ("明月光", "地上霜"))
    assert result.score == pytest.approx(0.5)


def test_a_text_without_a_mask_is_written_on(tokenizer: Any, tmp_path: Path) -> None:
    assert task_of(tokenizer).draft(Record({"text": "床前"})).context == "床前[gMASK]"
    assert task_of(tokenizer).draft(Record({"text": "a b"})).context == "a b [gMASK]"
    plain = build_tokenizer(make_poet(tmp_path, task_mask=False))
    assert task_of(plain).draft(Record({"text": "床前"})).context == "床前[MASK]"
    (example,) = task_of(plain).encode(Record({"text": "床前"}))
    assert example.input_ids[-1] == plain.eos_token_id and plain.mask_token_id in example.input_ids


def test_mistakes_in_texts_are_named(tokenizer: Any, tmp_path: Path) -> None:
    task, poet = task_of(tokenizer), task_of(tokenizer, "poetry")
    for text in ("：：", "\0"):
        with pytest.raises(DataError, match="the text is empty"):
            poet.encode(Record({"text": text}))
    for empty in ("", " \n"):
        for one in (task, poet):
            with pytest.raises(DataError, match="the text is empty"):
                one.encode(Record({"text": empty}))
    with pytest.raises(DataError, match=r"x.txt:3: the text has 66 masks"):
        task.encode(Record({"text": "[MASK]" * 66}, "x.txt", 3))
    with pytest.raises(DataError, match=r"the text has 65 tokens(.|\n)*at most 64"):
        task.encode(Record({"text": "月" * 63 + "[gMASK]"}))
    assert task.encode(Record({"text": "月" * 62 + "[gMASK]"}))
    with pytest.raises(DataError, match="there are two texts"):
        task.encode(Record({"text": "月", "text_pair": "月"}))
    with pytest.raises(DataError, match="no field 'text'"):
        task.encode(Record({"title": "月"}))
    with pytest.raises(UnknownNameError, match=r"unknown form '七言'(.|\n)*七言律诗"):
        poet.encode(Record({"text": "静夜：七言"}))
    with pytest.raises(UnknownNameError, match="unknown form '八言'"):
        poet.encode(Record({"text": "静夜：八言：床前明月光，"}))
    with pytest.raises(UnknownNameError, match=r"unknown form '床前'(.|\n)*punctuation(.|\n)*end it: 床前，"):
        poet.encode(Record({"text": "静夜：床前"}))
    with pytest.raises(
        DataError, match=r"a mask stands where the form belongs(.|\n)*五言绝句(.|\n)*leave the form out"
    ):
        poet.encode(Record({"text": "静夜：[MASK]：床前"}))
    for one in (task, poet):
        with pytest.raises(DataError, match=r"record 3: the text holds half of .*'\\ud83d', at character 1"):
            one.encode(Record({"text": "月\ud83d[MASK]，"}, line=3))
    with pytest.raises(DataError, match="a mask stands in the title"):
        poet.encode(Record({"text": "[MASK]：五言绝句"}))
    plain = task_of(build_tokenizer(make_poet(tmp_path, task_mask=False)))
    with pytest.raises(DataError, match=r"the vocabulary has no \[sMASK\](.|\n)*write \[MASK\]"):
        plain.encode(Record({"text": "床前[sMASK]"}))


@pytest.mark.parametrize("token", ["<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[dBLOCK]"])
def test_control_tokens_in_a_text_are_named(tmp_path: Path, token: str) -> None:
    folder = make_poet(tmp_path)
    tokenizer = GLMTokenizer.from_vocabulary(folder / "vocab.txt", task_mask=True, dblock=True)
    for name, text in (("lm", f"明{token}[MASK]"), ("lm", f"{token}明"), ("poetry", f"床前{token}[MASK]光，")):
        with pytest.raises(DataError, match=rf"record 4: the text has control tokens(.|\n)*{re.escape(token)}"):
            task_of(tokenizer, name).encode(Record({"text": text}, line=4))


def test_an_end_of_piece_that_is_a_mask_is_no_mistake() -> None:
    """In one published vocabulary both have the same id."""
    commands = Commands(cls=1, eos=2, pad=2, sep=3, unk=4, sop=5, eop=6, mask=7, smask=8, gmask=6)
    check_control_tokens([1, 20, 6], commands)
    with pytest.raises(DataError, match="startofpiece"):
        check_control_tokens([1, 20, 5, 6], commands)


def test_rows_that_round_the_embedding_up_are_never_chosen(tmp_path: Path) -> None:
    """Draws from a nearly flat distribution over 64 rows, of which the vocabulary has fewer."""
    folder = make_poet(tmp_path)
    loader = AutoLoader("lm", folder)
    model, task = loader.get_model(), task_of(loader.get_tokenizer())
    assert len(task.tokenizer) < model.config.vocab_size == 64
    task.generation = GenerationOptions(do_sample=True, temperature=200.0, seed=0, max_new_tokens=20)
    batch = task.collate([row[0] for row in task.encode_many([Record({"text": "月"})] * 30)])
    found = task.generate(model, {name: torch.from_numpy(values) for name, values in batch.items()})["answers"]
    chosen = set(found[found != NOTHING].tolist())
    assert max(chosen) < len(task.tokenizer) and len(chosen) > 30


def test_without_blanks_in_the_vocabulary_the_model_must_be_known(tiny_bert: Path) -> None:
    with pytest.raises(ModelError, match="does not know its model"):
        task_of(build_tokenizer(tiny_bert)).encode(Record({"text": "a"}))


def test_how_tokens_are_chosen_is_saved(tokenizer: Any) -> None:
    task = task_of(tokenizer, "poetry")
    assert task.generation.do_sample and task.generation.seed == 0
    assert task.state() == {}
    task.generation = GenerationOptions(do_sample=True, top_k=7, seed=5, suppress_tokens=(3,))
    values = task_to_json(task, "f")
    again = task_from_json(values, tokenizer, "f", "here")
    assert isinstance(again, type(task)) and again.generation == task.generation
    values["state"]["generation"]["top_k"] = -4
    with pytest.raises(CheckpointError, match="top_k is -4"):
        task_from_json(values, tokenizer, "f", "here")


def test_a_model_with_fewer_positions_than_its_tokenizer_says(tokenizer: Any) -> None:
    class Config:
        model_type, max_position_embeddings = "flagai_glm", 64

    assert most_tokens(tokenizer, Config()) == 64
