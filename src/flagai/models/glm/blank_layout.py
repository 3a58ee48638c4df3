"""Given spans and their order → the arrays a GLM learns from: part A, part B, two positions, labels. Draws nothing.

It does not know how spans are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from flagai.errors import DataError
from flagai.models.glm.spans import Spans

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands

IGNORED = -100
"""The label of a position at which nothing is predicted."""

Mode = Literal["token", "sentence", "infill", "suffix"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blanked:
    """One row of pre-training: the corrupted text (part A), then the spans (part B). Integer arrays, int64.

    `mode` is what was made, `wanted` what was drawn: they differ where a sample does not allow the latter.
    """

    input_ids: np.ndarray
    """[n]"""
    position_ids: np.ndarray
    """[2, n]: the place in the corrupted text, for part B that of its mask; the place inside the span, 0 in part A"""
    labels: np.ndarray
    """[n], not shifted: the token to predict at each position, -100 for none"""
    context_length: int
    """tokens of part A"""
    mode: Mode
    wanted: Mode

    def __len__(self) -> int:
        return len(self.input_ids)


def lay_out(
    ids: np.ndarray,
    spans: Spans,
    order: np.ndarray,
    *,
    mask: int,
    commands: Commands,
    hidden: np.ndarray | None = None,
    block_positions: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Every span behind one mask, then the spans, each as sop + tokens → tokens + eop (Du et al. 2022, section 2.1).

    Args:
        ids: [n] the sample.
        spans: ascending, without overlap; they may touch.
        order: [spans] in which order they stand in part B.
        mask: the id in their place in part A.
        hidden: bool [n], tokens to feed as [dBLOCK] in part B; what is predicted stays.

    Returns: input_ids [m], position_ids [2, m], labels [m], tokens of part A.
    """
    starts, stops = spans.starts, spans.ends
    inner = np.zeros(len(ids) + 1, dtype=np.int64)
    inner[starts + 1] += 1  # two statements: where a span has one token, both meet in one place
    inner[stops] -= 1
    corrupted = ids.copy()
    corrupted[starts] = mask
    context = corrupted[inner[:-1].cumsum() == 0]
    sizes = stops - starts
    mask_places = starts - (sizes - 1).cumsum() + (sizes - 1)

    sizes, firsts = sizes[order] + 1, starts[order]
    block_starts = sizes.cumsum() - sizes
    within = np.arange(int(sizes.sum())) - block_starts.repeat(sizes)
    source = firsts.repeat(sizes) + within  # the token each position predicts; at the end of a span, eop
    fed = ids if hidden is None or commands.dblock is None else np.where(hidden, commands.dblock, ids)
    inputs = fed[source - 1]
    inputs[block_starts] = commands.sop
    targets = ids[np.minimum(source, len(ids) - 1)]
    targets[block_starts + sizes - 1] = commands.eop
    block = within + 1 if block_positions else np.ones_like(within)
    return _joined(context, inputs, mask_places[order].repeat(sizes), block, targets)


def lay_out_suffix(
    ids: np.ndarray, size: int, predicted: np.ndarray, *, mask: int, commands: Commands, block_positions: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """The first tokens and a mask, then the last `size` tokens to predict. They end as the sample does, without eop.

    `predicted` [n], bool: where it is False (a prompt) the token is fed but not predicted. Returns: as `lay_out`.
    """
    division = len(ids) - size
    context = np.append(ids[:division], mask)
    inputs = np.concatenate(([commands.sop], ids[division:-1]))
    targets = np.where(predicted[division:], ids[division:], IGNORED)
    block = np.arange(1, size + 1) if block_positions else np.ones(size, dtype=np.int64)
    return _joined(context, inputs, np.full(size, division), block, targets)


def _joined(
    context: np.ndarray, inputs: np.ndarray, places: np.ndarray, block: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    cut = len(context)
    total = cut + len(inputs)
    positions = np.zeros((2, total), dtype=np.int64)
    positions[0, :cut] = np.arange(cut)
    positions[0, cut:] = places
    positions[1, cut:] = block
    labels = np.full(total, IGNORED, dtype=np.int64)
    labels[cut:] = targets
    return np.concatenate((context, inputs)), positions, labels, cut


def collate_blanks(rows: Sequence[Blanked], pad_id: int) -> dict[str, np.ndarray]:
    """Rows → one right-padded batch, int64.

    Returns:
        input_ids [B, L] with `pad_id` at the end, position_ids [B, 2, L] with (0, 0), attention_mask [B, L] with 0,
        labels [B, L] with -100, and context_length [B].

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("a batch without rows", expected="at least one row of make_blanks")
    count, width = len(rows), max(map(len, rows))
    batch = {
        "input_ids": np.full((count, width), pad_id, dtype=np.int64),
        "position_ids": np.zeros((count, 2, width), dtype=np.int64),
        "attention_mask": np.zeros((count, width), dtype=np.int64),
        "context_length": np.array([row.context_length for row in rows], dtype=np.int64),
        "labels": np.full((count, width), IGNORED, dtype=np.int64),
    }
    for i, row in enumerate(rows):
        size = len(row)
        batch["input_ids"][i, :size] = row.input_ids
        batch["position_ids"][i, :, :size] = row.position_ids
        batch["attention_mask"][i, :size] = 1
        batch["labels"][i, :size] = row.labels
    return batch
