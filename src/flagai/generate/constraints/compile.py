"""Constraints → automata over a vocabulary's characters → a machine over its tokens. Knows no model and no torch."""

from __future__ import annotations

from collections.abc import Sequence

from flagai.errors import ConfigError
from flagai.generate.constraints.automata import Automaton, containing, counting, searching
from flagai.generate.constraints.check import check
from flagai.generate.constraints.choices import choosing
from flagai.generate.constraints.machine import Machine
from flagai.generate.constraints.parse import parse
from flagai.generate.constraints.patterns import matching
from flagai.generate.constraints.product import FAR
from flagai.generate.constraints.spec import (
    Constraint,
    JsonSchema,
    Length,
    Matches,
    MustContain,
    MustNotContain,
    OneOf,
    Verse,
    contradiction,
)
from flagai.generate.constraints.verse import refused_beginning, versifying
from flagai.generate.constraints.vocabulary import Vocabulary

_KEPT = 16


def compile_machine(specs: tuple[Constraint, ...], vocabulary: Vocabulary, forbidden: frozenset[int]) -> Machine:
    """The machine of these constraints, made once for each vocabulary.

    Raises:
        ConfigError: no text meets them all, or the vocabulary can write none that does.
    """
    key = (specs, forbidden)
    if key not in vocabulary.compiled:
        while len(vocabulary.compiled) >= _KEPT:
            del vocabulary.compiled[next(iter(vocabulary.compiled))]
        vocabulary.compiled[key] = _compile(parse(specs), vocabulary, forbidden)
    return vocabulary.compiled[key]


def _compile(specs: tuple[Constraint, ...], vocabulary: Vocabulary, forbidden: frozenset[int]) -> Machine:
    automata = make_automata(specs, vocabulary)
    machine = Machine(vocabulary, automata, forbidden)
    if machine.distance(machine.start) >= FAR:
        raise _impossible(automata, vocabulary, forbidden)
    return machine


def make_automata(specs: Sequence[Constraint], vocabulary: Vocabulary) -> list[Automaton]:
    """The automata that together accept what the constraints allow.

    A choice takes the others in: of its strings those stay that meet them.
    """
    choices = [spec for spec in specs if isinstance(spec, OneOf)]
    if not choices:
        return [one for spec in specs for one in _automata(spec, vocabulary)]
    others = [spec for spec in specs if spec is not choices[0]]
    kept = [text for text in choices[0].strings if not any(check(text, spec) for spec in others)]
    if not kept:
        raise contradiction("none of the strings of one_of meets the others")
    return [choosing(kept, vocabulary.alphabet)]


def _automata(spec: Constraint, vocabulary: Vocabulary) -> list[Automaton]:
    alphabet = vocabulary.alphabet
    if isinstance(spec, MustContain):
        if spec.whole:
            return [containing(word, alphabet) for word in spec.words]
        return [searching(f"must_contain {word!r}", [word], alphabet, wanted=True) for word in spec.words]
    if isinstance(spec, MustNotContain):
        return [searching("must_not_contain", spec.words, alphabet, wanted=False)]
    if isinstance(spec, Length):
        return [counting(spec, alphabet)]
    if isinstance(spec, Matches | JsonSchema):
        return [matching(spec, vocabulary.encoded)]
    assert isinstance(spec, Verse)
    return _verse(spec, vocabulary)


def _verse(spec: Verse, vocabulary: Vocabulary) -> list[Automaton]:
    given = vocabulary.index(spec.given)
    if (given < 0).any():
        missing = spec.given[int((given < 0).argmax())]
        raise ConfigError(f"the vocabulary has no {missing!r}", where="constraints.verse.given")
    begun = [one.read(given) for one in versifying(spec, vocabulary.alphabet)]
    for one in begun:
        if one.start < 0 or bool(one.accepts[one.start]):
            raise refused_beginning(spec, one.name)
    return begun


def _impossible(automata: Sequence[Automaton], vocabulary: Vocabulary, forbidden: frozenset[int]) -> ConfigError:
    """Which of the constraints this vocabulary cannot meet, or that they exclude one another."""
    for one in automata:
        alone = Machine(vocabulary, [one], forbidden)
        if alone.distance(alone.start) >= FAR:
            return ConfigError(
                f"the vocabulary of this model cannot write what {one.name} asks for",
                where="constraints",
                expected="characters that the tokenizer knows (some vocabularies have no capitals, or no Chinese)",
            )
    return contradiction("no text meets " + " and ".join(sorted({one.name for one in automata})))
