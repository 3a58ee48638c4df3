"""Pre-training by filling blanks (GLM, Du et al. 2022): texts → samples with spans cut out → cross entropy. Knows no
trainer.

Spans are drawn anew in every epoch from (seed, epoch, number of the sample); held-out texts get the same ones each
time, whatever the run's seed, so that their loss can be compared between steps and between runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from flagai.data.corpus_samples import Framing, SampleSource, frame, windows
from flagai.data.example import Example
from flagai.errors import ConfigError, DataError, ModelError, unknown_name
from flagai.models.glm.blank_layout import IGNORED
from flagai.models.glm.blanks import (
    PUBLISHED,
    BlankOptions,
    check_blanks,
    collate_blanks,
    make_rows,
    sentence_ends_of,
)
from flagai.tasks.base import Arrays, HeadSpec, Task, need_text
from flagai.tasks.corpus_examples import CorpusExamples, TextIds, Vocabulary

if TYPE_CHECKING:
    import torch

    from flagai.config import TaskConfig
    from flagai.data.record import Record

HELD_OUT: Final = (0, -1)
"""seed and epoch of the blanks of held-out texts; their position is a hash of the text"""
MODES: Final = ("token", "sentence", "document")
_MODE_OF: Final = {"token": "token", "sentence": "sentence", "infill": "document", "suffix": "document"}
_DEFAULT: Final = "large-chinese"
_MOST_RESAMPLED: Final = 20_000


@dataclass(frozen=True, slots=True)
class Filled:
    """How well the blanks of one text were predicted: summed cross entropy (nats) and number of predicted tokens."""

    loss: float
    tokens: int
    by_mode: Mapping[str, tuple[float, int]]
    """the same for each kind of blank that was drawn: "token", "sentence", "document" """


class BlankInfilling(Task):
    """Learn to fill blanks: short spans, whole sentences, or the rest of a text, each predicted left to right.

    A record has a `text` and may have a `prompt` in front of it, which is read and not learned. Its answer is how well
    its blanks are predicted (`Filled`).
    """

    name: ClassVar[str] = "blank-infilling"
    kind: ClassVar[Literal["text", "pair", "entities"]] = "text"
    used_options: ClassVar[frozenset[str]] = frozenset({"blanks"})
    outputs: ClassVar[tuple[str, ...]] = ("losses", "tokens")
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "perplexity", *(f"loss_{mode}" for mode in MODES)})
    from_corpus: ClassVar[bool] = True

    def __init__(self, options: TaskConfig, tokenizer: Any, *, max_length: int, stride: int | None = None) -> None:
        super().__init__(options, tokenizer, max_length=max_length, stride=None)
        self.commands = _commands(tokenizer)
        self.blanks = read_blanks(options.blanks, self.commands)
        check_blanks(self.blanks, self.commands)
        self.pad_id = self.commands.pad
        self.text_ids = TextIds(tokenizer)
        self.sentence_ends = sentence_ends_of(tokenizer)
        self.vocabulary = Vocabulary.of(tokenizer, self.text_ids)

    @property
    def metric_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Perplexity, and the loss of each kind of blank that is drawn."""
        return ("perplexity", *(f"loss_{mode}" for mode in self._modes()))

    @property
    def best_metric(self) -> str:
        return "loss"

    @property
    def label_required(self) -> bool:
        return False

    def framing(self, *, join: bool = False) -> Framing:
        """How documents become samples for this task."""
        return Framing(
            cls=self.commands.cls,
            eos=self.commands.eos,
            sentence_ends=self.sentence_ends,
            max_length=self.max_length,
            join=join,
        )

    def examples(self, source: SampleSource) -> CorpusExamples:
        """The samples of a corpus, or of several, as examples."""
        return CorpusExamples(source)

    def fit(self, records: Sequence[Record]) -> None:
        """There is nothing to settle."""

    def head(self) -> HeadSpec:
        return HeadSpec(body="conditional-generation", num_labels=0)

    def encode_many(self, records: Sequence[Record], *, start: int = 0) -> list[list[Example]]:
        """One example a window of `[CLS] prompt text eos`; a long text is cut where sentences end, nothing is lost."""
        texts = self.text_ids([_text(record) for record in records])
        prompts = self.text_ids([_prompt(record) for record in records])
        return [
            list(self._windows(prompt, text, start + i))
            for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
        ]

    def _windows(self, prompt: list[int], text: list[int], index: int) -> Iterator[Example]:
        ids, framing = np.array([*prompt, *text], dtype=np.int64), self.framing()
        cuts = list(windows(ids, framing))
        for number, (begin, end) in enumerate(cuts):
            sample = frame(ids, len(prompt), begin, end, framing)
            yield Example(
                input_ids=sample.ids, record=index, target=sample.predicted, window=number, weight=1 / len(cuts)
            )

    def targets(self, examples: Sequence[Example], length: int) -> dict[str, np.ndarray]:
        raise AssertionError("blanks are drawn in collate")

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """A batch of held-out texts: the blanks of a text depend on nothing but the text."""
        return self._batch(examples, [_text_hash(example) for example in examples], *HELD_OUT)

    def collate_training(self, examples: Sequence[Example], *, epoch: int, seed: int) -> dict[str, np.ndarray]:
        """A batch to learn from, its blanks drawn for this epoch."""
        return self._batch(examples, [example.record for example in examples], seed, epoch)

    def _batch(
        self, examples: Sequence[Example], positions: Sequence[int], seed: int, epoch: int
    ) -> dict[str, np.ndarray]:
        """R ≥ B rows of B examples: input_ids, attention_mask, labels, logits_to_keep (bool) [R, L], position_ids
        [R, 2, L], context_length [R]; and [R] each: `example`, which example it is of, `mode`, an index into MODES.
        """
        rows, owners = [], []
        for at, (example, position) in enumerate(zip(examples, positions, strict=True)):
            made = make_rows(
                np.asarray(example.input_ids),
                commands=self.commands,
                sentence_ends=self.sentence_ends,
                options=self.blanks,
                seed=seed,
                epoch=epoch,
                position=position,
                loss_mask=example.target,
            )
            rows += made
            owners += [at] * len(made)
        batch = collate_blanks(rows, self.pad_id)
        batch["logits_to_keep"] = batch["labels"] != IGNORED
        batch["example"] = np.array(owners, dtype=np.int64)
        batch["mode"] = np.array([MODES.index(_MODE_OF[row.mode]) for row in rows], dtype=np.int64)
        return batch

    def loss(
        self, outputs: Mapping[str, torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(summed cross entropy, number) of the predicted tokens; the model gave logits [N, V] for these alone."""
        from torch.nn import functional

        labels = batch["labels"][batch["logits_to_keep"]]
        logits = outputs["logits"].float()
        return functional.cross_entropy(logits, labels, reduction="sum"), labels.new_tensor(len(labels))

    def collect(self, outputs: Mapping[str, Any], batch: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """losses and tokens [B, modes]: summed cross entropy and number of predicted tokens by example and mode."""
        import torch
        from torch.nn import functional

        logits = torch.as_tensor(outputs["logits"])
        rows, _ = np.nonzero(batch["logits_to_keep"])
        labels = torch.as_tensor(batch["labels"][batch["logits_to_keep"]]).to(logits.device)
        values = functional.cross_entropy(logits.float(), labels, reduction="none").cpu().numpy()
        cells = batch["example"][rows] * len(MODES) + batch["mode"][rows]
        shape, size = (count, len(MODES)), count * len(MODES)
        return {
            "losses": np.bincount(cells, weights=values.astype(np.float64), minlength=size).reshape(shape),
            "tokens": np.bincount(cells, minlength=size).reshape(shape),
        }

    def decode(self, rows: Sequence[Arrays], examples: Sequence[Example], record: Record) -> Filled:
        losses = np.sum([row["losses"] for row in rows], axis=0)
        tokens = np.sum([row["tokens"] for row in rows], axis=0)
        by_mode = {mode: (float(losses[at]), int(tokens[at])) for at, mode in enumerate(MODES) if tokens[at] > 0}
        return Filled(float(losses.sum()), int(tokens.sum()), by_mode)

    def gold(self, record: Record) -> None:
        """The text is its own answer."""

    def metrics(self, results: Sequence[Filled], golds: Sequence[Any]) -> dict[str, float]:
        """Means over predicted tokens, not over texts; a kind of blank that no text got is left out."""
        total, tokens = sum(result.loss for result in results), sum(result.tokens for result in results)
        found = {"perplexity": float(np.exp(total / tokens)) if tokens else float("nan")}
        for mode in self._modes():
            parts = [result.by_mode[mode] for result in results if mode in result.by_mode]
            if parts:
                found[f"loss_{mode}"] = sum(loss for loss, _ in parts) / sum(count for _, count in parts)
        return found

    def describe(self, results: Sequence[Any], golds: Sequence[Any], records: Sequence[Record]) -> dict[str, Any]:
        from flagai.measure.intervals import bootstrap_rows

        if not 1 < len(results) <= _MOST_RESAMPLED:
            return {"intervals": {}}
        losses = np.array([result.loss for result in results])
        tokens = np.array([result.tokens for result in results], dtype=np.float64)

        def perplexity(drawn: np.ndarray) -> np.ndarray:
            return np.exp(losses[drawn].sum(axis=1) / np.maximum(tokens[drawn].sum(axis=1), 1.0))

        return {"intervals": {"perplexity": bootstrap_rows(perplexity, len(results))}}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """There is nothing to take over."""

    def check_fits(self, examples: Sequence[Example], records: Sequence[Record], *, trained: bool = False) -> None:
        """Every text fits: a long one becomes several windows."""

    def _modes(self) -> tuple[str, ...]:
        options = self.blanks
        document = 1.0 - options.bert_prob - options.gap_sentence_prob
        shares = {"token": 1.0, "sentence": options.gap_sentence_prob, "document": document}
        return tuple(mode for mode in MODES if shares[mode] > 1e-9)


def read_blanks(value: str | Mapping[str, Any] | None, commands: Any) -> BlankOptions:
    """The option `task.blanks`: the name of a published run, settings (with `like: name` on top of one), or None.

    None is the objective of GLM-large-Chinese where the vocabulary has [gMASK], else that of GLM-base; [dBLOCK] only
    where the vocabulary has it.

    Raises:
        ConfigError: a name or a setting that does not exist, a value that cannot be meant.
    """
    if value is None:
        if commands.gmask is None:
            return BlankOptions()
        return _changed(PUBLISHED[_DEFAULT], {} if commands.dblock is not None else {"block_mask_prob": 0.0})
    if isinstance(value, str):
        return BlankOptions.published(value)
    settings = dict(value)
    like = settings.pop("like", None)
    return _changed(BlankOptions.published(like) if like is not None else BlankOptions(), settings)


def _changed(base: BlankOptions, settings: Mapping[str, Any]) -> BlankOptions:
    known = {field.name: getattr(base, field.name) for field in fields(base)}
    for key, value in settings.items():
        if key not in known:
            raise unknown_name("setting", key, ["like", *known], where="task.blanks")
        is_switch = isinstance(known[key], bool)
        if isinstance(value, bool) is not is_switch or not isinstance(value, bool | int | float | type(known[key])):
            raise ConfigError(
                f"{key} is {value!r}", where=f"task.blanks.{key}", expected="true or false" if is_switch else "a number"
            )
    return BlankOptions(**{**known, **settings})


def _text_hash(example: Example) -> int:
    ids = np.ascontiguousarray(example.input_ids, dtype="<i8")
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=7).digest(), "little")


def _commands(tokenizer: Any) -> Any:
    commands = getattr(tokenizer, "commands", None)
    if commands is None:
        raise ModelError(
            f"{type(tokenizer).__name__} has none of the tokens that blanks are made with",
            where="model.tokenizer",
            expected="a GLM tokenizer: [CLS], [MASK], <|startofpiece|>, <|endofpiece|>, …",
            fix="set model.tokenizer to the folder of a GLM tokenizer",
        )
    return commands


def _text(record: Record) -> str:
    text = need_text(record, "text")
    if not text.strip():
        raise DataError("the text is empty", where=record.where, expected="a text with tokens to learn")
    return text


def _prompt(record: Record) -> str:
    return "" if record.get("prompt") is None else need_text(record, "prompt")
