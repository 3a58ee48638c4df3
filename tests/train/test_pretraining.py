"""Pre-training in the one loop: it learns, repeats and continues to the bit, and reads its data as it needs it."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flagai import Trainer, load_config
from flagai.config import TrainConfig
from flagai.data.batching import BatchPlan
from flagai.data.corpus import Corpus
from flagai.data.corpus_build import build_corpus
from flagai.data.example import Examples
from flagai.errors import ConfigError, DataError
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.predict.evaluate import evaluate_records
from flagai.predict.predictor import Predictor
from flagai.tasks.corpus_examples import CorpusExamples, TextIds, Vocabulary
from flagai.tasks.pretraining import BlankInfilling
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupted
from flagai.train.optim import adamw, schedule

LINES = ("床前明月光", "疑是地上霜", "举头望明月", "低头思故乡", "春眠不觉晓", "处处闻啼鸟", "夜来风雨声", "花落知多少")
TINY = {"model_type": "flagai_glm", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GLM tokenizer of a few characters."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = sorted(set("".join(LINES) + "，。题："))
    text = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]) + "\n"
    (folder / "vocab.txt").write_text(text, encoding="utf-8")
    GLMTokenizer.from_vocabulary(folder, task_mask=True, model_max_length=32).save_pretrained(folder / "made")
    return folder / "made"


def poems(count: int, seed: int) -> list[dict[str, str]]:
    """The second line always follows the first: something to learn."""
    chance = random.Random(seed)
    rows = []
    for i in range(count):
        at = chance.randrange(0, 8, 2)
        more = chance.choice(["", LINES[chance.randrange(8)] + "。", "，".join(chance.choices(LINES, k=6)) + "。"])
        rows.append({"text": f"{LINES[at]}，{LINES[at + 1]}。{more}"} | ({"prompt": "题："} if i % 3 else {}))
    return rows


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAGAI_CACHE", str(tmp_path / "cache"))
    for name, count, seed in (("train", 40, 0), ("dev", 12, 1), ("more", 10, 2)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in poems(count, seed))
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def config(root: Path, tokenizer: Path, output: str, *overrides: str, **sections):
    values = {
        "model": {"config": TINY | {"max_sequence_length": 32}, "tokenizer": str(tokenizer)},
        "task": {"name": "blank-infilling", "blanks": {"like": "large-chinese", "block_mask_prob": 0}},
        "data": {"train": str(root / "train.jsonl"), "eval": str(root / "dev.jsonl")},
        "train": {"max_steps": 12, "batch_tokens": 200, "learning_rate": 0.003, "device": "cpu", "save_steps": 4},
        "output": str(root / output),
    }
    return load_config(values | sections, overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(a: Path, b: Path) -> None:
    left, right = weights(a / "final"), weights(b / "final")
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (a, b)]
    first, second = ([(row["kind"], row["step"], row["loss"]) for row in log] for log in logs)
    assert first == second


class StopAt(Callback):
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step(self, state, row) -> None:
        if state.step == self._step:
            os.kill(os.getpid(), signal.SIGINT)


class Heard(Callback):
    """What the run said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_message(self, text: str) -> None:
        self.lines.append(text)


def test_it_learns_and_the_saved_model_measures_as_the_run_did(data, tokenizer):
    settings = config(data, tokenizer, "run", "train.max_steps=60", "train.learning_rate=0.01", "train.eval_steps=20")
    result = Trainer(settings).train()
    rows = [json.loads(line) for line in (data / "run/log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "eval"]
    assert losses[-1] < losses[0] - 0.2
    measured = result.metrics["eval"]
    assert set(measured) == {"perplexity", "loss_token", "loss_sentence", "loss_document", "loss"}
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]), rel=1e-5)
    assert (data / "run/report.html").is_file()
    again = evaluate_records(Predictor.from_folder(result.folder), data / "dev.jsonl")["metrics"]
    assert {name: row["value"] for name, row in again.items()} == pytest.approx(
        {name: value for name, value in measured.items() if name != "loss"}, rel=1e-5
    )
    assert again["perplexity"]["low"] < again["perplexity"]["value"] < again["perplexity"]["high"]


def test_two_runs_are_equal_and_another_seed_is_not(data, tokenizer):
    for name in "ab":
        Trainer(config(data, tokenizer, name)).train()
    assert_equal(data / "a", data / "b")
    other = Trainer(config(data, tokenizer, "c", "train.seed=7", "train.max_steps=2")).train()
    name = "glm.word_embeddings.weight"
    assert not torch.equal(weights(other.folder)[name], weights(data / "a/final")[name])


