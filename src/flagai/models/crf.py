"""A linear-chain conditional random field over the logits of a token classifier, and its training loss.

It knows no tag names: which transitions exist comes in as booleans. Decoding is NumPy and lives in `tasks/decoders.py`.
Source of the formulas: Lafferty, McCallum & Pereira 2001, section 3; Lample et al. 2016, section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flagai.errors import ModelError
from flagai.models.pooling import at_least_fp32, require_output

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

# Far below any learned score, yet harmless in sums and in fp16 (where -1e12 would be -inf).
FORBIDDEN_SCORE = -1e4


class CRF(nn.Module):
    """Transition scores beside the emissions of a token-classification body.

    Outputs: logits [B, L, C] (the body's, as they are), transitions [C, C] (from row to column), start_transitions [C],
    end_transitions [C]; the last three have no batch dimension.

    Args:
        hidden_size: not used; every head is made alike.
        num_labels: number of tags C.
        transition_scale: the scores are the stored weights times this. A fine-tuning rate of 3e-5 moves a weight by
            about 0.01 in 300 steps, too little for a score that competes with logits; the factor is a learning rate of
            its own.
        allowed: which tags may start, follow one another and end: {"start": [C], "between": [C, C], "end": [C]} of
            booleans. What is not allowed scores FORBIDDEN_SCORE, in training as in decoding. None allows all.
    """

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        transition_scale: float = 100.0,
        allowed: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.transition_scale = transition_scale
        # Zero is the softmax classifier: the chain starts from no opinion, and no random number is drawn.
        self.transitions = nn.Parameter(torch.zeros(num_labels, num_labels))
        self.start_transitions = nn.Parameter(torch.zeros(num_labels))
        self.end_transitions = nn.Parameter(torch.zeros(num_labels))
        self.allowed = None if allowed is None else _checked(allowed, num_labels)

    def forward(self, outputs: ModelOutput, attention_mask: Tensor) -> dict[str, Tensor]:
        """logits [B, L, C] as they come; transitions [C, C], start and end ones [C], scaled, illegal ones forbidden."""
        return {
            "logits": require_output(outputs, "logits"),
            "transitions": self._scores(self.transitions, "between"),
            "start_transitions": self._scores(self.start_transitions, "start"),
            "end_transitions": self._scores(self.end_transitions, "end"),
        }

    def _scores(self, weights: Tensor, which: str) -> Tensor:
        scores = at_least_fp32(weights) * self.transition_scale
        if self.allowed is None:
            return scores
        # Made anew each time (C by C booleans): a buffer outside the state dict would be lost on the meta device.
        allowed = torch.tensor(self.allowed[which], dtype=torch.bool, device=weights.device)
        return scores.masked_fill(~allowed, FORBIDDEN_SCORE)


def _checked(allowed: Mapping[str, Sequence[Any]], num_labels: int) -> dict[str, list[Any]]:
    shapes = {"start": [num_labels], "between": [num_labels, num_labels], "end": [num_labels]}
    for name, shape in shapes.items():
        found = list(torch.tensor(allowed[name]).shape) if name in allowed else None
        if found != shape:
            raise ModelError(
                f"allowed[{name!r}] of the CRF has the shape {found}", expected=f"booleans of shape {shape}"
            )
    return {name: list(allowed[name]) for name in shapes}


def crf_negative_log_likelihood(
    emissions: Tensor, tags: Tensor, mask: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """-log p(tags | emissions) of each row, over the positions that carry a tag.

    log p = score(tags) - log Σ_paths exp score(path), score = start + Σ emissions + Σ transitions + end.

    Args:
        emissions: [B, L, C]
        tags: [B, L]; what stands where `mask` is 0 (often -100) is not read.
        mask: [B, L], non-zero where a tag stands. Gaps (special tokens, later word pieces) are closed first, so that a
            transition leads from one tagged position to the next tagged one.
        transitions: [C, C], from row to column. start, end: [C]

    Returns:
        [B] in fp32 (fp64 for fp64 input); 0 for a row without a tag.
    """
    emissions, tags, mask = _close_gaps(at_least_fp32(emissions), tags, mask.to(torch.bool))
    if not mask.shape[1]:
        return emissions.sum(dim=(1, 2))
    transitions, start, end = (at_least_fp32(scores) for scores in (transitions, start, end))
    log_z = _log_partition(emissions, mask, transitions, start, end)
    gold = _path_score(emissions, tags, mask, transitions, start, end)
    return (log_z - gold).masked_fill(~mask[:, 0], 0.0)


def _close_gaps(emissions: Tensor, tags: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tagged positions to the front of each row, in order; the length falls to that of the longest row."""
    longest = int(mask.sum(dim=1).max()) if len(mask) else 0
    order = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, :longest]
    closed = mask.gather(1, order)
    tags = tags.gather(1, order).masked_fill(~closed, 0)
    return emissions.gather(1, order[..., None].expand(-1, -1, emissions.shape[-1])), tags, closed


def _log_partition(emissions: Tensor, mask: Tensor, transitions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    alpha = start + emissions[:, 0]
    for position in range(1, emissions.shape[1]):
        step = torch.logsumexp(alpha[:, :, None] + transitions, dim=1) + emissions[:, position]
        alpha = torch.where(mask[:, position, None], step, alpha)
    return torch.logsumexp(alpha + end, dim=-1)


def _path_score(
    emissions: Tensor, tags: Tensor, mask: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    local = emissions.gather(2, tags[..., None])[..., 0].masked_fill(~mask, 0.0).sum(dim=1)
    moves = transitions[tags[:, :-1], tags[:, 1:]].masked_fill(~mask[:, 1:], 0.0).sum(dim=1)
    last = tags.gather(1, (mask.sum(dim=1, keepdim=True) - 1).clamp(min=0))[:, 0]
    return start[tags[:, 0]] + local + moves + end[last]
