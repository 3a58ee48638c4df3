"""Writing with every family through a predictor: batches, streams, stop strings, traces, and the original's methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tasks.writers import FAMILIES, model_for, task_for, tokenizer_for

from flagai import Predictor
from flagai.auto import Loaded, save_folder
from flagai.errors import ConfigError, DataError, LaterReleaseError
from flagai.generate.generate import generate
from flagai.models.tokenizers import character_tokenizer
from flagai.predict.pieces import Traced
from flagai.tasks.results import Writing, Written
from flagai.tasks.writing import WritingTask

TEXTS = ["abc def", "q", "hello big world", "zz top"]
OTHERS = tuple(family for family in FAMILIES if family != "glm")


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    """A predictor of each family, of a random model without a task of its own."""
    found = {}
    for family in FAMILIES:
        tokenizer = tokenizer_for(family, tmp_path_factory.mktemp(family) / "tokenizer")
        task = task_for(family, tokenizer, name="lm")
        found[family] = Predictor(model_for(family, tokenizer), tokenizer, task)
    return found


@pytest.fixture(params=FAMILIES)
def predictor(request: pytest.FixtureRequest, predictors: dict[str, Predictor]) -> Predictor:
    return predictors[request.param]


HOWS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 2, "top_k": 9},
    "beams": {"num_beams": 3},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 3},
}


@pytest.mark.parametrize("how", HOWS)
def test_many_texts_are_one_by_one(predictor: Predictor, how: str) -> None:
    options = {"max_new_tokens": 6, **HOWS[how]}
    alone = [predictor.generate(text, **options) for text in TEXTS]
    assert all(isinstance(one, Writing) and one.blanks for one in alone)
    for sizes in ({}, {"batch_size": 3}):
        together = predictor.generate(TEXTS, **options, **sizes)
        assert [(one.text, one.blanks) for one in together] == [(one.text, one.blanks) for one in alone]
        assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-5)


def test_a_decoder_writes_on_what_generate_writes(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["decoder"]
    tokenizer = predictor.tokenizer
    ids = torch.tensor([tokenizer("abc def")["input_ids"][:-1]])  # [CLS] and the text, no [SEP]
    ends = (tokenizer.sep_token_id,)
    textless = sorted(set(tokenizer.all_special_ids) - {tokenizer.sep_token_id, tokenizer.cls_token_id})
    (answer,) = generate(
        predictor.model, ids, tokenizer=tokenizer, max_new_tokens=6, eos_token_id=ends, suppress_tokens=textless
    ).answers[0]
    result = predictor.generate("abc def", max_new_tokens=6)
    assert result.text.startswith("abc def")
    assert (
        result.blanks[0].split() == tokenizer.decode([*ids[0].tolist()[1:], *answer.tokens])[len("abc def") :].split()
    )


@pytest.mark.parametrize("family", OTHERS)
def test_a_model_of_transformers_alone_writes(predictors: dict[str, Predictor], family: str) -> None:
    """Nothing but the model and its tokenizer; a masked language model writes when it is asked to."""
    known = predictors[family]
    model = known.model
    task, model.flagai_task = getattr(model, "flagai_task", None), None
    bare = Predictor(model, known.tokenizer)
    model.flagai_task = task
    assert bare.has_task == (family != "encoder")
    assert bare.generate(TEXTS, max_new_tokens=4) == known.generate(TEXTS, max_new_tokens=4)


def test_answers_are_shown_as_they_grow(predictor: Predictor) -> None:
    pieces: list[tuple[int, int, str]] = []
    results = predictor.generate(TEXTS, max_new_tokens=8, stream=lambda *told: pieces.append(told))
    assert results == predictor.generate(TEXTS, max_new_tokens=8)
    assert len(pieces) > len(TEXTS)
    for i, result in enumerate(results):
        assert "".join(piece for text, _, piece in pieces if text == i).strip() == result.blanks[0]


def test_a_stop_string_ends_an_answer_and_is_never_shown(predictor: Predictor) -> None:
    for text in TEXTS:
        whole = predictor.generate(text, max_new_tokens=12).blanks[0]
        stop = whole.replace(" ", "")[3:5]
        at = whole.find(stop)
        if len(stop) < 2 or at < 0:  # its two characters are not side by side
            continue
        pieces: list[str] = []
        cut = predictor.generate(
            text, max_new_tokens=12, stop=(stop,), stream=lambda *told, to=pieces: to.append(told[2])
        )
        assert cut.blanks[0] == whole[:at].strip()
        assert "".join(pieces).strip() == cut.blanks[0]
        return
    raise AssertionError("no answer has two neighbouring characters to stop at")


def test_a_stop_string_of_chinese_characters(tmp_path: Path) -> None:
    """BERT's WordPiece decodes with a space between any two characters, which is not in the text a user sees."""
    tokenizer = character_tokenizer(["床前明月光疑是地上霜举头望低思故乡"], tmp_path, model_max_length=48)
    predictor = Predictor(model_for("decoder", tokenizer), tokenizer, task_for("decoder", tokenizer, name="lm"))
    whole = predictor.generate("明月", max_new_tokens=12).blanks[0]
    at = next(i for i in range(2, len(whole)) if not whole[i : i + 2].isascii() and whole.find(whole[i : i + 2]) == i)
    cut = predictor.generate("明月", max_new_tokens=12, stop=(whole[at : at + 2],), logprobs=True)
    assert cut.result.blanks[0] == whole[:at].strip()
    assert cut.blanks[0].finish == "stop" and len(cut.blanks[0].tokens) < 12


