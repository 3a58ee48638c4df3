"""config.json of a GLM as each layout wants it. It knows no weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from flagai.models.glm.layouts import Layout

if TYPE_CHECKING:
    from flagai.models.glm.configuration import GLMConfig

_SIZES: Final = (
    "num_layers",
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "max_sequence_length",
    "embedding_dropout_prob",
    "attention_dropout_prob",
    "output_dropout_prob",
)
_REMOTE: Final = (*_SIZES, "attention_scale", "initializer_range", "pool_token", "layernorm_epsilon")


def config_json(config: GLMConfig, layout: Layout, *, classifier: str = "", dtype: str = "") -> dict[str, Any]:
    """The content of config.json.

    The remote code itself is not ours to write: its folders get no `auto_map`. THUDM's program reads none; there it
    tells us what the tensors cannot.

    Args:
        classifier: name of the class whose layers lie in the folder besides the body, "" for none.
        dtype: of the tensors, as in "float16", "" where they differ.
    """
    if layout == "flagai":
        values = json.loads(config.to_json_string()) | {"architectures": [classifier or "GLMForConditionalGeneration"]}
        values.pop("_name_or_path", None)
        return values | ({"dtype": dtype} if dtype else {})
    if layout == "huggingface":
        return _remote_code(config, classifier, dtype)
    return {name: getattr(config, name) for name in _REMOTE} | {"max_memory_length": 0}


def _remote_code(config: GLMConfig, classifier: str, dtype: str) -> dict[str, Any]:
    # The order and the constants are those of the published files.
    values = {name: getattr(config, name) for name in _REMOTE}
    values |= {
        "architectures": [classifier or "GLMModel"],
        "model_type": "glm",
        "block_position_encoding": True,
        "relative_encoding": False,
        "checkpoint_activations": False,
        "checkpoint_num_layers": 1,
        "output_predict": True,
        "parallel_output": True,
        "spell_func": "lstm",
        "spell_length": None,
    }
    if classifier:
        values |= {"id2label": config.id2label, "label2id": config.label2id}
    return dict(sorted(values.items())) | ({"torch_dtype": dtype} if dtype else {})
