"""A small copy of a user's model: fewer layers, narrower, without dropout, the same family and vocabulary.

It knows the words in which configurations name their sizes; it knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flagai.config import ModelConfig, RunConfig

_LAYERS: Final = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "num_decoder_layers",
    "encoder_layers",
    "decoder_layers",
)
_HEADS: Final = ("num_attention_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads")
_GROUPS: Final = ("num_key_value_heads",)
_WIDTHS: Final = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size")
_INNER: Final = ("intermediate_size", "d_ff", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim")
_HEAD: Final = ("head_dim", "d_kv")
_PER_LAYER: Final = ("layer_types", "mlp_layer_types")
HEADS: Final = 4


def shrunk_sizes(config: Mapping[str, Any], *, layers: int, width: int) -> dict[str, Any]:
    """A Hugging Face configuration with other sizes and without dropout.

    Args:
        layers: at most so many; of a configuration that has fewer all stay.
        width: of the hidden states, a multiple of four: there are four heads, two of keys where these are fewer.
    """
    numbers = ((_WIDTHS, width), (_INNER, 2 * width), (_HEADS, HEADS), (_HEAD, width // HEADS))
    sizes: dict[str, int] = {name: number for names, number in numbers for name in names}
    small: dict[str, Any] = {key: sizes.get(key, value) for key, value in config.items() if value is not None}
    small |= {key: min(value, layers) for key, value in small.items() if key in _LAYERS}
    for key in _GROUPS:
        if isinstance(there := config.get(key), int):
            heads = next((config[name] for name in _HEADS if name in config), there)
            small[key] = HEADS if there == heads else HEADS // 2
    for key in _PER_LAYER:
        if isinstance(config.get(key), list):
            small[key] = config[key][:layers]
    return {key: 0.0 if _drops(key, value) else value for key, value in small.items()}


def _drops(key: str, value: Any) -> bool:
    return isinstance(value, float) and ("dropout" in key or key.endswith(("_pdrop", "layerdrop")))


def small_model(config: RunConfig, folder: Path, *, layers: int, width: int, offline: bool) -> RunConfig:
    """Write a small random model of the run's family with its tokenizer into a folder; gives the run that starts there.

    Raises:
        FlagaiError: whatever is wrong with the model that the run names.
    """
    from flagai.auto import Loaded, save_folder
    from flagai.models.build import read_config
    from flagai.models.loading import quiet_config
    from flagai.train import assemble

    parts = assemble.ingredients(config, offline=offline)
    # As the model sees it: what a run leaves out (sizes, dropout) stands in the defaults of its family.
    whole = read_config(parts.folder) if parts.folder else quiet_config(config.model.config or {}, "model.config")
    sizes = shrunk_sizes(whole.to_dict(), layers=layers, width=width)
    for key in ("_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"):
        sizes.pop(key, None)
    parts.tokenizer.save_pretrained(folder)
    section = ModelConfig(config=sizes, tokenizer=str(folder), pooling=config.model.pooling)
    random = config.model_copy(update={"model": section})
    made = assemble.ingredients(random, offline=offline)
    model = assemble.new_model(random, made)
    save_folder(folder, Loaded(model, made.tokenizer, None))
    lora = config.model.lora and config.model.lora.model_copy(update={"dropout": 0.0})
    start = ModelConfig(name=str(folder), pooling=config.model.pooling, lora=lora)
    return config.model_copy(update={"model": start})
