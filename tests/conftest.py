"""What all tests share: those marked `gpu` skip themselves where there is none, and nothing reaches the network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before anything imports a Hugging Face library, which reads them once.
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


WORDS = tuple("good bad fine awful great poor film book meal hotel the a was is very not 好 坏 的 电 影 书".split(" "))


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
