"""The vectorised blanks against a slow twin: the original's algorithm in plain Python, exact on recorded batches."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from flagai.models.glm.blank_pieces import Sample, short_samples
from flagai.models.glm.blanks import Blanked, BlankOptions, make_blanks, make_rows
from flagai.models.glm.commands import Commands
from flagai.models.glm.spans import special_tokens

RECORDED = json.loads((Path(__file__).parents[2] / "fixtures/glm/blocklm.json").read_text())
BERT = Commands(
    cls=101, eos=0, pad=0, sep=102, unk=100, sop=30522, eop=30523, mask=103, smask=None, gmask=None, dblock=None
)
GPT2 = Commands(
    cls=50259, eos=50256, pad=50256, sep=50261, unk=50262, sop=50257, eop=50258, mask=50260,
    smask=50264, gmask=50263, dblock=50265,
)  # fmt: skip
RUNS = {
    "bert_only(token)": (BERT, (999, 1012, 1024, 1025, 1029)),  # ! . : ; ?
    "gpt2_10b_mix": (GPT2, (0, 13, 25, 26, 30)),
}
_CORRUPTION_SEED = 7  # of the global generator when the batches were recorded: found by trying, fits all 16 rows

Span = tuple[int, int]
Row = dict[str, Any]


@dataclass
class Twin:
    """The original's collate function, with its order of random numbers. Rows that it drops are None."""

    commands: Commands
    ends: Container[int]
    options: BlankOptions
    rng: random.Random
    corruption: random.Random = field(default_factory=random.Random)

    def batch(self, samples: list[list[int]]) -> tuple[str, list[Row | None]]:
        o, rng = self.options, self.rng
        if rng.random() < o.short_seq_prob:
            samples = [piece for sample in samples for piece in self.pieces(sample, rng.randrange)]
        single = rng.random() < o.single_span_prob
        kind = 0.0 if single else rng.random()
        if kind < o.bert_prob:
            return "bert", [self.token(sample, single) for sample in samples]
        if kind < o.bert_prob + o.gap_sentence_prob:
            return "sentence", [self.sentence(sample) for sample in samples]
        lengths = [len(sample) for sample in samples]
        most = rng.randint(int(o.gpt_min_ratio * min(lengths)), max(lengths) - 2)
        return "gpt", [self.document(sample, min(most, len(sample) - 2)) for sample in samples]

    def token(self, ids: list[int], single: bool = False) -> Row | None:
        lengths: list[int] = []
        while sum(lengths) < (1 if single else int(self.options.mask_ratio * len(ids))):
            lengths += self.rng.choices(range(1, 40), weights=self.options.span_weights())
        spans = self.blanks(ids, lengths)
        return self.row(ids, spans, self.commands.mask, hide=True) if len(spans) == len(lengths) else None

    def blanks(self, ids: list[int], lengths: list[int]) -> list[Span]:
        self.rng.shuffle(lengths)
        self.rng.shuffle(lengths)  # the original does, in two functions
        documents = sorted(self.documents(ids), key=lambda document: document[1])
        spans: list[Span] = []
        for number, (begin, size) in enumerate(documents):
            longest = number == len(documents) - 1
            mine: list[int] = []
            for length in lengths[len(spans) :]:
                fits = sum(mine) + length + len(mine) <= size
                if not (fits if longest else sum(mine) + length <= int(size * self.options.mask_ratio)):
                    break
                mine.append(length)
            spans += self.places(mine, begin, size) if mine else []
        return spans

    def documents(self, ids: list[int]) -> list[Span]:
        """(begin, length), the last document first; the last token of the sample counts as its eos."""
        found, end = [], len(ids)
        for border in reversed([-1, *(i for i, token in enumerate(ids) if token == self.commands.eos)]):
            begin = border + 1
            if ids[begin : begin + 1] == [self.commands.cls]:
                begin += 1
            size = end - begin
            found.append((begin, size - 1 if end == len(ids) and size > 0 else size))
            end = border
        return found

    def places(self, lengths: list[int], begin: int, size: int) -> list[Span]:
        free = size - sum(lengths) - len(lengths) + 1
        spans = []
        for place, length in zip(sorted(self.rng.randrange(free + 1) for _ in lengths), lengths, strict=True):
            spans.append((begin + place, begin + place + length))
            begin += length + 1
        return spans

    def sentence(self, ids: list[int]) -> Row:
        sentences, begin = [], 1 if ids[0] == self.commands.cls else 0
        for i, token in enumerate(ids):
            if token in self.ends and begin <= i:
                sentences.append((begin, i + 1))
            if token in self.ends or token == self.commands.eos:
                begin = i + 1
        if begin < len(ids):
            sentences.append((begin, len(ids)))
        self.rng.shuffle(sentences)
        taken: list[Span] = []
        while not taken or sum(b - a for a, b in taken) < int(self.options.gap_sentence_ratio * len(ids)):
            if len(taken) == len(sentences):
                break
            taken.append(sentences[len(taken)])
        return self.row(ids, taken, self.commands.smask or self.commands.mask)

    def document(self, ids: list[int], size: int) -> Row | None:
        mask = self.commands.gmask or self.commands.mask
        several = self.commands.eos in ids[:-1]
        if not several and self.rng.random() >= self.options.gpt_infill_prob:
            return self.row(ids, self.blanks(ids, [size]), mask)
        cut = len(ids) - size
        context = [*ids[:cut], mask]
        return {
            "text": [*context, self.commands.sop, *ids[cut:-1]],
            "target": context + ids[cut:],
            "loss_mask": [0] * (cut + 1) + [1] * size,
            "position_id": [[*range(cut + 1), *[cut] * size], [0] * (cut + 1) + [*range(1, size + 1)]],
            "attention_mask": cut + 1,
        }

    def row(self, ids: list[int], spans: list[Span], mask: int, hide: bool = False) -> Row:
        self.rng.shuffle(spans)
        stops, context, place, i = dict(spans), [], {}, 0
        while i < len(ids):
            place[i] = len(context)
            context.append(mask if i in stops else ids[i])
            i = stops.get(i, i + 1)
        text, target = list(context), list(context)
        positions, blocks = [*range(len(context))], [0] * len(context)
        for begin, end in spans:
            text += [self.commands.sop, *(self.fed(token, hide) for token in ids[begin:end])]
            target += [*ids[begin:end], self.commands.eop]
            positions += [place[begin]] * (end - begin + 1)
            blocks += range(1, end - begin + 2)
        loss_mask = [0] * len(context) + [1] * (len(text) - len(context))
        return {
            "text": text, "target": target, "loss_mask": loss_mask,
            "position_id": [positions, blocks], "attention_mask": len(context),
        }  # fmt: skip

    def fed(self, token: int, hide: bool) -> int:
        hidden = hide and self.options.block_mask_prob > 0 and self.corruption.random() < self.options.block_mask_prob
        return self.commands.dblock if hidden else token  # pyright: ignore[reportReturnType]

    def pieces(self, ids: list[int], randrange: Callable[..., int]) -> list[list[int]]:
        """One sample cut short (the original draws the target length once for all samples of a batch)."""
        length = self.options.sequence_length or len(ids)
        target = randrange(32, length - 1)
        body, eos = ids[1:], self.commands.eos
        after = [False, *(token in self.ends or token == eos for token in body)]
        pieces = []
        for _ in range((length - 1) // target):
            begin, end = 0, len(body)
            if target < len(body):
                begin = randrange(0, len(body) - target)
                while begin > 0 and (body[begin] == eos or not after[begin]):
                    begin -= 1
                end = begin + target
                while end > begin and not after[end]:
                    end -= 1
                end = begin + target if end - begin < target // 2 else end
            pieces.append([self.commands.cls, *body[begin:end]])
        return pieces


# --- the recorded batches ----------------------------------------------------------------------------------------


def _options(run: str) -> BlankOptions:
    settings = {k: v for k, v in RECORDED[run]["kwargs"].items() if k != "task_mask"}
    return BlankOptions(**settings)


def _unpadded(batch: Row) -> list[Row]:
    rows = []
    for i, context in enumerate(batch["attention_mask"]):
        size = context + sum(batch["loss_mask"][i])
        one = {key: batch[key][i][:size] for key in ("text", "target", "loss_mask")}
        positions = [stream[:size] for stream in batch["position_id"][i]]
        rows.append({**one, "position_id": positions, "attention_mask": context})
    return rows


@pytest.mark.parametrize("run", RUNS)
def test_the_twin_makes_the_recorded_batches_to_the_token(run: str) -> None:
    commands, ends = RUNS[run]
    corruption = random.Random(_CORRUPTION_SEED)
    for batch in RECORDED[run]["batches"]:
        twin = Twin(commands, ends, _options(run), random.Random(batch["step"]), corruption)
        mode, rows = twin.batch([list(RECORDED[run]["input"])] * 2)
        assert mode == batch["mode"]
        assert rows == _unpadded(batch)


# --- the same law: outcomes of many draws, counted -----------------------------------------------------------------

DRAWS = 2000
SEED = 20
TEXT = [101, *range(1, 4), 1012, 5, 6, 1029, 8, 1012, *range(10, 15), 999, 16, 17, 0]  # four sentences, a loose end
ENDS = np.array(RUNS["bert_only(token)"][1])


def _packed(*sizes: int) -> list[int]:
    ids = iter(range(2000, 9000))
    return [token for size in sizes for token in (101, *(next(ids) for _ in range(size)), 0)]


def _outcome(row: Row | Blanked) -> tuple[int, ...]:
    """All that a row tells, with the ids of part B in order: equal outcomes are equal rows."""
    if isinstance(row, Blanked):
        return tuple(row.input_ids.tolist())
    return tuple(row["text"])


def _both(
    ids: list[int], options: BlankOptions, seen: Callable[[Any], Any] = _outcome, draws: int = DRAWS
) -> tuple[Counter[Any], Counter[Any]]:
    """What the twin and what we make of a sample, counted by `seen` of each row; a row the twin drops is None."""
    ours, theirs = Counter[Any](), Counter[Any]()
    twin = Twin(BERT, ENDS.tolist(), options, random.Random(SEED))
    for position in range(draws):
        for row in twin.batch([ids])[1]:
            theirs[None if row is None else seen(row)] += 1
        for row in make_rows(
            ids, commands=BERT, sentence_ends=ENDS, options=options, seed=SEED, epoch=0, position=position
        ):
            ours[seen(row)] += 1
    return ours, theirs


def _assert_same_law(ours: Counter[Any], theirs: Counter[Any], *, least: int = 12) -> None:
    """Two-sample chi-square over all outcomes; what is too rare to count is counted together."""
    common = [key for key in ours | theirs if ours[key] + theirs[key] >= least]
    assert len(common) > 1, "nothing to compare"
    assert all(ours[key] and theirs[key] for key in common), "an outcome that only one of them has"
    table = np.array([[side[key] for key in common] for side in (ours, theirs)])
    rest = np.array([[side.total()] for side in (ours, theirs)]) - table.sum(axis=1, keepdims=True)
    table = np.hstack([table, rest]) if rest.sum() >= least else table
    assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        BlankOptions(mask_ratio=0.1),  # one span, mostly
        BlankOptions(mask_ratio=0.2),
        BlankOptions(single_span_prob=1.0),
        BlankOptions(bert_prob=0.0, gap_sentence_prob=1.0),
        BlankOptions(bert_prob=0.0, gap_sentence_prob=1.0, gap_sentence_ratio=0.4),
        BlankOptions(bert_prob=0.0, gpt_min_ratio=0.25),
        BlankOptions(bert_prob=0.0, gpt_infill_prob=0.0),
        BlankOptions(bert_prob=0.3, gap_sentence_prob=0.3, gpt_min_ratio=0.5, single_span_prob=0.2),
    ],
    ids=["one span", "spans", "single", "sentence", "sentences", "document", "infill", "mix"],
)
def test_whole_rows_have_the_twins_law(options: BlankOptions) -> None:
    _assert_same_law(*_both(TEXT, options))


