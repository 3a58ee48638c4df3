"""The highest scores of each row, found fast. Knows numbers only.

torch's `topk` and `argmax` walk through a row one element at a time on a CPU; the maximum of pieces is found with
vector instructions, and only the pieces that have the highest maxima are looked through.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_PIECE: Final = 64
_WORTH_IT: Final = 4096  # a shorter row is looked through at once


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each row, the highest first, and where they are.

    As `scores.topk(k)`, but for the order of equal ones.

    Args:
        scores: [rows, V]; k may be more than V, and is V then.
    """
    width = scores.shape[1]
    pieces = width // _PIECE
    if width < _WORTH_IT or k > pieces // 2:
        return scores.topk(min(k, width))
    whole = scores[:, : pieces * _PIECE].view(len(scores), pieces, _PIECE)
    chosen = whole.amax(2).topk(k).indices  # the k highest scores are in the k pieces with the highest maxima
    places = (chosen[:, :, None] * _PIECE + torch.arange(_PIECE, device=scores.device)).flatten(1)
    rest = torch.arange(pieces * _PIECE, width, device=scores.device).expand(len(scores), -1)
    places = torch.cat([places, rest], 1)
    values, order = scores.gather(1, places).topk(k)
    return values, places.gather(1, order)
