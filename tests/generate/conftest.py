"""A GLM that does stop: random weights on which the original program's answers were recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flagai.models.glm.commands import Commands
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration

FIXTURES = Path(__file__).parents[1] / "fixtures" / "glm"


@pytest.fixture(scope="session")
def model() -> Any:
    """4 layers, hidden 64, vocabulary 1000, 64 positions."""
    made = GLMForConditionalGeneration(GLMConfig.from_dict(json.loads((FIXTURES / "config.json").read_text())))
    names = {"query": 0, "key": 1, "value": 2}
    with np.load(FIXTURES / "weights_gen.npz") as weights, torch.no_grad():
        for name, parameter in made.glm.named_parameters():
            part = next((part for part in names if f"attention.{part}." in name), None)
            stored = torch.from_numpy(weights[name.replace(f".{part}.", ".query_key_value.")])
            parameter.copy_(stored if part is None else stored.chunk(3)[names[part]])
    made.tie_weights()
    return made.eval()


@pytest.fixture(scope="session")
def commands() -> Commands:
    """The command tokens of the recorded runs; those that do not occur there have ids of their own."""
    masks = {"mask": 993, "smask": 994, "gmask": 995}
    return Commands(cls=996, eos=992, pad=992, sep=997, unk=998, sop=990, eop=991, dblock=989, **masks)


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """What the original program answered."""
    return json.loads((FIXTURES / "generate.json").read_text())
