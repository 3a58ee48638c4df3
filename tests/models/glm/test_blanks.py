"""What must hold for every row of blanks, whatever was drawn; then bad and tiny samples, options, vocabularies."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chisquare

from flagai.errors import ConfigError, DataError
from flagai.models.glm.blank_layout import IGNORED
from flagai.models.glm.blanks import (
    PUBLISHED,
    Blanked,
    BlankOptions,
    make_blanks,
    make_rows,
)
from flagai.models.glm.commands import Commands
from flagai.models.glm.spans import _deal

CLS, EOS, SOP, EOP, MASK, SMASK, GMASK, DBLOCK, SEP, UNK = range(900, 910)
C = Commands(
    cls=CLS, eos=EOS, pad=EOS, sep=SEP, unk=UNK, sop=SOP, eop=EOP, mask=MASK, smask=SMASK, gmask=GMASK, dblock=DBLOCK
)
SPECIAL = {CLS, EOS, SOP, EOP, MASK, SMASK, GMASK, DBLOCK, SEP}
ENDS = np.array([3, 4])
ALL = BlankOptions(
    bert_prob=0.4, gap_sentence_prob=0.3, gpt_min_ratio=0.25, block_mask_prob=0.1, short_seq_prob=0.2,
    single_span_prob=0.1,
)  # fmt: skip
SENTENCE = BlankOptions(bert_prob=0.0, gap_sentence_prob=1.0)
DOCUMENT = BlankOptions(bert_prob=0.0, gpt_min_ratio=0.25)


def blanks(
    ids: list[int], options: BlankOptions = ALL, *, position: int = 0, seed: int = 1, **given: object
) -> Blanked:
    return rows(ids, options, position=position, seed=seed, **given)[0]


def rows(
    ids: list[int], options: BlankOptions = ALL, *, position: int = 0, seed: int = 1, epoch: int = 0, **given: object
) -> list[Blanked]:
    arguments = {"commands": C, "sentence_ends": ENDS, **given}
    return make_rows(ids, options=options, seed=seed, epoch=epoch, position=position, **arguments)  # pyright: ignore


def packed(rng: random.Random, *sizes: int, vocabulary: int = 900) -> list[int]:
    return [token for size in sizes for token in (CLS, *(rng.randrange(vocabulary) for _ in range(size)), EOS)]


@dataclass(frozen=True)
class Read:
    """A row read back: the sample it was made from, and its spans in order of part B."""

    ids: list[int]
    spans: list[tuple[int, int]]


def read(row: Blanked) -> Read:
    """Rebuild the sample from part A and the labels, checking on the way all that is certain about a row."""
    cut = row.context_length
    ids, labels = row.input_ids.tolist(), row.labels.tolist()
    places, block = row.position_ids.tolist()
    assert len(ids) == len(labels) == len(places)
    assert places[:cut] == list(range(cut)) and not any(block[:cut])
    assert labels[:cut] == [IGNORED] * cut
    begins = [i for i in range(cut, len(ids)) if block[i] == 1]
    assert begins[0] == cut and [i for i in range(cut, len(ids)) if ids[i] == SOP] == begins
    hidden: dict[int, list[int]] = {}
    for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True):
        assert block[begin:end] == list(range(1, end - begin + 1))
        assert set(places[begin:end]) == {places[begin]} and places[begin] not in hidden
        tokens = labels[begin:end]
        assert row.mode == "suffix" or tokens.pop() == EOP
        assert EOP not in tokens
        fed = ids[begin + 1 : begin + 1 + len(tokens)]
        assert all(a in (b, DBLOCK) for a, b in zip(fed, tokens, strict=False))
        hidden[places[begin]] = tokens
    mask = {"token": MASK, "sentence": SMASK}.get(row.mode, GMASK)
    assert [i for i in range(cut) if ids[i] in SPECIAL - {CLS, EOS}] == sorted(hidden)
    assert all(ids[place] == mask for place in hidden)
    return _joined(ids[:cut], hidden)


def _joined(context: list[int], hidden: dict[int, list[int]]) -> Read:
    sample: list[int] = []
    where = {}
    for place, token in enumerate(context):
        where[place] = len(sample)
        sample += hidden.get(place, [token])
    return Read(sample, [(where[place], where[place] + len(tokens)) for place, tokens in hidden.items()])


def test_every_token_is_in_the_context_or_in_one_span_and_nothing_special_is_masked() -> None:
    rng, seen = random.Random(0), Counter()
    for position in range(1500):
        ids = packed(rng, *(rng.randrange(1, 60) for _ in range(rng.choice([1, 1, 2, 5]))))
        ids = ids if rng.random() < 0.8 else ids[:-1]
        row = blanks(ids, replace(ALL, short_seq_prob=0.0), position=position)
        back = read(row)
        seen[row.mode] += 1
        assert back.ids == ids
        if row.mode == "suffix":
            continue  # documents may follow one another in it
        covered = [i for span in back.spans for i in range(*span)]
        assert len(covered) == len(set(covered)) > 0
        assert not SPECIAL & {ids[i] for i in covered}  # and so no span reaches from a document into the next
        if row.mode == "token":
            ordered = sorted(back.spans)
            assert all(a[1] < b[0] for a, b in pairwise(ordered)), "a token between two spans"
        if row.mode == "sentence":
            assert all(ids[b - 1] in ENDS or b == len(ids) for _, b in back.spans)
            assert all(ids[a - 1] in SPECIAL or ids[a - 1] in ENDS for a, _ in back.spans)
    assert set(seen) == {"token", "sentence", "suffix", "infill"} and min(seen.values()) > 50


def test_a_row_depends_on_its_arguments_only() -> None:
    ids = packed(random.Random(1), 40, 30)
    calls = [(seed, epoch, position) for seed in (1, 2) for epoch in (0, 1) for position in range(20)]

    def call(keys: tuple[int, int, int]) -> list[list[int]]:
        return [row.input_ids.tolist() for row in rows(ids, seed=keys[0], epoch=keys[1], position=keys[2])]

    first = {keys: call(keys) for keys in calls}
    np.random.seed(5)
    random.Random(0).shuffle(calls)
    assert all(call(keys) == first[keys] for keys in calls)
    assert len({str(made) for made in first.values()}) > 70, "keys that change nothing"
    one = make_blanks(ids, commands=C, sentence_ends=ENDS, options=ALL, seed=2, epoch=1, position=7)
    assert one.input_ids.tolist() == first[2, 1, 7][0]
    assert one.input_ids.dtype == one.labels.dtype == one.position_ids.dtype == np.int64


def test_arguments_are_left_as_they_are() -> None:
    ids = np.array(packed(random.Random(2), 50))
    before = ids.copy()
    for position in range(30):
        made = rows(ids, position=position)[0]  # pyright: ignore[reportArgumentType]
        made.input_ids[:] = 0
    assert np.array_equal(ids, before)


def test_orders_of_spans_are_equally_frequent() -> None:
    ids = packed(random.Random(3), *[20] * 3)
    orders = Counter()
    for position in range(2000):
        spans = read(blanks(ids, BlankOptions(), position=position)).spans
        if len(spans) == 3:
            orders[tuple(sorted(spans).index(span) for span in spans)] += 1
    assert len(orders) == 6 and orders.total() > 300
    assert chisquare(list(orders.values())).pvalue > 1e-3


def test_without_shuffling_spans_stand_in_the_order_of_the_text() -> None:
    ids = packed(random.Random(3), 100)
    for position in range(20):
        spans = read(blanks(ids, BlankOptions(shuffle_blocks=False), position=position)).spans
        assert spans == sorted(spans) and len(spans) > 1


@pytest.mark.parametrize("options", [BlankOptions(block_positions=False), replace(DOCUMENT, block_positions=False)])
def test_without_block_positions_part_b_has_ones(options: BlankOptions) -> None:
    row = blanks(packed(random.Random(4), 60), options)
    assert row.position_ids[1].tolist() == [0] * row.context_length + [1] * (len(row) - row.context_length)


def test_dblock_hides_inputs_of_token_mode_and_no_labels() -> None:
    ids, hidden, fed = packed(random.Random(5), 200), 0, 0
    for position in range(200):
        row = blanks(ids, BlankOptions(block_mask_prob=0.1), position=position)
        part = row.input_ids[row.context_length :]
        hidden, fed = hidden + int((part == DBLOCK).sum()), fed + int((part != SOP).sum())
        assert DBLOCK not in row.labels and DBLOCK not in row.input_ids[: row.context_length]
    assert hidden / fed == pytest.approx(0.1, abs=0.012)
    for options in (replace(SENTENCE, block_mask_prob=1.0), replace(DOCUMENT, block_mask_prob=1.0)):
        assert all(DBLOCK not in blanks(ids, options, position=i).input_ids for i in range(20))


def test_modes_have_the_shares_of_the_options() -> None:
    ids = packed(random.Random(6), 60)
    ids[20] = ids[40] = 3
    whole, cut = Counter(), Counter()
    for position in range(3000):
        made = rows(ids, replace(PUBLISHED["10b"], short_seq_prob=0.5, sequence_length=200), position=position)
        (whole if len(made) == 1 else cut)[made[0].wanted] += 1
    for seen in (whole, cut):  # whether a sample is cut says nothing about its mode
        share = np.array([0.5, 0.3, 0.1, 0.1]) * seen.total()
        assert chisquare([seen[m] for m in ("token", "sentence", "suffix", "infill")], share).pvalue > 1e-3


def test_a_suffix_ends_as_the_text_does_and_leaves_the_prompt_out_of_the_loss() -> None:
    ids = packed(random.Random(7), 30, 30)
    loss_mask = [int(i >= 45) for i in range(len(ids))]
    for position in range(50):
        row = blanks(ids, DOCUMENT, position=position, loss_mask=loss_mask)
        assert row.mode == "suffix" and row.labels[-1] == EOS and EOP not in row.labels
        division = row.context_length - 1
        assert row.input_ids[division] == GMASK
        expected = [token if keep else IGNORED for token, keep in zip(ids, loss_mask, strict=True)][division:]
        assert row.labels[row.context_length :].tolist() == expected
        assert row.input_ids[row.context_length + 1 :].tolist() == ids[division:-1]


def test_a_whole_answer_begins_right_behind_the_prompt() -> None:
    ids = [CLS, 1, 2, 5, 6, 7, 8, EOS]
    predicted = [0, 0, 0, 1, 1, 1, 1, 1]
    options = replace(DOCUMENT, gpt_infill_prob=1.0, gpt_min_ratio=0.9, whole_answer_prob=1.0)
    for position in range(20):
        row = blanks(ids, options, position=position, loss_mask=predicted)
        assert row.input_ids.tolist() == [CLS, 1, 2, GMASK, SOP, 5, 6, 7, 8]
        assert row.labels[row.context_length :].tolist() == [5, 6, 7, 8, EOS]
    some = replace(options, whole_answer_prob=0.3, gpt_min_ratio=0.25)
    cuts = Counter(blanks(ids, some, position=i, loss_mask=predicted).context_length for i in range(2000))
    # behind the prompt: 0.3, and of the other 0.7 one of five lengths (2 to 6 tokens)
    assert cuts[4] / 2000 == pytest.approx(0.3 + 0.7 / 5, abs=0.04)


def test_without_a_prompt_there_is_no_whole_answer() -> None:
    ids = [CLS, 1, 2, 5, 6, 7, 8, EOS]
    options = replace(DOCUMENT, gpt_infill_prob=1.0, whole_answer_prob=1.0)
    cuts = {blanks(ids, options, position=i).context_length for i in range(200)}
    assert len(cuts) > 1
    assert cuts == {blanks(ids, replace(options, whole_answer_prob=0.0), position=i).context_length for i in range(200)}


def test_the_other_modes_do_not_look_at_the_prompt() -> None:
    ids = packed(random.Random(8), 50)
    for options in (BlankOptions(), SENTENCE, replace(DOCUMENT, gpt_infill_prob=0.0)):
        for position in range(10):
            plain = blanks(ids, options, position=position)
            masked = blanks(ids, options, position=position, loss_mask=[0] * len(ids))
            assert np.array_equal(plain.labels, masked.labels)


def test_a_vocabulary_without_task_masks_has_one_mask_for_all() -> None:
    plain = replace(C, smask=None, gmask=None, dblock=None)
    ids = packed(random.Random(9), 60)
    for options, commands in ((replace(ALL, block_mask_prob=0.0), plain), (replace(ALL, task_masks=False), C)):
        for position in range(60):
            row = blanks(ids, options, position=position, commands=commands)
            context = row.input_ids[: row.context_length]
            assert MASK in context and SMASK not in context and GMASK not in context


def test_a_single_span_is_one() -> None:
    ids = packed(random.Random(10), 100)
    spans = [read(blanks(ids, BlankOptions(single_span_prob=1.0), position=i)).spans for i in range(300)]
    assert {len(found) for found in spans} == {1}
    assert np.mean([b - a for ((a, b),) in spans]) == pytest.approx(3 / (1 - np.exp(-3)), abs=0.3)


def test_short_samples_are_several_rows_of_the_same_text() -> None:
    rng = random.Random(11)
    ids = packed(rng, 100, 80)
    options = replace(ALL, short_seq_prob=1.0)
    text = " ".join(map(str, ids))
    numbers = Counter()
    for position in range(200):
        made = rows(ids, options, position=position)
        numbers[len(made)] += 1
        assert len({row.wanted for row in made} - {"suffix", "infill"}) <= 1
        for row in made:
            back = read(row).ids
            assert back[0] == CLS and back[1] != CLS
            assert " ".join(map(str, back[1:])) in text
        lengths = [len(read(row).ids) - 1 for row in made]
        assert len(made) == 1 or sum(lengths) <= len(ids) - 1
    assert set(numbers) == {1, 2, 3, 4, 5} and rows(ids[:32], options)[0].mode


@pytest.mark.parametrize("sizes", [[1], [2], [3], [6], [1, 1], [1, 2, 3], [25] * 12, [3] * 40])
@pytest.mark.parametrize("options", [BlankOptions(), SENTENCE, DOCUMENT, ALL, BlankOptions(mask_ratio=1.0)])
def test_small_documents_lose_nothing(sizes: list[int], options: BlankOptions) -> None:
    rng = random.Random(12)
    for position in range(20):
        ids = packed(rng, *sizes)
        for row in rows(ids, replace(options, short_seq_prob=0.0), position=position):
            assert read(row).ids == ids
            assert (row.labels != IGNORED).sum() > 1 - (row.mode == "suffix")


@pytest.mark.parametrize("ids", [[5], [CLS, 5], [5, EOS], [CLS, 5, EOS], [CLS, 5, 6], [5, 6], [UNK]])
@pytest.mark.parametrize("options", [BlankOptions(), SENTENCE, DOCUMENT])
def test_the_smallest_samples_give_a_row(ids: list[int], options: BlankOptions) -> None:
    for position in range(10):
        row = blanks(ids, options, position=position)
        assert read(row).ids == ids and (row.labels != IGNORED).any()


def test_what_cannot_be_made_becomes_token_mode_and_says_so() -> None:
    no_sentence = packed(random.Random(13), 30)
    no_sentence = [9 if token in ENDS else token for token in no_sentence]
    row = blanks(no_sentence, SENTENCE)
    assert (row.mode, row.wanted) == ("token", "sentence")
    assert (row.input_ids == MASK).any()
    row = blanks([CLS, 5], DOCUMENT)
    assert row.mode == "token" and row.wanted in ("suffix", "infill")
    two = packed(random.Random(14), 10, 10)
    row = blanks(two, DOCUMENT, loss_mask=[0] * len(two))
    assert (row.mode, row.wanted) == ("token", "suffix")


def test_many_short_documents_keep_their_share_where_the_original_drops_the_sample() -> None:
    ids = packed(random.Random(15), *[22] * 20)
    masked = []
    for position in range(100):
        spans = read(blanks(ids, BlankOptions(), position=position)).spans
        masked.append(sum(b - a for a, b in spans))
    assert min(masked) >= int(0.15 * len(ids))


def test_what_just_fits_the_longest_document_is_not_dealt_anew() -> None:
    assert _deal([3, 2], [1, 6], 0.15) == [0, 2]
    assert _deal([3, 2], [1, 5], 0.15) is None


def test_command_tokens_in_a_text_are_borders() -> None:
    ids = [CLS, 10, 11, 12, MASK, 13, 14, 15, SEP, 16, 17, EOS]
    for position in range(100):
        row = blanks(ids, BlankOptions(mask_ratio=0.6), position=position)
        assert not SPECIAL - {EOP} & set(row.labels.tolist())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "flat, non-empty"),
        ([CLS, EOS], "2 special tokens"),
        ([CLS], "1 special tokens"),
        ([[CLS, 5]], "flat, non-empty"),
        ([0.5, 1.0], "flat, non-empty"),
        ([CLS, -100, EOS], "token id -100"),
    ],
)
def test_samples_that_cannot_be_used(ids: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        blanks(ids)


def test_a_loss_mask_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match="loss mask of shape"):
        blanks([CLS, 5, EOS], loss_mask=[1, 1])


def test_dblock_must_be_in_the_vocabulary() -> None:
    with pytest.raises(ConfigError, match="has no"):
        blanks([CLS, 5, EOS], commands=replace(C, dblock=None))


def test_no_sentence_ends_is_one_long_sentence_at_most() -> None:
    row = blanks([CLS, 5, 6, 7], SENTENCE, sentence_ends=np.array([], dtype=np.int64))
    assert row.mode == "sentence" and read(row).spans == [(1, 4)]
