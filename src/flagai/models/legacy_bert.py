"""The original's BERT and RoBERTa checkpoints to Hugging Face's names and back, tensor for tensor.

It knows no task and builds no model. Only this and `_compat` write pickles, in the original's own format.

The original's BERT differs from Hugging Face's in how it is written down, not in what it computes:

- query, key and value are one matrix `query_key_value` [3H, H], rows in that order;
- models with a head put `model.` before the body; the heads are `out_layer` (classification), `final_dense` (labels of
  tokens), `crf_layer.trans` ([from, to], no start and end scores) and `gp.dense` (per type a query and a key);
- the feed-forward layer is always 4 x hidden, whatever `intermediate_size` says, and the epsilon may be called
  `layernorm_epsilon` (1e-6 where neither name is given);
- attention is masked where `input_ids` is 0: `attention_mask` from a padding id of 0 is the same, as long as id 0 is
  never a token of the text. Masked scores get -10000 added, which no fp32 softmax can tell from minus infinity;
- its "RoBERTa" is a BERT with other weights: no offset positions, BERT's WordPiece vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from flagai.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    import torch

Kind = Literal["encoder", "embedding", "masklm", "classification", "sequence-labeling", "ner-crf", "ner-gp", "lm"]

_FUSED: Final = re.compile(r"^(.*\.attention\.self\.)query_key_value\.(weight|bias)$")
_QUERY: Final = re.compile(r"^(.*\.attention\.self\.)query\.(weight|bias)$")
_PARTS: Final = ("query", "key", "value")
_BODY: Final = ("embeddings.", "encoder.", "pooler.")
_CONFIG_NAMES: Final = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
)
_HEADS: Final[dict[str, dict[str, str]]] = {
    "classification": {"out_layer.": "classifier."},
    "sequence-labeling": {"final_dense.": "classifier."},
    "ner-crf": {"final_dense.": "classifier.", "crf_layer.trans": "head.transitions"},
    "ner-gp": {"gp.dense.": "head.dense."},
    "masklm": {"cls.predictions.decoder.bias": "cls.predictions.bias", "cls.predictions.": "cls.predictions."},
    "encoder": {},
    "embedding": {},
}
_ARCHITECTURES: Final = {
    "classification": "BertForSequenceClassification",
    "sequence-labeling": "BertForTokenClassification",
    "ner-crf": "BertForTokenClassification",
    "masklm": "BertForMaskedLM",
}


@dataclass(frozen=True, kw_only=True)
class Converted:
    """One checkpoint in Hugging Face's names."""

    kind: Kind
    """which of the original's BERT classes it comes from; "lm" for other families"""
    config: dict[str, Any]
    """the content of a Hugging Face config.json"""
    body: dict[str, torch.Tensor]
    """for the Hugging Face model: `bert.…`, and `classifier.…` or `cls.…`"""
    head: dict[str, torch.Tensor] = field(default_factory=dict)
    """for our own head on top of it: `transitions` (with transition_scale 1, no start and end scores) or `dense.…`"""
    dropped: tuple[str, ...] = ()
    """keys of the original without a counterpart"""