@pytest.mark.parametrize("extra", [(), ("data.join_documents=true", "train.num_workers=2")], ids=["plain", "joined"])
def test_a_continued_run_is_equal(data, tokenizer, extra):
    Trainer(config(data, tokenizer, "whole", *extra)).train()
    for step in (3, 9):
        with pytest.raises(Interrupted):
            Trainer(config(data, tokenizer, "parts", *extra), callbacks=[StopAt(step)]).train()
    Trainer(config(data, tokenizer, "parts", *extra)).train()
    assert_equal(data / "whole", data / "parts")


def test_accumulation_and_evaluation_batches_change_nothing_that_is_drawn(data, tokenizer):
    calm = dict.fromkeys(("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob"), 0.0)
    model = {"config": TINY | calm | {"max_sequence_length": 32}, "tokenizer": str(tokenizer)}
    one = Trainer(config(data, tokenizer, "one", model=model)).train()
    two = Trainer(config(data, tokenizer, "two", "train.gradient_accumulation_steps=2", model=model)).train()
    assert one.metrics["eval"] == pytest.approx(two.metrics["eval"], rel=1e-3)


def corpus_of(data: Path, tokenizer: Path, name: str) -> Path:
    made = GLMTokenizer.from_pretrained(tokenizer)
    ids = TextIds(made)
    vocabulary = Vocabulary.of(made, ids)
    options = {"vocabulary_size": vocabulary.size, "tokenizer": vocabulary.fingerprint}
    build_corpus([data / f"{name}.jsonl"], data / f"{name}-corpus", ids, **options)
    return data / f"{name}-corpus"


def test_a_corpus_folder_is_the_same_as_its_file(data, tokenizer):
    folder = corpus_of(data, tokenizer, "train")
    Trainer(config(data, tokenizer, "file")).train()
    kept = list((data / "cache").rglob("corpus.json"))
    assert len(kept) == 2  # training and evaluation data
    before = [path.stat().st_mtime_ns for path in kept]
    Trainer(config(data, tokenizer, "folder", f"data.train={folder}")).train()
    assert_equal(data / "file", data / "folder")
    assert [path.stat().st_mtime_ns for path in kept] == before
    described = json.loads((data / "folder/data.json").read_text())["splits"]
    assert described["train"]["records"] == 40 and len(described["train"]["sha256"]) == 64


def test_examples_are_made_when_a_step_needs_them(data, tokenizer, monkeypatch):
    made: list[int] = []
    make = CorpusExamples._make

    def counted(self: CorpusExamples, index: int):
        made.append(index)
        return make(self, index)

    rows = poems(400, 5)
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    monkeypatch.setattr(CorpusExamples, "_make", counted)
    files = {"train": str(data / "train.jsonl"), "eval_fraction": 0}
    Trainer(config(data, tokenizer, "run", "train.max_steps=3", data=files)).train()
    report = json.loads((data / "run/report.json").read_text())
    steps = report["speed"]["train_samples_per_second"] * report["speed"]["seconds"]
    assert len(made) == round(steps) < 60


def test_the_loop_tells_the_task_where_it_is(data, tokenizer, monkeypatch):
    told: list[tuple[int, int, int]] = []
    collate = BlankInfilling.collate_training

    def heard(self: BlankInfilling, examples, *, epoch: int, seed: int):
        told.append((epoch, seed, len(examples)))
        return collate(self, examples, epoch=epoch, seed=seed)

    monkeypatch.setattr(BlankInfilling, "collate_training", heard)
    short = [{"text": f"{line}。"} for line in LINES * 5]
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in short), "utf-8")
    options = ("train.batch_size=16", "train.scheduler=cosine", "train.decay_ratio=0.1", "train.decay_steps=4")
    settings = config(data, tokenizer, "run", *options, train={"max_steps": 7, "seed": 5, "device": "cpu"})
    Trainer(settings).train()
    assert [(epoch, seed) for epoch, seed, _ in told] == [(epoch, 5) for epoch in (0, 0, 0, 1, 1, 1, 2)]
    assert [sum(count for epoch, _, count in told if epoch == at) for at in (0, 1)] == [40, 40]
    rows = [json.loads(line) for line in (data / "run/log.jsonl").read_text().splitlines()]
    last = [row["learning_rate"] for row in rows if row["kind"] == "train"][-1]
    assert last == pytest.approx(0.1 * settings.train.learning_rate)


