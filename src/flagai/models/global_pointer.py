"""GlobalPointer: a score for every (type, first token, last token), nested entities included, and its loss.

It knows no tag names and no tokenizer: which tokens may begin or end a span comes in as a mask.
Sources: Su et al. 2022, "Global Pointer: Novel Efficient Span-based Approach for Named Entity Recognition" (the
scores, the efficient form, the loss); Su et al. 2021, "RoFormer", section 3.2.2 for the rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from flagai.errors import ModelError
from flagai.models.pooling import at_least_fp32, require_output

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

# Finite, so that 0 · score is 0 and not NaN; its exponential is 0 in fp32.
IMPOSSIBLE_SCORE = -1e12
_INIT_STD = 0.02
_ROPE_BASE = 10000.0


class GlobalPointer(nn.Module):
    """Span scores on an encoder body: logits [B, C, L, L], row = first token, column = last token (inclusive).

    s_c(i, j) = (R_i q_{c,i})ᵀ (R_j k_{c,j}) / √D with R the rotation by position. The efficient form has one q and k
    for all types, s_c(i, j) = (R_i q_i)ᵀ (R_j k_j) / √D + a_c·[q_i; k_i] + b_c·[q_j; k_j], and far fewer weights.
    Pairs with a pad or with i > j get IMPOSSIBLE_SCORE; the body's special tokens are masked by whoever knows them
    (`mask_spans`). Scores are computed in fp32 whatever the body's precision.

    Args:
        hidden_size: H of the body.
        num_labels: number of entity types C (there is no "O").
        inner_dim: D, even.
        efficient: the form with shared q and k.
        rope: whether to rotate; without it a score does not see the distance.
        dropout: applied to the hidden states in training.
    """

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        inner_dim: int = 64,
        efficient: bool = False,
        rope: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if inner_dim < 2 or inner_dim % 2:
            raise ModelError(f"inner_dim of GlobalPointer is {inner_dim}", expected="an even number of at least 2")
        self.num_labels, self.inner_dim, self.efficient, self.rope = num_labels, inner_dim, efficient, rope
        self.dropout = nn.Dropout(dropout)
        self.dense = _linear(hidden_size, 2 * inner_dim * (1 if efficient else num_labels))
        self.borders = _linear(2 * inner_dim, 2 * num_labels) if efficient else None

    def forward(self, outputs: ModelOutput, attention_mask: Tensor) -> dict[str, Tensor]:
        """last_hidden_state [B, L, H] → logits [B, C, L, L], fp32 and masked: [b, c, i, j] is the span i to j."""
        hidden = require_output(outputs, "last_hidden_state")
        inner = self.dense(self.dropout(hidden).to(self.dense.weight.dtype))
        with torch.autocast(hidden.device.type, enabled=False):
            scores = self._scores(at_least_fp32(inner))
            return {"logits": mask_spans(scores, attention_mask)}

    def _scores(self, inner: Tensor) -> Tensor:
        pairs = inner.unflatten(-1, (-1, 2, self.inner_dim))  # [B, L, C or 1, 2, D]
        query, key = pairs[..., 0, :], pairs[..., 1, :]
        if self.rope:
            query, key = rotate(query), rotate(key)
        scores = torch.einsum("bicd,bjcd->bcij", query, key) / self.inner_dim**0.5
        if self.borders is None:
            return scores
        weight, bias = at_least_fp32(self.borders.weight), at_least_fp32(self.borders.bias)
        first, last = nn.functional.linear(inner, weight, bias).transpose(1, 2).chunk(2, dim=1)  # [B, C, L] each
        return scores + first[..., :, None] + last[..., None, :]


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=_INIT_STD)
    nn.init.zeros_(layer.bias)
    return layer


def rotate(vectors: Tensor) -> Tensor:
    """Rotary position embedding: the pair (2m, 2m+1) at position p turns by p · 10000^(-2m/D).

    Args:
        vectors: [B, L, C, D] with D even. Positions count from 0 along L; scores depend on differences only.
    """
    length, dim = vectors.shape[1], vectors.shape[-1]
    exponents = torch.arange(0, dim, 2, device=vectors.device, dtype=vectors.dtype) / dim
    positions = torch.arange(length, device=vectors.device, dtype=vectors.dtype)
    angles = torch.outer(positions, _ROPE_BASE**-exponents)[None, :, None, :]  # [1, L, 1, D/2]
    even, odd, cos, sin = vectors[..., 0::2], vectors[..., 1::2], angles.cos(), angles.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def mask_spans(logits: Tensor, token_mask: Tensor) -> Tensor:
    """IMPOSSIBLE_SCORE at the spans that begin or end on a token with mask 0, or end before they begin.

    Args:
        logits: [B, C, L, L]
        token_mask: [B, L], non-zero for tokens on which a span may begin and end.
    """
    keep = token_mask.to(torch.bool)
    possible = (keep[:, :, None] & keep[:, None, :]).triu()
    return logits.masked_fill(~possible[:, None], IMPOSSIBLE_SCORE)


def global_pointer_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-label cross entropy with the threshold 0: log(1 + Σ_neg e^s) + log(1 + Σ_pos e^(-s)), summed over types.

    Args:
        logits: [B, C, L, L]; what is at or below half of IMPOSSIBLE_SCORE is no candidate.
        labels: [B, C, L, L], non-zero where an entity stands.

    Returns:
        (sum [B] in fp32, count [B]): the loss of each row over its types and the number of types.
    """
    scores = at_least_fp32(logits).flatten(2)
    wanted = labels.to(torch.bool).flatten(2) & (scores > IMPOSSIBLE_SCORE / 2)
    negative = scores.masked_fill(wanted, IMPOSSIBLE_SCORE)
    positive = (-scores).masked_fill(~wanted, IMPOSSIBLE_SCORE)
    return _count_types(_log_one_plus_sum_exp(negative) + _log_one_plus_sum_exp(positive))


