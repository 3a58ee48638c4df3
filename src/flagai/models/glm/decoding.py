"""The hooks by which transformers' `generate()` writes a GLM's answers. It knows positions and masks, no layer.

Stock `generate()` counts both rows of the positions up, expands a three-dimensional tensor along the wrong axis for
beams, and makes a plain causal mask for static caches; each is wrong for a GLM, in silence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flagai.errors import DataError, ModelError
from flagai.models.glm.attention import read_context, visibility

# Tokens guessed ahead, and a context read in pieces, would get other positions or see less than the whole context.
_REFUSED = ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size")


class BlankDecodingMixin:
    """Stands before `GenerationMixin`: an answer's tokens keep the position of their blank and count their own."""

    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers has it; also takes what `build_inputs_for_generation` of the remote code gives.

        Args:
            generation_attention_mask: [batch, 1, n, n] of the original, n as long as context and answer together. Its
                first row says which context tokens are real; the rest follows from the structure.
            context_length: [batch], see `GLMModel`.
            position_ids: [batch, 2, at least the tokens of the input].
        """
        config = kwargs.get("generation_config")
        for name in _REFUSED:
            if kwargs.get(name) is not None or getattr(config, name, None) is not None:
                raise ModelError(
                    f"generate() with {name}",
                    expected="plain decoding: it knows no positions in blanks",
                    fix="leave it out",
                )
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        if ids is not None:
            kwargs = _translate(ids, kwargs)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        positions = model_kwargs.get("position_ids")
        if positions is None or positions.dim() != 3:
            return super()._update_model_kwargs_for_generation(  # type: ignore[misc]
                outputs, model_kwargs, is_encoder_decoder, num_new_tokens
            )
        model_kwargs["position_ids"] = None
        updated = super()._update_model_kwargs_for_generation(  # type: ignore[misc]
            outputs, model_kwargs, is_encoder_decoder, num_new_tokens
        )
        steps = torch.arange(1, num_new_tokens + 1, device=positions.device, dtype=positions.dtype)
        last = positions[:, :, -1:]
        new = torch.stack([last[:, 0].expand(-1, num_new_tokens), last[:, 1] + steps], 1)
        updated["position_ids"] = torch.cat([positions, new], -1)
        return updated

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        def expand(value: Any) -> Any:
            return value.repeat_interleave(expand_size, 0) if isinstance(value, Tensor) else value

        if expand_size == 1:
            return input_ids, model_kwargs
        return expand(input_ids), {name: expand(value) for name, value in model_kwargs.items()}

    def create_masks_for_generate(self, *, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
        """Leave the mask as it is: `prepare_inputs_for_generation` below also knows where the context ends."""
        return attention_mask

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers has it; for a static cache the mask is made here, so that a compiled step sees one shape."""
        made = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        cache, mask = made.get("past_key_values"), made.get("attention_mask")
        if cache is None or not cache.is_compileable or (mask is not None and mask.dim() == 4):
            return made
        rows, queries = made["input_ids"].shape
        lengths = made.pop("context_length", None)
        zeros = torch.zeros(rows, dtype=torch.long, device=input_ids.device)
        context = read_context(mask, zeros if lengths is None else lengths, rows, pads=False)
        made["attention_mask"] = visibility(
            context,
            queries=queries,
            past=cache.get_seq_length(),
            keys=cache.get_mask_sizes(queries, 0)[0],
            device=input_ids.device,
            flex=False,
        ).mask
        return made


def _translate(ids: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
    kwargs = dict(kwargs)
    explicit = kwargs.pop("generation_attention_mask", None)
    if explicit is not None:
        context = ids.shape[1] - 1  # the last token is <|startofpiece|>
        kwargs["attention_mask"] = explicit[:, 0, context, : ids.shape[1]]
        kwargs["context_length"] = torch.full((len(ids),), context, device=ids.device)
    positions = kwargs.get("position_ids")
    if positions is not None:
        if positions.shape[-1] < ids.shape[1]:
            raise DataError(
                f"{positions.shape[-1]} positions for {ids.shape[1]} tokens", expected="a position for each token"
            )
        kwargs["position_ids"] = positions[..., : ids.shape[1]]
    return kwargs