@pytest.mark.parametrize("options", [BlankOptions(mask_ratio=0.2), BlankOptions(bert_prob=0.0, gpt_infill_prob=0.0)])
def test_the_last_token_of_a_text_without_end_is_left_alone_as_by_the_twin(options: BlankOptions) -> None:
    _assert_same_law(*_both(TEXT[:12], options))


def _masked_places(row: Row | Blanked) -> tuple[int, ...]:
    """Which tokens of a `_packed` sample are masked, by document of ten."""
    ids = row["text"] if isinstance(row, dict) else row.input_ids.tolist()
    cut = row["attention_mask"] if isinstance(row, dict) else row.context_length
    numbers = np.bincount([(token - 2000) // 10 for token in ids[cut:] if 2000 <= token < 9000], minlength=6)
    return tuple(numbers.tolist())


def test_documents_of_a_packed_sample_get_the_twins_shares() -> None:
    _assert_same_law(*_both(_packed(10, 10, 40), BlankOptions(), _masked_places))
    _assert_same_law(*_both(_packed(20, 20), BlankOptions(), _masked_places))


def test_a_packed_sample_has_no_infill_in_document_mode() -> None:
    ours, theirs = _both(_packed(20, 15), BlankOptions(bert_prob=0.0, gpt_infill_prob=0.0, gpt_min_ratio=0.1))
    _assert_same_law(ours, theirs)


def _span_lengths(row: Row | Blanked) -> dict[int, int]:
    """Length of each span by the place of its mask."""
    places = row["position_id"][0] if isinstance(row, dict) else row.position_ids[0].tolist()
    ids = np.array(row["text"] if isinstance(row, dict) else row.input_ids)
    sops = [*np.flatnonzero(ids == BERT.sop).tolist(), len(ids)]
    return {places[a]: b - a - 1 for a, b in pairwise(sops)}


def test_a_sample_of_512_has_the_twins_span_lengths_and_masked_share() -> None:
    ids = _packed(510)
    ours, theirs = Counter[int](), Counter[int]()
    totals: list[list[int]] = [[], []]
    last: list[Counter[int]] = [Counter(), Counter()]  # of the last span in the text: of a shuffled draw like any other
    twin = Twin(BERT, ENDS.tolist(), BlankOptions(), random.Random(SEED))
    for position in range(600):
        row = make_blanks(
            ids, commands=BERT, sentence_ends=ENDS, options=BlankOptions(), seed=SEED, epoch=1, position=position
        )
        for i, (one, lengths) in enumerate(((row, ours), (twin.token(ids), theirs))):
            found = _span_lengths(one)  # pyright: ignore[reportArgumentType]: one document is never dropped
            lengths.update(found.values())
            totals[i].append(sum(found.values()))
            last[i][found[max(found)]] += 1
    _assert_same_law(ours, theirs)
    _assert_same_law(*last)
    _assert_same_law(Counter(totals[0]), Counter(totals[1]))
    assert min(totals[0]) >= int(0.15 * 512)
    overshoot = (4.0 - 1.0) / 2  # of a renewal process: E[l²] / E[l] = 4 for a Poisson(3) without 0
    assert np.mean(totals[0]) == pytest.approx(76 + overshoot, abs=0.2)


def _sentences(*sizes: int) -> list[int]:
    """A document of sentences of these sizes, the ids tell the sentence and the place in it."""
    return [
        101,
        *(token for i, size in enumerate(sizes) for token in (*range(100 * size + i, 101 * size + i), 1012)),
        0,
    ]


@pytest.mark.parametrize(
    ("ids", "ends", "length"),
    [
        ([*_sentences(27, 11, 2, 22), *_sentences(23, 3)[:-2], 0], ENDS.tolist(), 100),
        (_packed(75), ENDS.tolist(), 66),
        (_packed(8, 32), range(9000), 34),
    ],
    ids=["sentences", "one sentence", "all boundaries"],
)
def test_short_samples_have_the_twins_law(ids: list[int], ends: Sequence[int], length: int) -> None:
    twin = Twin(BERT, ends, BlankOptions(sequence_length=length), random.Random(SEED))
    sample = Sample(np.array(ids), np.ones(len(ids), dtype=bool), special_tokens(np.array(ids), BERT))
    closing, rng = np.array(ends), np.random.default_rng(SEED)
    ours, theirs = Counter[Any](), Counter[Any]()
    for _ in range(DRAWS):
        cut = short_samples(sample, length=length, ends=closing, commands=BERT, rng=rng)
        ours[len(cut), *cut[-1].ids.tolist()] += 1
        pieces = twin.pieces(ids, twin.rng.randrange)
        last = pieces[-1][1:] if pieces[-1][1] == BERT.cls else pieces[-1]  # we do not double the [CLS]
        theirs[len(pieces), *last] += 1
    _assert_same_law(ours, theirs)
