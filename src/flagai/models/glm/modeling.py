"""GLM: a transformer that reads a context both ways and fills its blanks left to right, as a transformers model.

It knows no checkpoint layout, no tokenizer and no way of decoding beyond the three hooks in `decoding.py`.

Source: Du et al., "GLM: General Language Model Pretraining with Autoregressive Blank Infilling", ACL 2022, section 2.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from flagai.errors import DataError
from flagai.models.glm.attention import (
    Visibility,
    dropping_attention,
    eager_attention,
    is_slow_dropout,
    read_context,
    row_lengths,
    visibility,
)
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.decoding import BlankDecodingMixin


def _ending(linear: nn.Linear) -> nn.Linear:
    """Marks the last layer of a residual branch, which starts smaller."""
    linear.ends_branch = True  # type: ignore[assignment]
    return linear


class GLMAttention(nn.Module):
    """Multi-head self-attention; q, k and v are Linears of their own, so that plans and adapters see plain columns."""

    def __init__(self, config: GLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.attention_scale = float(config.attention_scale)
        self.is_causal = False
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dense = _ending(nn.Linear(config.hidden_size, config.hidden_size))

    def forward(
        self, hidden: Tensor, seen: Visibility, past_key_values: Cache | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """[batch, tokens, hidden] → the same shape, and the weights where the attention function gives them."""
        heads = (*hidden.shape[:-1], -1, self.head_dim)  # -1: a tensor-parallel rank has fewer heads
        q, k, v = (part(hidden).view(heads).transpose(1, 2) for part in (self.query, self.key, self.value))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        if seen.blind is not None:
            q = q.masked_fill(seen.blind, 0.0)
        name: Any = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        dropout = self.config.attention_dropout_prob if self.training else 0.0
        if is_slow_dropout(name, q, dropout, kwargs.get("flagai_packed")):
            attend = dropping_attention
        out, weights = attend(
            self, q, k, v, seen.mask, scaling=self.scaling, dropout=dropout, is_causal=seen.causal, **kwargs
        )
        return self.dense(out.reshape(*hidden.shape[:-1], -1)), weights


class GLMMLP(nn.Module):
    """Linear, GELU, Linear; the released weights were trained with the tanh form of the GELU."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.dense_4h_to_h = _ending(nn.Linear(4 * config.hidden_size, config.hidden_size))
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, hidden] → […, hidden]."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate=self.approximate))


class GLMBlock(GradientCheckpointingLayer):
    """One layer: x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, config: GLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = GLMAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLMMLP(config)
        self.dropout = nn.Dropout(config.output_dropout_prob)

    def forward(self, hidden: Tensor, seen: Visibility, past_key_values: Cache | None = None, **kwargs: Any) -> Tensor:
        """[batch, tokens, hidden] → the same shape."""
        attended, _ = self.attention(self.input_layernorm(hidden), seen, past_key_values=past_key_values, **kwargs)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden)))


class GLMTransformer(nn.Module):
    """The layers and the two position tables; a container, so that names are the published ones."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        rows = config.max_sequence_length + 1
        self.position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.block_position_embeddings = nn.Embedding(rows, config.hidden_size)
        self.dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(GLMBlock(config, i) for i in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)


