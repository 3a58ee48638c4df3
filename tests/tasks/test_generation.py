"""Tasks that write for a source: what a model of each family reads, learns and writes; each mistake by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tests.tasks.writers import FAMILIES, LETTERS, model_for, task_for, tokenizer_for

from flagai.config import TaskConfig
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError, ModelError
from flagai.generate.options import GenerationOptions, make_options
from flagai.models.loading import quiet_config
from flagai.parallel.native import SingleProcess
from flagai.predict import loop
from flagai.tasks.generation import GenerationTask
from flagai.tasks.saved import task_from_json, task_to_json
from flagai.tasks.table import make_task
from flagai.tasks.templates import Source, shorten

Make = Callable[[str], Any]
PAIRS = [("ab cd", "dc"), ("x", "yx zw q"), ("the fox ran", "fox"), ("a b c d e f", "no")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Make:
    root = tmp_path_factory.mktemp("letters")
    return cache(lambda family: tokenizer_for(family, root / family))


@pytest.fixture(scope="module")
def model(tokenizer: Make) -> Make:
    return cache(lambda family: model_for(family, tokenizer(family)))


def record(text: str, *targets: str, **more: Any) -> Record:
    label = {"label": targets[0] if len(targets) == 1 else list(targets)} if targets else {}
    return Record({"text": text} | label | more, "f", 1)


def fitted(family: str, tokenizer: Make, pairs: Any = PAIRS, **options: Any) -> GenerationTask:
    task = task_for(family, tokenizer(family), **options)
    task.fit([record(*pair) for pair in pairs])
    return task


def losses(task: GenerationTask, model: Any, records: list[Record]) -> tuple[float, float]:
    """(sum, count) of the records in one batch, as evaluation computes them."""
    strategy = SingleProcess(device="cpu")
    strategy.place(model)
    examples = [example for windows in task.encode_many(records) for example in windows]
    return strategy.evaluate(task.collate(examples), task.loss)[1] or (0.0, 0.0)


# -- what is learned -----------------------------------------------------------------------------------------------


@torch.no_grad()
def plain_log_probability(family: str, task: Any, model: Any, source: list[int], target: list[int]) -> float:
    """The slow twin: one forward a token, everything laid out by hand for one row, no mask of wanted logits."""
    total, commands = 0.0, getattr(task.tokenizer, "commands", None)
    for at, token in enumerate(target):
        before = target[:at]
        if family == "encoder-decoder":
            start = torch.tensor([[model.config.decoder_start_token_id, *before]])
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=start).logits
        elif family == "decoder":
            logits = model(input_ids=torch.tensor([[*source, *before]])).logits
        elif family == "encoder":
            row, size = [*source, *before], len(source) + at
            seen = torch.ones(size, size).tril().bool()
            seen[:, : len(source)] = True
            kinds = torch.tensor([[0] * len(source) + [1] * at])
            logits = model(torch.tensor([row]), attention_mask=seen[None, None], token_type_ids=kinds).logits
        else:
            mask = source.index(commands.gmask)
            places = [list(range(len(source))) + [mask] * (at + 1), [0] * len(source) + list(range(1, at + 2))]
            row = torch.tensor([[*source, commands.sop, *before]])
            length = torch.tensor([len(source)])
            logits = model(row, position_ids=torch.tensor([places]), context_length=length).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_one_token_after_the_other(family: str, tokenizer: Make, model: Make) -> None:
    task, records = fitted(family, tokenizer), [record(*pair) for pair in PAIRS]
    examples = [task.encode(one)[0] for one in records]
    wanted = [
        plain_log_probability(family, task, model(family), list(e.input_ids), list(e.target.references[0]))
        for e in examples
    ]
    total, count = losses(task, model(family), records)
    assert total == pytest.approx(-sum(wanted), abs=2e-3)
    assert count == sum(len(e.target.references[0]) for e in examples)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_scored_as_it_is_learned(family: str, tokenizer: Make, model: Make) -> None:
    task = fitted(family, tokenizer)
    task.generation = GenerationOptions(max_new_tokens=6)
    strategy = SingleProcess(device="cpu")
    strategy.place(model(family))
    sources = [record(text) for text, _ in PAIRS]
    examples = [task.encode(one, at)[0] for at, one in enumerate(sources)]
    rows = loop.run(task, strategy.evaluate, examples)
    for example, row in zip(examples, rows, strict=True):
        ids = [int(i) for i in row["answers"][0] if i >= 0]
        ended = int(row["lengths"][0]) > len(ids)
        target = [*ids, task.facts.end] if ended else ids  # type: ignore[union-attr]
        twin = plain_log_probability(family, task, model(family), list(example.input_ids), target)
        assert float(row["logprobs"][0]) == pytest.approx(twin, abs=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_the_batch(family: str, tokenizer: Make, model: Make) -> None:
    task = fitted(family, tokenizer)
    strategy = SingleProcess(device="cpu")
    strategy.place(model(family))
    records = [record(text) for text, _ in PAIRS]
    examples = [task.encode(one, at)[0] for at, one in enumerate(records)]
    together = loop.answer(task, strategy.evaluate, examples, records).results
    alone = loop.answer(task, strategy.evaluate, examples, records, batch_size=1).results
    assert [one.text for one in together] == [one.text for one in alone]
    assert any(one.text for one in together)


def test_labels_are_smoothed_in_training_alone(tokenizer: Make) -> None:
    task = fitted("decoder", tokenizer, label_smoothing=0.2)
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 11, generator=chance, requires_grad=True)
    labels = torch.tensor([[-100, 1, 2, 3], [-100, -100, 4, 5]])
    batch = {"labels": labels, "logits_to_keep": labels != -100}
    logp = logits.detach().log_softmax(-1)
    plain = -logp[range(5), [1, 2, 3, 4, 5]].sum()
    total, count = task.loss({"logits": logits}, batch)
    assert total.item() == pytest.approx(float(0.8 * plain - 0.2 * logp.mean(1).sum()), rel=1e-5)
    assert int(count) == 5
    with torch.no_grad():
        assert float(task.loss({"logits": logits}, batch)[0]) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_references_take_turns(family: str, tokenizer: Make) -> None:
    task = fitted(family, tokenizer)
    examples = task.encode(record("ab", "x", "yy", "zzz"))
    labels = [task.collate_training(examples, epoch=epoch, seed=0)["labels"] for epoch in range(4)]
    kept = [[int(i) for i in one[0] if i != -100] for one in labels]
    assert kept == [list(examples[0].target.references[i]) for i in (0, 1, 2, 0)]
    assert task.gold(record("ab", "x", "yy")) == ("x", "yy")


# -- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_framed_as_the_family_wants_it(family: str, tokenizer: Make) -> None:
    task, tokens = fitted(family, tokenizer), tokenizer(family).convert_ids_to_tokens
    (example,) = task.encode(record("a b", "c"))
    batch = task.collate([example])
    if family == "glm":
        assert tokens(list(example.input_ids)) == ["[CLS]", "a", "b", "[gMASK]"]
        assert tokens(batch["input_ids"][0].tolist())[-2:] == ["<|startofpiece|>", "c"]
        assert batch["position_ids"][0].tolist() == [[0, 1, 2, 3, 3, 3], [0, 0, 0, 0, 1, 2]]
    else:
        assert tokens(list(example.input_ids)) == ["[CLS]", "a", "b", "[SEP]"]
    wanted = {"glm": ["c", "<|endofpiece|>"], "encoder-decoder": ["[CLS]", "c", "[SEP]"]}
    assert tokens(list(example.target.references[0])) == wanted.get(family, ["c", "[SEP]"])
    learned = batch["labels"][batch["logits_to_keep"]].tolist()
    assert learned == list(example.target.references[0])


def test_a_prefix_mask_shows_the_source_to_all_and_the_target_to_what_follows(tokenizer: Make) -> None:
    task = fitted("encoder", tokenizer)
    examples = [task.encode(record("a", "bc"))[0], task.encode(record("a", "b"))[0]]
    batch = task.collate(examples)
    assert batch["attention_mask"].shape == (2, 1, 5, 5) and batch["attention_mask"].dtype == bool
    assert batch["attention_mask"][0, 0].astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]
    assert batch["attention_mask"][1, 0, 4].astype(int).tolist() == [1, 0, 0, 0, 0]  # a pad: no row sees nothing
    assert not batch["attention_mask"][1, 0, :4, 4].any()
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]


def test_a_decoder_without_separators_goes_on_in_a_new_line() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {char: i for i, char in enumerate(["<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    task = task_for("decoder", tokenizer)
    task.fit([record("a", "b")])
    (example,) = task.encode(record("a <eos>", "b"))
    text = tokenizer.convert_ids_to_tokens(list(example.input_ids))
    assert text == ["a", "Ġ", "<", "e", "o", "s", ">", "Ċ"]  # what looks like a special token in a text is text
    assert tokenizer.convert_ids_to_tokens(list(example.target.references[0])) == ["b", "<eos>"]
    assert task.collate([example])["attention_mask"].all()  # padding needs no token of its own


@pytest.mark.parametrize(
    ("how", "kept"), [("tail", [9, 0, 1, 2, 8]), ("head", [9, 3, 4, 5, 8]), ("middle", [9, 0, 1, 5, 8])]
)
def test_a_source_is_cut_where_it_was_said(how: Any, kept: list[int]) -> None:
    source = Source([9, 0, 1, 2, 3, 4, 5, 8], range(1, 7))
    assert shorten(source, 5, how) == (kept, 3)
    assert shorten(source, 8, how) == (source.ids, 0)
    assert shorten(source, 1, how) == ([9, 8], 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_source_leaves_room_for_the_target(family: str, tokenizer: Make) -> None:
    task = fitted(family, tokenizer, [("a", " ".join(LETTERS[:9]))], max_length=30)
    (example,) = task.encode(record(" ".join(LETTERS * 4), "a"))
    frame = len(task.encode(record("a"))[0]) - 1
    assert len(example.input_ids) == 30 and example.tokens_lost == 4 * 26 + frame - 30
    tight = fitted(family, tokenizer, [("a", " ".join(LETTERS))], max_length=40)
    (example,) = tight.encode(record(" ".join(LETTERS * 4), " ".join(LETTERS)))
    assert len(example.input_ids) == (40 if tight.arrangement.apart else 48 - 27)
    assert not example.target_cut


def test_targets_are_cut_only_where_that_was_said_and_then_counted(tokenizer: Make) -> None:
    task = task_for("decoder", tokenizer("decoder"))
    long = record("a", " ".join(LETTERS * 3))
    task.fit([record("a", "b")])
    with pytest.raises(DataError, match="the target has 79 tokens") as error:
        task.encode(long)
    assert "max_target_length" in error.value.fix and error.value.where == "f:1"
    task.max_target_length = 5
    task.fit([long])
    (example,) = task.encode(long)
    assert example.target_cut and task.target_length == 5
    assert len(example.target.references[0]) == 5 and example.target.references[0][-1] == task.facts.end  # type: ignore[union-attr]


def test_a_long_source_is_refused_unless_the_run_cuts(tokenizer: Make) -> None:
    task, long = fitted("encoder", tokenizer), record(" ".join(LETTERS * 3))
    task.may_cut = False
    with pytest.raises(DataError, match="tokens more than there is room for") as error:
        task.check_fits(task.encode(long), [long])
    assert "data.max_length" in error.value.fix
    task.check_fits(task.encode(record("a")), [long])


# -- templates -----------------------------------------------------------------------------------------------------


def test_a_template_names_other_columns_and_is_never_cut(tokenizer: Make) -> None:
    task = fitted("decoder", tokenizer, template="q {kind}: {source} |", max_length=12, truncation="head")
    (example,) = task.encode(record(" ".join(LETTERS), "a", kind="xy"))
    assert tokenizer("decoder").decode(list(example.input_ids)) == "[CLS] q xy : v w x y z | [SEP]"
    with pytest.raises(DataError, match="no such column"):
        task.encode(record("a", "b"))
    with pytest.raises(ConfigError, match="the template and special tokens are") as error:
        fitted("decoder", tokenizer, template="a b c d e f g h {source}", max_length=8).encode(record("a", "b"))
    assert error.value.where == "task.template"


@pytest.mark.parametrize(
    ("family", "template", "message"),
    [
        ("decoder", "no place", "the template is"),
        ("decoder", "{source} {source}", "the template is"),
        ("glm", "{source}", "0 masks"),
        ("glm", "[MASK] {source} [gMASK]", "2 masks"),
    ],
)
def test_templates_that_cannot_be_meant(family: str, template: str, message: str, tokenizer: Make) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        task_for(family, tokenizer(family), template=template)
    assert error.value.where == "task.template"


def test_the_mask_of_a_glm_may_stand_in_front(tokenizer: Make) -> None:
    task = fitted("glm", tokenizer, template="[sMASK] {source}")
    (example,) = task.encode(record("a [MASK]", "b"))
    tokens = tokenizer("glm").convert_ids_to_tokens(list(example.input_ids))
    assert tokens[:3] == ["[CLS]", "[sMASK]", "a"] and "[MASK]" not in tokens  # a source's own [MASK] is letters
    assert task.arrangement.prompt(example.input_ids).blanks == (1,)
    assert task.collate([example])["position_ids"][0, 0, -2:].tolist() == [1, 1]


def test_questions_are_asked_for_an_answer(tokenizer: Make) -> None:
    task = task_for("decoder", tokenizer("decoder"), name="question-generation")
    (example,) = task.encode(record("the fox ran", "who", answer="fox"))
    assert tokenizer("decoder").decode(list(example.input_ids)) == "[CLS] fox | the fox ran [SEP]"


def test_lines_of_couplets_have_no_spaces(tokenizer: Make) -> None:
    task = task_for("glm", tokenizer("glm"), name="couplet")
    assert task.source_text(record("晚 风 摇 树", "晨 露 润 花")) == "晚风摇树"
    assert task.gold(record("晚 风", "晨 露 润 花")) == ("晨露润花",)


# -- what is saved, and mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_task_reads_as_it_did(family: str, tokenizer: Make) -> None:
    task = fitted(family, tokenizer, truncation="middle", max_length=12)
    wanted = {"num_beams": 3, "suppress_tokens": [7], "constraints": [{"must_not_contain": ["ab"]}]}
    task.generation = make_options(wanted)
    saved = json.loads(json.dumps(task_to_json(task, "print")))
    again = task_from_json(saved, tokenizer(family), "print", "task.json")
    assert isinstance(again, GenerationTask)
    assert again.generation == task.generation and again.target_length == task.target_length
    long = record(" ".join(LETTERS), "a b")
    assert again.encode(long) == task.encode(long)
    assert task_to_json(again, "print") == saved


@pytest.mark.parametrize(("text", "target", "what"), [("  ", "a", "source"), ("a", " ", "target")])
def test_nothing_to_read_or_to_write(text: str, target: str, what: str, tokenizer: Make) -> None:
    with pytest.raises(DataError, match=f"the {what} is empty") as error:
        task_for("decoder", tokenizer("decoder")).encode(record(text, target))
    assert error.value.where == "f:1"


def test_a_model_that_does_not_write(tokenizer: Make) -> None:
    options = TaskConfig(name="seq2seq")
    with pytest.raises(ModelError, match="no model that writes"):
        config = quiet_config({"model_type": "vit"}, "test")
        make_task(options, tokenizer("decoder"), max_length=32, config=config)
    task = make_task(options, tokenizer("decoder"), max_length=32)
    with pytest.raises(ModelError, match="does not know its model"):
        task.encode(record("a"))


def test_a_stride_means_nothing_to_a_source(tokenizer: Make) -> None:
    with pytest.raises(ConfigError, match="read in one piece"):
        make_task(TaskConfig(name="seq2seq"), tokenizer("decoder"), max_length=32, stride=4)


def test_targets_that_leave_no_room(tokenizer: Make) -> None:
    task = task_for("decoder", tokenizer("decoder"))
    task.max_target_length = None
    task.fit([record("a", " ".join(LETTERS + LETTERS[:20]))])
    with pytest.raises(ConfigError, match="leave no room") as error:
        task.encode(record("a"))
    assert error.value.where == "data.max_target_length"


def test_metrics_take_the_best_of_several_answers(tokenizer: Make) -> None:
    task = task_for("decoder", tokenizer("decoder"))
    task.generation = GenerationOptions(num_beams=2, num_return_sequences=2)
    ids = tokenizer("decoder")("fox ran", add_special_tokens=False)["input_ids"]
    answers = np.array([[*ids], [*ids[::-1]]])
    row = {"answers": answers, "logprobs": np.array([-1.0, -2.0]), "lengths": np.array([8, 8])}
    result = task.decode([row], [], record("a"))
    assert result[0].text == "fox ran" and result[0].score > result[1].score
    assert task.metrics([result], [("fox ran",)])["rouge_l"] == 1.0
    described = task.describe([result], [("fox ran",)], [record("a", "fox ran")])
    assert described["writing"]["samples"][0]["references"] == ["fox ran"]
    assert described["intervals"]["rouge_1"].value == 1.0


# -- whole texts (lm) ----------------------------------------------------------------------------------------------


def lesson(text: str, **more: Any) -> Record:
    return Record({"text": text} | more, "f", 1)


def learner(family: str, tokenizer: Make, *, max_length: int = 16, stride: int | None = None, name: str = "lm") -> Any:
    task = task_for(family, tokenizer(family), name=name, max_length=max_length)
    task.stride = stride
    task.fit([])
    return task


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stride", [None, 3])
def test_every_token_of_a_text_is_learned_once(family: str, stride: int | None, tokenizer: Make) -> None:
    task, text = learner(family, tokenizer, stride=stride), " ".join(LETTERS * 2)
    windows = task.encode(lesson(text, prompt="x y"))
    learned = [token for window in windows for token in window.target.references[0]]
    assert learned == [*tokenizer(family)(text, add_special_tokens=False)["input_ids"], task.facts.end]
    assert len(windows) > 2 and [window.window for window in windows] == list(range(len(windows)))
    overlap = [len(set(a.target.references[0][-3:]) & set(b.input_ids)) for a, b in pairwise(windows)]
    assert set(overlap) == {stride or 1}
    assert all(window.slots <= 16 or task.arrangement.apart for window in windows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_learned_as_one_token_after_the_other(family: str, tokenizer: Make, model: Make) -> None:
    task = learner(family, tokenizer)
    windows = task.encode(lesson("the fox ran on and on", prompt="ab"))
    parts = [
        plain_log_probability(family, task, model(family), list(w.input_ids), list(w.target.references[0]))
        for w in windows
    ]
    strategy = SingleProcess(device="cpu")
    strategy.place(model(family))
    assert loop.mean_loss(task, strategy.evaluate, windows) == pytest.approx(-sum(parts) / 17, abs=1e-3)
    (_, row) = strategy.evaluate(task.collate_training(windows[:1], epoch=0, seed=0), task.loss)
    assert row is not None and row[1] == len(windows[0].target.references[0])


def test_a_decoder_writes_a_text_on(tokenizer: Make, model: Make) -> None:
    task = task_for("decoder", tokenizer("decoder"), name="lm")
    task.generation = GenerationOptions(max_new_tokens=4)
    strategy = SingleProcess(device="cpu")
    strategy.place(model("decoder"))
    records = [lesson("the fox "), lesson("a")]
    examples = [task.encode(one, at)[0] for at, one in enumerate(records)]
    assert tokenizer("decoder").convert_ids_to_tokens(list(examples[1].input_ids)) == ["[CLS]", "a"]
    results = loop.answer(task, strategy.evaluate, examples, records).results
    for one, result in zip(records, results, strict=True):
        assert result.text.startswith(one.text) and result.blanks[0] and result.text.endswith(result.blanks[0])


def test_a_t5_fills_masks_by_its_sentinels(tokenizer: Make) -> None:
    import copy

    tokens = copy.deepcopy(tokenizer("encoder-decoder"))
    tokens.add_special_tokens({"additional_special_tokens": ["<extra_id_1>", "<extra_id_0>"]})
    task = task_for("encoder-decoder", tokens, name="lm")
    one = lesson("a [MASK] c [MASK].")
    (example,) = task.encode(one)
    read = ["[CLS]", "a", "<extra_id_0>", "c", "<extra_id_1>", ".", "[SEP]"]
    assert tokens.convert_ids_to_tokens(list(example.input_ids)) == read
    wrote = tokens.convert_tokens_to_ids(["[CLS]", "<extra_id_0>", "b", "<extra_id_1>", "d", "##e"])
    row = {"answers": np.array([[wrote]]), "logprobs": np.array([[-1.0]]), "lengths": np.array([[6]])}
    result = task.decode([row], [example], one)
    assert (result.text, result.blanks) == ("a b c de.", ("b", "de"))
    assert not set(task.textless_ids()) & set(tokens.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>"]))
    with pytest.raises(DataError, match="the text has 3 masks"):
        task.encode(lesson("[MASK] [MASK] [MASK]"))


def test_poems_are_learned_behind_their_headers(tokenizer: Make) -> None:
    task = learner("glm", tokenizer, name="poetry")
    whole, parts = (task.lesson(lesson(**one)) for one in ({"text": "a：b：c d"}, {"text": "c d", "prompt": "a：b："}))
    assert whole == parts == ("a：b：", "cd")


def test_there_is_nothing_to_learn_in_an_empty_text(tokenizer: Make) -> None:
    with pytest.raises(DataError, match="the text is empty"):
        learner("decoder", tokenizer).encode(lesson(" "))
    with pytest.raises(DataError, match="the prompt has 17 tokens"):
        learner("decoder", tokenizer).encode(lesson("a", prompt=LETTERS[:16]))