def sparse_global_pointer_loss(logits: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    """`global_pointer_loss` for the entities as a list instead of a grid of zeros; equal values.

    Args:
        logits: [B, C, L, L]
        spans: [B, K, 3] of (type, first token, last token), rows of -1 where a record has fewer than K.

    Returns:
        (sum [B], count [B]) as above.
    """
    num_rows, num_types, length, _ = logits.shape
    scores = at_least_fp32(logits).flatten(1)
    kind, first, last = spans.unbind(-1)
    index = (kind * length + first) * length + last
    there = (kind >= 0) & (scores.gather(1, index.clamp(min=0)) > IMPOSSIBLE_SCORE / 2)
    # One column more takes the writes of the missing entities, so that no real cell is touched by them.
    index = torch.where(there, index, scores.shape[1])
    negative = nn.functional.pad(scores, (0, 1)).scatter(1, index, IMPOSSIBLE_SCORE)[:, :-1]
    chosen = scores.gather(1, index.clamp(max=scores.shape[1] - 1))
    of_type = there[:, None, :] & (kind[:, None, :] == torch.arange(num_types, device=kind.device)[:, None])
    positive = torch.where(of_type, -chosen[:, None, :], IMPOSSIBLE_SCORE)  # [B, C, K]
    losses = _log_one_plus_sum_exp(negative.view(num_rows, num_types, -1)) + _log_one_plus_sum_exp(positive)
    return _count_types(losses)


def _log_one_plus_sum_exp(scores: Tensor) -> Tensor:
    return torch.logsumexp(nn.functional.pad(scores, (0, 1)), dim=-1)


def _count_types(losses: Tensor) -> tuple[Tensor, Tensor]:
    counts = torch.full((len(losses),), losses.shape[1], device=losses.device, dtype=losses.dtype)
    return losses.sum(dim=1), counts
