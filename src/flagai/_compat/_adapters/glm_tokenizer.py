"""The original's GLM tokenizers by name and argument: each builds today's, which has the methods. Knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from flagai.errors import ConfigError
from flagai.models.glm.commands import LayoutName
from flagai.models.glm.tokenization import GLMTokenizer

_FOLDERS: Final = {"gpt2": "GLM-10b-en"}


class GLMLargeChTokenizer:
    """The Chinese tokenizer. What comes back is a `GLMTokenizer`.

    Args:
        vocab_path: cog-pretrain.model or the folder it lies in; default: that of GLM-large-ch.
        add_task_mask: with [sMASK] and [gMASK].
        add_decoder_mask: with [dBLOCK].
        fix_command_token: False numbers as the original 10B model does: [gMASK] and the end of a piece share an id.
    """

    def __new__(
        cls,
        vocab_path: str | None = None,
        add_block_symbols: bool = True,
        add_task_mask: bool = True,
        add_decoder_mask: bool = False,
        fix_command_token: bool = True,
    ) -> Any:
        layout: LayoutName = "chinese-large" if fix_command_token else "chinese-10b"
        return _made(vocab_path or "GLM-large-ch", layout, add_task_mask, add_decoder_mask)


class GLMLargeEnWordPieceTokenizer:
    """The English tokenizer over BERT's vocabulary. What comes back is a `GLMTokenizer`.

    Args:
        tokenizer_model_type: a name, or a folder with vocab.txt; `cache_dir` comes first.
    """

    def __new__(
        cls,
        tokenizer_model_type: str = "GLM-large-en",
        cache_dir: str | None = None,
        add_block_symbols: bool = True,
        add_sentinel_token: int = 0,
        add_task_mask: bool = True,
        add_decoder_mask: bool = False,
        **_: Any,
    ) -> Any:
        if add_sentinel_token > 0:
            raise ConfigError(
                f"add_sentinel_token={add_sentinel_token}",
                expected="0: no released model was trained with [MASK1], [MASK2], …",
                fix="leave it out",
                where="GLMLargeEnWordPieceTokenizer",
            )
        return _made(cache_dir or tokenizer_model_type, "bert", add_task_mask, add_decoder_mask)


class GLM10bENBPETokenizer:
    """The English tokenizer over GPT-2's vocabulary. What comes back is a `GLMTokenizer`, with its block symbols.

    Args:
        tokenizer_model_type: a name ("gpt2" is that of GLM-10b-en), or a folder with vocab.json and merges.txt.
    """

    def __new__(
        cls,
        tokenizer_model_type: str = "gpt2",
        add_block_symbols: bool = False,
        add_task_mask: bool = False,
        add_decoder_mask: bool = False,
    ) -> Any:
        return _made(tokenizer_model_type, None, add_task_mask, add_decoder_mask)


def _made(name: str, layout: LayoutName | None, task_mask: bool, dblock: bool) -> GLMTokenizer:
    path = Path(name)
    if not path.exists():
        from flagai._compat._adapters.bert import find_folder

        path = find_folder("./checkpoints/", _FOLDERS.get(name, name))
    return GLMTokenizer.from_vocabulary(path, layout=layout, task_mask=task_mask, dblock=dblock)
