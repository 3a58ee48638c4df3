"""A GLM with the reference weights, and a small one with lively random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration

GLM = Path(__file__).parents[2] / "fixtures" / "glm"


def split_names(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Published bare names → ours; the tests' own few lines, so that the reference needs no code of the library."""
    ours: dict[str, torch.Tensor] = {}
    for name, array in state.items():
        tensor = torch.tensor(np.asarray(array))
        if "query_key_value" in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                ours["glm." + name.replace("query_key_value", part)] = piece.clone()
        else:
            ours["glm." + name] = tensor
    return ours


@pytest.fixture(scope="session")
def reference() -> Callable[..., GLMForConditionalGeneration]:
    """`reference(gelu="erf", attn_implementation="eager", …)`: the tiny GLM of the fixtures."""
    state = split_names(dict(np.load(GLM / "weights.npz")))

    def load(**settings: Any) -> GLMForConditionalGeneration:
        model = GLMForConditionalGeneration(GLMConfig.from_pretrained(GLM, **settings))
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert (missing, unexpected) == (["lm_head.weight"], [])
        return model.eval()

    return load


def lively(cls: Any = GLMForConditionalGeneration, *, seed: int = 0, **settings: Any) -> Any:
    """A small model whose outputs depend strongly on what it attends to."""
    sizes = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 60, "max_sequence_length": 48}
    config = GLMConfig(**(sizes | {"pad_token_id": 0, "eos_token_id": 59} | settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def filling() -> dict[str, torch.Tensor]:
    """A ragged batch of five: contexts of 8, 3, 7, 0 and 2 of 12, 7, 7, 9 and 3 tokens, padded on the right."""
    stream = torch.Generator().manual_seed(1)
    lengths = torch.tensor([12, 7, 7, 9, 3])
    mask = (torch.arange(12) < lengths[:, None]).long()
    return {
        "input_ids": torch.randint(1, 60, (5, 12), generator=stream) * mask,
        "attention_mask": mask,
        "context_length": torch.tensor([8, 3, 7, 0, 2]),
        "position_ids": torch.randint(0, 20, (5, 2, 12), generator=stream),
    }
