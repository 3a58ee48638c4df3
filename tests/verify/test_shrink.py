"""The small copy of a model is of its family, small, and without dropout; its vocabulary stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flagai.config import load_config
from flagai.models.build import read_config
from flagai.verify.parallel import _calm
from flagai.verify.shrink import shrunk_sizes, small_model

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "t5": ("T5ForConditionalGeneration", {"num_layers": 12, "num_heads": 12, "d_model": 768}),
    "opt": ("OPTForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"num_attention_heads": 16, "num_key_value_heads": 8, "hidden_size": 1024}),
    "modernbert": ("ModernBertForMaskedLM", {}),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_small_models_of_every_family(family: str) -> None:
    import torch
    import transformers

    kind, values = CONFIGS[family]
    large = transformers.AutoConfig.for_model(family, **values)
    sizes = shrunk_sizes(large.to_dict(), layers=3, width=32)
    small = type(large).from_dict(sizes)
    with torch.device("meta"):
        model = getattr(transformers, kind)(small)
    vocabulary = large.vocab_size
    assert small.vocab_size == vocabulary and model.get_input_embeddings().weight.shape[1] == 32
    assert sum(p.numel() for p in model.parameters()) < (2 * vocabulary + 8192) * 33 + 3 * 2 * 32 * 32 * 20
    assert not [name for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]


def test_our_own_family() -> None:
    from flagai.models.glm.configuration import GLMConfig

    large = GLMConfig(vocab_size=512, num_layers=24, hidden_size=1024, num_attention_heads=16)
    small = GLMConfig(**{k: v for k, v in shrunk_sizes(large.to_dict(), layers=3, width=32).items() if v is not None})
    assert (small.num_layers, small.hidden_size, small.num_attention_heads, small.vocab_size) == (3, 32, 4, 512)
    assert small.attention_dropout_prob == small.output_dropout_prob == small.embedding_dropout_prob == 0.0


def test_a_model_with_fewer_layers_keeps_them_and_its_groups() -> None:
    sizes = shrunk_sizes(
        {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8, "layer_types": ["a", "b"]},
        layers=4,
        width=64,
    )
    assert sizes == {
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "layer_types": ["a", "b"]
    }  # fmt: skip


def test_nothing_is_dropped_where_the_run_does_not_speak_of_it(tiny_bert: Path, reviews: Path, tmp_path: Path) -> None:
    """Random weights by a short `model.config`: the family's defaults drop a tenth; so may the head of the task."""
    config = load_config({
        "model": {"config": {"model_type": "bert", "num_hidden_layers": 3}, "tokenizer": str(tiny_bert)},
        "task": {"name": "classification", "dropout": 0.1},
        "data": {"train": str(reviews / "train.jsonl")},
    })  # fmt: skip
    start = small_model(_calm(config, 2), tmp_path / "small", layers=2, width=32, offline=True)
    small = read_config(tmp_path / "small")
    assert (small.hidden_size, small.num_hidden_layers, small.intermediate_size) == (32, 2, 64)
    assert small.hidden_dropout_prob == small.attention_probs_dropout_prob == start.task.dropout == 0.0