def test_part_of_the_documents_is_held_out_where_no_file_is(data, tokenizer):
    heard = Heard()
    rows = [*poems(40, 0), {"text": "床。"}, {"text": "床。"}]
    (data / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    settings = config(data, tokenizer, "run", "train.max_steps=1", data={"train": str(data / "train.jsonl")})
    Trainer(settings, callbacks=[heard]).train()
    assert any("training documents (10%, seed 42) are held out" in line for line in heard.lines)
    assert not any(line.startswith("leak") for line in heard.lines)  # equal poems are on one side
    described = json.loads((data / "run/data.json").read_text())["splits"]
    assert described["train"]["records"] + described["eval"]["records"] == 42 and described["eval"]["records"] > 0


def test_documents_trained_on_and_held_out_are_told(data, tokenizer):
    heard = Heard()
    settings = config(data, tokenizer, "run", "train.max_steps=1", f"data.eval={data / 'train.jsonl'}")
    Trainer(settings, callbacks=[heard]).train()
    assert any(line.startswith("leak: 40 of the eval texts (100.0 %)") for line in heard.lines)


def test_corpora_are_mixed_by_weight(data, tokenizer):
    folder = corpus_of(data, tokenizer, "more")
    mixture = {str(data / "train.jsonl"): 1, str(folder): 3}
    for name in "ab":
        Trainer(config(data, tokenizer, name, data={"mixture": mixture, "eval": str(data / "dev.jsonl")})).train()
    assert_equal(data / "a", data / "b")
    one = json.loads((data / "a/data.json").read_text())["splits"]["train"]
    assert one["records"] == 50 < one["samples"] and one["file"] == "train.jsonl + more-corpus"  # long ones in windows
    held = Trainer(config(data, tokenizer, "c", "train.max_steps=2", data={"mixture": mixture})).train()
    assert held.metrics["eval"]["perplexity"] > 1


def test_a_run_can_start_from_the_model_of_another(data, tokenizer):
    first = Trainer(config(data, tokenizer, "first")).train()
    settings = config(
        data, tokenizer, "second", "train.max_steps=1", "train.learning_rate=1e-9", model=str(first.folder)
    )
    second = Trainer(settings).train()
    assert second.metrics["eval"] == pytest.approx(first.metrics["eval"], rel=1e-4)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"train": "train.jsonl", "stride": 4}}, "data.stride means nothing"),
        ({"data": {"train": "train.jsonl", "mixture": {"train.jsonl": 1}}}, "both set"),
        ({"data": {"mixture": {"train.jsonl": 0}}}, "data.mixture"),
        ({"data": {"mixture": {}}}, "names no corpus"),
        ({"task": "classification", "data": {"train": "train.jsonl", "join_documents": True}}, "join_documents means"),
        ({"task": "classification", "data": {"mixture": {"train.jsonl": 1}}}, "mixture means nothing"),
    ],
)
def test_settings_that_cannot_be_meant(data, tokenizer, no_device, monkeypatch, sections, message):
    monkeypatch.chdir(data)
    with pytest.raises(ConfigError, match=message):
        Trainer(config(data, tokenizer, "run", **sections)).train()
    assert not (data / "run").exists()


