"""A predictor that writes: new API, the original's two methods, streams, batches; and `flagai predict --model`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generate.poet import make_poet

from flagai import AutoLoader, Predictor, hub
from flagai.auto import Loaded, save_folder
from flagai.config import TaskConfig
from flagai.errors import CheckpointError, ConfigError, DataError, MissingFileError, ModelError
from flagai.generate.blanks import fill
from flagai.generate.options import GenerationOptions
from flagai.tasks.results import Writing, dumps, to_json
from flagai.tasks.table import make_task
from flagai.tasks.writing import WritingTask

TEXTS = ["床前[MASK]光，疑是[gMASK]", "静夜", "举头[sMASK]，低头[MASK]，[gMASK]", "月[MASK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_poet(tmp_path_factory.mktemp("poet"))


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    loader = AutoLoader("lm", folder)
    return Predictor(loader.get_model(), loader.get_tokenizer())


@pytest.fixture(scope="module")
def poet(folder: Path) -> Predictor:
    loader = AutoLoader("poetry", folder)
    return Predictor(loader.get_model(), loader.get_tokenizer())


def test_masks_are_filled_as_fill_fills_them(predictor: Predictor) -> None:
    tokenizer = predictor.tokenizer
    result = predictor.generate(TEXTS[0], max_new_tokens=4)
    textless = (tokenizer.unk_token_id, tokenizer.sep_token_id, *range(len(tokenizer), 64))
    options = GenerationOptions(max_new_tokens=4, suppress_tokens=textless)
    ids = tokenizer.encode_context(TEXTS[0])
    (filling,) = fill(predictor.model, [ids], commands=tokenizer.commands, options=options)[0]
    first, second = ("".join(tokenizer.convert_ids_to_tokens(list(one.tokens))) for one in filling)
    assert isinstance(result, Writing) and result.blanks == (first, second)
    assert result.text == f"床前{first}光，疑是{second}"


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "seed": 2, "top_k": 9}, {"num_beams": 3}],
    ids=["greedy", "sampled", "beams"],
)
def test_many_texts_are_one_by_one(predictor: Predictor, options: dict[str, Any]) -> None:
    alone = [predictor.generate(text, max_new_tokens=5, **options) for text in TEXTS]
    for sizes in ({}, {"batch_size": 1}, {"batch_size": 3}, {"batch_tokens": 16}):
        together = predictor.generate(TEXTS, max_new_tokens=5, **options, **sizes)
        assert [(one.text, one.blanks) for one in together] == [(one.text, one.blanks) for one in alone]
        assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-5)
    assert [len(one.blanks) for one in alone] == [2, 1, 3, 1]


def test_predict_is_generate_with_the_options_of_the_task(predictor: Predictor, poet: Predictor) -> None:
    assert predictor.predict(TEXTS) == predictor.generate(TEXTS)
    assert poet.predict(["静夜", "床前明月光，"]) == poet.generate(["静夜", "床前明月光，"])
    assert poet.predict("静夜").text == poet.predict(["明月", "静夜"])[1].text
    assert poet.generate("静夜", seed=1) != poet.generate("静夜", seed=2)
    assert poet.predict("床前明月光，").text.startswith("床前明月光，")
    assert poet.generate("静夜", num_beams=2, max_new_tokens=4).blanks  # a search instead of the task's draws


def test_several_answers_to_one_text(predictor: Predictor) -> None:
    found = predictor.generate(TEXTS, num_return_sequences=3, do_sample=True, seed=0, max_new_tokens=4)
    assert [len(one) for one in found] == [3] * 4 and all(len({w.text for w in one}) > 1 for one in found)
    assert json.loads(dumps(to_json(found[0])))[0]["blanks"] == list(found[0][0].blanks)
    beams = predictor.generate("静夜", num_return_sequences=3, num_beams=3, length_penalty=0.0, max_new_tokens=4)
    assert len({one.text for one in beams}) == 3


def test_answers_are_shown_as_they_grow(predictor: Predictor) -> None:
    pieces: list[tuple[int, int, str]] = []
    results = predictor.generate(TEXTS, max_new_tokens=5, stream=lambda *told: pieces.append(told))
    assert results == predictor.generate(TEXTS, max_new_tokens=5)
    for i, result in enumerate(results):
        for j, blank in enumerate(result.blanks):
            assert "".join(piece for text, place, piece in pieces if (text, place) == (i, j)) == blank
    assert {(i, j) for i, j, _ in pieces} >= {(0, 0), (0, 1), (2, 2)}
    with pytest.raises(ConfigError, match="as they come"):
        predictor.generate("月", num_beams=2, stream=print)


def test_no_answer_has_a_token_without_text(predictor: Predictor) -> None:
    for one in predictor.generate(["月"] * 40, do_sample=True, temperature=50.0, seed=0, max_new_tokens=20):
        assert (
            "[UNK]" not in one.text and "MASK" not in one.text and "[CLS]" not in one.text and "[SEP]" not in one.text
        )


def test_a_model_without_a_task_fills_blanks(folder: Path, predictor: Predictor) -> None:
    from flagai.models.glm.modeling import GLMForConditionalGeneration

    bare = Predictor(GLMForConditionalGeneration.from_pretrained(folder), predictor.tokenizer)
    assert isinstance(bare.task, WritingTask)
    assert [one.text for one in bare.predict(TEXTS)] == [one.text for one in predictor.predict(TEXTS)]


# -- the original's methods -------------------------------------------------------------------------------------


def test_a_text_with_masks_comes_back_whole(predictor: Predictor) -> None:
    torch.manual_seed(3)
    text = predictor.predict_generate_randomsample(TEXTS[0], out_max_length=4, top_k=3, repetition_penalty=4.0)
    compact = text.replace(" ", "")
    assert compact.startswith("[CLS]床前[MASK]光，疑是[gMASK]<|startofpiece|>")
    assert compact.count("<|startofpiece|>") == 2
    torch.manual_seed(3)
    assert predictor.predict_generate_randomsample(TEXTS[0], 256, 4, 3, 1.0, 4.0) == text
    greedy = predictor.generate(TEXTS[0], max_new_tokens=4).blanks
    searched = predictor.predict_generate_beamsearch(TEXTS[0], out_max_length=4).replace(" ", "")
    assert searched == f"[CLS]床前[MASK]光，疑是[gMASK]<|startofpiece|>{greedy[0]}<|startofpiece|>{greedy[1]}"


def test_a_text_without_a_mask_gives_what_was_written_on(predictor: Predictor, poet: Predictor) -> None:
    expected = predictor.generate("静夜", num_beams=3, max_new_tokens=5).blanks[0]
    assert predictor.predict_generate_beamsearch("静夜", out_max_length=5, beam_size=3) == expected
    assert poet.predict_generate_beamsearch("静夜", out_max_length=5, beam_size=3) == expected
    assert predictor.predict_generate_randomsample("静夜", top_k=1) == predictor.generate("静夜").blanks[0]


def test_a_mask_the_vocabulary_lacks_is_the_originals_mask(tmp_path: Path) -> None:
    """The script of 2022 writes [gMASK] to every model; the English and small ones have only [MASK]."""
    loader = AutoLoader("lm", make_poet(tmp_path, task_mask=False))
    plain = Predictor(loader.get_model(), loader.get_tokenizer())
    with pytest.warns(UserWarning, match=r"randomsample: the vocabulary has no \[gMASK\]; \[MASK\] is read") as told:
        torch.manual_seed(1)
        found = plain.predict_generate_randomsample("床前[gMASK]", out_max_length=4, top_k=5)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(1)
        assert plain.predict_generate_randomsample("床前[MASK]", out_max_length=4, top_k=5) == found
        right = plain.predict_generate_beamsearch("床前[MASK]光[MASK]", out_max_length=4, beam_size=2)
    with pytest.warns(UserWarning, match="beamsearch: the vocabulary has no"):
        assert plain.predict_generate_beamsearch("床前[sMASK]光[gMASK]", out_max_length=4, beam_size=2) == right
    with pytest.raises(DataError, match=r"record 1: the vocabulary has no \[gMASK\]"):
        plain.generate("床前[gMASK]")


@pytest.mark.parametrize("given", [None, 3, ["月", 3], ["月", None], [b"x"]], ids=repr)
def test_what_is_no_text_is_named(predictor: Predictor, given: Any) -> None:
    with pytest.raises(DataError, match=r"an input is"):
        predictor.generate(given)


def test_inputs_are_those_of_predict(predictor: Predictor) -> None:
    right = predictor.generate("静夜", max_new_tokens=3)
    assert predictor.generate({"text": "静夜"}, max_new_tokens=3) == right
    assert [one.text for one in predictor.generate([{"text": "静夜"}, "月"], max_new_tokens=3)][:1] == [right.text]
    with pytest.raises(DataError, match="control tokens"):
        predictor.generate("明<|startofpiece|>[MASK]")
    with pytest.raises(DataError, match="'text'"):
        predictor.predict_generate_beamsearch(None)  # type: ignore[arg-type]


def test_mistakes_are_named(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="top_p is 0"):
        predictor.predict_generate_randomsample("月", top_p=0)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        predictor.predict_generate_randomsample("月", out_max_length=0)
    with pytest.raises(ConfigError, match="num_beams is 0"):
        predictor.predict_generate_beamsearch("月", beam_size=0)
    with pytest.raises(ConfigError, match="did you mean 'top_k'"):
        predictor.generate("月", topk=3)
    with pytest.raises(ConfigError, match=r"max_new_tokens is 100(.|\n)*at most 64"):
        predictor.generate("月", max_new_tokens=100)
    with pytest.raises(DataError, match="record 2: the text is empty"):
        predictor.generate(["月", ""])
    assert predictor.generate([]) == []


HOWS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"do_sample": True, "seed": 0}, "beams": {"num_beams": 3}}


@pytest.mark.parametrize("how", HOWS)
def test_where_no_token_is_allowed_that_is_said(predictor: Predictor, how: str) -> None:
    with pytest.raises(ConfigError, match=r"allow no token(.|\n)*expected(.|\n)*to do: shorten suppress_tokens"):
        predictor.generate(["静夜", "月[MASK]光"], suppress_tokens=range(64), **HOWS[how])


@pytest.mark.parametrize("how", HOWS)
def test_tokens_that_run_out_are_no_answer(predictor: Predictor, how: str) -> None:
    """Four tokens are left and none may come twice: there is no fifth before the end is allowed."""
    letters = predictor.tokenizer.convert_tokens_to_ids(["明", "月", "光", "夜"])
    ends = (predictor.tokenizer.eop_token_id, predictor.tokenizer.eos_token_id)
    options = {"suppress_tokens": [i for i in range(64) if i not in (*letters, *ends)], "no_repeat_ngram_size": 1}
    with pytest.raises(ConfigError, match="allow no token"):
        predictor.generate("静夜", min_new_tokens=5, **options, **HOWS[how])
    assert len(predictor.generate("静夜", min_new_tokens=4, **options, **HOWS[how]).blanks[0]) == 4


@pytest.mark.parametrize("how", HOWS)
def test_an_answer_that_is_cut_off_may_have_used_up_all_tokens(predictor: Predictor, how: str) -> None:
    """What would come after it is not asked for, though the model reads on to fill the next blank."""
    letters = predictor.tokenizer.convert_tokens_to_ids(["明", "月", "光", "夜"])
    options = {"suppress_tokens": [i for i in range(64) if i not in letters], "no_repeat_ngram_size": 1}
    result = predictor.generate("静[MASK]夜[MASK]", max_new_tokens=4, **options, **HOWS[how])
    assert [sorted(blank) for blank in result.blanks] == [sorted("明月光夜")] * 2


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1e-45, "do_sample": True},
        {"temperature": 1e300, "do_sample": True},
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-300},
        {"length_penalty": 1e300},
    ],
    ids=repr,
)
def test_numbers_beyond_arithmetic_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(temperature|penalty) is 1e(.|\n)*expected"):
        GenerationOptions(**values)


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_the_most_extreme_temperatures_still_draw(predictor: Predictor, temperature: float) -> None:
    drawn = predictor.generate("静夜", do_sample=True, temperature=temperature, seed=0, max_new_tokens=6)
    assert drawn.blanks[0] and (temperature > 1 or drawn == predictor.generate("静夜", max_new_tokens=6))


def test_a_model_that_does_not_write_says_so(tiny_bert: Path) -> None:
    loader = AutoLoader("classification", tiny_bert, labels=["a", "b"])
    classifier = Predictor(loader.get_model(), loader.get_tokenizer())
    for name in ("predict_generate_randomsample", "predict_generate_beamsearch", "predict_generate_contrastive_search"):
        with pytest.raises(ModelError, match=f"{name}: BertForSequenceClassification does not write(.|\n)*seq2seq"):
            getattr(classifier, name)("text")
    with pytest.raises(ModelError, match="does not write"):
        classifier.generate("text")


# -- on the command line ----------------------------------------------------------------------------------------


def lines(spoken: Any) -> list[Any]:
    assert spoken.code == 0, spoken.err
    return [json.loads(line) for line in spoken.out.splitlines()]


def test_predict_by_task_and_model(folder: Path, poet: Predictor, cli: Callable[..., Any], tmp_path: Path) -> None:
    right = to_json(poet.predict("静夜"))
    assert lines(cli("predict", "--task", "poetry", "--model", folder, "静夜")) == [right]
    assert lines(cli("predict", "--task", "poetry", "--model", folder, stdin="静夜\n明月\n"))[0] == right
    other = cli("predict", "--task", "poetry", "--model", folder, "静夜", "--set", "seed=3", "--set", "temperature=2.0")
    assert lines(other) == [to_json(poet.generate("静夜", seed=3, temperature=2.0))]
    save_folder(tmp_path / "saved", Loaded(poet.model, poet.tokenizer, poet.task))
    assert lines(cli("predict", tmp_path / "saved", "静夜")) == [right]
    assert lines(cli("predict", "--model", tmp_path / "saved", "静夜")) == [right]


@pytest.mark.parametrize("trained_for", ["poetry", "lm", "blank-infilling"])
def test_what_fills_blanks_writes_poems_too(
    poet: Predictor, predictor: Predictor, trained_for: str, tmp_path: Path
) -> None:
    """The folder of a run names its own task; the loader gives the model any task that writes."""
    task = make_task(TaskConfig(name=trained_for), poet.tokenizer, max_length=64)
    save_folder(tmp_path / "run", Loaded(poet.model, poet.tokenizer, task))
    for name, right in (("poetry", poet), ("lm", predictor)):
        loader = AutoLoader(name, tmp_path / "run")
        found = Predictor(loader.get_model(), loader.get_tokenizer())
        assert found.predict("静夜").text == right.predict("静夜").text
    assert Predictor.from_folder(tmp_path / "run").generate("静夜", max_new_tokens=3).blanks
    with pytest.raises(ModelError, match=f"trained for '{trained_for}', not 'ner'"):
        AutoLoader("ner", tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "poetry", "静夜"], "--task without --model"),
        ([], "no model is named"),
        (["--task", "poem", "--model", "FOLDER", "静夜"], "unknown task 'poem'"),
        (["--model", "FOLDER", "静夜"], "carries no task"),
        (["--task", "lm", "--model", "FOLDER", "静", "夜", "床"], "one text too many"),
        (["--task", "lm", "--model", "FOLDER", "静夜", "--set", "seed"], "seed"),
        (["--task", "lm", "--model", "FOLDER", "静夜", "--set", "sed=1"], "did you mean 'seed'"),
        (["--task", "lm", "--model", "FOLDER", "静", "夜"], "there are two texts"),
        (
            ["--task", "poetry", "--model", "FOLDER", "--set", "suppress_tokens=[9999]", "静"],
            "ids from 0 to 63",
        ),
        (["--task", "poetry", "--model", "FOLDER", "--set", "temperature=1e-45", "静"], "temperature is 1e-45"),
        (["--task", "poetry", "--model", "FOLDER", "静夜：床前"], "end it: 床前，"),
    ],
)
def test_what_a_user_mistypes(folder: Path, cli: Callable[..., Any], words: list[str], message: str) -> None:
    spoken = cli("predict", *[str(folder) if word == "FOLDER" else word for word in words])
    assert spoken.code != 0 and message in spoken.err and "Traceback" not in spoken.err


def test_the_bundled_poet(folder: Path, cli: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    """A package with the weights and their MANIFEST.json, in place of the one that comes with flagai."""
    package = tmp_path / "fake_poet"
    save = package / "model"
    make_poet(save)
    (package / "__init__.py").write_text("")
    digest = hub.file_sha256(save / "model.safetensors")
    manifest = {"files": {"model.safetensors": {"sha256": digest}}}
    (save / "MANIFEST.json").write_text(json.dumps(manifest))
    monkeypatch.syspath_prepend(str(tmp_path))
    row = hub.Bundled(package="fake_poet", distribution="fake-poet", folder="model")
    monkeypatch.setitem(hub.BUNDLED, "glm-tiny-poetry-ch", row)
    assert "glm-tiny-poetry-ch" in hub.known_locally(tmp_path)
    (answer,) = lines(cli("predict", "--task", "poetry", "--model", "GLM-tiny-poetry-ch", "--offline", "静夜"))
    assert answer["text"]
    (save / "MANIFEST.json").write_text(json.dumps({"files": {"model.safetensors": {"sha256": "0" * 64}}}))
    with pytest.raises(CheckpointError, match="sha256"):
        hub.resolve("glm-tiny-poetry-ch")
    (save / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        hub.resolve("glm-tiny-poetry-ch")
    (save / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="not in this installation"):
        hub.resolve("glm-tiny-poetry-ch")
