"""Contrastive search against a slow twin: no cache, one text at a time, plain words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.generate import slow
from tests.generate.searching import Read, ask, reader, run, tokens_of
from transformers import GPT2Config, GPT2LMHeadModel

from flagai.errors import ConfigError
from flagai.generate.blanks import fill
from flagai.generate.contrastive import Contrastive
from flagai.generate.generate import generate
from flagai.generate.options import GenerationOptions
from flagai.generate.processors import make_processors
from flagai.generate.prompts import structural_ids
from flagai.generate.search import Setting

CPU = torch.device("cpu")
PROMPTS = [[7, 3, 9], [5], [11, 12, 13, 14, 15, 16], [1, 2, 30, 4]]
ENDS = (31, 35)


@pytest.fixture(scope="module")
def gpt2() -> Any:
    torch.manual_seed(3)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=50, n_positions=64, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def read(gpt2: Any) -> Read:
    return reader(gpt2)


def options_of(**settings: Any) -> GenerationOptions:
    return GenerationOptions(**{"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 10, **settings})


def searched(read: Read, options: GenerationOptions, arrivals: Any, **fields: Any) -> dict[int, Any]:
    processors = make_processors(options, end_ids=ENDS, device=CPU)
    return run(Contrastive(options, Setting(device=CPU, end_ids=ENDS, processors=processors, **fields)), arrivals, read)


def twin(
    read: Read, ids: Sequence[int], options: GenerationOptions, ends: Sequence[int] = ENDS
) -> tuple[list[int], list[float]]:
    """Su et al. 2022, equation 5, over the whole text again at every step: tokens with the end, and their log p."""
    processors = make_processors(options, end_ids=ends, device=CPU)
    tokens: list[int] = []
    logprobs: list[float] = []
    while len(tokens) < (options.max_new_tokens or 0) and (not tokens or tokens[-1] not in ends):
        scores, before = read(ids, tokens)
        allowed = scores[None]
        for processor in processors:
            allowed = processor(torch.tensor([tokens], dtype=torch.long), allowed)
        values = {}
        for token in allowed[0].topk(options.top_k).indices.tolist():
            state = read(ids, [*tokens, token])[1][-1]
            likeness = max(float(torch.cosine_similarity(state, one, dim=0)) for one in before)
            values[token] = (1 - options.penalty_alpha) * float(allowed[0].softmax(0)[token])  # type: ignore[operator]
            values[token] -= options.penalty_alpha * likeness  # type: ignore[operator]
        tokens.append(max(values, key=lambda token: values[token]))
        logprobs.append(float(scores.log_softmax(0)[tokens[-1]]))
    return tokens, logprobs


@pytest.mark.parametrize(
    "settings",
    [{}, {"penalty_alpha": 0.2, "top_k": 8}, {"penalty_alpha": 1.0}, {"repetition_penalty": 1.5, "min_new_tokens": 4}],
    ids=str,
)
def test_as_the_slow_twin(read: Read, settings: dict[str, Any]) -> None:
    options = options_of(**settings)
    together = searched(read, options, {0: [ask(i, ids, options) for i, ids in enumerate(PROMPTS)]})
    apart = searched(read, options, {2 * i: [ask(i, ids, options)] for i, ids in enumerate(PROMPTS)})
    assert together == apart
    greedy = []
    for i, ids in enumerate(PROMPTS):
        tokens, logprobs = twin(read, ids, options)
        (answer,) = together[i]
        assert list(tokens_of([answer])[0]) == tokens
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert answer.logprob == pytest.approx(sum(logprobs), abs=1e-4)
        assert answer.finish == ("end" if tokens[-1] in ENDS else "length")
        greedy.append(int(read(ids, ())[0].argmax()) == tokens[0])
    assert {one[0].finish for one in together.values()} == {"end", "length"}
    assert not all(greedy)


def test_with_engine_and_cache(gpt2: Any, read: Read) -> None:
    ids, mask = torch.zeros(len(PROMPTS), 6, dtype=torch.long), torch.zeros(len(PROMPTS), 6, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt), 1
    settings: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": 10}
    found = generate(gpt2, ids, mask, eos_token_id=ENDS, **settings)
    again = generate(gpt2, ids, mask, eos_token_id=ENDS, max_rows=5, **settings)
    for prompt, answers, same in zip(PROMPTS, found.answers, again.answers, strict=True):
        assert list(tokens_of(answers)[0]) == twin(read, prompt, options_of())[0] == list(tokens_of(same)[0])


def test_several_blanks_of_a_glm(model: Any, commands: Any) -> None:
    """A later blank's states are compared with those of the answers before it, too."""
    texts = [
        [commands.cls, 5, commands.mask, 40, 41, commands.smask, 9, commands.eos],
        [commands.cls, commands.gmask, 21, 22, 23, commands.eos],
    ]
    plain = GenerationOptions(penalty_alpha=0.7, top_k=5, max_new_tokens=4)
    options = dataclasses.replace(plain, suppress_tokens=structural_ids(commands))
    ends = (commands.eop, commands.eos)
    cut = 0
    for text, (filling,) in zip(texts, fill(model, texts, commands=commands, options=plain), strict=True):
        before: list[tuple[int, int, int]] = []
        for place, answer in zip(slow.places(text, commands), filling, strict=True):
            read = glm_reader(model, [*before, (commands.sop, place, 1)], place)
            tokens, logprobs = twin(read, text, options, ends)
            assert list(tokens_of([answer])[0]) == tokens
            assert answer.logprobs == pytest.approx(logprobs, abs=1e-4)
            before += [(token, place, i) for i, token in enumerate((commands.sop, *answer.tokens), start=1)]
            cut += not answer.ended
    assert cut


