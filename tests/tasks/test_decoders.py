"""The NumPy decoders against all paths and all spans, and without torch."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from flagai.tasks.decoders import (
    Span,
    TagGrammar,
    crf_lattice,
    crf_marginals,
    decode_tags,
    merge_windows,
    owned_ranges,
    sigmoid,
    softmax,
    spans_from_scores,
    spans_from_tags,
    tag_grammar,
    viterbi,
)

IOB = ["O", "B-PER", "I-PER"]
BIOES = ["O", "B-X", "I-X", "E-X", "S-X"]


def chain(length: int, num_tags: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(length, num_tags), (num_tags, num_tags), (num_tags,), (num_tags,)]
    emissions, transitions, start, end = (rng.normal(size=shape) * 2 for shape in shapes)
    return emissions, transitions, start, end


def some_grammar(num_tags: int, seed: int) -> TagGrammar:
    rng = np.random.default_rng(seed)
    between = rng.random((num_tags, num_tags)) < 0.6
    between[:, 0] = between[0] = True
    start, end = rng.random(num_tags) < 0.6, rng.random(num_tags) < 0.6
    start[0] = end[0] = True
    return TagGrammar(start=start, between=between, end=end)


def legal(path: tuple[int, ...], grammar: TagGrammar | None) -> bool:
    if grammar is None:
        return True
    inside = all(grammar.between[a, b] for a, b in itertools.pairwise(path))
    return bool(grammar.start[path[0]] and grammar.end[path[-1]] and inside)


def all_paths(scores: tuple[np.ndarray, ...], grammar: TagGrammar | None = None) -> dict[tuple[int, ...], float]:
    emissions, transitions, start, end = scores
    length, num_tags = emissions.shape
    found = {}
    for path in itertools.product(range(num_tags), repeat=length):
        if legal(path, grammar):
            moves = sum(transitions[a, b] for a, b in itertools.pairwise(path))
            found[path] = float(
                start[path[0]] + end[path[-1]] + moves + sum(emissions[i, tag] for i, tag in enumerate(path))
            )
    return found


CASES = [(length, tags) for length in (1, 2, 3, 5) for tags in (1, 2, 4)]


@pytest.mark.parametrize(("length", "num_tags"), CASES)
@pytest.mark.parametrize("constrained", [False, True])
def test_viterbi_and_marginals_equal_the_search_over_all_paths(length: int, num_tags: int, constrained: bool) -> None:
    for seed in range(5):
        scores = chain(length, num_tags, seed)
        grammar = some_grammar(num_tags, seed) if constrained else None
        paths = all_paths(scores, grammar)
        best = max(paths, key=paths.__getitem__)
        path, score = viterbi(*scores, grammar)
        assert tuple(path) == best
        assert score == pytest.approx(paths[best])

        log_z = np.logaddexp.reduce(list(paths.values()))
        expected = np.zeros((length, num_tags))
        for tags, value in paths.items():
            expected[range(length), tags] += np.exp(value - log_z)
        np.testing.assert_allclose(crf_marginals(*scores, grammar), expected, atol=1e-12)
        assert crf_lattice(*scores, grammar).log_z == pytest.approx(log_z)


def test_segment_probability_equals_the_sum_over_the_paths_that_hold_it() -> None:
    scores = chain(5, 3, 7)
    paths = all_paths(scores)
    log_z = np.logaddexp.reduce(list(paths.values()))
    lattice = crf_lattice(*scores)
    for first in range(5):
        for length in range(1, 6 - first):
            for tags in itertools.product(range(3), repeat=length):
                expected = sum(np.exp(v - log_z) for p, v in paths.items() if p[first : first + length] == tags)
                assert lattice.segment_probability(first, tags) == pytest.approx(expected, abs=1e-12)


def test_decode_tags_scores_an_entity_by_the_paths_that_contain_exactly_it() -> None:
    grammar = tag_grammar(IOB)
    seen = 0
    for seed in range(30):
        scores = chain(5, 3, seed)
        paths = all_paths(scores, grammar)
        log_z = np.logaddexp.reduce(list(paths.values()))
        spans = decode_tags(scores[0], IOB, *scores[1:], allowed=grammar)
        best = max(paths, key=paths.__getitem__)
        assert [(s.start, s.end, s.label) for s in spans] == spans_from_tags([IOB[t] for t in best])
        for span in spans:
            key = (span.start, span.end, span.label)
            holding = [v for p, v in paths.items() if key in spans_from_tags([IOB[t] for t in p])]
            assert span.score == pytest.approx(sum(np.exp(v - log_z) for v in holding), abs=1e-9)
            seen += 1
    assert seen > 20


def test_decode_tags_without_a_chain_is_the_softmax_of_each_position() -> None:
    emissions = np.array([[0.0, 3.0, 0.0], [0.0, 0.0, 2.0], [4.0, 0.0, 1.0]])
    (span,) = decode_tags(emissions, IOB)
    p = softmax(emissions)
    assert (span.start, span.end, span.label) == (0, 2, "PER")
    assert span.score == pytest.approx(p[0, 1] * p[1, 2] * (1 - p[2, 2]))
    assert decode_tags(np.zeros((0, 3)), IOB) == []
    assert decode_tags(np.array([[5.0, 0.0, 0.0]]), IOB) == []


def test_decode_tags_without_a_chain_equals_viterbi_over_zeros() -> None:
    grammar = tag_grammar(IOB)
    zeros = np.zeros((3, 3)), np.zeros(3), np.zeros(3)
    legal_best = 0
    for seed in range(50):
        emissions = np.random.default_rng(seed).normal(size=(4, 3))
        assert decode_tags(emissions, IOB, allowed=grammar) == decode_tags(emissions, IOB, *zeros, allowed=grammar)
        assert decode_tags(emissions, IOB) == decode_tags(emissions, IOB, *zeros)
        legal_best += legal(tuple(emissions.argmax(1)), grammar)
    assert 5 < legal_best < 45  # both ways were taken


def test_nothing_to_tag_is_an_empty_path() -> None:
    _, transitions, start, end = chain(1, 3, 0)
    assert viterbi(np.zeros((0, 3)), transitions, start, end) == ([], 0.0)
    assert crf_marginals(np.zeros((0, 3)), transitions, start, end).shape == (0, 3)


@pytest.mark.parametrize("tags", [["O", "B-A", "I-A", "B-B-C", "I-B-C"], BIOES])
def test_grammar_allows_exactly_the_sequences_that_write_down_some_spans(tags: list[str]) -> None:
    """A sequence is legal when writing the spans that are read from it gives it back."""
    grammar = tag_grammar(tags)
    bioes = "S-X" in tags

    def write(spans: list[tuple[int, int, str]], length: int) -> list[str]:
        row = ["O"] * length
        for start, end, kind in spans:
            row[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
            if bioes:
                row[end - 1] = f"S-{kind}" if end - start == 1 else f"E-{kind}"
        return row

    for length in (1, 2, 3, 4):
        for path in itertools.product(range(len(tags)), repeat=length):
            names = [tags[tag] for tag in path]
            assert legal(path, grammar) == (write(spans_from_tags(names), length) == names), names


def test_grammar_as_json_is_booleans() -> None:
    plain = tag_grammar(IOB).to_json()
    assert plain == {
        "start": [True, True, False],
        "between": [[True, True, False], [True, True, True], [True, True, True]],
        "end": [True, True, True],
    }


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-A I-A O", [(1, 3, "A")]),
        ("B-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("I-A I-A O I-B", [(0, 2, "A"), (3, 4, "B")]),  # I after nothing begins
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")]),  # I of another type begins
        ("B-A I-A E-A S-A", [(0, 3, "A"), (3, 4, "A")]),
        ("B-A E-A I-A", [(0, 2, "A"), (2, 3, "A")]),  # nothing goes on after E
        ("B-A O E-A", [(0, 1, "A"), (2, 3, "A")]),  # left open: closed by O; E alone begins and ends
        ("B-A L-A U-B", [(0, 2, "A"), (2, 3, "B")]),  # BILOU
        ("B-A-b I-A-b", [(0, 2, "A-b")]),
        ("B I O I", [(0, 2, ""), (3, 4, "")]),  # no types
        ("", []),
        ("O O", []),
    ],
)
def test_every_tag_sequence_has_one_reading(tags: str, spans: list[tuple[int, int, str]]) -> None:
    assert spans_from_tags(tags.split()) == spans


def test_reading_of_iob2_agrees_with_seqeval_on_random_sequences() -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    rng = np.random.default_rng(0)
    tags = np.array(["O", "B-A", "I-A", "B-B", "I-B"])
    for _ in range(300):
        row = tags[rng.integers(0, 5, size=rng.integers(1, 9))].tolist()
        assert spans_from_tags(row) == [(start, end + 1, kind) for kind, start, end in get_entities(row)]


def test_softmax_and_sigmoid_are_safe_and_right() -> None:
    logits = np.array([[1000.0, 999.0], [-1000.0, 0.0]])
    np.testing.assert_allclose(softmax(logits)[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])
    np.testing.assert_allclose(softmax(logits).sum(1), 1.0)
    np.testing.assert_allclose(sigmoid(np.array([-1000.0, 0.0, 2.0, 1000.0])), [0.0, 0.5, 1 / (1 + np.exp(-2)), 1.0])


def brute_spans(scores: np.ndarray, threshold: float) -> set[tuple[int, int, int]]:
    size = scores.shape[-1]
    return {
        (i, j, c)
        for c in range(len(scores))
        for i in range(size)
        for j in range(i, size)
        if scores[c, i, j] > threshold
    }


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1.0])
def test_spans_from_scores_are_all_cells_above_the_threshold(threshold: float) -> None:
    for seed in range(10):
        scores = np.random.default_rng(seed).normal(size=(2, 5, 5))
        found = spans_from_scores(scores, ["A", "B"], threshold)
        expected = sorted((i, j + 1, "AB"[c]) for i, j, c in brute_spans(scores, threshold))
        assert [(s.start, s.end, s.label) for s in found] == expected
        for span in found:
            score = scores["AB".index(span.label), span.start, span.end - 1]
            assert span.score == pytest.approx(1 / (1 + np.exp(-score)))


def test_flat_spans_do_not_overlap_and_each_left_out_has_a_better_one_in_its_way() -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=(2, 6, 6))
        kept = spans_from_scores(scores, ["A", "B"], flat=True)
        assert all(a.end <= b.start for a, b in itertools.pairwise(kept))
        everything = spans_from_scores(scores, ["A", "B"])
        for span in set(everything) - set(kept):
            assert any(k.score > span.score and k.start < span.end and span.start < k.end for k in kept)


def test_equal_scores_are_resolved_in_a_fixed_way() -> None:
    scores = np.full((2, 3, 3), -1.0)
    scores[:, 0, 1] = scores[:, 0, 0] = scores[:, 1, 2] = 2.0
    (span,) = spans_from_scores(scores, ["A", "B"], flat=True)
    assert (span.start, span.end, span.label) == (0, 2, "A")


def test_owned_ranges_cut_the_text_without_gap_inside_the_windows() -> None:
    windows = [(0, 10), (6, 16), (12, 20)]
    assert owned_ranges(windows) == [(0, 8), (8, 14), (14, 20)]
    assert owned_ranges([(3, 9)]) == [(3, 9)]
    assert owned_ranges([]) == []
    assert owned_ranges([(0, 5), (5, 9)]) == [(0, 5), (5, 9)]


def test_a_span_is_decided_by_the_window_that_owns_its_start() -> None:
    owned = [(0, 8), (8, 14)]
    first = [Span(1, 3, "A"), Span(7, 10, "A"), Span(9, 10, "B")]
    second = [Span(7, 9, "B"), Span(9, 11, "A"), Span(12, 13, "A")]
    merged = merge_windows([first, second], owned)
    assert merged == [Span(1, 3, "A"), Span(7, 10, "A"), Span(12, 13, "A")]  # 9-11 runs into 7-10 of the window before
    nested = merge_windows([first, second], owned, flat=False)
    assert nested == [Span(1, 3, "A"), Span(7, 10, "A"), Span(9, 11, "A"), Span(12, 13, "A")]


def test_windows_of_one_answer_merge_to_that_answer() -> None:
    """Windows that agree lose nothing and double nothing, whatever the overlap."""
    truth = [Span(s, s + 2, "A") for s in range(0, 40, 3)]
    for step in (5, 7, 10):
        windows = [(start, min(start + 12, 42)) for start in range(0, 31, step)] + [(30, 42)]
        seen = [[s for s in truth if low <= s.start and s.end <= high] for low, high in windows]
        assert merge_windows(seen, owned_ranges(windows)) == truth


def test_the_decoders_need_no_torch() -> None:
    code = "import sys, flagai.tasks.decoders; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