def test_what_only_begins_like_a_stop_string_is_shown_in_the_end(predictors: dict[str, Predictor]) -> None:
    predictor, pieces = predictors["decoder"], []
    whole = predictor.generate("abc", max_new_tokens=6)
    stop = whole.text[-1] + "no such text"
    found = predictor.generate("abc", max_new_tokens=6, stop=(stop,), stream=lambda *told: pieces.append(told[2]))
    assert found == whole and "abc" + "".join(pieces) == whole.text


@pytest.mark.parametrize("how", ["sampled", "beams"])
def test_constraints_come_in_plain_words(predictor: Predictor, how: str) -> None:
    wanted = {"must_contain": ["cat"]}
    options = {"max_new_tokens": 10, "constraints": wanted, **HOWS[how]}
    for text in TEXTS[:2]:
        assert "cat" in predictor.generate(text, **options).blanks[0]
    with pytest.raises(ConfigError, match="must_contains"):
        predictor.generate("abc", constraints={"must_contains": ["cat"]})
    if how == "sampled":  # pieces come when nothing can be taken back
        pieces: list[str] = []
        result = predictor.generate("abc", **options, stream=lambda *told: pieces.append(told[2]))
        assert "".join(pieces).strip() == result.blanks[0]


def test_log_probabilities_add_up_to_the_score(predictor: Predictor) -> None:
    found = predictor.generate(TEXTS, max_new_tokens=5, logprobs=True)
    plain = predictor.generate(TEXTS, max_new_tokens=5)
    for traced, result in zip(found, plain, strict=True):
        assert isinstance(traced, Traced) and traced.result == result
        (trace,) = traced.blanks
        assert trace.finish == ("length" if len(trace.tokens) == 5 and trace.tokens[-1].text else "end")
        mean = torch.tensor([token.logprob for token in trace.tokens]).double().mean().exp()
        assert float(mean) == pytest.approx(result.score, rel=1e-4)
    several = predictor.generate("abc", num_beams=3, num_return_sequences=3, max_new_tokens=4, logprobs=True)
    assert [one.blanks[0].logprob for one in several] == sorted(
        (one.blanks[0].logprob for one in several), reverse=True
    )