class GLMPreTrainedModel(PreTrainedModel):
    """What the GLM classes share: how weights start, and what they tell transformers about themselves."""

    config_class = GLMConfig
    base_model_prefix = "glm"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["GLMBlock"]  # type: ignore[misc]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]  # type: ignore[misc]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "hidden_states": GLMBlock,
        "attentions": OutputRecorder(GLMAttention, index=1),
    }

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it; a published layout is read too, from a folder or the hub, its fused rows split.

        Errors: those of `hub.resolve` and `reading.load_published`, and `CheckpointError` for names of the body that
            lack or are left over: nothing but a classifier starts at random.
        """
        from flagai.models.glm.reading import load_published, local_folder
        from flagai.models.loading import LoadReport

        told = kwargs.pop("output_loading_info", False)
        folder = local_folder(pretrained_model_name_or_path, kwargs)
        if folder is not None and not args and (model := load_published(cls, folder, **kwargs)) is not None:
            empty = {"missing_keys": set(model.fresh_parameters), "unexpected_keys": set(), "mismatched_keys": set()}
            return (model, empty | {"error_msgs": []}) if told else model
        loaded: Any = super().from_pretrained(folder, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        LoadReport.of(info).check(model, fresh=True, where=str(folder or ""))
        return (model, info) if told else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """N(0, 0.02), the two output projections of a layer divided by √(2 · layers), as Megatron does."""
        if getattr(module, "ends_branch", False):
            std = self.config.initializer_range / (2 * self.config.num_layers) ** 0.5
            init.normal_(module.weight, mean=0.0, std=std)  # type: ignore[arg-type]
            init.zeros_(module.bias)  # type: ignore[arg-type]
        else:
            super()._init_weights(module)


class GLMModel(GLMPreTrainedModel):
    """The body. Alone it is an encoder: what no one calls an answer is context and is read both ways."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = GLMTransformer(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding, which is the output embedding too."""
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another word embedding in its place."""
        self.word_embeddings = value  # type: ignore[assignment]

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        context_length: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """The hidden states [batch, tokens, hidden] after the last LayerNorm.

        Args:
            input_ids: [batch, tokens]; with a cache only the new ones. Or `inputs_embeds` [batch, tokens, hidden].
            attention_mask: 2-D [batch, past + tokens], 1 for real tokens (pads are attended to by no one); 0-D or
                [batch], the original's separator; or 4-D [batch, 1, tokens, keys], an explicit mask of 0 and 1.
            context_length: [batch], columns of the context that all may see (left pads counted); default: all.
            position_ids: [batch, 2, tokens], position in the text and in the answer; [batch, tokens] means answers
                at 0. Default: counted on, answers at 0.
            past_key_values: a `Cache`, filled on the way; `use_cache=True` makes one where none is given.

        Raises:
            DataError: shapes that do not fit; on the CPU also a context longer than the text and a position beyond the
                table (looking at their values would make a GPU wait; a text too long is refused everywhere).
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise DataError("need exactly one of input_ids and inputs_embeds")
        embedded = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        rows, queries = embedded.shape[:2]
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past: Any = past_key_values.get_seq_length() if past_key_values is not None else 0
        plan = kwargs.get("flagai_packed")
        if plan is None:
            seen = self._seen(attention_mask, context_length, rows, queries, past, past_key_values, embedded.device)
        else:  # each packed text has a structure of its own, see models/packing_attention.py
            seen, kwargs["context_length"] = Visibility(), row_lengths(context_length, plan.rows)
        hidden = embedded + self._positions(position_ids, queries, past, embedded.device)
        hidden = self.transformer.dropout(hidden)
        for layer in self.transformer.layers:
            hidden = layer(hidden, seen, past_key_values=past_key_values, **kwargs)
        hidden = self.transformer.final_layernorm(hidden)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    def _seen(
        self,
        attention_mask: Tensor | None,
        context_length: Tensor | None,
        rows: int,
        queries: int,
        past: Any,
        cache: Cache | None,
        device: torch.device,
    ) -> Visibility:
        context = read_context(attention_mask, context_length, rows, pads=self.config.attend_to_pads)
        keys = queries if cache is None else cache.get_mask_sizes(queries, 0)[0]
        if context.context_length is None and context.explicit is None:
            everything = torch.zeros(rows, dtype=torch.long, device=device) + (past + queries)
            context = type(context)(padding=context.padding, context_length=everything)
        elif context.context_length is not None and not isinstance(past, Tensor):
            _check_lengths(context.context_length, past + queries)
        flex = self.config._attn_implementation == "flex_attention"
        return visibility(context, queries=queries, past=past, keys=keys, device=device, flex=flex)

    def _positions(self, position_ids: Tensor | None, tokens: int, past: Any, device: torch.device) -> Tensor:
        """The sum of both position embeddings, [batch or 1, tokens, hidden]."""
        table, blocks = self.transformer.position_embeddings, self.transformer.block_position_embeddings
        if position_ids is None and not isinstance(past, Tensor):
            _check_range(0, past + tokens - 1, table.num_embeddings)  # known without looking at a tensor
        given = (torch.arange(tokens, device=device) + past)[None] if position_ids is None else position_ids
        both: Tensor = torch.stack([given, torch.zeros_like(given)], 1) if given.dim() == 2 else given
        if both.shape[-1] != tokens or both.shape[1] != 2:
            raise DataError(f"position_ids has the shape {list(given.shape)}", expected=f"[batch, 2, {tokens}]")
        if position_ids is not None and device.type == "cpu" and not torch.compiler.is_compiling():
            lowest, highest = both.aminmax()
            _check_range(int(lowest), int(highest), table.num_embeddings)
        return table(both[:, 0]) + blocks(both[:, 1])