def to_huggingface(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Converted:
    """Convert a state dict of the original (`{"module": …}` already taken off) and its config.json.

    Errors: `CheckpointError` where the tensors are no BERT of the original or contradict the configuration.
    """
    kind = kind_of(state)
    body: dict[str, torch.Tensor] = {}
    head: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    for name, tensor in state.items():
        plain = name.removeprefix("module.").removeprefix("model.")
        if plain.startswith(_BODY):
            body.update(_split(f"bert.{_modern(plain)}", tensor))
        elif (new := _renamed(plain, _HEADS[kind])) is None:
            dropped.append(name)
        elif new.startswith("head."):
            head[new.removeprefix("head.")] = tensor
        else:
            body[_modern(new)] = tensor
    return Converted(
        kind=kind, config=config_to_huggingface(config, body, kind), body=body, head=head, dropped=tuple(dropped)
    )


def kind_of(state: Mapping[str, Any]) -> Kind:
    """Which of the original's classes a state dict belongs to, from the heads in it."""
    names = [name.removeprefix("module.") for name in state]
    signs: dict[str, Kind] = {
        "crf_layer.trans": "ner-crf",
        "gp.dense.": "ner-gp",
        "final_dense.": "sequence-labeling",
        "out_layer.": "classification",
        "cls.predictions.": "masklm",
    }
    for sign, kind in signs.items():
        if any(name.startswith(sign) for name in names):
            return kind
    return "embedding" if any(name.startswith("model.") for name in names) else "encoder"


def _modern(name: str) -> str:
    # TensorFlow's names for the two vectors of a LayerNorm, in files older than the original itself.
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _renamed(name: str, table: Mapping[str, str]) -> str | None:
    return next((new + name[len(old) :] for old, new in table.items() if name.startswith(old)), None)


def _split(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    match = _FUSED.match(name)
    if match is None:
        return {name: tensor}
    if tensor.shape[0] % 3:
        raise CheckpointError(f"{name} has {tensor.shape[0]} rows", expected="query, key and value of equal size")
    parts = tensor.chunk(3, dim=0)
    return {f"{match[1]}{part}.{match[2]}": rows.clone() for part, rows in zip(_PARTS, parts, strict=True)}


def config_to_huggingface(
    config: Mapping[str, Any], body: Mapping[str, torch.Tensor], kind: Kind = "encoder"
) -> dict[str, Any]:
    """A Hugging Face BERT configuration; sizes the tensors can tell are taken from them.

    Errors: `CheckpointError` where config.json lacks what the tensors cannot tell, or contradicts them.
    """
    words = body.get("bert.embeddings.word_embeddings.weight")
    heads = config.get("num_attention_heads")
    if words is None or not isinstance(heads, int):
        what = "no word embeddings among the tensors" if words is None else "no num_attention_heads in config.json"
        raise CheckpointError(what, expected="a BERT or RoBERTa checkpoint of the original FlagAI")
    hidden = words.shape[1]
    if config.get("hidden_size", hidden) != hidden or hidden % heads:
        raise CheckpointError(
            f"config.json has hidden_size {config.get('hidden_size')} and {heads} heads, the tensors {hidden} columns",
            fix="config.json and weights must be of one model",
        )
    out = {name: config[name] for name in _CONFIG_NAMES if name in config}
    layers = {int(m[1]) for name in body if (m := re.match(r"bert\.encoder\.layer\.(\d+)\.", name))}
    out |= {
        "model_type": "bert",
        "architectures": [_ARCHITECTURES.get(kind, "BertModel")],
        "vocab_size": words.shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "intermediate_size": 4 * hidden,
        "layer_norm_eps": config.get("layernorm_epsilon", config.get("layer_norm_eps", 1e-6)),
        "pad_token_id": 0,
    }
    labels = config.get("class_num")
    if isinstance(labels, int) and labels > 0:
        out |= {
            "id2label": {i: f"LABEL_{i}" for i in range(labels)},
            "label2id": {f"LABEL_{i}": i for i in range(labels)},
        }
    return out


# back again


def to_legacy(
    body: Mapping[str, torch.Tensor], head: Mapping[str, torch.Tensor] | None = None, *, kind: Kind
) -> dict[str, torch.Tensor]:
    """The original's state dict from Hugging Face tensors (`bert.…` or without the prefix) and our head's.

    Errors: `ModelError` for tensors the original has no place for.
    """
    import torch

    prefix = "" if kind == "encoder" else "model."
    back = {new: old for old, new in _HEADS[kind].items()}
    out: dict[str, torch.Tensor] = {}
    foreign: list[str] = []
    everything = dict(body) | {f"head.{name}": tensor for name, tensor in (head or {}).items()}
    for name, tensor in everything.items():
        plain = name.removeprefix("bert.")
        if name.endswith("embeddings.position_ids") or (name == "cls.predictions.decoder.bias" and kind == "masklm"):
            continue  # a counter, and the second name of one and the same bias
        if not plain.startswith(_BODY):
            new = _renamed(name, back)
            foreign += [name] if new is None else []
            out |= {} if new is None else {new: tensor}
        elif match := _QUERY.match(plain):
            rows = [everything[name.replace(".self.query.", f".self.{part}.")] for part in _PARTS]
            out[f"{prefix}{match[1]}query_key_value.{match[2]}"] = torch.cat(rows)
        elif not re.search(r"\.self\.(key|value)\.", plain):
            out[prefix + plain] = tensor
    _refuse_foreign(foreign, kind)
    return out


def _refuse_foreign(foreign: list[str], kind: str) -> None:
    if foreign:
        raise ModelError(
            f"the original's {kind} model has no place for {', '.join(sorted(foreign)[:8])}",
            expected=f"only the body and {', '.join(_HEADS[kind]) or 'no head'}",
            fix="save the model as a Hugging Face folder",
        )


def config_to_legacy(config: Mapping[str, Any], *, kind: Kind, inner_dim: int | None = None) -> dict[str, Any]:
    """The original's config.json from Hugging Face's.

    Errors: `ModelError` for what the original cannot express: another family, another feed-forward size.
    """
    if config.get("model_type") != "bert":
        raise ModelError(
            f"a model of the family {config.get('model_type')!r}",
            expected="BERT: the original writes its RoBERTa in the same format",
            fix="save it as a Hugging Face folder",
        )
    if config["intermediate_size"] != 4 * config["hidden_size"]:
        raise ModelError(
            f"intermediate_size is {config['intermediate_size']}",
            expected=f"{4 * config['hidden_size']}: the original always uses four times hidden_size",
            fix="save it as a Hugging Face folder",
        )
    out = {name: config[name] for name in _CONFIG_NAMES if name in config}
    out |= {"layernorm_epsilon": config["layer_norm_eps"], "checkpoint_activations": False}
    if kind in ("classification", "sequence-labeling", "ner-crf", "ner-gp"):
        out["class_num"] = len(config.get("id2label") or {}) or config.get("num_labels")
    if inner_dim is not None:
        out["inner_dim"] = inner_dim
    return out


def export(model: Any, *, kind: Kind | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The original's state dict and config.json of a BERT model (with or without a head of ours).

    Errors: `ModelError` for a model the original cannot express.
    """
    from flagai.models.headed import HeadedModel

    headed = isinstance(model, HeadedModel)
    stock = model.body if headed else model
    kind = kind or _kind_of_model(stock, model.head if headed else None)
    head = dict(model.head.state_dict()) if headed else {}
    scale = getattr(model.head, "transition_scale", 1.0) if headed else 1.0
    state = to_legacy(stock.state_dict(), _plain_head(head, scale), kind=kind)
    inner_dim = getattr(model.head, "inner_dim", None) if headed else None
    return state, config_to_legacy(stock.config.to_dict(), kind=kind, inner_dim=inner_dim)


def _kind_of_model(stock: Any, head: Any) -> Kind:
    if head is not None:
        kinds: dict[str, Kind] = {"CRF": "ner-crf", "GlobalPointer": "ner-gp", "Pooled": "embedding"}
        name = type(head).__name__
    else:
        name = type(stock).__name__
        kinds = {new: old for old, new in _ARCHITECTURES.items() if old != "ner-crf"} | {"BertModel": "encoder"}  # type: ignore[assignment]
    if name not in kinds:
        raise ModelError(f"the original has no counterpart of {name}", expected=f"one of {', '.join(kinds)}")
    return kinds[name]


def _plain_head(head: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Our CRF without what the original lacks: the scale is multiplied in; start and end scores must be zero."""
    out = dict(head)
    for name in ("start_transitions", "end_transitions"):
        if name in out and bool(out.pop(name).any()):
            raise ModelError(
                f"the CRF has learned {name}", expected="zeros: the original's CRF has none", fix="save it as it is"
            )
    if "transitions" in out and scale != 1.0:
        out["transitions"] = out["transitions"] * scale
    return out


def save_vocab(tokenizer: Any, folder: Path) -> None:
    """Write vocab.txt, one token a line. Errors: `ModelError` for a vocabulary with gaps."""
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if [number for _, number in vocab] != list(range(len(vocab))):
        raise ModelError("the vocabulary has gaps", expected="one token a line, as vocab.txt is", fix="fill the gaps")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocab), "utf-8")
