"""Hugging Face's models read as `Spec`: GPT-2, OPT, Llama, Qwen2, T5, BART, GLM, BERT. Knows their attributes only.

Nothing is copied: a spec holds the model's own tensors, so it follows their training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn

from flagai.generate.lean.products import Product, Store
from flagai.generate.lean.spec import Attention, Cross, Inner, Layer, Norm, Relative, Rotary, Spec, Stack

ACTIVATIONS: Final = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""names of transformers and ours"""


class Reader:
    """Makes parts of a spec from modules.

    Args:
        store: of the products.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store

    def product(self, *linears: Any, activation: str = "", transposed: bool = False) -> Product:
        return Product(
            [one.weight for one in linears],
            [one.bias for one in linears],
            transposed=transposed,
            activation=activation,
            store=self._store,
        )

    def matrix(self, weight: Tensor, bias: Tensor | None = None) -> Product:
        return Product([weight], [bias], store=self._store)

    def norm(self, module: Any) -> Norm:
        if isinstance(module, nn.LayerNorm):
            size = int(module.normalized_shape[0])
            return Norm(weight=module.weight, bias=module.bias, eps=module.eps, size=size)
        return Norm(weight=module.weight, eps=module.variance_epsilon, size=len(module.weight), rms=True)


def gpt2(model: Any, read: Reader) -> Spec:
    body, config = model.transformer, model.config
    layers = []
    for block in body.h:
        attention = Attention(
            norm=read.norm(block.ln_1),
            inputs=_thirds(read, block.attn.c_attn),
            output=read.product(block.attn.c_proj, transposed=True),
            heads=block.attn.num_heads,
            kv_heads=block.attn.num_heads,
            dim=block.attn.head_dim,
            scale=block.attn.scaling,
        )
        activation = ACTIVATIONS[config.activation_function]
        inner = Inner(
            norm=read.norm(block.ln_2),
            up=read.product(block.mlp.c_fc, activation=activation, transposed=True),
            down=read.product(block.mlp.c_proj, transposed=True),
        )
        layers.append(Layer(attention=attention, inner=inner))
    decoder = Stack(layers=tuple(layers), words=body.wte.weight, positions=body.wpe.weight, last=read.norm(body.ln_f))
    return Spec(decoder=decoder, head=read.product(model.lm_head))


def _thirds(read: Reader, conv: Any) -> Product:
    product = read.product(conv, transposed=True)
    return product.cut_in(3)


def opt(model: Any, read: Reader) -> Spec:
    body = model.model.decoder
    layers = []
    for block in body.layers:
        part = block.self_attn
        attention = Attention(
            norm=read.norm(block.self_attn_layer_norm),
            inputs=read.product(part.q_proj, part.k_proj, part.v_proj),
            output=read.product(part.out_proj),
            heads=part.num_heads,
            kv_heads=part.num_heads,
            dim=part.head_dim,
            scale=part.scaling,
        )
        inner = Inner(
            norm=read.norm(block.final_layer_norm),
            up=read.product(block.fc1, activation=ACTIVATIONS[model.config.activation_function]),
            down=read.product(block.fc2),
        )
        layers.append(Layer(attention=attention, inner=inner, norm_first=block.do_layer_norm_before))
    decoder = Stack(
        layers=tuple(layers),
        words=body.embed_tokens.weight,
        positions=body.embed_positions.weight,
        offset=body.embed_positions.offset,
        inward=None if body.project_in is None else read.product(body.project_in),
        outward=None if body.project_out is None else read.product(body.project_out),
        last=None if body.final_layer_norm is None else read.norm(body.final_layer_norm),
    )
    return Spec(decoder=decoder, head=read.product(model.lm_head))


def llama(model: Any, read: Reader) -> Spec:
    """Llama and Qwen2, which differ in their biases."""
    body, config = model.model, model.config
    layers = []
    for block in body.layers:
        part, mlp = block.self_attn, block.mlp
        attention = Attention(
            norm=read.norm(block.input_layernorm),
            inputs=read.product(part.q_proj, part.k_proj, part.v_proj),
            output=read.product(part.o_proj),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            dim=part.head_dim,
            scale=part.scaling,
        )
        inner = Inner(
            norm=read.norm(block.post_attention_layernorm),
            up=read.product(mlp.gate_proj, mlp.up_proj),
            down=read.product(mlp.down_proj),
            gate=ACTIVATIONS[config.hidden_act],
        )
        layers.append(Layer(attention=attention, inner=inner))
    rotary = Rotary(frequencies=body.rotary_emb.inv_freq.float(), scaling=body.rotary_emb.attention_scaling)
    words, last = body.embed_tokens.weight, read.norm(body.norm)
    decoder = Stack(layers=tuple(layers), words=words, last=last, rotary=rotary)
    return Spec(decoder=decoder, head=read.product(model.lm_head))


def t5(model: Any, read: Reader) -> Spec:
    """T5 and mT5."""
    config = model.config
    factor = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    encoder, decoder = (_t5_stack(stack, read) for stack in (model.encoder, model.decoder))
    return Spec(decoder=decoder, encoder=encoder, head=read.product(model.lm_head), head_factor=factor)


def _t5_stack(stack: Any, read: Reader) -> Stack:
    layers = tuple(_t5_layer(block, read) for block in stack.block)
    first = stack.block[0].layer[0].SelfAttention
    relative = Relative(
        table=first.relative_attention_bias.weight,
        max_distance=first.relative_attention_max_distance,
        both_ways=not first.is_decoder,
    )
    last = read.norm(stack.final_layer_norm)
    return Stack(layers=layers, words=stack.embed_tokens.weight, last=last, relative=relative)


def _t5_layer(block: Any, read: Reader) -> Layer:
    part, inner = block.layer[0].SelfAttention, block.layer[-1].DenseReluDense
    attention = Attention(
        norm=read.norm(block.layer[0].layer_norm),
        inputs=read.product(part.q, part.k, part.v),
        output=read.product(part.o),
        heads=part.n_heads,
        kv_heads=part.n_heads,
        dim=part.key_value_proj_dim,
        scale=part.scaling,
    )
    cross = None
    if block.is_decoder:
        part = block.layer[1].EncDecAttention
        cross = Cross(
            norm=read.norm(block.layer[1].layer_norm),
            query=read.product(part.q),
            states=read.product(part.k, part.v),
            output=read.product(part.o),
            heads=part.n_heads,
            dim=part.key_value_proj_dim,
            scale=part.scaling,
        )
    activation = ACTIVATIONS[part.config.dense_act_fn]
    gated = part.config.is_gated_act
    up = read.product(inner.wi_0, inner.wi_1) if gated else read.product(inner.wi, activation=activation)
    norm = read.norm(block.layer[-1].layer_norm)
    whole = Inner(norm=norm, up=up, down=read.product(inner.wo), gate=activation if gated else "")
    return Layer(attention=attention, cross=cross, inner=whole)


def bart(model: Any, read: Reader) -> Spec:
    body = model.model
    encoder, decoder = (_bart_stack(stack, model.config, read) for stack in (body.encoder, body.decoder))
    bias = model.final_logits_bias[0] if bool(model.final_logits_bias.any()) else None
    return Spec(decoder=decoder, encoder=encoder, head=read.matrix(model.lm_head.weight, bias))


def _bart_stack(stack: Any, config: Any, read: Reader) -> Stack:
    return Stack(
        layers=tuple(_bart_layer(block, config, read) for block in stack.layers),
        words=stack.embed_tokens.weight,
        factor=math.sqrt(config.d_model) if config.scale_embedding else 1.0,
        positions=stack.embed_positions.weight,
        offset=stack.embed_positions.offset,
        first=read.norm(stack.layernorm_embedding),
    )


def _bart_layer(block: Any, config: Any, read: Reader) -> Layer:
    part = block.self_attn
    attention = Attention(
        norm=read.norm(block.self_attn_layer_norm),
        inputs=read.product(part.q_proj, part.k_proj, part.v_proj),
        output=read.product(part.out_proj),
        heads=part.num_heads,
        kv_heads=part.num_heads,
        dim=part.head_dim,
        scale=part.scaling,
    )
    cross = None
    if hasattr(block, "encoder_attn"):
        part = block.encoder_attn
        cross = Cross(
            norm=read.norm(block.encoder_attn_layer_norm),
            query=read.product(part.q_proj),
            states=read.product(part.k_proj, part.v_proj),
            output=read.product(part.out_proj),
            heads=part.num_heads,
            dim=part.head_dim,
            scale=part.scaling,
        )
    inner = Inner(
        norm=read.norm(block.final_layer_norm),
        up=read.product(block.fc1, activation=ACTIVATIONS[config.activation_function]),
        down=read.product(block.fc2),
    )
    return Layer(attention=attention, cross=cross, inner=inner, norm_first=False)


def glm(model: Any, read: Reader) -> Spec:
    body, config = model.glm.transformer, model.config
    layers = []
    for block in body.layers:
        part = block.attention
        attention = Attention(
            norm=read.norm(block.input_layernorm),
            inputs=read.product(part.query, part.key, part.value),
            output=read.product(part.dense),
            heads=config.num_attention_heads,
            kv_heads=config.num_attention_heads,
            dim=part.head_dim,
            scale=part.scaling,
        )
        inner = Inner(
            norm=read.norm(block.post_attention_layernorm),
            up=read.product(
                block.mlp.dense_h_to_4h, activation="gelu_tanh" if block.mlp.approximate == "tanh" else "gelu"
            ),
            down=read.product(block.mlp.dense_4h_to_h),
        )
        layers.append(Layer(attention=attention, inner=inner))
    decoder = Stack(
        layers=tuple(layers),
        words=model.glm.word_embeddings.weight,
        positions=body.position_embeddings.weight,
        blocks=body.block_position_embeddings.weight,
        last=read.norm(body.final_layernorm),
    )
    return Spec(decoder=decoder, head=read.product(model.lm_head))


def bert(model: Any, read: Reader) -> Spec:
    """BERT and RoBERTa as UniLM; the second table is that of segments."""
    body, config = model.base_model, model.config
    activation = ACTIVATIONS[config.hidden_act]
    layers = []
    for block in body.encoder.layer:
        part = block.attention.self
        attention = Attention(
            norm=read.norm(block.attention.output.LayerNorm),
            inputs=read.product(part.query, part.key, part.value),
            output=read.product(block.attention.output.dense),
            heads=part.num_attention_heads,
            kv_heads=part.num_attention_heads,
            dim=part.attention_head_size,
            scale=part.scaling,
        )
        inner = Inner(
            norm=read.norm(block.output.LayerNorm),
            up=read.product(block.intermediate.dense, activation=activation),
            down=read.product(block.output.dense),
        )
        layers.append(Layer(attention=attention, inner=inner, norm_first=False))
    tables = body.embeddings
    pad = tables.position_embeddings.padding_idx
    decoder = Stack(
        layers=tuple(layers),
        words=tables.word_embeddings.weight,
        positions=tables.position_embeddings.weight,
        offset=0 if pad is None else pad + 1,
        blocks=tables.token_type_embeddings.weight,
        first=read.norm(tables.LayerNorm),
    )
    return Spec(decoder=decoder, **_bert_head(model, activation, read))


def _bert_head(model: Any, activation: str, read: Reader) -> dict[str, Any]:
    if hasattr(model, "cls"):
        head = model.cls.predictions
        dense, norm, last = head.transform.dense, head.transform.LayerNorm, head.decoder
    else:
        head = model.lm_head
        dense, norm, last, activation = head.dense, head.layer_norm, head.decoder, "gelu"
    return {
        "head": read.matrix(last.weight, last.bias),
        "head_first": read.product(dense, activation=activation),
        "head_norm": read.norm(norm),
    }


READERS: Final[dict[str, Callable[[Any, Reader], Spec]]] = {
    "GPT2LMHeadModel": gpt2,
    "OPTForCausalLM": opt,
    "LlamaForCausalLM": llama,
    "Qwen2ForCausalLM": llama,
    "T5ForConditionalGeneration": t5,
    "MT5ForConditionalGeneration": t5,
    "BartForConditionalGeneration": bart,
    "GLMForConditionalGeneration": glm,
    "BertForMaskedLM": bert,
    "RobertaForMaskedLM": bert,
}
"""by the exact class, see `supports`"""
