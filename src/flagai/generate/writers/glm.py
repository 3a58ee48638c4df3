"""Writing with a GLM: answers to the blanks of a context, one after the other. Knows no search.

Source: Du et al., "GLM", ACL 2022, section 2.1: an answer starts with <|startofpiece|>, its tokens have the position of
their mask and count a second position from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flagai.errors import DataError
from flagai.generate.prompts import most_positions
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.batch import Batch, BatchWriter, Columns, check_length, padded
from flagai.models.glm.attention import Context, prefix_mask

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands


@dataclass(slots=True)
class _Batch(Batch):
    """Also where the rows' answers belong."""

    places: list[int] = field(default_factory=list)
    """position of the mask that is being answered"""
    blocks: list[int] = field(default_factory=list)
    """second position of the token that was read last"""
    later: list[tuple[int, ...]] = field(default_factory=list)
    """blanks that follow"""

    def join(self, other: Any) -> None:
        Batch.join(self, other)
        for name in ("places", "blocks", "later"):
            setattr(self, name, [*getattr(self, name), *getattr(other, name)])

    def select(self, rows: Sequence[int], device: torch.device) -> None:
        Batch.select(self, rows, device)
        for name in ("places", "blocks", "later"):
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in rows])


class GLMWriter(BatchWriter[_Batch]):
    """A `Writer` over the forward of `GLMForConditionalGeneration`.

    Args:
        model: called with `context_length`, positions [rows, 2, n] and a cache.
        commands: the start of an answer is one of them.
        end_ids, forbidden_ids: see `BatchWriter`.
    """

    fills_blanks = True

    def __init__(
        self, model: Any, commands: Commands, *, end_ids: Sequence[int] = (), forbidden_ids: Sequence[int] = ()
    ) -> None:
        super().__init__(model, end_ids=end_ids, forbidden_ids=forbidden_ids)
        self._sop = commands.sop

    def room(self, prompt: Prompt) -> int | None:
        """See `Writer`. The i-th token is read at block position i + 1; the last one only where a blank follows."""
        positions = most_positions(self.model)
        check_length(len(prompt.ids), positions, what="text")
        if not prompt.blanks:
            raise DataError("the text has no mask", expected="one where something is to be written", where="generate")
        if positions is None:
            return None
        return positions if len(prompt.blanks) == 1 else positions - 1

    def _read(self, prompts: Sequence[Prompt]) -> tuple[_Batch, Tensor, Tensor | None]:
        """Each row is a context, the answers that are there, and the start of the next one."""
        answers = [_answers(prompt, self._sop) for prompt in prompts]
        lengths = [len(prompt.ids) for prompt in prompts]
        columns = Columns([n + len(row) for n, row in zip(lengths, answers, strict=True)], self.device)
        batch = _Batch(
            columns,
            places=[prompt.blanks[0] for prompt in prompts],
            blocks=[1 + len(prompt.written) for prompt in prompts],
            later=[prompt.blanks[1:] for prompt in prompts],
        )
        fed = [[*prompt.ids, *(one[0] for one in row)] for prompt, row in zip(prompts, answers, strict=True)]
        texts = [[*range(n), *(one[1] for one in row)] for n, row in zip(lengths, answers, strict=True)]
        blocks = [[*[0] * n, *(one[2] for one in row)] for n, row in zip(lengths, answers, strict=True)]
        positions = torch.stack([padded(texts, columns, self.device), padded(blocks, columns, self.device)], 1)
        # Pads on the left count as columns of the context; the mask hides them.
        context = torch.tensor([p + n for p, n in zip(columns.pads, lengths, strict=True)], device=self.device)
        scores, hidden = self._forward(batch, padded(fed, columns, self.device), positions, columns.real(), context)
        return batch, scores, hidden

    def _step(self, batch: _Batch, tokens: Tensor, opens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if opens is not None:
            tokens = tokens.masked_fill(opens, self._sop)
            for row in opens.nonzero()[:, 0].tolist():
                batch.places[row], *later = batch.later[row]
                batch.later[row], batch.blocks[row] = tuple(later), 0
        batch.blocks = [block + 1 for block in batch.blocks]
        positions = torch.tensor(list(zip(batch.places, batch.blocks, strict=True)), device=self.device)
        none = torch.zeros(len(tokens), dtype=torch.long, device=self.device)
        return self._forward(batch, tokens[:, None], positions[:, :, None], batch.columns.real(more=1), none)

    def _forward(
        self, batch: _Batch, ids: Tensor, positions: Tensor, real: Tensor | None, context: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        mask = None if real is None else real.long()
        if real is not None and self.model.config.attend_to_pads:
            # That model hides no pads it is told of: an explicit mask keeps rows from depending on one another.
            seen, past = Context(padding=real, context_length=context), batch.cache.get_seq_length()
            mask = prefix_mask(seen, queries=ids.shape[1], past=past, keys=real.shape[1], device=ids.device)
        outputs = self.model.glm(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=batch.cache,
            use_cache=True,
            context_length=context if mask is None or mask.dim() == 2 else None,
        )
        hidden = outputs.last_hidden_state
        return self.model.lm_head(hidden[:, -1]), hidden if self.keep_hidden else None


def _answers(prompt: Prompt, sop: int) -> list[tuple[int, int, int]]:
    """(token, position, block position) of the answers there are, and of the start and prefix of the next."""
    given = (*prompt.answers, (prompt.blanks[0], prompt.written))
    return [(token, place, block) for place, tokens in given for block, token in enumerate((sop, *tokens), start=1)]
