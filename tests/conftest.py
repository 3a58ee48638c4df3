"""What all tests share: those marked `gpu` skip themselves where there is none, and nothing reaches the network."""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

# Set before anything imports a Hugging Face library, which reads them once.
# Tiny models gain nothing from a second thread, and lose much of it beside another busy process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


WORDS = (
    *("good", "bad", "fine", "awful", "great", "poor", "film", "book", "meal", "hotel", "the", "a", "was", "is"),
    *("very", "not", "好", "坏", "的", "电", "影", "书"),
)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder: a random BERT of two layers with a WordPiece vocabulary of a few words."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = list(dict.fromkeys(vocabulary))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A folder with train.jsonl (48 rows) and dev.jsonl (16): two labels that a tiny model can learn."""
    import json
    import random

    chance = random.Random(0)
    folder = tmp_path / "reviews"
    folder.mkdir()
    for name, count in (("train", 48), ("dev", 16)):
        rows = []
        for i in range(count):
            label = ("positive", "negative")[i % 2]
            word = chance.choice(("good", "fine", "great") if i % 2 == 0 else ("bad", "awful", "poor"))
            filler = " ".join(chance.choice(WORDS[6:16]) for _ in range(chance.randint(1, 4)))
            rows.append({"text": f"the {filler} was {word}", "label": label})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def calm_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_bert` without dropout, so that two ways to compute one thing can be compared in training."""
    import json
    import shutil

    folder = tmp_path_factory.mktemp("calm") / "bert"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


NOUNS = {"film": "WORK", "book": "WORK", "hotel": "PLACE", "meal": "FOOD", "电影": "WORK", "书": "WORK"}


def _row(kind: str, i: int, chance: random.Random) -> dict[str, object]:
    """Row i of a tiny data set; texts have 2 to about 30 tokens, words in pieces and Chinese among them."""
    good = i % 2 == 0
    noun = chance.choice(sorted(NOUNS))
    filler = " ".join(
        chance.choice(("the", "a", "very", "not", "zoo", "is", "x9")) for _ in range(chance.randint(0, 9))
    )
    start = len(filler) + 1 if filler else 0
    text = f"{filler} {noun} {'good' if good else 'bad'}".strip()
    pair = f"{noun} {'great' if chance.random() < 0.5 else 'poor'}"
    if kind == "labels":
        return {"text": text, "label": [name for name, on in (("good", good), ("work", NOUNS[noun] == "WORK")) if on]}
    if kind == "pair":
        return {"text": text, "text_pair": pair, "label": "yes" if good else "no"}
    if kind == "score":
        return {"text": text, "text_pair": pair, "label": round(5 * chance.random(), 2) if i > 1 else 5.0 * i}
    if kind == "entities":
        entity = {"start": start, "end": start + len(noun), "label": NOUNS[noun]}
        return {"text": text, "label": [] if i % 7 == 6 else [entity]}
    return {"text": text, "label": "good" if good else "bad"}


@pytest.fixture
def tiny_data(tmp_path: Path) -> Callable[[str], Path]:
    """kind → a folder with train.jsonl (24 rows) and dev.jsonl (11); kinds: label, labels, pair, score, entities."""
    import json

    def make(kind: str) -> Path:
        folder = tmp_path / f"data-{kind}"
        folder.mkdir(exist_ok=True)
        for name, count, seed in (("train", 24, 1), ("dev", 11, 2)):
            chance = random.Random(seed)
            rows = [_row(kind, i, chance) for i in range(count)]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return folder

    return make


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What a call of the command line ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Spoken]:
    """`flagai` as the shell calls it, in this process: (arguments, standard input) → exit code and what it wrote."""
    from flagai.cli import main

    def call(*arguments: object, stdin: str | bytes = "") -> Spoken:
        monkeypatch.setattr(sys, "argv", ["flagai", *map(str, arguments)])
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        wrote = capsys.readouterr()
        return Spoken(code=code, out=wrote.out, err=wrote.err)

    return call


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever moves a model to a device fails the test."""
    from flagai.parallel.native import SingleProcess

    def place(self: SingleProcess, model: object) -> object:
        pytest.fail("a model was moved to a device before its input was checked")

    monkeypatch.setattr(SingleProcess, "place", place)


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a socket fails the test."""
    import socket

    class Closed(socket.socket):
        def __init__(self, *arguments: object, **options: object) -> None:
            pytest.fail("a socket was opened")

    monkeypatch.setattr(socket, "socket", Closed)
    monkeypatch.setattr(socket, "create_connection", Closed)


@pytest.fixture(scope="session")
def trained_once(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run: `tiny_bert` after a few steps on good and bad films. Not to be changed."""
    import json

    from flagai import Trainer, load_config

    folder = tmp_path_factory.mktemp("trained")
    chance = random.Random(1)
    rows = [_row("label", i, chance) for i in range(24)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "model": str(tiny_bert),
        "task": "classification",
        "data": {"train": str(folder / "train.jsonl")},
        "train": {"max_steps": 3, "batch_size": 8, "device": "cpu"},
        "output": str(folder / "run"),
    }
    Trainer(load_config(settings)).train()
    return folder / "run"


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged at will."""
    import shutil

    return Path(shutil.copytree(trained_once, tmp_path / "trained"))
