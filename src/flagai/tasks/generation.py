"""A source → a target that is written: titles, summaries, couplets, questions, any text for a text. Knows no decoding.

One class for four families of models (`models/families.py`); how source and target lie in the model's input is
`arrangements`, the words around a source are `templates`, how tokens are chosen is `generate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import ConfigError, DataError, ModelError
from flagai.tasks.arrangements import Arrangement, Facts, arrangement_of, facts_of
from flagai.tasks.base import Arrays, HeadSpec, Task, need_text
from flagai.tasks.decoding import Decoding, answer_arrays, answers_in
from flagai.tasks.framing import Framer
from flagai.tasks.results import Written

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Aim:
    """What an example is for: token ids of its references, ends counted, and its number among equal prompts."""

    references: tuple[tuple[int, ...], ...]
    copy: int = 0


class GenerationTask(Decoding, Task):
    """Learn to write a target for a source, and be measured by writing it.

    A record has a `text` (the source) and a `label` (the target; a list where there are several references, of which
    an epoch of training takes one after the other).
    """

    name: ClassVar[str] = "seq2seq"
    kind: ClassVar[Literal["text", "pair", "entities", "target"]] = "target"
    used_options: ClassVar[frozenset[str]] = frozenset({"label_smoothing", "template", "truncation"})
    outputs: ClassVar[tuple[str, ...]] = ("answers", "logprobs", "lengths")
    writes: ClassVar[bool] = True
    separates: ClassVar[bool] = True
    """whether something stands between a source and what a decoder writes"""
    templates: ClassVar[Mapping[str, str]] = {}
    """family → its template, "" for all others, where they differ from `framing.TEMPLATES`"""

    def __init__(self, options: Any, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length)
        self._take_stride(stride)
        self.family: str | None = "glm" if hasattr(tokenizer, "commands") else None
        self.facts: Facts | None = None
        self.max_target_length: int | None = None
        """most tokens of a target, its end counted; longer ones are cut. None: none is cut"""
        self.target_length: int | None = None
        """the longest target of the training data: so much room is kept, and so long an answer may become"""

    def _take_stride(self, stride: int | None) -> None:
        if stride is not None:
            raise ConfigError(
                f"data.stride is {stride}, and a source is read in one piece",
                where="data.stride",
                fix="take it out; task.truncation says which part of a long source is cut away",
            )

    @property
    def metric_names(self) -> tuple[str, ...]:  # type: ignore[override]
        from flagai.measure.generation import METRIC_NAMES

        return METRIC_NAMES

    @property
    def best_metric(self) -> str:
        return "loss"

    def head(self) -> HeadSpec:
        return HeadSpec(body="generation", num_labels=0)

    # -- the model's side ----------------------------------------------------------------------------------------

    def meet(self, config: Any) -> None:
        from flagai.models.families import family_of, positions_of

        family = family_of(config)
        if family is None:
            raise ModelError(
                f"the family {config.model_type!r} has no model that writes",
                where=f"task {self.options.name}",
                expected="a GLM, an encoder-decoder (T5), a decoder (GPT-2, Qwen) or a masked language model (BERT)",
                fix="choose another model for this task",
            )
        self.family = family
        self.facts = facts_of(family, config, self.tokenizer, positions_of(config))
        self.pad_id = self.facts.pad
        self._framer.check()

    @cached_property
    def _framer(self) -> Framer:
        family, _ = self._known()
        options, separates = self.options, self.separates
        return Framer(self.tokenizer, family, options.template, self.templates, options.truncation, separates=separates)

    @cached_property
    def arrangement(self) -> Arrangement:
        """How sources and targets lie in the model's input."""
        family, facts = self._known()
        return arrangement_of(family, facts, self.tokenizer)

    def _known(self) -> tuple[str, Facts]:
        if self.family is None or self.facts is None:
            raise ModelError(
                f"the task {self.options.name!r} does not know its model yet",
                expected="make_task(…, config=model.config), or a saved task",
            )
        return self.family, self.facts

    # -- records to examples -------------------------------------------------------------------------------------

    def fit(self, records: Sequence[Record]) -> None:
        """How long answers become: as the longest target of the training data, or `data.max_target_length`.

        Raises:
            DataError: no record has a target.
        """
        longest = max((len(ids) for _, ids in self._references(records)), default=0)
        if not longest:
            raise DataError(
                "no record has a target",
                where=records[0].file if records else "",
                expected="a column with what is to be written",
                fix="name it: data.columns.label",
            )
        self.target_length = min(longest, self.max_target_length or longest)

    def source_text(self, record: Record) -> str:
        """The source as it is read. Raises DataError where it is empty."""
        return _filled(self.clean(need_text(record, "text")), "source", record)

    def target_texts(self, record: Record) -> tuple[str, ...]:
        """The references, () for a record without a label. Raises DataError for an empty one."""
        label = record.get("label")
        texts = () if label is None else label if isinstance(label, list | tuple) else (label,)
        return tuple(_filled(self.clean(str(text)), "target", record) for text in texts)

    def clean(self, text: str) -> str:
        """A source or a target without what is no part of it: white space around it."""
        return text.strip()

    def _references(self, records: Sequence[Record]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(number of its record, ids with the end) of every reference."""
        owned = [(at, text) for at, record in enumerate(records) for text in self.target_texts(record)]
        ids = self._framer.targets([text for _, text in owned], self._known()[1].end)
        yield from ((at, tuple(one)) for (at, _), one in zip(owned, ids, strict=True))

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        """One example a record, its source cut to the room there is, its references beside it.

        Raises:
            DataError: an empty source or target, or a target that is beyond the model.
            ConfigError: the template or the targets leave no room for a source.
        """
        references: list[list[tuple[int, ...]]] = [[] for _ in records]
        for at, ids in self._references(records):
            references[at].append(ids)
        sources = self._framer.sources([(record, self.source_text(record)) for record in records], self._room())
        seen: Counter[tuple[int, ...]] = Counter()
        examples = []
        for at, (ids, lost) in enumerate(sources):
            whole = references[at]
            kept = tuple(self._cut_target(one) for one in whole)
            self._check_row(len(ids), max(map(len, kept), default=0), records[at])
            examples.append(
                Example(
                    input_ids=ids,
                    record=start + at,
                    target=Aim(kept, seen[tuple(ids)]),
                    tokens_lost=lost,
                    target_cut=any(len(a) < len(b) for a, b in zip(kept, whole, strict=True)),
                    target_slots=max(map(len, kept), default=0),
                )
            )
            seen[tuple(ids)] += 1
        return [[example] for example in examples]

    def _room(self) -> int:
        wanted = max(self.target_length or self._unsaid_length(), self.generation.max_new_tokens or 0)
        # Contrastive search reads the last token of an answer too.
        read = self.generation.penalty_alpha is not None and not self.arrangement.apart
        room = self.arrangement.room(wanted + read)
        return self.max_length if room is None else min(room, self.max_length)

    def _unsaid_length(self) -> int:
        """What is kept free for an answer where no training data said how long answers are: a quarter at most."""
        positions = self._known()[1].positions
        wanted = self.generation.max_new_tokens or 128
        return wanted if positions is None else min(wanted, positions // 4)

    def _cut_target(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        most = self.max_target_length
        return ids if most is None or len(ids) <= most else (*ids[: most - 1], ids[-1])

    def _check_row(self, source: int, target: int, record: Record) -> None:
        positions = self._known()[1].positions
        together = max(source, target) if self.arrangement.apart else source + target
        if target and positions is not None and together > positions:
            raise DataError(
                f"the target has {target} tokens, the source {source}",
                where=record.where,
                expected=f"at most {positions}{'' if self.arrangement.apart else ' together'}: the model reads no more",
                fix="set data.max_target_length to cut targets, and data.max_length to cut sources",
            )

    def check_fits(self, examples: Sequence[Example], records: Sequence[Record], *, trained: bool = False) -> None:
        """Refuse to cut a source unless the run said so; a target is cut only where `data.max_target_length` is set."""
        for example in () if self.may_cut else examples:
            if example.tokens_lost:
                raise DataError(
                    f"the source has {example.tokens_lost} tokens more than there is room for",
                    where=records[example.record].where,
                    expected=f"at most {self._room()} tokens, special tokens counted",
                    fix="shorten it" if trained else "set data.max_length: longer ones are cut as task.truncation says",
                )

    # -- batches and loss ----------------------------------------------------------------------------------------

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        raise AssertionError("the arrangement lays out targets")

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """A batch as the family wants it (see `Arrangement.batch`), with the first reference of each record."""
        return self._batch(examples, 0)

    def collate_training(self, examples: Sequence[Example], *, epoch: int, seed: int) -> dict[str, np.ndarray]:
        """The same with another reference in every epoch, where there are several."""
        return self._batch(examples, epoch)

    def _batch(self, examples: Sequence[Example], turn: int) -> dict[str, np.ndarray]:
        aims: list[Aim] = [example.target for example in examples]
        chosen = [aim.references[turn % len(aim.references)] for aim in aims if aim.references]
        sources = [list(example.input_ids) for example in examples]
        batch = self.arrangement.batch(sources, chosen if len(chosen) == len(aims) else None)
        batch["record"] = np.array([example.record for example in examples], dtype=np.int64)
        batch["copy"] = np.array([aim.copy for aim in aims], dtype=np.int64)
        return batch

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(summed cross entropy, number) of the tokens of the targets, ends counted; logits are [N, V] of these alone.

        Labels are smoothed in training only, so that held-out losses of runs with and without can be compared.
        """
        import torch
        from torch.nn import functional

        labels = batch["labels"][batch["logits_to_keep"]]
        smoothing = self.options.label_smoothing if torch.is_grad_enabled() else 0.0
        logits = outputs["logits"].float()
        total = functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        return total, labels.new_tensor(len(labels))

    # -- writing -------------------------------------------------------------------------------------------------

    def generate(self, model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """What is written for each source of a batch.

        Returns:
            `answers` int64 [batch, sequences, tokens], without ends, filled up with -1; `logprobs` float64 and
            `lengths` int64 [batch, sequences]: Σ log p and number of the chosen tokens, ends counted.
        """
        rows = zip(batch["input_ids"].tolist(), batch["prompt_length"].tolist(), strict=True)
        prompts = [self.arrangement.prompt(ids[:length]) for ids, length in rows]
        fillings = self.write(model, prompts, copies=batch["copy"].tolist(), records=batch["record"].tolist())
        return answer_arrays([[filling[-1] for filling in one] for one in fillings])

    def longest_answer(self) -> int | None:
        """As long as the longest target that was learned."""
        return self.target_length

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Any:
        """A `Written`, or a tuple of them where several sequences are asked for."""
        found = tuple(Written(self.clean(self.cut(self.text_of(ids))), score) for ids, score in answers_in(rows[0]))
        return found if self.generation.num_return_sequences > 1 else found[0]

    def gold(self, record: Record) -> tuple[str, ...]:
        """The references."""
        return self.target_texts(record)

    def metrics(self, results: Sequence[Any], golds: Sequence[Any]) -> dict[str, float]:
        from flagai.measure.generation import generation_metrics

        return generation_metrics(golds, _texts(results))

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        from flagai.measure.generation import generation_intervals
        from flagai.report.samples import writing_part

        texts, sources = _texts(results), [self.source_text(record) for record in records]
        written = writing_part(sources, golds, texts, [record.where for record in records])
        return {"intervals": generation_intervals(golds, texts), "writing": written}

    # -- state ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        family, facts = self._known()
        known = {"family": family, "facts": asdict(facts), "target_length": self.target_length}
        return known | {"max_target_length": self.max_target_length} | super().state()

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.family, self.facts = state["family"], Facts(**state["facts"])
        self.pad_id = self.facts.pad
        self.target_length, self.max_target_length = state["target_length"], state["max_target_length"]


def _filled(text: str, what: str, record: Record) -> str:
    if text:
        return text
    raise DataError(f"the {what} is empty", where=record.where, expected="a text", fix="take the row out")


def _texts(results: Sequence[Any]) -> list[str]:
    """The text of each result, of the best one where there are several."""
    return [(result[0] if isinstance(result, tuple) else result).text for result in results]