def _check_lengths(context_length: Tensor, tokens: int) -> None:
    # Looking at values makes a GPU wait; there an impossible length is only ever as wrong as a full context.
    if context_length.device.type != "cpu" or torch.compiler.is_compiling():
        return
    shortest, longest = (int(value) for value in context_length.aminmax())
    if shortest < 0 or longest > tokens:
        raise DataError(
            f"a context of {longest if longest > tokens else shortest} tokens",
            expected=f"0 to {tokens}, the tokens of the input",
            fix="the separator must lie inside the text",
        )


def _check_range(lowest: int, highest: int, rows: int) -> None:
    if lowest < 0 or highest >= rows:
        raise DataError(
            f"the position {highest if highest >= rows else lowest} is not in the table",
            expected=f"0 to {rows - 1}: the model reads {rows - 1} tokens",
            fix="shorten the text or the answer, or load the model with a longer max_sequence_length",
        )


class GLMForConditionalGeneration(GLMPreTrainedModel, BlankDecodingMixin, GenerationMixin):  # type: ignore[misc]
    """GLM with its word embedding as output layer: blank infilling, and all that is written as filling a blank."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "glm.word_embeddings.weight"}  # type: ignore[misc]

    def __init__(self, config: GLMConfig) -> None:
        super().__init__(config)
        self.glm = GLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output layer, tied to the word embedding."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another output layer in its place."""
        self.lm_head = new_embeddings  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        context_length: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [batch, tokens, vocabulary] and, with labels, the mean cross entropy of the labelled tokens.

        Args:
            input_ids, attention_mask, position_ids, past_key_values: as for `GLMModel`.
            context_length: as there; default 0, left to right.
            labels: [batch, tokens], what each token predicts (not shifted: a blank's first token is <|startofpiece|>);
                -100 where nothing is asked.
            logits_to_keep: the last n tokens; or indices of tokens; or bool [batch, tokens], which gives logits
                [n, vocabulary] of those tokens in reading order: a vocabulary at every token of a context is waste.
        """
        separator = attention_mask is not None and attention_mask.dim() != 2
        if context_length is None and not separator:
            given = input_ids if input_ids is not None else inputs_embeds
            assert given is not None, "GLMModel says what is missing"
            context_length = torch.zeros(len(given), dtype=torch.long, device=given.device)
        outputs = self.glm(
            input_ids,
            attention_mask=attention_mask,
            context_length=context_length,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if isinstance(logits_to_keep, Tensor) and logits_to_keep.dtype == torch.bool:
            hidden = hidden[logits_to_keep]
            labels = None if labels is None else labels[logits_to_keep]
        elif isinstance(logits_to_keep, Tensor) or logits_to_keep:
            kept: Any = logits_to_keep if isinstance(logits_to_keep, Tensor) else slice(-logits_to_keep, None)
            hidden = hidden[:, kept]
            labels = None if labels is None else labels[:, kept]
        logits = self.lm_head(hidden)
        return CausalLMOutputWithPast(
            loss=None if labels is None else _token_loss(logits, labels),  # type: ignore[arg-type]
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    flat = logits.flatten(0, -2)
    return F.cross_entropy(flat.float() if flat.itemsize < 4 else flat, labels.flatten())
