"""Which token comes next: the most probable one, or a draw from a random stream of the row's own. Knows no model.

A stream belongs to a request, not to a batch: what it draws does not depend on who else is in the batch, on the order
of requests or on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def stream(seed: int, *key: int) -> torch.Generator:
    """The random stream of one answer: a function of the seed and of what names the answer (its prompt, its number)."""
    text = ",".join(str(int(part)) for part in (seed, *key))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def fresh_seed() -> int:
    """A new seed from torch's global generator."""
    return int(torch.randint(2**62, ()))


def most_probable(scores: Tensor) -> Tensor:
    """The token of the highest score in each row: [rows, V] → int64 [rows]."""
    return scores.argmax(1)


def draw(scores: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """A token of each row with the probability softmax(scores): [rows, V] → int64 [rows].

    One number of its stream decides each row, by inversion of the cumulative distribution. Where all scores of a row
    are -inf it is any token.
    """
    sums = scores.softmax(1).cumsum(1, dtype=torch.float64)
    numbers = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in streams]).to(scores.device)
    # Kept below the last sum in spite of rounding: no token without probability at the end is reached.
    places = numbers.clamp(max=1 - 2**-40)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, places, right=True)[:, 0].clamp(max=scores.shape[1] - 1)
