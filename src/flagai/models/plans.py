"""The plans of the families: BERT-like, ModernBERT, GPT-2, OPT, T5, GLM; Llama-like ones as transformers has them.

It knows layers by their names only: which process gets what, and how, is decided in `parallel/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from flagai.errors import ModelError
from flagai.models.plan import Columns, Kept, Plan, Reader, Rows, Shared, Split, Stages, Vocabulary

_HEADS: Final = "num_attention_heads"
_OUTPUT: Final = Columns(gather=True, optional=True)


def _gpt2_as_linear(model: Any) -> dict[str, Kept]:
    """Conv1D keeps [in, out], which cannot be divided by columns; a Linear of the transposed weight is the same."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kept: dict[str, Kept] = {}
    for name, parent in list(model.named_modules()):
        for child, old in list(parent.named_children()):
            if type(old) is not Conv1D:
                continue
            new = nn.Linear(old.weight.shape[0], old.weight.shape[1], device="meta", dtype=old.weight.dtype)
            new.weight = nn.Parameter(old.weight.detach().t().contiguous(), requires_grad=old.weight.requires_grad)
            new.bias = old.bias
            new.train(old.training)
            setattr(parent, child, new)
            kept[f"{name}.{child}.weight"] = Kept(transposed=True)
    return kept


def _t5_beside(layer: Any) -> Callable[..., Any]:
    """The first layer's table gives the bias of all layers: each stage computes it again from a copy."""
    attention = layer.layer[0].SelfAttention

    def outputs(hidden: Any, mask: Any = None, bias: Any = None, *others: Any, **options: Any) -> tuple[Any, Any, None]:
        if bias is None and attention.has_relative_attention_bias:
            bias = attention.compute_bias(hidden.shape[1], hidden.shape[1], device=hidden.device)
        return hidden, bias, None

    return outputs


_BERT: Final = Plan(
    family="BERT",
    tensor={
        "embeddings.word_embeddings": Vocabulary(),
        "attention.self.query": Columns(),
        "attention.self.key": Columns(),
        "attention.self.value": Columns(),
        "attention.output.dense": Rows(),
        "intermediate.dense": Columns(),
        "layer.*.output.dense": Rows(),
        "predictions.decoder": _OUTPUT,
        "lm_head.decoder": _OUTPUT,
    },
    divides=(_HEADS, "intermediate_size"),
    stages=Stages(layers="encoder.layer", before=("embeddings",)),
    tokens=("attention.self", "intermediate"),
)

_MODERNBERT: Final = Plan(
    family="ModernBERT",
    tensor={
        "embeddings.tok_embeddings": Vocabulary(),
        "attn.Wqkv": Columns(groups=3),
        "attn.Wo": Rows(),
        "mlp.Wi": Columns(groups=2),
        "mlp.Wo": Rows(),
        "decoder": _OUTPUT,
    },
    divides=(_HEADS, "intermediate_size"),
    stages=Stages(layers="layers", before=("embeddings",)),
    tokens=("layers.*.attn", "layers.*.mlp"),
)

_GPT2: Final = Plan(
    family="GPT-2",
    tensor={
        "wte": Vocabulary(),
        "attn.c_attn": Columns(groups=3),
        "attn.c_proj": Rows(),
        "mlp.c_fc": Columns(),
        "mlp.c_proj": Rows(),
        "lm_head": _OUTPUT,
    },
    divides=(_HEADS, "hidden_size"),
    counted={"attn": ("split_size",)},
    prepare=_gpt2_as_linear,
    stages=Stages(layers="h", before=("wte", "wpe")),
    tokens=("h.*.attn", "h.*.mlp"),
)

_OPT: Final = Plan(
    family="OPT",
    tensor={
        "decoder.embed_tokens": Vocabulary(),
        "self_attn.q_proj": Columns(),
        "self_attn.k_proj": Columns(),
        "self_attn.v_proj": Columns(),
        "self_attn.out_proj": Rows(),
        "layers.*.fc1": Columns(),
        "layers.*.fc2": Rows(),
        "lm_head": _OUTPUT,
    },
    divides=(_HEADS, "ffn_dim"),
    counted={"self_attn": ("num_heads",)},
    stages=Stages(layers="decoder.layers", before=("embed_tokens", "embed_positions", "project_in")),
)

