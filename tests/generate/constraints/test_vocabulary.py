"""What tokens add to a text: equal to what the tokenizers themselves decode, and the tables equal to single tokens."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from tests.generate.constraints.worlds import POET, tokenizer

from flagai.generate.constraints.vocabulary import START, Context, Vocabulary
from flagai.models.glm.tokenization import GLMTokenizer

KINDS = ("bytes", "spaces", "words", "han")


def draws(vocabulary: Vocabulary, number: int, length: int) -> list[list[int]]:
    """Answers of random tokens, none of which is left out."""
    source, found = random.Random(0), []
    usable = [i for i, piece in enumerate(vocabulary.pieces) if piece is not None]
    for _ in range(number):
        context, tokens = START, []
        while len(tokens) < length:
            token = source.choice(usable)
            if (added := vocabulary.add(context, token)) is not None:
                tokens.append(token)
                context = added[1]
        while context.pending:  # finish the character that is begun
            token = source.choice(usable)
            if (added := vocabulary.add(context, token)) is not None:
                tokens.append(token)
                context = added[1]
        found.append(tokens)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_what_the_tokenizer_decodes(kind: str) -> None:
    known = Vocabulary.of(tokenizer(kind))
    for tokens in draws(known, 300, 6):
        text = tokenizer(kind).decode(tokens, skip_special_tokens=True)
        if known.spaced:  # the task that writes takes these spaces out
            text = re.sub(r"(?<=[\u2e80-\uffef])\s+|\s+(?=[\u2e80-\uffef])", "", text)
        assert known.text(tokens) in (text, text.removeprefix(" "))


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_are_encoded_come_back(kind: str) -> None:
    text = {
        "bytes": 'no, 月 "x" ünï',
        "spaces": "the cat sat",
        "words": "maybe tomorrow 月山 cat",
        "han": "春风，山。",
    }[kind]
    tokens = tokenizer(kind).encode(text, add_special_tokens=False)
    expected = text.replace(" 月", "月").replace("山 ", "山") if kind == "words" else text
    assert Vocabulary.of(tokenizer(kind)).text(tokens) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_tables_say_what_single_tokens_do(kind: str) -> None:
    known = Vocabulary.of(tokenizer(kind))
    contexts = [START, Context("narrow"), Context("wide")] if known.spaced else [START, Context("plain")]
    contexts += [Context("plain", "月".encode()[:2]), Context("plain", "é".encode()[:1])] if kind == "bytes" else []
    for context in contexts:
        table = known.table(context)
        rows = {int(i): row for row, i in enumerate(table.ids)}
        for token in range(len(known)):
            added = known.add(context, token)
            assert (token in rows) == (added is not None)
            if added is not None:
                written = table.characters[rows[token]]
                text = "".join(chr(known.alphabet[one]) for one in written[written >= 0])
                assert (text, table.contexts[table.after[rows[token]]]) == added


def test_special_tokens_and_pads_of_the_vocabulary_have_no_text() -> None:
    tokens = GLMTokenizer.from_pretrained(POET)
    known = Vocabulary.of(tokens)
    for one in tokens.command_tokens:
        assert known.pieces[one.Id] is None
    assert known.text([tokens.commands.eop, *tokens.encode("明月", add_special_tokens=False)]) == "明月"


def test_a_vocabulary_is_read_once_and_again_when_it_grows() -> None:
    from copy import deepcopy

    tokens = deepcopy(tokenizer("words"))
    first = Vocabulary.of(tokens)
    assert Vocabulary.of(tokens) is first
    tokens.add_tokens(["unheard"])
    assert Vocabulary.of(tokens).text([len(first)]) == "unheard"


def test_other_tokenizers_are_asked() -> None:
    class Letters:
        """Nothing but what is called."""

        all_special_ids = (0,)

        def get_vocab(self) -> dict[str, int]:
            return {"<s>": 0, "a": 1, "b": 2, "月": 3}

        def __len__(self) -> int:
            return 4

        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [self.get_vocab()[one] for one in text]

        def decode(self, ids: list[int], **_: bool) -> str:
            return "".join("<s>ab月"[3 * (i > 0) + i - (i > 0) :][: 1 if i else 3] for i in ids)

    known = Vocabulary.of(Letters())
    assert known.pieces[0] is None
    assert known.text([3, 1, 2]) == "月ab"
    assert np.array_equal(known.alphabet, sorted(map(ord, "ab月")))
