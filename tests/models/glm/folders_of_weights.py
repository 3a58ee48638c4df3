"""The tiny GLM of the fixtures as a folder of every layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests.models.glm.conftest import GLM, split_names
from tests.models.glm.test_layouts import cut_slowly, weights
from torch import Tensor

from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration

Make = Callable[[Path], Path]


def published(**changes: Any) -> str:
    return json.dumps(json.loads((GLM / "config.json").read_text("utf-8")) | changes)


def original(**changes: Any) -> str:
    """FlagAI's config.json: the numbers, and no model_type."""
    values = json.loads(published(max_memory_length=0, **changes))
    return json.dumps({name: value for name, value in values.items() if name not in ("model_type", "_gelu")})


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def deepspeed(folder: Path, ranks: int = 1, *, dtype: torch.dtype = torch.float32, **extra: Any) -> Path:
    inner = folder / "7"
    inner.mkdir(parents=True)
    for rank in range(ranks):
        state = {name: cut_slowly(name, t.to(dtype), ranks)[rank].clone() for name, t in weights().items()}
        content = {"module": state, "mp_world_size": ranks, "iteration": 7, "global_steps": 7, "optimizer": None}
        torch.save(content | extra, inner / f"mp_rank_{rank:02d}_model_states.pt")
    (folder / "latest").write_text("7")
    (folder / "config.json").write_text(published())
    return folder


def deepspeed_tag(folder: Path) -> Path:
    inner = deepspeed(folder) / "7"
    (folder / "config.json").rename(inner / "config.json")
    return inner


def real_two_shards(folder: Path) -> Path:
    shutil.copytree(GLM / "ds_MP2", folder)
    (folder / "config.json").write_text(published())
    return folder


def real_hub(folder: Path) -> Path:
    return Path(shutil.copytree(GLM / "hf", folder))


def hub(folder: Path, prefix: str = "glm.", *, sharded: bool = False, stray: bool = False) -> Path:
    folder.mkdir()
    state = prefixed(prefix, weights())
    state |= {"dense.weight": torch.ones(64, 64), "out_proj.weight": torch.ones(2, 64)} if stray else {}
    (folder / "config.json").write_text(published(architectures=["GLMModel"], auto_map={"AutoModel": "m.GLMModel"}))
    if not sharded:
        save_file(state, folder / "model.safetensors")
        return folder
    table = {}
    for number in range(3):
        file = f"pytorch_model-{number + 1:05d}-of-00003.bin"
        part = dict(list(state.items())[number::3])
        torch.save(part, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


def flagai(folder: Path, *, wrapped: bool = False, legacy: bool = False) -> Path:
    folder.mkdir()
    state: Any = {"module": prefixed("model.", weights())} if wrapped else weights()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (folder / "config.json").write_text(original())
    return folder


def flagai_slices(folder: Path, ranks: int = 4) -> Path:
    folder.mkdir()
    for rank in range(ranks):
        state = {name: cut_slowly(name, tensor, ranks)[rank].clone() for name, tensor in weights().items()}
        torch.save({"module": state}, folder / f"pytorch_model_{rank:02d}.bin")
    (folder / "config.json").write_text(original())
    return folder


def ours(folder: Path, *, most: str = "50GB") -> Path:
    model = GLMForConditionalGeneration(GLMConfig.from_pretrained(GLM))
    model.load_state_dict(split_names(dict(np.load(GLM / "weights.npz"))), strict=False)
    model.save_pretrained(folder, max_shard_size=most)
    return folder


LAYOUTS: dict[str, tuple[str, Make]] = {
    "deepspeed": ("thudm", deepspeed),
    "deepspeed, the tag itself": ("thudm", deepspeed_tag),
    "deepspeed, two shards of the original": ("thudm", real_two_shards),
    "deepspeed, four shards": ("thudm", lambda folder: deepspeed(folder, 4)),
    "hub, pickle of the original": ("huggingface", real_hub),
    "hub, bare": ("huggingface", lambda folder: hub(folder, "")),
    "hub, sharded pickles": ("huggingface", lambda folder: hub(folder, sharded=True)),
    "hub, with layers of no use": ("huggingface", lambda folder: hub(folder, stray=True)),
    "FlagAI": ("flagai-original", flagai),
    "FlagAI, module and model": ("flagai-original", lambda folder: flagai(folder, wrapped=True)),
    "FlagAI, before torch 1.6": ("flagai-original", lambda folder: flagai(folder, legacy=True)),
    "FlagAI, slices": ("flagai-original", flagai_slices),
    "ours": ("flagai", ours),
    "ours, sharded": ("flagai", lambda folder: ours(folder, most="200KB")),
}
