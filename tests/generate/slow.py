"""The slow twin: one text at a time, the whole sequence through the model at every step, no cache, plain Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def logprobs(model: Any, context: Sequence[int], fed: Sequence[tuple[int, int, int]]) -> torch.Tensor:
    """log p of what follows the context and the (token, position, block position) that were fed: [V]."""
    n, m = len(context), len(fed)
    ids = torch.tensor([[*context, *(one[0] for one in fed)]])
    positions = torch.tensor([[[*range(n), *(one[1] for one in fed)], [*[0] * n, *(one[2] for one in fed)]]])
    mask = torch.ones(n + m, n + m).tril()
    mask[:, :n] = 1
    with torch.no_grad():
        return model(ids, position_ids=positions, attention_mask=mask[None, None]).logits[0, -1].log_softmax(-1)


def greedy(
    model: Any, context: Sequence[int], commands: Any, *, most: int, banned: Sequence[int] = ()
) -> list[tuple[list[int], float]]:
    """The most probable answers to the masks of a context, in order, and Σ log p of each with its end."""
    fed: list[tuple[int, int, int]] = []
    answers = []
    for place in places(context, commands):
        fed.append((commands.sop, place, 1))
        tokens: list[int] = []
        total = 0.0
        while len(tokens) < most:
            scores = logprobs(model, context, fed)
            scores[list(banned)] = -torch.inf
            token = int(scores.argmax())
            total += float(scores[token])
            if token in (commands.eop, commands.eos):
                break
            tokens.append(token)
            fed.append((token, place, len(tokens) + 1))
        answers.append((tokens, total))
    return answers


def beams(model: Any, context: Sequence[int], commands: Any, *, most: int, width: int, penalty: float) -> list[Any]:
    """[(score, tokens)] for the one mask of a context, the best first."""
    (place,) = places(context, commands)
    ends = (commands.eop, commands.eos)
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    found: list[tuple[float, list[int]]] = []
    for step in range(most):
        candidates = []
        for total, tokens in running:
            fed = [(commands.sop, place, 1), *((token, place, i + 2) for i, token in enumerate(tokens))]
            values, ids = logprobs(model, context, fed).topk(3 * width)
            candidates += [(total + v, tokens, t) for v, t in zip(values.tolist(), ids.tolist(), strict=True)]
        candidates.sort(key=lambda one: -one[0])
        running = []
        for rank, (total, tokens, token) in enumerate(candidates):
            if token in ends:
                if rank < width:
                    found.append((total / max(len(tokens), 1) ** penalty, tokens))
            elif len(running) < width:
                running.append((total, [*tokens, token]))
        found = sorted(found, key=lambda one: -one[0])[:width]
        if len(found) == width and found[-1][0] >= candidates[0][0] / max(step, 1) ** penalty:
            return found
    return sorted([*found, *((total / most**penalty, tokens) for total, tokens in running)], key=lambda one: -one[0])[
        :width
    ]


def places(context: Sequence[int], commands: Any) -> list[int]:
    """Where the masks of a context are."""
    return [i for i, token in enumerate(context) if token in (commands.mask, commands.smask, commands.gmask)]
