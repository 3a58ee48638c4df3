"""Checkpoints of the original FlagAI of any family but GLM: which family, to Hugging Face's form, and back.

It knows no task and builds no model. `legacy_bert`, `legacy_gpt2`, `legacy_opt` and `legacy_t5` know the families.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from flagai.errors import CheckpointError, ModelError
from flagai.models import legacy_bert, legacy_gpt2, legacy_opt, legacy_t5
from flagai.models.legacy_bert import Converted

if TYPE_CHECKING:
    import torch

Family = Literal["bert", "gpt2", "opt", "t5"]
Form = Literal["autoloader", "trainer"]
"""for whom is written: the original's AutoLoader reads GPT-2 and OPT in another form than its Trainer writes them"""

_VOCAB_TXT: Final = {"pad_token_id": "[PAD]", "bos_token_id": "[CLS]", "eos_token_id": "[SEP]"}
_CPM: Final = {"pad_token_id": "<pad>", "bos_token_id": "<s>", "eos_token_id": "<eod>"}


def family_of(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> Family | None:
    """The family of a checkpoint that only the original writes; None for what transformers reads as it is.

    Args:
        shapes: of the tensors by name.
        config: the content of config.json, {} where there is none.
    """
    if any(".attention.self.query_key_value." in name for name in shapes):
        return "bert"
    if legacy_t5.is_t5(shapes, config):
        return "t5"
    typed = "model_type" in config
    if (native := legacy_gpt2.is_native(shapes)) is not None and (native or (not typed and "n_embd" in config)):
        return "opt" if legacy_opt.is_opt(shapes, config) else "gpt2"
    if not typed and "ffn_dim" in config and legacy_opt.has_huggingface_names(shapes):
        return "opt"
    return None


def to_huggingface(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], *, folder: Path | None = None
) -> Converted:
    """A state dict of the original (`{"module": …}` already taken off) and its config.json.

    Args:
        folder: where the vocabulary lies that says which tokens begin and end a text.
    Errors: `CheckpointError` where the tensors are of no family of the original, or contradict the configuration.
    """
    family = family_of({name: tuple(tensor.shape) for name, tensor in state.items()}, config)
    special = {} if folder is None else special_ids(folder)
    if family == "bert":
        return legacy_bert.to_huggingface(state, config)
    if family == "gpt2":
        return legacy_gpt2.to_huggingface(state, config, special)
    if family == "opt":
        made = legacy_opt.to_huggingface(state, config)
        return replace(made, config={**made.config, **special})
    if family == "t5":
        start = {"decoder_start_token_id": special["bos_token_id"]} if "bos_token_id" in special else {}
        return legacy_t5.to_huggingface(state, config, {**special, **start})
    raise CheckpointError("the tensors are of no family of the original", expected="BERT, GPT-2, CPM, OPT or T5")


def special_ids(folder: Path) -> dict[str, int]:
    """The ids by which the original's Predictor began, ended and padded texts: from vocab.txt, or CPM's vocab.json.

    {} where the folder has neither, nor the save folder around an iteration's.
    """
    if (folder.parent / "latest_iteration.txt").is_file() and not (folder / "vocab.txt").is_file():
        folder = folder.parent
    names, vocab = _VOCAB_TXT, _read_vocab_txt(folder / "vocab.txt")
    if vocab is None:
        names, vocab = _CPM, _read_cpm(folder)
    return {} if vocab is None else {field: vocab[token] for field, token in names.items() if token in vocab}


def _read_vocab_txt(file: Path) -> dict[str, int] | None:
    if not file.is_file():
        return None
    lines = file.read_text("utf-8", errors="replace").replace("\r\n", "\n").removesuffix("\n").split("\n")
    return {token: number for number, token in enumerate(lines)}


def _read_cpm(folder: Path) -> dict[str, int] | None:
    if not (folder / "chinese_vocab.model").is_file() or not (folder / "vocab.json").is_file():
        return None
    try:
        found = json.loads((folder / "vocab.json").read_text("utf-8"))
    except ValueError:
        return None  # whoever reads the vocabulary says what is wrong with it
    return found if isinstance(found, dict) else None


# back again


def export(model: Any, *, form: Form = "autoloader") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The original's state dict and config.json of a model of transformers, with or without a head of ours.

    Errors: `ModelError` for a model that the original cannot express.
    """
    stock = getattr(model, "body", model)
    kind = stock.config.model_type
    if kind == "bert":
        return legacy_bert.export(model)
    config = stock.config.to_dict()
    state = _with_prefix(stock)
    if kind == "gpt2":
        return legacy_gpt2.to_legacy(state, config, native=form == "trainer")
    if kind == "opt":
        return legacy_opt.to_legacy(state, config, native=form == "trainer")
    if kind in ("t5", "mt5"):
        return legacy_t5.to_legacy(state, config | {"scale_decoder_outputs": _is_scaled(stock.config)})
    raise ModelError(
        f"the original has no {type(stock).__name__}",
        expected="a BERT, GPT-2, OPT or T5 (GLM: layout flagai-original)",
        fix="save the model as a Hugging Face folder",
    )


def _with_prefix(model: Any) -> dict[str, torch.Tensor]:
    """The tensors under the names of the class with its output layer, whichever class the model is."""
    state = dict(model.state_dict())
    if model.base_model is not model:
        return state
    prefix = {"gpt2": "transformer.", "opt": "model."}.get(model.config.model_type, "")
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _is_scaled(config: Any) -> bool:
    """transformers changed between versions by which setting a T5 says that it scales in front of its output layer."""
    return bool(getattr(config, "scale_decoder_outputs", config.tie_word_embeddings))


def save_legacy(
    model: Any, folder: str | Path, *, form: Form = "autoloader", iteration: int | None = None, tokenizer: Any = None
) -> Path:
    """Write a model so that the original reads it; returns the folder written.

    `pytorch_model.bin` holds `{"module": state, "iteration": n}`; with `iteration`, both files go to
    `<folder>/<iteration>/` beside a `latest_iteration.txt`, and the form is the Trainer's. Of a tokenizer `vocab.txt`
    or `vocab.json` and `merges.txt` are written; CPM's SentencePiece file must be copied.
    Errors: `ModelError` for a model the original cannot express.
    """
    from flagai.data.whole import whole_folder

    state, config = export(model, form=form if iteration is None else "trainer")
    target = Path(folder) if iteration is None else Path(folder) / str(iteration)
    with whole_folder(target) as place:
        write_files(state, config, place, iteration=iteration or 0)
        if tokenizer is not None:
            _save_tokenizer(tokenizer, place)
    if iteration is not None:
        Path(folder, "latest_iteration.txt").write_text(f"{iteration}\t{iteration}", "utf-8")
    return target


def write_files(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any], folder: Path, *, iteration: int = 0
) -> None:
    """What `export` gave as `pytorch_model.bin` and `config.json` of a folder that is there."""
    from flagai.models import pickles

    module = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    pickles.save({"iteration": iteration, "module": module}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """The files that the original reads; CPM's cannot be made again, so that ours are written."""
    kind = type(tokenizer.backend_tokenizer.model).__name__
    if kind == "WordPiece":
        legacy_bert.save_vocab(tokenizer, folder)
    elif kind == "BPE" and not hasattr(tokenizer, "words"):
        tokenizer.backend_tokenizer.model.save(str(folder))
    else:  # which flagai reads
        tokenizer.save_pretrained(folder)