def test_data_that_cannot_be_used(data, tokenizer, no_device):
    folder = corpus_of(data, tokenizer, "train")
    values = json.loads((folder / "corpus.json").read_text())
    (folder / "corpus.json").write_text(json.dumps(values | {"tokenizer": "0" * 64}))
    with pytest.raises(DataError, match="another tokenizer"):
        Trainer(config(data, tokenizer, "run", f"data.train={folder}")).train()
    with pytest.raises(DataError, match="no split in the folder"):
        Trainer(config(data, tokenizer, "run", f"data.train={tokenizer}")).train()
    (data / "bad.jsonl").write_text('{"text": "床"}\n{"title": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:2: no text"):
        Trainer(config(data, tokenizer, "run", f"data.eval={data / 'bad.jsonl'}")).train()
    (data / "one.jsonl").write_text('{"text": "床"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="nothing can be held out"):
        Trainer(config(data, tokenizer, "run", data={"train": str(data / "one.jsonl")})).train()
    assert not (data / "run").exists()


def test_a_damaged_corpus_of_the_cache_is_made_again(data, tokenizer):
    Trainer(config(data, tokenizer, "a")).train()
    for path in (data / "cache").rglob("tokens.bin"):
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
    heard = Heard()
    Trainer(config(data, tokenizer, "b"), callbacks=[heard]).train()
    assert sum("is made again" in line for line in heard.lines) == 2
    assert_equal(data / "a", data / "b")


def test_the_verb_builds_what_a_run_reads(data, tokenizer, cli):
    told = cli(
        "data", "corpus", data / "train.jsonl", data / "more.jsonl", "--out", data / "made", "--tokenizer", tokenizer
    )
    assert told.code == 0 and "50 documents" in told.out and "uint16" in told.out
    assert len(Corpus(data / "made")) == 50
    trainer = Trainer(config(data, tokenizer, "run", f"data.train={data / 'made'}", "train.max_steps=1"))
    assert trainer.train().steps == 1
    again = cli("data", "corpus", data / "train.jsonl", "--out", data / "made", "--tokenizer", tokenizer)
    assert again.code != 0 and "--force" in again.err
    forced = cli("data", "corpus", data / "train.jsonl", "-o", data / "made", "--tokenizer", tokenizer, "--force")
    assert forced.code == 0 and len(Corpus(data / "made")) == 40


# the learning rate and the optimizer


def annealing(it: int, *, peak: float, warmup: int, decay: int, ratio: float, style: str) -> float:
    """The published formula, with the steps counted from 0."""
    if it <= warmup and warmup:
        return peak * it / warmup
    fallen = (it - warmup) / (decay - warmup)
    if style == "linear":
        return peak * (1 - (1 - ratio) * fallen)
    return peak * (ratio + (1 - ratio) * (1 + math.cos(math.pi * min(1.0, fallen))) / 2)


@pytest.mark.parametrize("style", ["cosine", "linear"])
@pytest.mark.parametrize(("ratio", "decay"), [(0.05, 120), (0.1, 200), (0.0, 150)])
def test_the_schedule_is_the_published_one(style, ratio, decay):
    factor = schedule(style, total=200, warmup_ratio=0.05, decay_ratio=ratio, decay_steps=decay)
    warmup = math.ceil(0.05 * decay)
    options = {"peak": 1.0, "warmup": warmup, "decay": decay, "ratio": ratio, "style": style}
    for step in range(warmup):  # one step ahead: no step is lost to a rate of 0
        assert factor(step) == pytest.approx(annealing(step + 1, **options))
    for step in range(warmup, decay + 1):
        assert factor(step) == pytest.approx(annealing(step, **options))
    assert [factor(step) for step in (decay, decay + 7)] == pytest.approx([ratio] * 2)  # never below


def test_the_optimizer_has_the_published_settings():
    settings = TrainConfig(adam_beta2=0.98, adam_epsilon=1e-6, weight_decay=0.1, learning_rate=1e-3)
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3))
    groups = adamw(settings)(model).param_groups
    assert all(group["betas"] == (0.9, 0.98) and group["eps"] == 1e-6 for group in groups)
    decayed = {p.shape for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    plain = {p.shape for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert decayed == {(5, 4), (3, 4)} and plain == {(4,), (3,)}
    with pytest.raises(ConfigError, match="adam_beta2"):
        load_config({"task": "classification", "train": {"adam_beta2": 1.0}})
    with pytest.raises(ConfigError, match="decay_ratio"):
        load_config({"task": "classification", "train": {"decay_ratio": 1.5}})


# batches whose lengths are others in every epoch


@pytest.mark.parametrize("options", [{"batch_size": 4}, {"batch_tokens": 60}])
def test_a_plan_with_lengths_of_each_epoch(options):
    lengths = [np.random.default_rng(epoch).integers(5, 20, size=30 + 3 * epoch) for epoch in range(4)]
    varying = BatchPlan(lambda epoch: lengths[epoch], seed=1, data_hash="x", **options)
    step = 0
    for epoch in range(4):
        fixed = BatchPlan(lengths[epoch], seed=1, data_hash="x", **options)
        assert varying.num_steps(epoch) == fixed.num_steps(epoch)
        for k, indices in enumerate(fixed.epoch(epoch)):
            assert varying.locate(step) == (epoch, k)
            assert varying.step(step).tolist() == indices.tolist()
            step += 1
    alone = BatchPlan(lambda epoch: lengths[epoch], seed=1, data_hash="x", **options)
    assert alone.step(step - 1).tolist() == varying.step(step - 1).tolist()  # no step needs those before it


def test_examples_can_be_cut_like_a_list(data, tokenizer):
    trainer = Trainer(config(data, tokenizer, "run"))
    from flagai.train.prepare import read_sources

    sources = read_sources(trainer.config, trainer.task, print)
    examples = sources.examples["train"]  # pyright: ignore[reportAttributeAccessIssue]
    assert isinstance(examples, Examples) and len(examples[1:4]) == 3
    assert list(examples[-1].input_ids) == list(examples[len(examples) - 1].input_ids)
    with pytest.raises(IndexError):
        examples[len(examples)]
    texts = [record.text for record in sources.records["eval"]]
    assert len(texts) == len(sources.examples["eval"])  # pyright: ignore[reportAttributeAccessIssue]
    assert "床" in "".join(texts) or "春" in "".join(texts)
