"""The parts of the blanks: the layout against recorded rows of the original, batches, options, sentence ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flagai.errors import ConfigError, DataError, UnknownNameError
from flagai.models.glm.blank_layout import IGNORED, lay_out
from flagai.models.glm.blanks import Blanked, BlankOptions, collate_blanks, make_blanks, sentence_ends_of
from flagai.models.glm.commands import Commands
from flagai.models.glm.spans import Spans

RECORDED = json.loads((Path(__file__).parents[2] / "fixtures/glm/blocklm.json").read_text())
BERT = Commands(
    cls=101, eos=0, pad=0, sep=102, unk=100, sop=30522, eop=30523, mask=103, smask=None, gmask=None, dblock=None
)
GPT2 = Commands(
    cls=50259, eos=50256, pad=50256, sep=50261, unk=50262, sop=50257, eop=50258, mask=50260,
    smask=50264, gmask=50263, dblock=50265,
)  # fmt: skip
RUNS = {"bert_only(token)": BERT, "gpt2_10b_mix": GPT2}

Row = dict[str, Any]


def _unpadded(batch: Row) -> list[Row]:
    rows = []
    for i, context in enumerate(batch["attention_mask"]):
        size = context + sum(batch["loss_mask"][i])
        one = {key: batch[key][i][:size] for key in ("text", "target", "loss_mask")}
        positions = [stream[:size] for stream in batch["position_id"][i]]
        rows.append({**one, "position_id": positions, "attention_mask": context})
    return rows


def _parsed(row: Row, commands: Commands) -> tuple[np.ndarray, Spans, np.ndarray, np.ndarray]:
    """A recorded row → the sample, its spans in order of the text, their order in part B, the hidden tokens."""
    cut = row["attention_mask"]
    begins = [i for i in range(cut, len(row["text"])) if row["text"][i] == commands.sop]
    blocks = list(zip(begins, [*begins[1:], len(row["text"])], strict=True))
    by_place = {row["position_id"][0][begin]: (begin, end) for begin, end in blocks}
    ids: list[int] = []
    hidden: list[bool] = []
    spans: list[tuple[int, int]] = []
    for place, token in enumerate(row["text"][:cut]):
        begin, end = by_place.get(place, (0, 0))
        known = row["target"][begin : end - 1] if end else [token]
        if end:
            spans.append((len(ids), len(ids) + len(known)))
        ids += known
        hidden += [fed == commands.dblock for fed in row["text"][begin + 1 : end]] if end else [False]
    starts, stops = np.array(spans).T
    order = [sorted(by_place).index(row["position_id"][0][begin]) for begin, _ in blocks]
    return np.array(ids), Spans(starts, stops), np.array(order), np.array(hidden)


@pytest.mark.parametrize("run", RUNS)
def test_our_layout_builds_every_recorded_row_and_batch(run: str) -> None:
    commands = RUNS[run]
    for batch in RECORDED[run]["batches"]:
        made = []
        mask = commands.smask if batch["mode"] == "sentence" else commands.mask
        for row in _unpadded(batch):
            ids, spans, order, hidden = _parsed(row, commands)
            assert ids.tolist() == RECORDED[run]["input"]
            built = lay_out(ids, spans, order, mask=mask, commands=commands, hidden=hidden)
            made.append(_as_blanked(*built))
        ours = collate_blanks(made, pad_id=0)
        assert ours["input_ids"].tolist() == batch["text"]
        assert ours["position_ids"].tolist() == batch["position_id"]
        assert ours["context_length"].tolist() == batch["attention_mask"]
        expected = np.where(np.array(batch["loss_mask"]) == 1, batch["target"], IGNORED)
        assert np.array_equal(ours["labels"], expected)


def _as_blanked(ids: np.ndarray, positions: np.ndarray, labels: np.ndarray, cut: int) -> Blanked:
    return Blanked(
        input_ids=ids, position_ids=positions, labels=labels, context_length=cut, mode="token", wanted="token"
    )


def test_span_lengths_have_the_recorded_distribution() -> None:
    recorded = np.array(RECORDED["block_length_distribution_lambda3"])
    np.testing.assert_allclose(BlankOptions().span_weights(), recorded / recorded.sum(), rtol=1e-12)


def test_worked_example() -> None:
    ids = np.array([10, 11, 12, 13, 14, 15])
    made, positions, labels, cut = lay_out(
        ids, Spans(np.array([2, 4]), np.array([3, 6])), np.array([1, 0]), mask=GPT2.mask, commands=GPT2
    )
    assert made.tolist() == [10, 11, GPT2.mask, 13, GPT2.mask, GPT2.sop, 14, 15, GPT2.sop, 12]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 4, 4, 4, 2, 2], [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]]
    assert labels.tolist() == [IGNORED] * 5 + [14, 15, GPT2.eop, 12, GPT2.eop]
    assert cut == 5


def test_a_batch_is_padded_on_the_right() -> None:
    settings: dict[str, Any] = {"commands": GPT2, "sentence_ends": np.array([13]), "options": BlankOptions()}
    texts = [[GPT2.cls, *range(100, 100 + size), GPT2.eos] for size in (10, 40)]
    made = [make_blanks(text, seed=1, epoch=0, position=0, **settings) for text in texts]
    batch = collate_blanks(made, pad_id=GPT2.pad)
    width = len(made[1])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (2, width)
    assert batch["position_ids"].shape == (2, 2, width)
    assert batch["context_length"].tolist() == [row.context_length for row in made]
    size = len(made[0])
    assert batch["attention_mask"].sum(axis=1).tolist() == [size, width]
    assert set(batch["input_ids"][0, size:]) == {GPT2.pad} and set(batch["labels"][0, size:]) == {IGNORED}
    assert not batch["position_ids"][0, :, size:].any()
    assert np.array_equal(batch["position_ids"][0, :, :size], made[0].position_ids)
    with pytest.raises(DataError):
        collate_blanks([], pad_id=0)


@pytest.mark.parametrize(
    "given", [{"bert_prob": 1.1}, {"gap_sentence_prob": 0.1}, {"average_span": 0.0}, {"mask_ratio": -0.1}]
)
def test_options_out_of_range(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        BlankOptions(**given)  # pyright: ignore[reportArgumentType]


def test_published_runs() -> None:
    assert BlankOptions.published("large") == BlankOptions()
    assert BlankOptions.published("10b-longer").short_seq_prob == 0.5
    assert BlankOptions.published("large-chinese").bert_prob == 0.4
    with pytest.raises(UnknownNameError, match="10b-chinese"):
        BlankOptions.published("10b-chines")


def test_sentence_ends_by_name_and_by_the_text_a_byte_level_token_stands_for() -> None:
    byte_level = {"a": 0, ".": 1, "?!": 2, "Ċ": 3, "ãĢĤ": 4, "ãĢ": 5, "[X.]": 6, "Ġthe": 7, "e.g": 8}
    backend = Tokenizer(models.BPE(vocab=byte_level, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()  # pyright: ignore
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=["[X.]"])
    assert sentence_ends_of(tokenizer).tolist() == [1, 2, 3, 4, 8]
    words = Tokenizer(models.WordLevel({"好": 0, "。": 1, "，": 2, "！": 3, "…": 4, "；": 5}, unk_token="好"))
    assert sentence_ends_of(PreTrainedTokenizerFast(tokenizer_object=words)).tolist() == [1, 3, 4, 5]


def test_the_objective_needs_no_torch() -> None:
    code = "import sys, flagai.models.glm.blanks; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
