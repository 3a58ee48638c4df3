"""A folder with a random little GLM over single characters, and with a vocabulary that has only [MASK]."""

from __future__ import annotations

from pathlib import Path

import torch

from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.glm.tokenization import GLMTokenizer

CHARACTERS = "静夜床前明月光疑是地上霜举头望低思故乡五言绝句七律诗无题，。：！？；abcdef"


def make_poet(folder: Path, *, task_mask: bool = True, seed: int = 0) -> Path:
    """2 layers of 32, 64 positions, an embedding rounded up to 64 rows."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(CHARACTERS)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    GLMTokenizer.from_vocabulary(folder / "vocab.txt", task_mask=task_mask).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = GLMConfig(
            num_layers=2,
            hidden_size=32,
            num_attention_heads=4,
            vocab_size=64,
            max_sequence_length=64,
            initializer_range=0.3,
            pad_token_id=0,
            eos_token_id=0,
        )
        GLMForConditionalGeneration(config).save_pretrained(folder)
    return folder
