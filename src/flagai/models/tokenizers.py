"""Tokenizers: the fast one of a folder, or a new one with a character per token.

It knows no model and no task, and runs no code from a folder.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import CheckpointError, DataError, MissingFileError, ModelError
from flagai.models.checkpoints import iteration_folder, read_json
from flagai.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CASED_SHARE: Final = 0.05


def build_tokenizer(folder: str | Path, *, model_max_length: int | None = None) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a folder (character offsets need one).

    A folder with `vocab.txt` alone, as the original writes it, is a BERT WordPiece tokenizer; a GLM has its own
    (`models/glm/tokenization.py`), and so have CPM and T5-PEGASUS (`models/tokenization_words.py`). A decoder without a
    padding token pads with its end-of-text token.
    Errors: `MissingFileError` without vocabulary, `ModelError` where no fast tokenizer can be had, `CheckpointError`
    for damaged files.
    """
    given, folder = Path(folder), _tokenizer_folder(Path(folder))
    glm = _is_glm(given, folder)
    tokenizer = _glm_tokenizer(folder) if glm else _words_tokenizer(given, folder) or _load(folder)
    if not tokenizer.is_fast:
        raise _no_fast(folder, type(tokenizer).__name__)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if model_max_length is not None:
        tokenizer.model_max_length = model_max_length
    return tokenizer


def _is_glm(given: Path, folder: Path) -> bool:
    """Whether a folder holds a GLM of 2022 or the tokenizer of one; `folder` is it or the iteration inside it."""
    from flagai.models.glm.folders import find_glm
    from flagai.models.glm.tokenization_folders import recognise

    known = any(recognise(place) is not None for place in dict.fromkeys((folder, given)))
    return known or find_glm(given) is not None  # which may open the weights, of the iteration too: once


def _glm_tokenizer(folder: Path) -> Any:
    from flagai.models.glm.tokenization import GLMTokenizer, glm_tokenizer_of

    made = glm_tokenizer_of(folder)
    return GLMTokenizer.from_vocabulary(folder) if made is None else made


def _words_tokenizer(given: Path, folder: Path) -> Any:
    """CPM's or T5-PEGASUS', where the folder holds one."""
    from flagai.models.tokenization_words import words_tokenizer_of

    file = iteration_folder(given) / "config.json"
    return words_tokenizer_of(folder, read_json(file) if file.is_file() else {})


def _tokenizer_folder(folder: Path) -> Path:
    inner = iteration_folder(folder)
    names = {entry.name for entry in inner.iterdir()}
    found = names & {*_FILES, "vocab.txt"} or any(name.endswith(".model") for name in names)
    return inner if found else folder


def _load(folder: Path) -> Any:
    present = [name for name in _FILES if (folder / name).is_file()]
    if present == [] or (present == ["tokenizer_config.json"] and (folder / "vocab.txt").is_file()):
        return _wordpiece(folder)
    if "tokenizer.json" in present:
        read_json(folder / "tokenizer.json")
    from transformers import AutoTokenizer

    options = {"use_fast": True, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder), **options)
    except ImportError as error:
        raise _no_fast(folder, _first_line(error)) from error
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(folder, error) from error
    except Exception as error:
        if type(error) is not Exception:  # the Rust side raises bare exceptions
            raise
        raise _unreadable(folder, error) from error


def _wordpiece(folder: Path) -> Any:
    from transformers import BertTokenizer

    file = folder / "vocab.txt"
    if not file.is_file():
        raise MissingFileError(
            f"no tokenizer in {str(folder)!r}",
            expected=f"one of {', '.join(_FILES)}, vocab.txt",
            fix="copy the tokenizer's files into the folder, or name another by model.tokenizer",
        )
    try:
        # Not splitlines(): a line separator of Unicode may itself be a token.
        tokens = file.read_text("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"no UTF-8 text ({error})", where=str(file)) from error
    if lost := [token for token in ("[UNK]", "[CLS]", "[SEP]", "[PAD]") if token not in tokens]:
        raise ModelError(f"the vocabulary has no {', '.join(lost)}", expected="a BERT vocabulary", where=str(file))
    told = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    lower = told.get("do_lower_case", not _is_cased(tokens))
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, do_lower_case=lower)


def _is_cased(tokens: Iterable[str]) -> bool:
    """Whether a vocabulary knows capitals: more than stray ones among its words of Latin letters."""
    words = [token for token in tokens if token.isascii() and token.isalpha()]
    capitals = sum(any(c.isupper() for c in word) for word in words)
    return bool(words) and capitals > _CASED_SHARE * len(words)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unreadable(folder: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer cannot be loaded ({type(error).__name__}: {_first_line(error)})",
        expected="the tokenizer's files as transformers saves them",
        fix="copy or download the folder again; program code in a folder is never run",
        where=str(folder),
    )


def _no_fast(folder: Path, why: str) -> ModelError:
    return ModelError(
        f"there is no fast tokenizer for this folder ({why})",
        expected="a tokenizer.json: only fast tokenizers know which characters a token covers",
        fix="convert it once with transformers and save it into the folder (tokenizer.save_pretrained)",
        where=str(folder),
    )


def character_tokenizer(
    texts: Iterable[str],
    path: str | Path,
    *,
    min_count: int = 1,
    max_size: int | None = None,
    lowercase: bool = False,
    model_max_length: int = 512,
) -> PreTrainedTokenizerFast:
    """Make, save in the folder `path` and return a BERT tokenizer whose tokens are single characters.

    Tokens: [PAD] [UNK] [CLS] [SEP] [MASK], then the characters of the texts, the most frequent first (ties by code
    point), and the Latin letters and digits in any case. A character that can stand inside a word gets two tokens, `c`
    and `##c`, as WordPiece wants it (one unknown character makes its whole word unknown); Chinese characters and
    punctuation stand alone. `max_size` bounds the whole vocabulary. `lowercase` also takes accents off, as BERT does.
    Errors: `DataError` where the texts hold no characters.
    """
    from transformers import BertTokenizer

    backend = BertTokenizer(vocab={"[UNK]": 0}, do_lower_case=lowercase).backend_tokenizer
    counts = _count_characters(texts, backend)
    ordered = sorted((c for c in counts if counts[c] >= min_count), key=lambda c: (-counts[c], c))
    if not ordered:
        raise DataError("the texts hold no characters to learn from", fix="check the column of the text")
    latin = string.ascii_lowercase + string.digits + ("" if lowercase else string.ascii_uppercase)
    tokens = list(_SPECIAL)
    for character in dict.fromkeys([*ordered, *latin]):
        tokens += [character, f"##{character}"] if _joins(character, backend) else [character]
    vocab = {token: number for number, token in enumerate(tokens[:max_size])}
    made = BertTokenizer(vocab=vocab, do_lower_case=lowercase, model_max_length=model_max_length)
    made.save_pretrained(str(path))
    return build_tokenizer(path)


def _count_characters(texts: Iterable[str], backend: Any) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            counts.update(word)
    return counts


def _joins(character: str, backend: Any) -> bool:
    """Whether a character stays in one word with its neighbours (the splitter sets the others apart)."""
    return len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{character}a"))) == 1
