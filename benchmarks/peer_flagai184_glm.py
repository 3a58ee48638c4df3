"""The fields of flagai 1.8.4's GLM, as its AutoLoader takes them from the config.json of GLM-large-ch."""

from __future__ import annotations

from typing import Any


def fields(*, layers: int, vocab: int, hidden: int, heads: int, positions: int, dropout: float) -> dict[str, Any]:
    """What its GLM classes read, for `change_json_to_cls`."""
    return {
        "num_layers": layers,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "embedding_dropout_prob": dropout,
        "attention_dropout_prob": dropout,
        "output_dropout_prob": dropout,
        "max_sequence_length": positions,
        "max_memory_length": 511,
        "checkpoint_activations": False,
        "checkpoint_num_layers": 1,
        "parallel_output": True,
        "relative_encoding": False,
        "block_position_encoding": True,
        "output_predict": True,
        "spell_length": None,
        "spell_func": "lstm",
        "attention_scale": 1.0,
    }