def glm_reader(model: Any, before: Sequence[tuple[int, int, int]], place: int) -> Read:
    """Of a context, the answers before, and what is written of the one at `place`."""

    def read(ids: Sequence[int], written: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        fed = [*before, *((token, place, i) for i, token in enumerate(written, start=2))]
        n, m = len(ids), len(fed)
        tokens = torch.tensor([[*ids, *(one[0] for one in fed)]])
        positions = torch.tensor([[[*range(n), *(one[1] for one in fed)], [*[0] * n, *(one[2] for one in fed)]]])
        mask = torch.ones(n + m, n + m).tril()
        mask[:, :n] = 1
        with torch.no_grad():
            states = model.glm(tokens, position_ids=positions, attention_mask=mask[None, None]).last_hidden_state[0]
            return model.lm_head(states[-1]).float(), states

    return read


def test_the_last_token_needs_a_position_too(gpt2: Any) -> None:
    """All 64 positions are taken by 51 tokens of a prompt and 13 of an answer, the last one read as well."""
    prompt = torch.arange(51)[None] % 50
    contrastive: dict[str, Any] = {"penalty_alpha": 0.6, "top_k": 4, "eos_token_id": ()}
    assert len(generate(gpt2, prompt, max_new_tokens=13, **contrastive).answers[0][0].tokens) == 13
    assert len(generate(gpt2, prompt, max_new_tokens=14, eos_token_id=()).answers[0][0].tokens) == 14
    with pytest.raises(ConfigError, match=r"max_new_tokens is 14(.|\n)*at most 13"):
        generate(gpt2, prompt, max_new_tokens=14, **contrastive)


def test_no_penalty_is_greedy(read: Read) -> None:
    """As α goes to 0 only the probability counts."""
    options = options_of(penalty_alpha=1e-9)
    for i, (answer,) in searched(read, options, {0: [ask(i, p, options) for i, p in enumerate(PROMPTS)]}).items():
        tokens = tokens_of([answer])[0]
        assert [int(read(PROMPTS[i], tokens[:n])[0].argmax()) for n in range(len(tokens))] == list(tokens)


def test_what_is_written_already_counts(read: Read) -> None:
    options = options_of(max_new_tokens=6)
    (free,) = searched(read, options, {0: [ask(0, [7, 3], options)]})[0]
    begun = ask(0, [7, 3], options, written=free.tokens[:2], logprobs=free.logprobs[:2])
    assert searched(read, options, {0: [begun]})[0] == [free]


def test_forbidden_tokens_are_no_candidates(read: Read) -> None:
    """Three tokens are left of fifty, though four candidates are asked for."""
    options = options_of(suppress_tokens=tuple(i for i in range(50) if i not in (8, 9, 10)))
    (answer,) = searched(read, options, {0: [ask(0, [7], options)]})[0]
    assert set(answer.tokens) <= {8, 9, 10} and len(answer.tokens) == 10


def test_no_token_allowed_is_an_error(read: Read) -> None:
    options = options_of(suppress_tokens=range(50))
    error = searched(read, options, {0: [ask(0, [7], options)]})[0]
    assert isinstance(error, ConfigError) and "no token" in str(error)


def test_a_stop_string_ends_an_answer(read: Read) -> None:
    options = options_of()
    (free,) = searched(read, options, {0: [ask(0, [7, 3, 9], options)]})[0]
    stop = free.tokens[2]
    (found,) = searched(read, options, {0: [ask(0, [7, 3, 9], options)]}, stops=lambda tokens: tokens[-1] == stop)[0]
    assert found.finish == "stop" and not found.ended
    assert found.tokens == free.tokens[: free.tokens.index(stop) + 1]


def test_a_dropped_request_leaves_its_rows(read: Read) -> None:
    options = options_of()
    search = Contrastive(options, Setting(device=CPU, end_ids=ENDS))
    requests = [ask(i, ids, options) for i, ids in enumerate(PROMPTS[:3])]
    search.admit(requests)
    both = [read(one.prompt.ids, ()) for one in requests]
    move = search.advance(torch.stack([scores for scores, _ in both]), [states for _, states in both])
    assert move.rows.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert search.drop(1) == [4, 5, 6, 7] and search.drop(1) == []
    tokens = [token for row, token in zip(move.rows.tolist(), move.tokens.tolist(), strict=True) if row != 1]
    fed = [(requests[2 * (i // 4)].prompt.ids, token) for i, token in enumerate(tokens)]
    both = [read(ids, [token]) for ids, token in fed]
    move = search.advance(torch.stack([scores for scores, _ in both]), [states[-1:] for _, states in both])
    first, second = (twin(read, PROMPTS[i], options)[0] for i in (0, 2))
    assert tokens[move.rows[0]] == first[0] and tokens[move.rows[-1]] == second[0]