_T5: Final = Plan(
    family="T5",
    tensor={
        "shared": Vocabulary(),
        "encoder.embed_tokens": Vocabulary(optional=True),
        "decoder.embed_tokens": Vocabulary(optional=True),
        "*Attention.q": Columns(),
        "*Attention.k": Columns(),
        "*Attention.v": Columns(),
        "*Attention.o": Rows(),
        "relative_attention_bias": Columns(),  # a table with one column for each head
        "DenseReluDense.wi*": Columns(),
        "DenseReluDense.wo": Rows(),
        "lm_head": _OUTPUT,
    },
    divides=("num_heads", "d_ff"),
    counted={"*Attention": ("n_heads", "inner_dim")},
    stages=Stages(
        layers="encoder.block",
        before=("shared", "encoder.embed_tokens"),
        after=("encoder.final_layer_norm",),
        reader=Reader(layers="decoder.block", before=("decoder.embed_tokens",), reads="encoder"),
        everywhere=("layer.0.SelfAttention.relative_attention_bias",),
        beside=_t5_beside,
    ),
    recompute="block.*",
)

_GLM: Final = Plan(
    family="GLM",
    tensor={
        "word_embeddings": Vocabulary(),
        "attention.query": Columns(),
        "attention.key": Columns(),
        "attention.value": Columns(),
        "attention.dense": Rows(),
        "mlp.dense_h_to_4h": Columns(),
        "mlp.dense_4h_to_h": Rows(),
        "lm_head": _OUTPUT,
    },
    divides=(_HEADS,),
    stages=Stages(
        layers="transformer.layers",
        before=("word_embeddings", "transformer.position_embeddings", "transformer.block_position_embeddings"),
    ),
    tokens=("layers.*.attention", "layers.*.mlp"),
)

PLANS: Final[Mapping[str, Plan]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "modernbert": _MODERNBERT,
    "gpt2": _GPT2,
    "opt": _OPT,
    "t5": _T5,
    "mt5": _T5,
    "flagai_glm": _GLM,
}
"""model_type → plan"""

# What transformers calls them; the words that are missing here (experts, fused layers of unequal parts) are refused.
_WORDS: Final[Mapping[str, Split]] = {
    "colwise": Columns(),
    "rowwise": Rows(),
    "colwise_gather_output": Columns(gather=True),
    "embedding_rowwise": Vocabulary(),
    "replicated_with_grad_allreduce": Shared(),
}


def plan_of(model: Any) -> Plan | None:
    """The plan of a model: its own (`flagai_plan`), that of its family, or transformers' own; None without any.

    Raises:
        ModelError: transformers' plan has a word that is not known here.
    """
    own = getattr(model, "flagai_plan", None)
    config = getattr(model, "config", None)
    if own is not None or config is None:
        return own
    known = PLANS.get(getattr(config, "model_type", ""))
    return known if known is not None else _translated(model, config)


def _translated(model: Any, config: Any) -> Plan | None:
    body: Mapping[str, str] | None = getattr(config, "base_model_tp_plan", None)
    if not body:
        return None
    words = {name: _word(config, name, word) for name, word in body.items()}
    for part in (model, getattr(model, "body", None)):
        words |= {name: _word(config, name, word) for name, word in (getattr(part, "_tp_plan", None) or {}).items()}
    heads = (_HEADS, "num_key_value_heads") if getattr(config, "num_key_value_heads", None) else (_HEADS,)
    stages = getattr(config, "base_model_pp_plan", None) or {}
    plain = {"embed_tokens", "layers", "norm"} == set(stages)
    return Plan(
        family=config.model_type,
        tensor=words,
        divides=(*heads, "intermediate_size"),
        stages=Stages(layers="layers", before=("embed_tokens",)) if plain else None,
        tokens=("self_attn", "layers.*.mlp") if plain else (),
        recompute="layers.*",
    )


def _word(config: Any, name: str, word: str) -> Split:
    if word in _WORDS:
        return _WORDS[word]
    raise ModelError(
        f"transformers divides {name} of {config.model_type} by {word!r}, which flagai has no word for",
        expected=f"one of: {', '.join(_WORDS)}",
        fix="set model.flagai_plan to a Plan of your own, or train with strategy fsdp",
    )
