"""Tiny random models of the four families that write, with tokenizers of characters, and their tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flagai.config import TaskConfig
from flagai.models.build import build_from_config
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.models.tokenizers import character_tokenizer
from flagai.tasks.generation import GenerationTask
from flagai.tasks.table import make_task

FAMILIES = ("glm", "encoder-decoder", "decoder", "encoder")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES: dict[str, dict[str, Any]] = {
    "glm": {"model_type": "flagai_glm", "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2},
    "encoder-decoder": {"model_type": "t5", "num_layers": 2, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2},
    "decoder": {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2},
    "encoder": {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
    | {"intermediate_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
DECODER_QUIET = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def tokenizer_for(family: str, folder: Path, positions: int = 48) -> Any:
    """A tokenizer of letters: with a GLM's commands, or of BERT's kind."""
    if family != "glm":
        return character_tokenizer([LETTERS + "|.:/<>"], folder / "characters", model_max_length=positions)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), "|", ".", ":"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return GLMTokenizer.from_vocabulary(folder, task_mask=True, model_max_length=positions)


def settings(family: str, positions: int = 48) -> dict[str, Any]:
    """What `model.config` holds for a tiny model."""
    more: dict[str, dict[str, Any]] = {
        "glm": {"max_sequence_length": positions},
        "encoder-decoder": {"dropout_rate": 0.0},
        "decoder": {"n_positions": positions} | DECODER_QUIET,
        "encoder": {"max_position_embeddings": positions},
    }
    return SIZES[family] | more[family]


def model_for(family: str, tokenizer: Any, positions: int = 48) -> Any:
    """A random model whose weights are large enough for answers to differ."""
    task = task_for(family, tokenizer, positions=positions)
    model = build_from_config(
        settings(family, positions), task.head(), vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id
    )
    with torch.no_grad():
        chance = torch.Generator().manual_seed(1)
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and not name.endswith("relative_attention_bias.weight"):
                weight.copy_(torch.randn(weight.shape, generator=chance) * 0.25)
    return model


def task_for(
    family: str, tokenizer: Any, *, positions: int = 48, max_length: int | None = None, **options: Any
) -> GenerationTask:
    """A task that knows its model and may cut sources."""
    from flagai.models.loading import quiet_config

    config = quiet_config(settings(family, positions), "test")
    config.vocab_size = len(tokenizer)
    name = options.pop("name", "seq2seq")
    task = make_task(TaskConfig(name=name, **options), tokenizer, max_length=max_length or positions, config=config)
    assert isinstance(task, GenerationTask)
    return task
