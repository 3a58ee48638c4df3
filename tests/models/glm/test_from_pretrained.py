"""`from_pretrained` of the model classes: published layouts from a folder or the hub's cache, and nothing at random."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.glm.folders_of_weights import deepspeed, hub, ours
from tests.models.glm.test_layouts import weights

from flagai.errors import CheckpointError, ModelError, OfflineError
from flagai.models.glm.heads import GLMForSequenceClassification
from flagai.models.glm.modeling import GLMForConditionalGeneration, GLMModel
from flagai.models.glm.reading import load_published

KEY = "transformer.layers.1.attention.key.weight"


def cached(cache: Path, folder: Path) -> Path:
    """A folder as the Hugging Face cache keeps THUDM/glm-x."""
    repository = cache / "models--THUDM--glm-x"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    return Path(shutil.copytree(folder, repository / "snapshots" / ("a" * 40)))


def test_an_id_of_the_hub_is_read_as_its_folder(tmp_path: Path) -> None:
    cached(tmp_path / "cache", hub(tmp_path / "model"))
    model = GLMForConditionalGeneration.from_pretrained("THUDM/glm-x", cache_dir=tmp_path / "cache")
    key = weights()[KEY.replace("key", "query_key_value")].chunk(3)[1]
    assert torch.equal(model.get_parameter(f"glm.{KEY}"), key)
    again = GLMForConditionalGeneration.from_pretrained(
        "THUDM/glm-x", cache_dir=tmp_path / "cache", revision="main", local_files_only=True
    )
    assert torch.equal(again.get_parameter(f"glm.{KEY}"), key)
    with pytest.raises(OfflineError, match="THUDM/glm-y"):
        GLMModel.from_pretrained("THUDM/glm-y", cache_dir=tmp_path / "cache", local_files_only=True)


def test_an_id_of_our_layout_is_read_by_transformers(tmp_path: Path) -> None:
    cached(tmp_path / "cache", ours(tmp_path / "model"))
    model, told = GLMModel.from_pretrained("THUDM/glm-x", cache_dir=tmp_path / "cache", output_loading_info=True)
    assert not told["missing_keys"]
    assert torch.equal(model.word_embeddings.weight, weights()["word_embeddings.weight"])


def changed(folder: Path, *, lost: str = "", new: str = "") -> Path:
    state = load_file(folder / "model.safetensors")
    state.pop(lost, None)
    state |= {new: torch.ones(2)} if new else {}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("cls", [GLMForConditionalGeneration, GLMModel, GLMForSequenceClassification])
def test_our_folder_with_a_name_too_few_or_too_many_is_refused(tmp_path: Path, cls: Any) -> None:
    lost = changed(ours(tmp_path / "lost"), lost=f"glm.{KEY}")
    with pytest.raises(CheckpointError, match=KEY):
        cls.from_pretrained(lost)
    more = changed(ours(tmp_path / "more"), new="glm.transformer.layers.9.new.weight")
    with pytest.raises(CheckpointError, match=r"no place in the model: .*layers\.9\.new"):
        cls.from_pretrained(more)


def test_a_head_may_be_new_or_left_over(tmp_path: Path) -> None:
    model, told = GLMForSequenceClassification.from_pretrained(ours(tmp_path / "body"), output_loading_info=True)
    assert {"dense.weight", "out_proj.bias"} <= set(told["missing_keys"])
    model.save_pretrained(tmp_path / "classifier")
    body = GLMForConditionalGeneration.from_pretrained(tmp_path / "classifier")
    assert torch.equal(body.glm.word_embeddings.weight, weights()["word_embeddings.weight"])
    _, told = GLMForSequenceClassification.from_pretrained(hub(tmp_path / "hub"), output_loading_info=True)
    assert {"dense.weight", "out_proj.bias"} <= set(told["missing_keys"]), "a published folder says it likewise"


@pytest.mark.parametrize("name", ["float16", "torch.float16", torch.float16])
def test_a_dtype_has_a_name(tmp_path: Path, name: Any) -> None:
    folder = deepspeed(tmp_path / "model")
    assert GLMForConditionalGeneration.from_pretrained(folder, dtype=name).dtype == torch.float16
    assert GLMForConditionalGeneration.from_pretrained(folder, torch_dtype=name).dtype == torch.float16


def test_one_device_is_taken_in_any_words_and_the_rest_refused(tmp_path: Path) -> None:
    folder = deepspeed(tmp_path / "model")
    for one in ("cpu", {"": "cpu"}, torch.device("cpu"), None):
        assert load_published(GLMModel, folder, device_map=one).device.type == "cpu"
    for many in ("auto", {"glm": "cpu", "lm_head": "cpu"}, {}, 1.5):
        with pytest.raises(ModelError, match="takes no device_map"):
            load_published(GLMModel, folder, device_map=many)
    for kind in ("half a byte", "int8", 16, {"glm": "float16"}):
        with pytest.raises(ModelError, match=r"the dtype .* is none that weights can have"):
            load_published(GLMModel, folder, dtype=kind)
