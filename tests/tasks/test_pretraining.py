"""The task of filling blanks: what a batch holds, what its loss is, and what it refuses."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from flagai.config import TaskConfig
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError, ModelError, UnknownNameError
from flagai.models.glm.blanks import PUBLISHED, make_rows
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.tasks.corpus_examples import TextIds, Vocabulary
from flagai.tasks.pretraining import MODES, BlankInfilling, Filled
from flagai.tasks.table import make_task

CHARACTERS = "。，abcdefghijklmnopqrstuvwxyz床前明月光疑是地上霜举头望低思故乡["
MIXED = {"bert_prob": 0.4, "gap_sentence_prob": 0.3, "gpt_min_ratio": 0.25}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> GLMTokenizer:
    file = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]) + "\n", encoding="utf-8")
    return GLMTokenizer.from_vocabulary(file, task_mask=True)


def task_of(tokenizer: GLMTokenizer, blanks=MIXED, max_length: int = 48) -> BlankInfilling:
    task = make_task(TaskConfig(name="blank-infilling", blanks=blanks), tokenizer, max_length=max_length)
    assert isinstance(task, BlankInfilling)
    return task


TEXTS = [
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "a b c d e f。g h i j。",
    "明月",
    "q" * 3 + "。" + "月光" * 30,
]


def examples_of(task: BlankInfilling, prompts: tuple[str | None, ...] = (None,) * 4) -> list[Example]:
    records = [
        Record({"text": text} | ({} if prompt is None else {"prompt": prompt}), line=i + 1)
        for i, (text, prompt) in enumerate(zip(TEXTS, prompts, strict=True))
    ]
    return [example for windows in task.encode_many(records) for example in windows]


def test_a_record_becomes_framed_windows_and_loses_nothing(tokenizer):
    task = task_of(tokenizer, max_length=24)
    commands = tokenizer.commands
    found = examples_of(task, ("静", None, "月。", None))
    assert [example.record for example in found] == [0, 0, 1, 2, 3, 3, 3]
    assert all(len(example) <= 24 and example.input_ids[0] == commands.cls for example in found)
    for record, (text, prompt) in enumerate(zip(TEXTS, ("静", "", "月。", ""), strict=True)):
        parts = [np.asarray(example.input_ids)[1:] for example in found if example.record == record]
        assert np.concatenate(parts).tolist() == [*tokenizer.EncodeAsIds(prompt + text), commands.eos]
    assert found[3].target.tolist() == [False, False, False, True, True, True]  # [CLS] and the prompt 月。
    assert sum(example.weight for example in found) == pytest.approx(4)


def test_a_batch_holds_the_rows_of_its_examples(tokenizer):
    """The slow twin: one row after another, each padded by hand."""
    task = task_of(tokenizer, {**MIXED, "short_seq_prob": 0.4, "sequence_length": 100}, max_length=100)
    examples = examples_of(task)
    batch = task.collate_training(examples, epoch=3, seed=7)
    rows, owners = [], []
    for at, example in enumerate(examples):
        options = {"commands": task.commands, "sentence_ends": task.sentence_ends, "options": task.blanks}
        made = make_rows(example.input_ids, **options, seed=7, epoch=3, position=at, loss_mask=example.target)
        rows, owners = rows + made, owners + [at] * len(made)
    assert batch["example"].tolist() == owners
    for at, row in enumerate(rows):
        size = len(row)
        assert batch["input_ids"][at, :size].tolist() == row.input_ids.tolist()
        assert batch["position_ids"][at, :, :size].tolist() == row.position_ids.tolist()
        assert batch["labels"][at, :size].tolist() == row.labels.tolist()
        assert batch["attention_mask"][at].tolist() == [1] * size + [0] * (batch["input_ids"].shape[1] - size)
        assert (batch["input_ids"][at, size:] == tokenizer.commands.pad).all()
        assert batch["context_length"][at] == row.context_length
    assert np.array_equal(batch["logits_to_keep"], batch["labels"] != -100) and batch["logits_to_keep"].dtype == bool


def row_of(task: BlankInfilling, examples: list[Example], at: int, **keys: int) -> list[int]:
    batch = task.collate_training(examples, **keys) if keys else task.collate(examples)
    return batch["input_ids"][batch["example"] == at][0][
        : batch["attention_mask"][batch["example"] == at][0].sum()
    ].tolist()


def test_blanks_to_learn_from_depend_on_seed_epoch_and_place(tokenizer):
    task = task_of(tokenizer, max_length=100)
    examples = examples_of(task)
    alone = row_of(task, examples[:1], 0, seed=1, epoch=2)
    assert row_of(task, examples[::-1], 3, seed=1, epoch=2) == alone
    others = [row_of(task, examples[:1], 0, seed=seed, epoch=epoch) for seed, epoch in ((1, 3), (2, 2), (5, 5))]
    moved = Example(input_ids=examples[0].input_ids, record=99, target=examples[0].target)
    assert any(other != alone for other in others) and len({tuple(other) for other in [alone, *others]}) > 2
    assert row_of(task, [moved], 0, seed=1, epoch=2) != alone


def test_blanks_of_held_out_texts_depend_on_the_text_alone(tokenizer):
    task = task_of(tokenizer, max_length=100)
    examples = examples_of(task)
    moved = [Example(input_ids=list(e.input_ids), record=e.record + 50, target=e.target) for e in examples]
    for at in range(4):
        assert row_of(task, examples, at) == row_of(task, moved[at:] + moved[:at], 0)


def test_the_loss_is_the_sum_over_predicted_tokens(tokenizer):
    task = task_of(tokenizer, max_length=100)
    batch = task.collate(examples_of(task))
    keep = batch["logits_to_keep"]
    logits = torch.randn(int(keep.sum()), len(tokenizer), generator=torch.Generator().manual_seed(0))
    tensors = {key: torch.as_tensor(value) for key, value in batch.items()}
    total, count = task.loss({"logits": logits}, tensors)
    logs = torch.log_softmax(logits.double(), -1)
    wanted = -sum(float(logs[at, label]) for at, label in enumerate(batch["labels"][keep]))
    assert total.item() == pytest.approx(wanted, rel=1e-6) and count.item() == keep.sum() > 10
    kept = task.collect({"logits": logits}, batch, 4)
    assert kept["losses"].shape == kept["tokens"].shape == (4, len(MODES))
    assert kept["losses"].sum() == pytest.approx(wanted, rel=1e-6) and kept["tokens"].sum() == keep.sum()
    first = batch["example"] == 0  # whose tokens stand first in reading order
    part = functional.cross_entropy(
        logits[: int(keep[first].sum())], tensors["labels"][first][tensors["logits_to_keep"][first]], reduction="sum"
    )
    result = task.decode([{key: value[0] for key, value in kept.items()}], [], Record({}))
    assert result.loss == pytest.approx(part.item(), rel=1e-5) and result.tokens == keep[first].sum()
    assert set(result.by_mode) <= set(MODES) and sum(n for _, n in result.by_mode.values()) == result.tokens


def test_metrics_are_means_over_tokens(tokenizer):
    task = task_of(tokenizer)
    results = [
        Filled(2.0, 4, {"token": (1.0, 1), "sentence": (1.0, 3)}),
        Filled(9.0, 6, {"token": (9.0, 6)}),
    ]
    metrics = task.metrics(results, [None, None])
    assert metrics == {
        "perplexity": pytest.approx(math.exp(11 / 10)), "loss_token": 10 / 7, "loss_sentence": pytest.approx(1 / 3)
    }  # fmt: skip
    assert set(metrics) <= set(task.metric_names) <= task.lower_is_better
    interval = task.describe(results, [None, None], [])["intervals"]["perplexity"]
    assert math.exp(0.5) - 1e-9 <= interval.low <= metrics["perplexity"] <= interval.high <= math.exp(1.5) + 1e-9
    assert task_of(tokenizer, {}).metric_names == ("perplexity", "loss_token")


def test_what_looks_like_a_mask_in_a_text_is_text(tokenizer):
    ids = TextIds(tokenizer)
    copied = pickle.loads(pickle.dumps(ids))
    for encode in (ids, copied):
        found = encode(["明月[MASK]光", "[gMASK]"])
        assert not {*found[0], *found[1]} & set(tokenizer.mask_token_ids)
    assert tokenizer.EncodeAsIds("明月[MASK]光")[2] == tokenizer.commands.mask
    assert ids(["床前，明月"]) == [tokenizer.EncodeAsIds("床前，明月")]


def test_a_vocabulary_has_a_fingerprint_of_its_own(tokenizer, tmp_path):
    file = tmp_path / "vocab.txt"
    swapped = CHARACTERS.replace("床", "x").replace("前", "床").replace("x", "前", 1)
    assert len(swapped) == len(CHARACTERS)
    file.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *swapped]) + "\n", encoding="utf-8")
    other = GLMTokenizer.from_vocabulary(file, task_mask=True)
    one, two = (Vocabulary.of(made, TextIds(made)) for made in (tokenizer, other))
    assert one.size == two.size == len(tokenizer) and one.fingerprint != two.fingerprint


def test_options_of_published_runs_and_changes_of_them(tokenizer):
    base = task_of(tokenizer, "base").blanks
    assert base == PUBLISHED["base"]
    like = task_of(tokenizer, {"like": "large-chinese", "block_mask_prob": 0, "short_seq_prob": 0.5}).blanks
    assert (like.bert_prob, like.short_seq_prob, like.block_mask_prob) == (0.4, 0.5, 0)
    without = task_of(tokenizer, None).blanks  # no [dBLOCK] in this vocabulary
    assert (without.bert_prob, without.gap_sentence_prob, without.block_mask_prob) == (0.4, 0.3, 0.0)


@pytest.mark.parametrize(
    ("blanks", "error", "message"),
    [
        ("larg-chinese", UnknownNameError, "large-chinese"),
        ({"like": "tiny"}, UnknownNameError, "published run"),
        ({"bert_probability": 0.5}, UnknownNameError, "did you mean 'bert_prob'"),
        ({"bert_prob": "half"}, ConfigError, "task.blanks.bert_prob"),
        ({"bert_prob": True}, ConfigError, "a number"),
        ({"shuffle_blocks": 1}, ConfigError, "true or false"),
        ({"bert_prob": 0.8, "gap_sentence_prob": 0.3}, ConfigError, "more than 1 together"),
        ("large-chinese", ConfigError, "dBLOCK"),
    ],
)
def test_options_that_cannot_be_meant(tokenizer, blanks, error, message):
    with pytest.raises(error, match=message):
        task_of(tokenizer, blanks)


def test_what_cannot_be_learned_from(tokenizer, tiny_bert: Path):
    task = task_of(tokenizer)
    with pytest.raises(DataError, match="empty"):
        task.encode_many([Record({"text": "  "}, "a.jsonl", 3)])
    with pytest.raises(DataError, match=r"a\.jsonl:3.*'text'"):
        task.encode_many([Record({"body": "x"}, "a.jsonl", 3)])
    with pytest.raises(ConfigError, match="multi_label"):
        make_task(TaskConfig(name="blank-infilling", multi_label=True), tokenizer, max_length=48)
    from flagai.models.tokenizers import build_tokenizer

    with pytest.raises(ModelError, match="GLM tokenizer"):
        make_task(TaskConfig(name="blank-infilling"), build_tokenizer(tiny_bert), max_length=48)
