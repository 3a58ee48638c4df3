"""Folders without a config.json: what the released models are, told by the shapes of their tensors alone."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
import torch
from tests.models.glm.folders_of_weights import flagai
from tests.models.glm.test_layouts import weights

from flagai.errors import MissingFileError, ModelError
from flagai.models import tokenizers
from flagai.models.glm import folders
from flagai.models.glm.folders import glm_config
from flagai.models.glm.layouts import Shape, Sizes, expected_shapes

# layers, hidden size, attention heads, positions, rows of the vocabulary: the table of released models
RELEASED = {
    "GLM-base": (12, 768, 12, 512, 30592),
    "GLM-large": (24, 1024, 16, 512, 30592),
    "GLM-large-chinese": (24, 1024, 16, 1024, 50048),
    "GLM-roberta-large": (24, 1024, 16, 512, 50304),
    "GLM-410M": (30, 1024, 16, 512, 30592),
    "GLM-515M": (30, 1152, 18, 512, 30592),
    "GLM-2B": (36, 2048, 32, 1024, 50304),
    "GLM-10B": (48, 4096, 64, 1024, 50304),
    "GLM-10B-chinese": (48, 4096, 64, 1024, 50048),
}


def hollow(file: Path, shapes: dict[str, Shape]) -> None:
    """A safetensors file that says it is large and takes no space: its data are a hole."""
    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at := at + 2 * prod(shape)]}
    told = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(told).to_bytes(8, "little") + told)
        opened.truncate(8 + len(told) + at)


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_model_needs_no_config_file(tmp_path: Path, name: str) -> None:
    layers, hidden, heads, positions, rows = RELEASED[name]
    sizes = Sizes(num_layers=layers, hidden_size=hidden, vocab_size=rows, max_sequence_length=positions)
    hollow(tmp_path / "model.safetensors", expected_shapes(sizes))
    config = glm_config(tmp_path)
    assert config is not None and config.num_attention_heads == heads and config.head_dim == 64
    told = config.num_layers, config.hidden_size, config.max_sequence_length, config.vocab_size
    assert told == (layers, hidden, positions, rows)


def test_the_table_has_no_other_sizes() -> None:
    assert folders._HEADS.keys() == {(layers, hidden) for layers, hidden, *_ in RELEASED.values()}


def test_other_sizes_are_not_guessed(tmp_path: Path) -> None:
    hollow(tmp_path / "model.safetensors", {name: tuple(t.shape) for name, t in weights().items()})
    with pytest.raises(ModelError, match="number of attention heads is not known"):
        glm_config(tmp_path)


def test_a_tokenizer_opens_the_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the names of the tensors tell whose tokenizer is wanted."""
    folder = flagai(tmp_path / "model")
    (folder / "config.json").unlink()
    opened: list[Path] = []
    read = folders.read_pickle
    monkeypatch.setattr(folders, "read_pickle", lambda file: opened.append(file) or read(file))
    with pytest.raises(MissingFileError):
        tokenizers.build_tokenizer(folder)
    assert opened == [folder / "pytorch_model.bin"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na")
    torch.save({"bert.x": torch.ones(1)}, other / "pytorch_model.bin")
    opened.clear()
    assert "Bert" in type(tokenizers.build_tokenizer(other)).__name__ and len(opened) == 1
