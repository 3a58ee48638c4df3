"""Published config.json files are read as ours, GLM-4's are left alone, and nothing asks a reader to run code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.glm.conftest import lively
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

import flagai.models.glm.registration  # noqa: F401 - the Auto classes
from flagai.errors import ModelError
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.folders import glm_config
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.loading import is_glm, quiet_config

PUBLISHED: dict[str, Any] = {
    "architectures": ["GLMModel"],
    "attention_dropout_prob": 0.1,
    "attention_scale": 1.0,
    "auto_map": {"AutoConfig": "configuration_glm.GLMConfig", "AutoModel": "modeling_glm.GLMModel"},
    "block_position_encoding": True,
    "checkpoint_activations": False,
    "checkpoint_num_layers": 1,
    "embedding_dropout_prob": 0.1,
    "hidden_size": 64,
    "initializer_range": 0.02,
    "max_sequence_length": 128,
    "model_type": "glm",
    "num_attention_heads": 4,
    "num_layers": 3,
    "output_dropout_prob": 0.1,
    "output_predict": True,
    "parallel_output": True,
    "pool_token": "cls",
    "relative_encoding": False,
    "spell_func": "lstm",
    "spell_length": None,
    "torch_dtype": "float32",
    "transformers_version": "4.23.1",
    "vocab_size": 200,
}


def folder(tmp_path: Path, **changes: Any) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED | changes), encoding="utf-8")
    return tmp_path


def test_a_published_file_is_read(tmp_path: Path) -> None:
    config = GLMConfig.from_pretrained(folder(tmp_path))
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (3, 64, 200)
    assert (config.max_position_embeddings, config.gelu, config.model_type) == (128, "tanh", "flagai_glm")
    assert GLMConfig.from_dict(dict(PUBLISHED)).num_layers == 3


def test_saving_drops_what_would_run_code(tmp_path: Path) -> None:
    config = GLMConfig.from_pretrained(folder(tmp_path))
    config.auto_map = PUBLISHED["auto_map"]
    config.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))
    assert "auto_map" not in saved
    assert saved["model_type"] == "flagai_glm"
    assert type(AutoConfig.from_pretrained(tmp_path / "again")) is GLMConfig


def test_flagai_files_name_no_type(tmp_path: Path) -> None:
    raw = {name: value for name, value in PUBLISHED.items() if name != "model_type"} | {"max_memory_length": 0}
    assert is_glm(raw) and type(quiet_config(raw, "")) is GLMConfig
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    assert GLMConfig.from_pretrained(tmp_path).num_layers == 3


def test_glm_4_stays_with_transformers(tmp_path: Path) -> None:
    from transformers import GlmConfig

    small = GlmConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=100, pad_token_id=0)
    small.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is GlmConfig
    assert not is_glm(small.to_dict())
    with pytest.raises(ModelError, match="GLM-4"):
        GLMConfig.from_pretrained(tmp_path)


def test_one_rule_says_what_a_glm_of_2022_is(tmp_path: Path) -> None:
    """A damaged file is one too, wherever it is read: its error names the field, and not another model."""
    raw = {name: value for name, value in PUBLISHED.items() if name != "max_sequence_length"}
    (tmp_path / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    for read in (GLMConfig.from_pretrained, glm_config):
        with pytest.raises(ModelError, match="no max_sequence_length"):
            read(tmp_path)
    assert is_glm({"model_type": "flagai_glm"}) and not is_glm(raw | {"model_type": "bert"}) and not is_glm({})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relative_encoding": True}, "relative_encoding"),
        ({"block_position_encoding": False}, "block_position_encoding"),
        ({"spell_length": 3}, "spell_length"),
        ({"intermediate_size": 100}, "intermediate_size"),
        ({"num_attention_heads": 5}, "no multiple"),
        ({"gelu": "relu"}, "'tanh' or 'erf'"),
        ({"pool_token": "mean"}, "pool_token is 'mean'"),
    ],
)
def test_branches_that_no_checkpoint_uses_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        GLMConfig.from_pretrained(folder(tmp_path, **changes))


def test_the_auto_classes_know_our_type(tmp_path: Path) -> None:
    model = lively()
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is GLMForConditionalGeneration
    assert again.lm_head.weight is again.glm.word_embeddings.weight
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)
        body = AutoModel.from_pretrained(tmp_path).eval()
        everything = torch.tensor([3])
        hidden = model.glm(ids, context_length=everything).last_hidden_state
        assert torch.equal(body(ids).last_hidden_state, hidden)


def test_an_adapter_can_be_put_on_and_taken_off(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = lively()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        before = model(ids).logits
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False, task_type=None)
    )
    with torch.no_grad():
        after = adapted(input_ids=ids).logits
        merged = adapted.merge_and_unload()(ids).logits
    assert (after - before).abs().max() > 1e-3
    assert (after - merged).abs().max() < 1e-4
