"""A GLM's folder goes through AutoLoader like any model, in every layout and for every task that reads texts."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.glm.conftest import GLM

from flagai import Predictor
from flagai.auto import AutoLoader, Loaded, load_saved, save_folder
from flagai.errors import CheckpointError, FlagaiError, ModelError
from flagai.models.build import build_from_config, build_model, read_config
from flagai.models.checkpoints import tokenizer_fits, verify_weights, weights_sha256
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.convert import convert
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.models.tokenizers import build_tokenizer
from flagai.tasks.base import HeadSpec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京静夜思。", *string.ascii_lowercase]
WORDS += [f"##{letter}" for letter in string.ascii_lowercase]
TASKS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["no", "yes"]},
    "semantic-matching": {"labels": ["0", "1"]},
    "ner": {"labels": ["PER", "LOC"]},
    "ner-crf": {"labels": ["PER", "LOC"]},
    "ner-gp": {"labels": ["PER", "LOC"]},
}
WRITING = HeadSpec(body="conditional-generation", num_labels=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The original's two shards, a config.json, and a vocabulary of letters."""
    folder = Path(shutil.copytree(GLM / "ds_MP2", tmp_path / "glm"))
    shutil.copyfile(GLM / "config.json", folder / "config.json")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", "utf-8")
    return folder


def asked(task: str, loaded: Loaded) -> Any:
    texts: Any = ("ab cd", "北京") if task == "semantic-matching" else "abc 北京"
    return Predictor(loaded.model, loaded.tokenizer).predict(texts)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_on_a_glm_and_its_saved_folder_answer_alike(tmp_path: Path, folder: Path, task: str) -> None:
    loader = AutoLoader(task, folder, **TASKS[task])
    loaded = Loaded(loader.get_model(), loader.get_tokenizer(), loader.get_task())
    assert isinstance(loaded.tokenizer, GLMTokenizer) and loaded.model.config.pad_token_id == 0
    assert not any(name.startswith(("glm.", "body.glm.")) for name in loaded.model.fresh_parameters)
    save_folder(tmp_path / "saved", loaded)
    raw = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert raw["model_type"] == "flagai_glm" and "auto_map" not in raw
    assert asked(task, load_saved(tmp_path / "saved")) == asked(task, loaded)
    assert load_saved(tmp_path / "saved").model.fresh_parameters == ()


def test_vectors_come_from_the_body_alone(folder: Path) -> None:
    loader = AutoLoader("embedding", folder)
    assert loader.get_model().fresh_parameters == ()
    first, second = (asked("embedding", Loaded(loader.get_model(), loader.get_tokenizer(), None)) for _ in range(2))
    assert first.vector == second.vector and len(first.vector) == 64


@pytest.mark.parametrize("layout", ["flagai", "huggingface", "thudm", "flagai-original"])
def test_every_layout_gives_the_same_answers(tmp_path: Path, folder: Path, layout: str) -> None:
    target = tmp_path / "converted"
    convert(folder, target, layout=layout, shards=2)
    (one, two) = (AutoLoader("classification", where, labels=["no", "yes"]) for where in (folder, target))
    answers = [asked("classification", Loaded(one.get_model(), one.get_tokenizer(), None)) for one in (one, two)]
    assert answers[0] == answers[1]


def test_models_beside_are_found_by_name(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "checkpoints")
    (tmp_path / "all").mkdir()
    (tmp_path / "checkpoints").rename(tmp_path / "all" / "GLM-large-ch")
    loader = AutoLoader("classification", "GLM-large-ch", model_dir="all", labels=["a", "b"])
    assert type(loader.get_model()).__name__ == "GLMForSequenceClassification"


def test_the_body_for_writing_has_nothing_new(folder: Path) -> None:
    model = build_model(folder, WRITING)
    assert type(model).__name__ == "GLMForConditionalGeneration" and model.fresh_parameters == ()
    tensor = model.glm.word_embeddings.weight
    assert torch.equal(tensor, build_model(folder, HeadSpec(body="encoder", num_labels=0)).word_embeddings.weight)
    scratch = build_from_config(json.loads(read_config(folder).to_json_string()), WRITING, vocab_size=70)
    assert scratch.lm_head.weight.shape == (70, 64) and scratch.lm_head.weight is scratch.glm.word_embeddings.weight


def test_configurations_are_read_as_ours(folder: Path) -> None:
    assert type(read_config(folder)) is GLMConfig and read_config(folder).num_attention_heads == 4
    assert verify_weights(folder).layout == "glm" and len(weights_sha256(folder)) == 64


def test_gpt_like_glm_of_transformers_stays_with_transformers(tmp_path: Path) -> None:
    from transformers import GlmConfig, GlmModel

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = GlmConfig(**sizes, num_hidden_layers=1, head_dim=16, vocab_size=50, pad_token_id=0, eos_token_id=1)
    GlmModel(config).save_pretrained(tmp_path)
    assert type(read_config(tmp_path)) is GlmConfig
    assert type(build_model(tmp_path, HeadSpec(body="encoder", num_labels=0))) is GlmModel


# what does not belong together


def test_a_vocabulary_beyond_the_weights(folder: Path) -> None:
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.writelines(f"token{number}\n" for number in range(1000))
    with pytest.raises(ModelError, match=r"special tokens lie beyond|rows"):
        AutoLoader("classification", folder, labels=["a", "b"])


def test_a_vocabulary_of_another_released_model(folder: Path) -> None:
    tokenizer = build_tokenizer(folder)
    for rows, other in ((50048, "chinese-large"), (50304, "gpt2"), (30592, "bert")):
        config = GLMConfig(num_layers=1, hidden_size=64, num_attention_heads=1, vocab_size=rows)
        with pytest.raises(ModelError, match=f"the tokenizer has .* embedding {rows} rows") as caught:
            tokenizer_fits(tokenizer, config)
        assert other in caught.value.expected


def test_a_model_without_a_vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    with pytest.raises(FlagaiError, match="vocabulary"):
        AutoLoader("classification", folder, labels=["a", "b"])


def test_an_incomplete_saved_model_is_refused(tmp_path: Path, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    loader = AutoLoader("classification", folder, labels=["no", "yes"])
    save_folder(tmp_path / "saved", Loaded(loader.get_model(), loader.get_tokenizer(), loader.get_task()))
    file = tmp_path / "saved" / "model.safetensors"
    state = load_file(file)
    del state["out_proj.bias"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not in the checkpoint: out_proj\.bias"):
        load_saved(tmp_path / "saved")
