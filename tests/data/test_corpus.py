"""Token corpora: what is written is what is read, for any number of processes; and how documents become samples."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from flagai.data import corpus_rows
from flagai.data.corpus import BOUNDS, INFO, KEYS, TOKENS, Corpus, id_type, is_corpus
from flagai.data.corpus_build import build_corpus
from flagai.data.corpus_mix import PERIOD, Chain, Mixture
from flagai.data.corpus_rows import Reading
from flagai.data.corpus_samples import CorpusSamples, Framing, joined, windows
from flagai.errors import ConfigError, DataError, MissingFileError, OutputError

CLS, EOS, END = 1, 2, 3
"""ids of the tests: a full stop is the only sentence end, letters follow"""
LETTERS = {".": END, **{letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz", start=10)}}


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [[LETTERS[char] for char in text if char in LETTERS] for text in texts]


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def build(path: Path | list[Path], folder: Path, **options) -> Corpus:
    files = path if isinstance(path, list) else [path]
    return build_corpus(files, folder, encode, **{"vocabulary_size": 40, "tokenizer": "letters", **options})


def corpus_of(texts: Sequence[str], folder: Path) -> Corpus:
    return build(write(folder.with_suffix(".jsonl"), [{"text": text} for text in texts]), folder)


ROWS = [{"prompt": "ask", "text": "it is so."}, {"text": "no prompt. two."}, {"prompt": "", "text": "x"}]


def test_documents_come_back_as_views_of_the_file(tmp_path):
    corpus = build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    wanted = encode([row.get("prompt", "") + row["text"] for row in ROWS])
    assert [corpus[i].tolist() for i in range(len(corpus))] == wanted
    assert corpus.prompt_lengths.tolist() == [3, 0, 0] == [corpus.prompt_length(i) for i in range(3)]
    assert corpus.lengths.tolist() == [len(ids) for ids in wanted]
    view = corpus[1]
    assert np.shares_memory(view, corpus[1]) and not view.flags.writeable
    assert (corpus.info.documents, corpus.info.tokens, corpus.info.prompt_tokens) == (3, sum(map(len, wanted)), 3)
    assert corpus.info.longest == max(map(len, wanted))
    with pytest.raises(IndexError):
        corpus[3]


def test_ids_take_two_bytes_where_they_can(tmp_path):
    assert [id_type(size) for size in (100, 1 << 16, (1 << 16) + 1)] == ["uint16", "uint16", "int32"]
    path = write(tmp_path / "a.jsonl", ROWS)
    small, large = build(path, tmp_path / "s"), build(path, tmp_path / "l", vocabulary_size=70_000)
    assert [small[i].tolist() for i in range(3)] == [large[i].tolist() for i in range(3)]
    assert (tmp_path / "l" / TOKENS).stat().st_size == 2 * (tmp_path / "s" / TOKENS).stat().st_size
    with pytest.raises(DataError, match="ids that fit uint16"):
        build_corpus([path], tmp_path / "x", lambda texts: [[70_000]] * len(texts), vocabulary_size=9, tokenizer="")


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    from tokenizers import Tokenizer, models, pre_tokenizers

    from flagai.tasks.corpus_examples import TextIds

    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[": 1, "MASK": 2, "]": 3, "a": 4, "b": 5}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(["[MASK]"])
    ids = TextIds(type("Fast", (), {"backend_tokenizer": backend}))
    monkeypatch.setattr(corpus_rows, "BLOCK_BYTES", 200)  # many blocks of a few rows
    chance = random.Random(0)
    rows = [{"text": " ".join(chance.choices(["a", "b", "[MASK]", "c"], k=chance.randint(1, 9)))} for _ in range(60)]
    files = [write(tmp_path / f"{name}.jsonl", rows[at::2]) for at, name in enumerate("ab")]
    options = {"vocabulary_size": 7, "tokenizer": "t"}
    one = build_corpus(files, tmp_path / "one", ids, **options)
    build_corpus(files, tmp_path / "two", ids, workers=2, **options)
    for name in (TOKENS, BOUNDS, KEYS, INFO):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    texts = [row["text"] for row in [*rows[0::2], *rows[1::2]]]
    assert [one[i].tolist() for i in range(60)] == ids(texts)
    assert 6 not in np.concatenate([one[i] for i in range(60)])  # [MASK] in a text is text


def test_every_format_gives_the_same_corpus(tmp_path):
    texts = ["one. two.", "three", "four, five"]
    write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "c.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "d.json").write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")
    (tmp_path / "e.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts), encoding="utf-8")
    (tmp_path / "f.jsonl").write_text((tmp_path / "a.jsonl").read_text("utf-8"), encoding="utf-16")
    (tmp_path / "g.jsonl").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes())
    made = [build(path, tmp_path / f"corpus-{path.name}") for path in sorted(tmp_path.glob("*.*")) if path.is_file()]
    assert len(made) == 7
    assert len({corpus.info.hash for corpus in made}) == 1 and len(made[0]) == 3


def test_columns_have_names(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"title": "ab", "body": "cd"}])
    corpus = build(path, tmp_path / "corpus", reading=Reading(prompt="title", text="body"))
    assert corpus[0].tolist() == encode(["abcd"])[0] and corpus.prompt_length(0) == 2


BAD_FILES = {
    "no field": ('{"text": "a"}\n{"label": 1}\n', r"bad\.jsonl:2: no text.*'text'"),
    "empty text": ('{"text": "a"}\n\n{"text": "  "}\n', r"bad\.jsonl:3: .*a string"),
    "not a string": ('{"text": 5}\n', r"bad\.jsonl:1: .*a number \(5\)"),
    "no tokens": ('{"text": "a"}\n{"text": "!!"}\n', r"bad\.jsonl:2: the text has no tokens"),
    "prompt": ('{"prompt": 1, "text": "a"}\n', r"bad\.jsonl:1: the field 'prompt' is a number"),
    "no JSON": ('{"text": "a"}\n{"text": \n', r"bad\.jsonl:2: not valid JSON"),
    "no object": ('["a"]\n', r"bad\.jsonl:1: a row is a list"),
    "surrogate": ('{"text": "a\\ud83d"}\n', r"bad\.jsonl:1: .*surrogate"),
    "nothing": ("\n\n", "the files hold no documents"),
    "NUL": ('{"text": "a"}\n\0\n', r"bad\.jsonl:2: a NUL"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_row_is_named_and_nothing_is_left(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        build(path, tmp_path / "corpus")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.jsonl"]


def test_other_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "汉字汉字汉字"}\n'.encode("gb18030"))
    with pytest.raises(DataError, match="gb18030"):
        build(tmp_path / "a.jsonl", tmp_path / "corpus")
    whole = gzip.compress(b'{"text": "a"}\n' * 50)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="does not unpack"):
        build(tmp_path / "b.jsonl.gz", tmp_path / "corpus")
    with pytest.raises(MissingFileError, match=r"did you mean .*a\.jsonl"):
        build(tmp_path / "aa.jsonl", tmp_path / "corpus")
    with pytest.raises(ConfigError, match="no file"):
        build([], tmp_path / "corpus")


def test_rows_without_text_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "a"}, {"text": ""}, {"title": "x"}, {"text": "!!"}, {"text": "b"}])
    corpus = build(path, tmp_path / "corpus", reading=Reading(skip_empty=True))
    assert [corpus[i].tolist() for i in range(len(corpus))] == encode(["a", "b"])
    assert corpus.info.skipped == 3


def test_a_folder_is_not_overwritten_unasked(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x", encoding="utf-8")
    for options in ({}, {"replace": True}):
        with pytest.raises(OutputError, match="not empty, and no corpus"):
            build(path, tmp_path / "mine", **options)
    first = build(path, tmp_path / "corpus")
    with pytest.raises(OutputError, match="a corpus is here already"):
        build(path, tmp_path / "corpus")
    write(path, ROWS[:1])
    assert build(path, tmp_path / "corpus", replace=True).info.hash != first.info.hash


def test_a_crash_leaves_the_old_corpus(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    before = build(path, tmp_path / "corpus").info.hash

    def fails(texts: Sequence[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus([path], tmp_path / "corpus", fails, vocabulary_size=9, tokenizer="", replace=True)
    assert Corpus(tmp_path / "corpus").info.hash == before
    assert not list(tmp_path.glob(".writing-*"))


def damage(corpus: Path, kind: str) -> None:
    tokens, info = corpus / TOKENS, json.loads((corpus / INFO).read_text("utf-8"))
    if kind == "byte":
        data = bytearray(tokens.read_bytes())
        data[4] ^= 1
        tokens.write_bytes(data)
    elif kind == "short":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    elif kind == "gone":
        tokens.unlink()
    elif kind == "text":
        (corpus / INFO).write_text("{", encoding="utf-8")
    elif kind == "counts":
        (corpus / INFO).write_text(json.dumps(info | {"documents": 2}), encoding="utf-8")
    else:
        (corpus / INFO).write_text(json.dumps(info | {"version": 99}), encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("byte", "holds other bytes than were written"),
        ("short", "bytes, .* were written"),
        ("gone", "is missing"),
        ("text", "cannot be read"),
        ("counts", "count differently"),
        ("version", "version 99"),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path, kind, message):
    build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    damage(tmp_path / "corpus", kind)
    with pytest.raises(DataError, match=message):
        Corpus(tmp_path / "corpus")
    if kind == "byte":
        Corpus(tmp_path / "corpus", verify=False)  # the quick look sees sizes only


def test_another_tokenizer_is_refused(tmp_path):
    build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    Corpus(tmp_path / "corpus", tokenizer="letters")
    with pytest.raises(DataError, match="another tokenizer"):
        Corpus(tmp_path / "corpus", tokenizer="words")
    assert is_corpus(tmp_path / "corpus") and not is_corpus(tmp_path)
    with pytest.raises(MissingFileError, match="no corpus is here"):
        Corpus(tmp_path)


def texts_of(count: int, longest: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    letters = [*"abcdefgh", "."]
    return ["".join(chance.choices(letters, k=chance.randint(1, longest))) for _ in range(count)]


def test_equal_documents_have_equal_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_rows, "BLOCK_BYTES", 900)  # several blocks
    texts = texts_of(300, 4) + texts_of(30, 90)
    corpus = corpus_of(texts, tmp_path / "corpus")
    keys = corpus.keys
    by_key: dict[int, set[bytes]] = {}
    for i in range(len(corpus)):
        by_key.setdefault(int(keys[i]), set()).add(corpus[i].tobytes())
    assert all(len(group) == 1 for group in by_key.values())
    assert len(by_key) == len(set(texts))


def framing(max_length: int, **options) -> Framing:
    return Framing(cls=CLS, eos=EOS, sentence_ends=np.array([END]), max_length=max_length, **options)


@pytest.mark.parametrize("begun", [0.0, 0.4, 1.0])
def test_windows_cover_a_document_and_end_with_sentences(begun):
    for text in texts_of(200, 150):
        ids = np.array(encode([text])[0])
        how = framing(20)
        cuts = list(windows(ids, how, begun=begun))
        assert cuts[0][0] == 0 and all(a[1] == b[0] for a, b in pairwise(cuts))
        assert cuts[-1][1] in (len(ids), len(ids) + 1)
        room, limit = 19, 19 if len(ids) + 1 <= 19 else 9 + int(begun * 10)
        for start, stop in cuts:
            assert 0 < stop - start <= limit and start < len(ids)
            if stop < len(ids) and stop - start < limit:
                assert ids[stop - 1] == END and stop - start > limit // 2
            elif stop < len(ids):  # full: it ends a sentence, or there was none to end in its second half
                assert ids[stop - 1] == END or END not in ids[start + limit // 2 : stop]
            limit = room


def content(samples) -> list[int]:
    """All tokens of an epoch that are not special, sorted."""
    ids = np.concatenate([samples[i].ids for i in range(len(samples))])
    return sorted(ids[ids > EOS].tolist())


@pytest.mark.parametrize("join", [False, True])
def test_an_epoch_takes_every_token_once(tmp_path, join):
    corpus = corpus_of(texts_of(80, 70), tmp_path / "corpus")
    source = CorpusSamples(corpus, framing(24, join=join), seed=1)
    everything = sorted(np.concatenate([corpus[i] for i in range(len(corpus))]).tolist())
    for epoch in (0, 1, 5):
        samples = source.epoch(epoch)
        assert content(samples) == everything
        assert samples.lengths.tolist() == [len(samples[i].ids) for i in range(len(samples))]
        assert samples.lengths.max() <= 24
        assert all(samples[i].ids[0] == CLS for i in range(len(samples)))
        assert sum((samples[i].ids == EOS).sum() for i in range(len(samples))) <= len(corpus)


@pytest.mark.parametrize("join", [False, True])
def test_samples_are_a_function_of_seed_epoch_and_index(tmp_path, join):
    corpus = corpus_of(texts_of(60, 70), tmp_path / "corpus")

    def ids(seed: int, epoch: int, **options) -> list[list[int]]:
        samples = CorpusSamples(corpus, framing(24, join=join), seed=seed, **options).epoch(epoch)
        return [samples[i].ids.tolist() for i in range(len(samples))]

    assert ids(1, 3) == ids(1, 3)
    assert ids(1, 3) != ids(1, 4) and ids(1, 3) != ids(2, 3)
    assert ids(1, 3, vary=False) == ids(1, 4, vary=False)
    used = CorpusSamples(corpus, framing(24, join=join), seed=1)
    for epoch in (0, 7, 3):
        used.epoch(epoch)
    assert [used.epoch(3)[i].ids.tolist() for i in range(len(used.epoch(3)))] == ids(1, 3)


def test_short_documents_stay_as_they_are(tmp_path):
    corpus = build(write(tmp_path / "a.jsonl", ROWS), tmp_path / "corpus")
    samples = CorpusSamples(corpus, framing(24), seed=0).epoch(9)
    assert [samples[i].ids.tolist() for i in range(3)] == [[CLS, *corpus[i].tolist(), EOS] for i in range(3)]
    assert samples[0].predicted.tolist() == [False] * 4 + [True] * (len(corpus[0]) - 3 + 1)
    assert samples[1].predicted.tolist() == [False] + [True] * (len(corpus[1]) + 1)


def test_a_prompt_longer_than_a_window_is_not_predicted_anywhere(tmp_path):
    corpus = build(write(tmp_path / "a.jsonl", [{"prompt": "a" * 30, "text": "b" * 10}]), tmp_path / "corpus")
    samples = CorpusSamples(corpus, framing(16), seed=0, vary=False).epoch(0)
    predicted = np.concatenate([samples[i].ids[samples[i].predicted] for i in range(len(samples))])
    assert predicted.tolist() == [LETTERS["b"]] * 10 + [EOS]


def test_part_of_a_corpus(tmp_path):
    corpus = corpus_of(texts_of(30, 40), tmp_path / "corpus")
    chosen = np.array([2, 5, 17])
    some = CorpusSamples(corpus, framing(60), seed=0, documents=chosen)
    assert [some.epoch(0)[i].ids[1:-1].tolist() for i in range(3)] == [corpus[i].tolist() for i in chosen]
    assert some.hash != CorpusSamples(corpus, framing(60), seed=0).hash


def test_joining_equals_its_slow_twin():
    chance = random.Random(3)
    for _ in range(50):
        sizes = [chance.randint(1, 30) for _ in range(chance.randint(1, 40))]
        firsts, filled = [0], 0
        for at, size in enumerate(sizes):
            if filled + size > 32 and filled:
                firsts.append(at)
                filled = 0
            filled += size
        assert joined(np.array(sizes), 32).tolist() == [*firsts, len(sizes)]


def test_samples_need_room():
    with pytest.raises(ConfigError, match="no room"):
        framing(7)


@pytest.fixture
def three(tmp_path: Path) -> list[CorpusSamples]:
    """Three corpora of 5, 40 and 200 documents whose samples name their corpus by their first letter."""
    made = []
    for letter, count in zip("abc", (5, 40, 200), strict=True):
        texts = [
            letter + "".join(f"{i:03d}").translate(str.maketrans("0123456789", "qrstuvwxyz")) for i in range(count)
        ]
        made.append(CorpusSamples(corpus_of(texts, tmp_path / f"corpus-{letter}"), framing(24), seed=0))
    return made


def test_a_mixture_keeps_its_shares_at_every_position(three):
    mixture = Mixture(three, [1, 2, 5], seed=0)
    which, numbers = mixture.locate(np.arange(3 * PERIOD))
    for at, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        counts = (which == at).cumsum()
        assert np.abs(counts - share * np.arange(1, len(which) + 1)).max() <= 1.5
        assert numbers[which == at].tolist() == list(range((which == at).sum()))  # none skipped, none twice
    some = np.array([0, 1, 77, PERIOD - 1, PERIOD, 2 * PERIOD + 5])
    assert all(np.array_equal(a, b[some]) for a, b in zip(mixture.locate(some), (which, numbers), strict=True))


def test_a_mixture_gives_each_source_evenly_and_in_order_of_its_epochs(three):
    mixture = Mixture(three, [1, 1, 2], seed=4)
    seen: list[tuple[int, ...]] = []
    for epoch in range(4):
        samples = mixture.epoch(epoch)
        assert len(samples) == 245
        assert samples.lengths.tolist() == [len(samples[i].ids) for i in range(245)]
        seen += [tuple(samples[i].ids.tolist()) for i in range(245)]
    for letter, count in zip("abc", (5, 40, 200), strict=True):
        mine = [ids for ids in seen if ids[1] == LETTERS[letter]]
        assert len(mine) == pytest.approx(980 * (0.5 if letter == "c" else 0.25), abs=2)
        for start in range(0, len(mine) - count, count):  # a whole pass holds every sample once
            assert len(set(mine[start : start + count])) == count
    again = Mixture(three, [1, 1, 2], seed=4).epoch(3)
    assert [tuple(again[i].ids.tolist()) for i in range(245)] == seen[-245:]
    other = Mixture(three, [1, 1, 2], seed=5).epoch(3)
    assert [tuple(other[i].ids.tolist()) for i in range(245)] != seen[-245:]


def test_a_mixture_refuses_what_cannot_be_meant(three):
    for weights in ([1, 2], [1, 0, 1], [1, 1, -1]):
        with pytest.raises(ConfigError, match="one weight above 0"):
            Mixture(three, weights, seed=0)
    with pytest.raises(ConfigError, match="vanishes"):
        Mixture(three, [1, 1e9, 1e9], seed=0)
    hashes = {Mixture(three, weights, seed=0).hash for weights in ([1, 1, 1], [1, 1, 2])}
    assert len(hashes) == 2


def test_a_chain_is_one_after_another(three):
    chain = Chain(three)
    wanted = [source.epoch(0)[i].ids.tolist() for source in three for i in range(len(source.epoch(0)))]
    assert [chain.epoch(5)[i].ids.tolist() for i in range(len(chain))] == wanted
    assert chain.lengths.tolist() == [len(ids) for ids in wanted]
