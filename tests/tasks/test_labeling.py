"""Sequence labelling from records to entities, with a model that answers rightly and with a tiny one that learns."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, BertModel

from flagai.config import TaskConfig
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError, UnknownLabelError
from flagai.models import heads
from flagai.models.headed import HeadedModel
from flagai.tasks.labeling import Labeling
from flagai.tasks.results import Entity
from flagai.tasks.table import TASKS, make_task
from flagai.tasks.units import units_of

KINDS = ["wordpiece", "byte-bpe", "unigram"]
NAMES = ["ner", "ner-crf", "ner-gp"]


def record(text: str, *entities: tuple[str, str], line: int = 0) -> Record:
    """Entities by their text (the first place of it after the one before), label."""
    label, at = [], 0
    for surface, kind in entities:
        at = text.index(surface, at)
        label.append({"start": at, "end": at + len(surface), "label": kind})
    return Record({"text": text, "label": label}, "made.jsonl", line)


RECORDS = [
    record("Angela Merkel visited Zürich and New York-based ACME Corp. on 15th May.",
           ("Angela Merkel", "PER"), ("Zürich", "LOC"), ("New York", "LOC"), ("ACME Corp.", "ORG")),
    record("6月15日，河南省文物考古研究所的ＡＢＣ公司在北京。",
           ("河南省文物考古研究所", "ORG"), ("ＡＢＣ公司", "ORG"), ("北京", "LOC")),
    record("I ❤️ Paris 🗼 and 👨‍👩‍👧 in 𠮷野家!", ("Paris 🗼", "LOC"), ("👨‍👩‍👧", "PER"), ("𠮷野家", "ORG")),
    record("Cafe\u0301 Müller's owner", ("Cafe\u0301 Müller", "ORG")),
    record("서울에서 만나요, London 🇬🇧!", ("서울", "LOC"), ("London", "LOC")),
    record("nothing here"),
    record(""),
]  # fmt: skip
RECORDS = [Record(rec.fields, rec.file, line) for line, rec in enumerate(RECORDS, start=1)]


def task_of(name: str, tokenizer: Any, *, max_length: int = 512, stride: int | None = None, **options: Any) -> Labeling:
    task = make_task(TaskConfig(name=name, **options), tokenizer, max_length=max_length, stride=stride)
    assert isinstance(task, Labeling)
    return task


def right_row(task: Labeling, example: Example, text: str) -> dict[str, np.ndarray]:
    """The outputs of a model that is sure of the target; later word pieces and special tokens get noise."""
    rng = np.random.default_rng(len(example))
    size = task.head().num_labels
    if isinstance(example.target, tuple):
        logits = np.full((size, len(example), len(example)), -9.0)
        for kind, first, last in example.target[1]:
            logits[kind, first, last] = 9.0
        return {"logits": logits}
    logits = rng.normal(size=(len(example), size))
    outside = task.model_labels().index("O")
    for token in units_of(text, example.offsets or []).first:
        tag = example.target[token] if example.target[token] >= 0 else outside
        logits[token] = np.where(np.arange(size) == tag, 9.0, -9.0)
    zeros = {"transitions": np.zeros((size, size)), "start_transitions": np.zeros(size)}
    return {"logits": logits, **zeros, "end_transitions": np.zeros(size)}


def answer(task: Labeling, rec: Record) -> list[Entity]:
    examples = task.encode(rec)
    return task.decode([right_row(task, example, rec.text) for example in examples], examples, rec)


def triples(entities: list[Entity]) -> tuple[tuple[int, int, str], ...]:
    return tuple((e.start, e.end, e.label) for e in entities)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_encoded_is_decoded_with_the_offsets_of_the_text_as_given(tokenizer_of, kind: str, name: str) -> None:
    task = task_of(name, tokenizer_of(kind))
    task.fit(RECORDS)
    for rec in RECORDS:
        entities = answer(task, rec)
        assert triples(entities) == task.gold(rec)
        assert all(e.text == rec.text[e.start : e.end] and e.score > 0.9 for e in entities)
        assert not any(example.target_cut for example in task.encode(rec))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("max_length", "stride"), [(30, 12), (40, 12), (90, 30)])
def test_windows_find_each_entity_once(tokenizer_of, kind: str, name: str, max_length: int, stride: int) -> None:
    text = " ".join(r.text for r in RECORDS)
    label, at = [], 0
    for r in RECORDS:
        label += [{**e, "start": e["start"] + at, "end": e["end"] + at} for e in r.fields["label"]]
        at += len(r.text) + 1
    long = Record({"text": text, "label": label})
    task = task_of(name, tokenizer_of(kind), max_length=max_length, stride=stride)
    task.fit([long])
    examples = task.encode(long)
    assert len(examples) > 1 and all(len(e) <= max_length for e in examples)
    found, gold = set(triples(answer(task, long))), set(task.gold(long))
    assert found <= gold
    # What is not found is announced: an entity may be longer in tokens than what its window has left.
    assert (found != gold) == examples[0].target_cut
    assert len(found) >= len(gold) - 2


def test_a_text_beyond_the_window_is_cut_and_says_so(tokenizer_of) -> None:
    rec = RECORDS[0]
    task = task_of("ner", tokenizer_of("wordpiece"), max_length=20)
    task.fit(RECORDS)
    (example,) = task.encode(rec)
    assert example.target_cut and example.tokens_lost > 0
    assert set(triples(answer(task, rec))) < set(task.gold(rec))


@pytest.mark.parametrize("name", NAMES)
def test_a_span_that_no_token_border_fits_is_cut_and_teaches_nothing(tokenizer_of, name: str) -> None:
    rec = record("Paris and Londoners", ("Paris", "LOC"), ("London", "LOC"))
    task = task_of(name, tokenizer_of("wordpiece"))
    task.fit([rec])
    (example,) = task.encode(rec)
    assert example.target_cut
    assert triples(answer(task, rec)) == ((0, 5, "LOC"),)
    place = next(t for t, (start, _) in enumerate(example.offsets or []) if start == 10)
    assert example.target[0][place] == 0 if name == "ner-gp" else example.target[place] == -100


@pytest.mark.parametrize("name", NAMES)
def test_only_spans_keep_nested_entities(tokenizer_of, name: str) -> None:
    text = "University of New York"
    nested = Record({"text": text, "label": [
        {"start": 0, "end": 22, "label": "ORG"}, {"start": 14, "end": 22, "label": "LOC"}]})  # fmt: skip
    task = task_of(name, tokenizer_of("wordpiece"))
    task.fit([nested])
    if name == "ner-gp":
        assert triples(answer(task, nested)) == ((0, 22, "ORG"), (14, 22, "LOC"))
        assert not task.encode(nested)[0].target_cut
    else:
        assert triples(answer(task, nested)) == ((0, 22, "ORG"),)
        assert task.encode(nested)[0].target_cut


def test_global_pointer_is_flat_where_the_training_data_is(tokenizer_of) -> None:
    task = task_of("ner-gp", tokenizer_of("wordpiece"))
    task.fit(RECORDS)
    rec = record("Paris and", ("Paris and", "LOC"))
    (example,) = task.encode(rec)
    row = right_row(task, example, rec.text)
    row["logits"][0, example.target[1][0][1], example.target[1][0][1]] = 5.0
    assert triples(task.decode([row], [example], rec)) == ((0, 9, "LOC"),)


def test_space_at_the_ends_is_not_part_of_an_entity(tokenizer_of) -> None:
    rec = record("in Paris now", (" Paris ", "LOC"))
    task = task_of("ner", tokenizer_of("byte-bpe"))
    task.fit([rec])
    assert task.gold(rec) == ((3, 8, "LOC"),)
    assert triples(answer(task, rec)) == ((3, 8, "LOC"),)


def tiny(task: Labeling, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    spec = task.head()
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = spec.num_labels
    body = (BertModel if spec.body == "encoder" else BertForTokenClassification)(config)
    if not spec.module:
        return body
    kind = getattr(heads, spec.module.partition(":")[2])
    return HeadedModel(body, kind(config.hidden_size, spec.num_labels, **spec.options))


def run(task: Labeling, model: torch.nn.Module, examples: list[Example]) -> tuple[Any, dict[str, torch.Tensor]]:
    batch = {key: torch.from_numpy(value) for key, value in task.collate(examples).items()}
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "token_type_ids") if key in batch}
    return model(**inputs), batch


def rows_of(task: Labeling, outputs: Any, examples: list[Example]) -> list[dict[str, np.ndarray]]:
    shared = {name: outputs[name].detach().numpy() for name in task.shared_outputs}
    rows = []
    for i, example in enumerate(examples):
        logits = outputs["logits"][i].detach().numpy()
        for axis in task.token_axes["logits"]:
            logits = logits.take(range(len(example)), axis=axis)
        rows.append({"logits": logits, **shared})
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_learns_the_examples_and_answers_alike_alone_and_in_a_batch(tokenizer_of, name: str) -> None:
    task = task_of(name, tokenizer_of("wordpiece"))
    task.fit(RECORDS)
    examples = [example for i, rec in enumerate(RECORDS) for example in task.encode(rec, i)]
    model = tiny(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        outputs, batch = run(task, model, examples)
        total, count = task.loss(outputs, batch)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    together = rows_of(task, run(task, model, examples)[0], examples)
    results = []
    for row, example, rec in zip(together, examples, RECORDS, strict=True):
        alone = rows_of(task, run(task, model, [example])[0], [example])
        result = task.decode([row], [example], rec)
        other = task.decode(alone, [example], rec)
        assert triples(result) == triples(other)
        assert [e.score for e in result] == pytest.approx([e.score for e in other], abs=1e-4)
        results.append(result)
    golds = [task.gold(rec) for rec in RECORDS]
    assert task.metrics(results, golds)["f1"] == 1.0
    assert all(0 < e.score <= 1 for result in results for e in result)


@pytest.mark.parametrize("name", NAMES)
def test_loss_sums_over_micro_batches(tokenizer_of, name: str) -> None:
    task = task_of(name, tokenizer_of("unigram"))
    task.fit(RECORDS)
    examples = [example for rec in RECORDS for example in task.encode(rec)]
    model = tiny(task).eval()
    outputs, batch = run(task, model, examples)
    total, count = task.loss(outputs, batch)
    with torch.no_grad():
        parts = [task.loss(*run(task, model, examples[i : i + 3])) for i in range(0, len(examples), 3)]
    assert sum(float(part[0]) for part in parts) == pytest.approx(float(total.detach()), rel=1e-5)
    assert sum(float(part[1]) for part in parts) == float(count)


def test_softmax_loss_is_that_of_hugging_face(tokenizer_of) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"))
    task.fit(RECORDS)
    examples = [example for rec in RECORDS for example in task.encode(rec)]
    model = tiny(task).eval()
    outputs, batch = run(task, model, examples)
    total, count = task.loss(outputs, batch)
    expected = model(**{key: batch[key] for key in ("input_ids", "attention_mask", "labels")}).loss
    torch.testing.assert_close(total / count, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_task_answers_the_same(tokenizer_of, name: str) -> None:
    task = task_of(name, tokenizer_of("wordpiece"))
    task.fit(RECORDS)
    again = task_of(name, tokenizer_of("wordpiece"))
    again.restore(task.state())
    assert again.head() == task.head() and again.model_labels() == task.model_labels()
    for rec in RECORDS:
        examples = task.encode(rec)
        rows = [right_row(task, example, rec.text) for example in examples]
        assert again.decode(rows, again.encode(rec), rec) == task.decode(rows, examples, rec)


def test_label_tables(tokenizer_of) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"))
    assert task.label_names() == [] == task.model_labels()
    task.fit(RECORDS)
    assert task.label_names() == ["LOC", "ORG", "PER"]
    assert task.model_labels() == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert task.head().num_labels == 7
    pointer = task_of("ner-gp", tokenizer_of("wordpiece"), labels=("PER", "LOC", "ORG"))
    assert pointer.model_labels() == ["PER", "LOC", "ORG"] and pointer.head().num_labels == 3


@pytest.mark.parametrize(
    "table",
    [
        ["I-PER", "O", "B-ORG", "B-LOC", "I-LOC", "I-ORG", "B-PER"],
        ["O", *(f"{p}-{k}" for k in ("LOC", "ORG", "PER") for p in "BIES")],
    ],
)
def test_a_table_of_tags_keeps_its_order_and_scheme(tokenizer_of, table: list[str]) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"), labels=tuple(table))
    assert task.model_labels() == table
    assert sorted(task.label_names()) == ["LOC", "ORG", "PER"]
    for fitted in (False, True):
        if fitted:
            task.fit(RECORDS)
        for rec in RECORDS:
            assert triples(answer(task, rec)) == task.gold(rec)


def test_a_table_without_b_tags_is_read_and_written_with_i_only(tokenizer_of) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"), labels=("O", "I-LOC", "I-ORG", "I-PER"))
    task.fit(RECORDS)
    for rec in RECORDS:
        assert triples(answer(task, rec)) == task.gold(rec)


def test_report_part_has_intervals_types_and_marked_errors(tokenizer_of) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"))
    task.fit(RECORDS)
    golds = [task.gold(rec) for rec in RECORDS]
    results = [answer(task, rec) for rec in RECORDS]
    results[0] = [Entity("Angela", "PER", 0, 6, 0.8)]
    results[3] = []
    part = task.describe(results, golds, RECORDS)
    assert set(part["intervals"]) == set(task.metric_names) == set(task.metrics(results, golds))
    assert [row["label"] for row in part["per_label"]] == ["LOC", "ORG", "PER"]
    assert [(row["score"], row["where"]) for row in part["errors"]] == [(0.8, "made.jsonl:1"), (0.0, "made.jsonl:4")]
    assert part["errors"][0]["predicted"] == [{"start": 0, "end": 6, "label": "PER"}]
    assert part["errors"][1]["gold"] == [{"start": 0, "end": 12, "label": "ORG"}]


def test_labels_that_cannot_be_used_are_named(tokenizer_of) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"), labels=("PER", "LOC"))
    with pytest.raises(UnknownLabelError, match=r"made\.jsonl:7: unknown label 'ORG'"):
        task.encode(record("ACME", ("ACME", "ORG"), line=7))
    with pytest.raises(DataError, match=r"made\.jsonl:7: the entity 2:9"):
        task.encode(Record({"text": "ACME", "label": [{"start": 2, "end": 9, "label": "PER"}]}, "made.jsonl", 7))
    with pytest.raises(DataError, match="an entity is 'PER'"):
        task.encode(Record({"text": "ACME", "label": ["PER"]}))
    with pytest.raises(DataError, match="none of the 1 training records has an entity"):
        task_of("ner", tokenizer_of("wordpiece")).fit([record("nothing")])
    with pytest.raises(ConfigError, match="cosine"):
        Labeling(TaskConfig(name="ner", head="cosine"), tokenizer_of("wordpiece"), max_length=64)


def test_a_record_without_labels_has_no_target(tokenizer_of) -> None:
    task = task_of("ner", tokenizer_of("wordpiece"), labels=("LOC",))
    (example,) = task.encode(Record({"text": "Paris"}))
    assert example.target is None and not example.target_cut


def test_every_name_of_the_table_makes_the_task(tokenizer_of) -> None:
    names = [name for name, row in TASKS.items() if row.target.endswith(":Labeling")]
    assert len(names) == 6
    modules = {name: task_of(name, tokenizer_of("wordpiece"), labels=("LOC",)).head().module for name in names}
    assert {name: module.partition(":")[2] for name, module in modules.items()} == {
        "sequence-labeling": "", "sequence-labeling-crf": "CRF", "sequence-labeling-gp": "GlobalPointer",
        "ner": "", "ner-crf": "CRF", "ner-gp": "GlobalPointer",
    }  # fmt: skip


def test_the_task_needs_no_torch_to_import() -> None:
    code = "import sys, flagai.tasks.labeling, flagai.tasks.describe_entities; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
