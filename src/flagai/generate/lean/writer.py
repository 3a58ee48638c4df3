"""A `Writer` that runs a model's tensors in a loop of its own instead of calling its forward. Knows no search.

Where a forward spends its time when it writes one token: reading matrices at half the memory's speed, concatenating
caches, making masks, and a Python call for each module. Here matrices go through `products`, keys are written in place
(`slots`), beams share the encoder's keys (`sources`), and masks are made only where rows differ in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flagai.errors import ModelError
from flagai.generate.lean.body import Reading, Step, run
from flagai.generate.lean.families import READERS, Reader
from flagai.generate.lean.layouts import Answers, Blanks, Causal, Laid, UniLM
from flagai.generate.lean.products import store_of
from flagai.generate.lean.slots import Slots
from flagai.generate.lean.sources import Plan, Sources
from flagai.generate.writers.base import Prompt, Writer


class LeanWriter:
    """A `Writer` for models of which `supports` says yes; scores differ from their forward's by rounding.

    Args:
        general: the writer that would be used without this one: it knows ends, room and forbidden tokens.
        model: whose tensors are read; changes by training are seen by the next `begin`.
        starts: what a decoder behind an encoder reads first; for a GLM its start token.
        pack: whether matrices may be copied into a faster order, see `products`; None: on CPUs.

    Raises:
        ModelError: a class that is not known.
    """

    def __init__(self, general: Writer, model: Any, *, starts: Sequence[int] = (), pack: bool | None = None) -> None:
        if type(model).__name__ not in READERS:
            raise ModelError(
                f"{type(model).__name__} is none of the models that the lean loop knows",
                expected=", ".join(READERS),
                fix="make_writer chooses a writer that fits",
                where="generate",
            )
        self._general, self._model = general, model
        self._store = store_of(model) if pack is not False else None
        self._spec = READERS[type(model).__name__](model, Reader(self._store))
        self._layout = _layout(model, starts)
        self._products = self._spec.products()
        self._slots: Slots | None = None
        self._sources: Sources | None = None
        self._plan: Plan | None = None
        self._origins = 0
        self._hidden: list[Tensor] = []
        self.keep_hidden = False

    @property
    def device(self) -> torch.device:
        """See `Writer`."""
        return self._spec.decoder.words.device

    @property
    def vocab_size(self) -> int:
        """See `Writer`."""
        return self._general.vocab_size

    @property
    def source_size(self) -> int:
        """One more than the largest id that a prompt may have."""
        return int(getattr(self._general, "source_size", 0)) or self.vocab_size

    @property
    def end_ids(self) -> tuple[int, ...]:
        """See `Writer`."""
        return self._general.end_ids

    @property
    def forbidden_ids(self) -> tuple[int, ...]:
        """See `Writer`."""
        return self._general.forbidden_ids

    @property
    def continues(self) -> bool:
        """Whether an answer goes on from its prompt, as one text."""
        return bool(getattr(self._general, "continues", False))

    @property
    def fills_blanks(self) -> bool:
        """Whether prompts have blanks (GLM)."""
        return isinstance(self._layout, Blanks)

    @property
    def nbytes(self) -> dict[str, int]:
        """What is kept beside the model: `copies` of matrices, `cache` of keys and values."""
        cache = sum(one.nbytes for one in (self._slots, self._sources) if one is not None)
        return {"copies": 0 if self._store is None else self._store.nbytes, "cache": cache}

    def room(self, prompt: Prompt) -> int | None:
        """See `Writer`."""
        return self._general.room(prompt)

    def begin(self, prompts: Sequence[Prompt]) -> Tensor:
        """See `Writer`."""
        if not prompts:
            self._hidden = []
            return torch.empty(0, self.vocab_size, device=self.device)
        self._refresh()
        laid = [self._layout.lay(prompt) for prompt in prompts]
        texts = self._encode([prompt.ids for prompt in prompts]) if self._spec.encoder is not None else []
        if self._slots is None:
            self._slots = self._new_slots()
        for one, (text, _) in zip(laid, texts, strict=False):
            one.slot.source = text
        for one in laid:
            one.slot.origin = self._origins
            self._origins += 1
        first = self._slots.add([one.slot for one in laid])
        return self._read(laid, texts, first)

    def feed(self, tokens: Tensor, opens: Tensor | None = None) -> Tensor:
        """See `Writer`."""
        slots, spec = self._slots, self._spec
        assert slots is not None and len(tokens) == len(slots.order), "a token for each row"
        order = None if slots.in_order else torch.tensor(slots.order, device=self.device)
        if opens is not None and isinstance(self._layout, Blanks):
            tokens = tokens.masked_fill(opens, self._layout.sop)
            for row in opens.nonzero()[:, 0].tolist():
                self._layout.open_next(slots.slots[slots.order[row]])
        ids = tokens if order is None else torch.empty_like(tokens).index_copy_(0, order, tokens)
        if self._sources is not None and self._plan is None:
            self._plan = self._sources.plan(slots.slots)
        places = [self._layout.next(slot) for slot in slots.slots]
        step = Step(spec.decoder, slots, self._plan, self._sources, spec.decoder.words.dtype)
        both = torch.tensor(places, device=self.device)
        states = run(spec.decoder, spec.decoder.embed(ids, both[:, 0], both[:, 1]), step)
        for slot in slots.slots:
            slot.length += 1
        states = states if order is None else states[order]
        self._hidden = list(states[:, None]) if self.keep_hidden else []
        return spec.scores(states)

    def select(self, rows: Tensor) -> None:
        """See `Writer`."""
        places: list[int] = rows.tolist()
        if self._slots is None or places == list(range(len(self._slots.order))):
            return
        if not places:
            self._slots = self._sources = self._plan = None
            return
        before = [slot.source for slot in self._slots.slots]
        self._slots.select(places)
        if self._sources is not None and before != [slot.source for slot in self._slots.slots]:
            self._sources.keep_used(self._slots.slots)
            self._plan = None

    def hidden(self) -> Sequence[Tensor]:
        """See `Writer`."""
        return self._hidden

    # -- prompts ------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """See what training has changed."""
        if self._store is not None:
            self._store.drop_changed(self._products)
        for product in self._products:
            product.refresh()

    def _read(self, laid: Sequence[Laid], texts: Sequence[tuple[int, int]], first: int) -> Tensor:
        stack, device = self._spec.decoder, self.device
        positions = torch.tensor([place for one in laid for place in one.positions], device=device)
        blocks = torch.tensor([block for one in laid for block in one.blocks], device=device)
        ids = torch.tensor([token for one in laid for token in one.ids], device=device)
        lengths = [len(one.ids) for one in laid]
        reading = Reading(
            stack,
            lengths,
            [one.context for one in laid],
            positions=positions,
            dtype=stack.words.dtype,
            slots=self._slots,
            first=first,
            sources=self._sources,
            texts=texts,
        )
        states = run(stack, stack.embed(ids, positions, blocks), reading)
        self._hidden = list(states.split(lengths)) if self.keep_hidden else []
        ends = torch.tensor(lengths, device=device).cumsum(0) - 1
        return self._spec.scores(states[ends])

    def _encode(self, texts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """Read texts for cross-attention: (number, length) of each."""
        spec, device = self._spec, self.device
        assert spec.encoder is not None
        lengths = [len(text) for text in texts]
        positions = torch.tensor([place for n in lengths for place in range(n)], device=device)
        ids = torch.tensor([token for text in texts for token in text], device=device)
        stack = spec.encoder
        reading = Reading(stack, lengths, lengths, positions=positions, dtype=stack.words.dtype)
        states = run(stack, stack.embed(ids, positions), reading)
        if self._sources is None:
            self._sources = self._new_sources()
        first = self._sources.add(lengths)
        for number, layer in enumerate(spec.decoder.layers):
            assert layer.cross is not None
            self._sources.write(number, first, lengths, layer.cross.states.parts(states))
        self._plan = None
        return [(first + i, length) for i, length in enumerate(lengths)]

    def _new_slots(self) -> Slots:
        part, layers = self._spec.decoder.layers[0].attention, len(self._spec.decoder.layers)
        return Slots(layers, part.kv_heads, part.dim, dtype=self._cache_dtype(), device=self.device)

    def _new_sources(self) -> Sources:
        part, layers = self._spec.decoder.layers[0].cross, len(self._spec.decoder.layers)
        assert part is not None
        return Sources(layers, part.heads, part.dim, dtype=self._cache_dtype(), device=self.device)

    def _cache_dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "cpu" else self._spec.decoder.words.dtype


def _layout(model: Any, starts: Sequence[int]) -> Causal:
    kind = type(model).__name__
    if kind == "GLMForConditionalGeneration":
        return Blanks(starts[0])
    if model.config.is_encoder_decoder:
        return Answers(starts)
    if kind in ("BertForMaskedLM", "RobertaForMaskedLM"):
        return UniLM(int(getattr(model.config, "type_vocab_size", 1) or 1))
    return Causal()
