"""The decoder and the searches on a model of another family: they know nothing of blanks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from flagai.generate.beams import BeamSearch
from flagai.generate.decoder import Decoder
from flagai.generate.options import GenerationOptions
from flagai.generate.sampling import most_probable

PAD, END = 0, 1
PROMPTS = [[5, 9, 3], [7], [4, 4, 8, 2, 6]]


@pytest.fixture(scope="module")
def gpt() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 40, "n_positions": 32}
        return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5, bos_token_id=None, eos_token_id=END)).eval()


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    real = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in prompts])
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in prompts])
    return ids, real, (real.long().cumsum(1) - 1).clamp(min=0)


def theirs(gpt: Any, prompt: list[int], **options: Any) -> list[list[int]]:
    ids = torch.tensor([prompt])
    found = gpt.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, pad_token_id=PAD, **options)
    rows = [row[len(prompt) :] for row in found.tolist()]
    return [row[: row.index(END)] if END in row else row for row in rows]


@torch.inference_mode()
def test_greedy_is_hugging_faces(gpt: Any) -> None:
    ids, real, positions = padded(PROMPTS)
    decoder, tokens = Decoder(gpt), []
    scores = decoder.feed(ids, positions, real=real)
    for step in range(8):
        tokens.append(most_probable(scores))
        if step == 3:  # rows in another order, as when some have left
            decoder.select(torch.tensor([2, 0, 1]))
            tokens = [row[[2, 0, 1]] for row in tokens]
            positions = positions[[2, 0, 1]]
        scores = decoder.feed(tokens[-1][:, None], positions[:, -1:] + step + 1)
    rows = torch.stack(tokens, 1)[[1, 2, 0]].tolist()
    assert [row[: row.index(END)] if END in row else row for row in rows] == [theirs(gpt, p)[0] for p in PROMPTS]


@torch.inference_mode()
@pytest.mark.parametrize("early_stopping", [False, True])
def test_beams_are_hugging_faces(gpt: Any, early_stopping: bool) -> None:
    """With a length penalty of 0, where it does not matter whether the end token counts."""
    options = GenerationOptions(num_beams=3, length_penalty=0.0, max_new_tokens=8, early_stopping=early_stopping)
    ids, real, positions = padded(PROMPTS)
    decoder, search = Decoder(gpt), BeamSearch(3, options, end_ids=[END], device=ids.device)
    scores = decoder.feed(ids, positions, real=real).repeat_interleave(3, 0)
    decoder.repeat(3)
    last = positions[:, -1:].repeat_interleave(3, 0)
    while True:
        rows, tokens = search.advance(scores.log_softmax(1))
        if search.done:
            break
        decoder.select(rows)
        scores = decoder.feed(tokens[:, None], last + search.history.shape[1])
    for prompt, found in zip(PROMPTS, search.results(), strict=True):
        expected = theirs(
            gpt, prompt, num_beams=3, num_return_sequences=3, length_penalty=0.0, early_stopping=early_stopping
        )
        assert [list(answer.tokens) for answer in found] == expected


@torch.inference_mode()
def test_a_copy_goes_its_own_way(gpt: Any) -> None:
    ids, real, positions = padded(PROMPTS)
    first = Decoder(gpt)
    first.feed(ids, positions, real=real)
    second = first.copy()
    step, place = torch.tensor([[3], [4], [5]]), positions[:, -1:] + 1
    expected = first.feed(step, place)
    first.feed(step, place + 1)
    assert torch.equal(second.feed(step, place), expected)


def test_an_end_counts_only_among_the_first_candidates() -> None:
    options = GenerationOptions(num_beams=2, max_new_tokens=3, length_penalty=0.0)
    search = BeamSearch(1, options, end_ids=[END], device=torch.device("cpu"))
    never, first = -torch.inf, [-torch.inf] * 4
    search.advance(torch.tensor([[never, never, -0.1, -0.2], first]))
    # In order: the end of the first beam, a token of it, the end of the second beam (third: too late), a token of it.
    rows, tokens = search.advance(torch.tensor([[never, -1.0, -1.1, never], [never, -1.2, never, -1.4]]))
    assert (rows.tolist(), tokens.tolist()) == ([0, 1], [2, 3]) and not search.done
    search.advance(torch.tensor([[never, never, -9.0, -9.5], [never, never, -11.0, -12.0]]))
    assert search.done
    assert [(one.tokens, one.ended) for one in search.results()[0]] == [((2,), True), ((2, 2, 2), False)]


def test_a_search_in_a_vocabulary_smaller_than_itself() -> None:
    options = GenerationOptions(num_beams=4, max_new_tokens=3, length_penalty=0.0)
    search = BeamSearch(1, options, end_ids=[END], device=torch.device("cpu"))
    for _ in range(3):
        search.advance(torch.tensor([[-1.0, -2.0]] * 4))
    expected = [((), -2.0), ((0,), -3.0), ((0, 0, 0), -3.0), ((0, 0), -4.0)]
    assert [(one.tokens, one.logprob) for one in search.results()[0]] == expected
