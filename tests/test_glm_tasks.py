"""Every task of the toolkit on a GLM, through the real command line: trained, saved, loaded, answered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.glm.tokenization import GLMTokenizer


@pytest.fixture(scope="module")
def tiny_glm(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as flagai saves it: a random GLM of two layers over the vocabulary of `tiny_bert`."""
    folder = tmp_path_factory.mktemp("tiny-glm")
    (folder / "vocab.txt").write_bytes((tiny_bert / "vocab.txt").read_bytes())
    tokenizer = GLMTokenizer.from_vocabulary(folder / "vocab.txt", task_mask=True, model_max_length=64)
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)
    config = GLMConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        max_sequence_length=64,
        vocab_size=tokenizer.padded_vocab_size,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eop_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GLMForConditionalGeneration(config).save_pretrained(folder)
    return folder


CASES = {
    "classification": ("label", "good film"),
    "semantic-matching": ("pair", ("good film", "great film")),
    "ner": ("entities", "the film was good"),
    "ner-crf": ("entities", "the film was good"),
    "ner-gp": ("entities", "the film was good"),
    "embedding": ("score", "good film"),
}


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("task", CASES)
def test_trained_saved_and_asked(
    task: str, lora: bool, tiny_glm: Path, tiny_data: Callable[[str], Path], tmp_path: Path, cli: Callable
) -> None:
    from flagai import Predictor

    if lora:
        pytest.importorskip("peft")
    kind, question = CASES[task]
    config = {
        "model": {"name": str(tiny_glm), **({"lora": {"r": 2}} if lora else {})},
        "task": task,
        "data": {"train": str(tiny_data(kind))},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    ended = cli("train", tmp_path / "run.yaml")
    assert ended.code == 0, ended.err
    predictor = Predictor.from_folder(tmp_path / "run")
    once, again = predictor.predict([question, question])
    assert once == again
    saved = json.loads((tmp_path / "run" / "final" / "config.json").read_text("utf-8")) if not lora else {}
    assert "auto_map" not in saved


def test_classification_learns(tiny_glm: Path, reviews: Path, tmp_path: Path) -> None:
    from flagai import Trainer, load_config

    config = {
        "model": str(tiny_glm),
        "task": "classification",
        "data": {"train": str(reviews / "train.jsonl"), "eval": str(reviews / "dev.jsonl")},
        "train": {"epochs": 15, "batch_size": 8, "learning_rate": 1e-3},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
    result = Trainer(load_config(tmp_path / "run.yaml")).train()
    assert result.metrics["eval"]["accuracy"] >= 0.75  # 0.81 with this seed; half of the labels are each kind