def test_a_trained_task_writes_a_target(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    for family in FAMILIES:
        known = predictors[family]
        task = task_for(family, known.tokenizer)
        assert not isinstance(task, WritingTask)
        titled = Predictor(known.model, known.tokenizer, task)
        result = titled.generate("abc def", max_new_tokens=5)
        assert isinstance(result, Written)
        assert result.text == titled.generate(["abc def", "q"], max_new_tokens=5)[0].text
        assert titled.predict_generate_beamsearch("abc def", out_max_length=5, beam_size=2) == (
            titled.generate("abc def", max_new_tokens=5, num_beams=2).text if family != "glm" else _glm(known, 5, 2)
        )


def _glm(predictor: Predictor, most: int, beams: int) -> str:
    return predictor.generate("abc def", max_new_tokens=most, num_beams=beams).blanks[0]


def test_bad_input_is_named(predictor: Predictor) -> None:
    with pytest.raises(DataError, match="record 2: the text is empty"):
        predictor.generate(["abc", " "])
    with pytest.raises(DataError, match=r"record 1: the text has \d+ tokens"):
        predictor.generate("abcdefg " * 20)
    with pytest.raises(DataError, match="an input is 3"):
        predictor.generate(3)
    with pytest.raises(ConfigError, match=r"top_p is 1\.5"):
        predictor.generate("abc", do_sample=True, top_p=1.5)
    with pytest.raises(ConfigError, match="did you mean 'num_beams'"):
        predictor.generate("abc", num_beam=2)


# -- the original's methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", OTHERS)
def test_the_originals_methods_give_what_is_new(predictors: dict[str, Predictor], family: str) -> None:
    predictor = predictors[family]
    for text in TEXTS:
        greedy = predictor.generate(text, max_new_tokens=7)
        searched = predictor.generate(text, max_new_tokens=7, num_beams=4)
        assert predictor.predict_generate_beamsearch(text, 256, 7) == greedy.blanks[0]
        assert predictor.predict_generate_beamsearch(text, out_max_length=7, beam_size=4) == searched.blanks[0]
        assert predictor.predict_generate_randomsample(text, 256, 7, top_k=1) == greedy.blanks[0]
        torch.manual_seed(5)
        first = predictor.predict_generate_randomsample(text, 256, 7, 5, 0.9, 1.2, 0.8)
        torch.manual_seed(5)
        assert predictor.predict_generate_randomsample(text, 256, 7, 5, 0.9, 1.2, 0.8) == first


@pytest.mark.parametrize("family", OTHERS)
def test_contrastive_search_gives_the_text_too(predictors: dict[str, Predictor], family: str) -> None:
    predictor = predictors[family]
    found = predictor.predict_generate_contrastive_search("abc def", out_max_length=6, beam_size=3)
    assert found == predictor.generate("abc def", max_new_tokens=6, penalty_alpha=0.6, top_k=3).text
    assert found.startswith("abc def") == (family == "decoder")
    one = predictor.predict_generate_contrastive_search("abc def", out_max_length=6)
    assert one == predictor.generate("abc def", max_new_tokens=6).text
    with pytest.raises(ConfigError, match="beam_size is 0"):
        predictor.predict_generate_contrastive_search("abc", beam_size=0)


def test_contrastive_search_fills_a_glms_blanks(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["glm"]
    right = predictor.generate("abc[MASK]def", max_new_tokens=4, penalty_alpha=0.6, top_k=3).blanks[0]
    found = predictor.predict_generate_contrastive_search("abc[MASK]def", out_max_length=4, beam_size=3)
    assert found.startswith("[CLS]") and found.rpartition("<|startofpiece|>")[2].split() == right.split()


@pytest.mark.parametrize("family", OTHERS)
def test_a_long_text_is_cut_and_a_long_answer_bounded(predictors: dict[str, Predictor], family: str) -> None:
    """As in the original: where `generate` refuses, `input_max_length` cuts and `out_max_length` is a bound."""
    predictor, long = predictors[family], "abc def ghi " * 30
    with pytest.raises(DataError, match="tokens"):
        predictor.generate(long, max_new_tokens=4)
    cut = predictor.predict_generate_beamsearch("abcdefgh" * 9, input_max_length=8, out_max_length=4)
    assert cut == predictor.predict_generate_beamsearch("abcdef", out_max_length=4)  # [CLS] and [SEP] count
    assert isinstance(predictor.predict_generate_beamsearch("abc", out_max_length=150), str)
    # Contrastive search reads the last token of an answer too: one position more.
    assert isinstance(predictor.predict_generate_contrastive_search("abc", out_max_length=150, beam_size=2), str)


def test_pictures_are_not_planned(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["decoder"]
    with pytest.raises(LaterReleaseError, match=r"predict_generate_images(.|\n)*not planned"):
        predictor.predict_generate_images("a cat")
    assert not hasattr(predictor, "predict_generate_nothing")


# -- on the command line ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(predictors: dict[str, Predictor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "decoder"
    known = predictors["decoder"]
    save_folder(folder, Loaded(known.model, known.tokenizer, known.task))
    return folder


def test_the_command_line_streams_text(saved: Path, predictors: dict[str, Predictor], cli: Callable[..., Any]) -> None:
    spoken = cli("predict", saved, "abc", "--stream", "--set", "max_new_tokens=6")
    right = predictors["decoder"].generate("abc", max_new_tokens=6).text.removeprefix("abc")
    assert spoken.code == 0, spoken.err
    assert spoken.out == right + "\n"
    two = cli("predict", saved, "--stream", "--set", "max_new_tokens=6", stdin="abc\nabc\n")
    assert two.out == 2 * (right + "\n")
    both = cli("predict", saved, "abc", "--stream", "-o", saved / "out.txt")
    assert both.code != 0 and "--stream and --output" in both.err


def test_only_tasks_that_write_stream(tiny_bert: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    from flagai import AutoLoader

    loader = AutoLoader("classification", tiny_bert, labels=["a", "b"])
    save_folder(tmp_path / "run", Loaded(loader.get_model(), loader.get_tokenizer(), loader.get_task()))
    spoken = cli("predict", tmp_path / "run", "good", "--stream")
    assert spoken.code != 0 and "does not write" in spoken.err and "leave --stream out" in spoken.err
