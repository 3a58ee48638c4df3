"""What a user may ask of decoding, under Hugging Face's parameter names, checked. Knows no model and no tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flagai.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from flagai.generate.constraints.spec import Constraint


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How an answer is chosen. The defaults decode greedily.

    Args:
        max_new_tokens: most tokens of an answer (of each blank, where a text has several), its end not counted; None
            is 128, or less where the model has positions for less.
        min_new_tokens: the answer cannot end before that many.
        do_sample: draw tokens at random; without it the most probable one is taken, or beams are searched.
        temperature: scores are divided by it.
        top_k: draw among the k most probable; 0 among all.
        top_p: draw among the fewest tokens whose probabilities reach p together (Holtzman et al. 2020).
        min_p: draw among tokens at least min_p times as probable as the most probable one.
        repetition_penalty: scores of tokens that the answer has already are divided by it where positive, multiplied
            where negative (Keskar et al. 2019). With decoders the prompt counts too, as in transformers; elsewhere this
            answer alone does: neither the source nor an earlier blank counts.
        no_repeat_ngram_size: no run of so many tokens comes twice in the same texts; 0 allows it.
        suppress_tokens: ids that are never chosen.
        num_beams: beams of the beam search; 1 searches none.
        num_return_sequences: answers for each text: the best of the beams, or so many draws.
        length_penalty: an answer's score is Σ log p / len**length_penalty, len without the start token, and for
            GLM without the end (the original's rule); of beams log p is that after processors, as in transformers.
        early_stopping: True ends the search as soon as there are `num_beams` answers, though a better one may come;
            False where the best running beam is worse as it stands, "never" where no longer answer could be better.
        num_beam_groups: groups of beams that are kept apart by `diversity_penalty` (Vijayakumar et al. 2016).
        diversity_penalty: taken off the scores of a token for each earlier group that chose it in the same step.
        penalty_alpha: contrastive search among the `top_k` most probable tokens (Su et al. 2022): how much likeness to
            what was read and written counts against a token, 0 to 1; None searches otherwise.
        stop: texts that end an answer where they appear in it; they are cut off.
        constraints: what an answer must be, see `flagai.generate.constraints.spec`.
        eos_token_id: tokens that end an answer; None are the model's own.
        seed: of all draws; None takes a new one from torch's global generator, so that `torch.manual_seed` counts.

    Raises:
        ConfigError: a value out of its range, or options that exclude one another.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    penalty_alpha: float | None = None
    stop: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    eos_token_id: tuple[int, ...] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            unset = value is None and name in _MAY_BE_UNSET
            _check(name, value, unset or _is_whole(value, least), f"a whole number ≥ {least}")
        for name, (accepts, expected) in _NUMBERS.items():
            value = getattr(self, name)
            unset = value is None and name in _MAY_BE_UNSET
            _check(name, value, unset or (_is_number(value) and accepts(value)), expected)
        _check("do_sample", self.do_sample, isinstance(self.do_sample, bool), "True or False")
        early = self.early_stopping
        _check("early_stopping", early, isinstance(early, bool) or early == "never", 'True, False or "never"')
        object.__setattr__(self, "suppress_tokens", _ids("suppress_tokens", self.suppress_tokens))
        if self.eos_token_id is not None:
            ends = [self.eos_token_id] if _is_whole(self.eos_token_id, 0) else self.eos_token_id
            object.__setattr__(self, "eos_token_id", _ids("eos_token_id", ends))
        object.__setattr__(self, "stop", _texts(self.stop))
        object.__setattr__(self, "constraints", _constraints(self.constraints))
        self._check_together()
        self._check_groups()
        self._check_contrastive()

    def _check_together(self) -> None:
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise _excluded(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}", "lower one"
            )
        if self.do_sample and self.num_beams > 1:
            raise _excluded("do_sample and num_beams are both set", "sample with num_beams=1, or search without")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise _excluded(
                f"{self.num_return_sequences} answers are asked for, the search keeps {self.num_beams}",
                f"num_beams={self.num_return_sequences}, or do_sample=True",
            )
        if self.stop and self.constraints:
            raise _excluded(
                "stop and constraints are both set: a stop could end an answer before it is what was asked for",
                'drop stop, or say what ends the answer as a constraint, as in {matches: "…"}',
            )
        changed = [name for name, default in _SAMPLING.items() if getattr(self, name) != default]
        if self.penalty_alpha is not None:
            changed = [name for name in changed if name != "top_k"]
        if changed and not self.do_sample:
            raise _excluded(f"{', '.join(changed)} without do_sample has no effect", "add do_sample=True")

    def _check_groups(self) -> None:
        if self.num_beams % self.num_beam_groups:
            raise _excluded(
                f"num_beams {self.num_beams} cannot be cut into num_beam_groups {self.num_beam_groups}",
                "a number of groups that divides the beams",
            )
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise _excluded("diversity_penalty without num_beam_groups has no effect", "num_beam_groups=2 or more")

    def _check_contrastive(self) -> None:
        if self.penalty_alpha is None:
            return
        if self.do_sample or self.num_beams > 1:
            raise _excluded("penalty_alpha is set, and do_sample or num_beams too", "one way of searching")
        if self.top_k < 2:
            raise _excluded(
                f"penalty_alpha chooses among the top_k most probable tokens, and top_k is {self.top_k}", "top_k=4"
            )


def make_options(values: Mapping[str, Any], base: GenerationOptions | None = None) -> GenerationOptions:
    """Options from names and values; what is not given, or None, stays as in `base`.

    Where the values ask for a search, or for no draws, what `base` says of draws is left out.

    Raises:
        UnknownNameError: no such option; the message names the nearest.
        ConfigError: see `GenerationOptions`.
    """
    known = [field.name for field in dataclasses.fields(GenerationOptions)]
    for name in values:
        if name not in known:
            raise unknown_name("option", name, known, where="generate")
    given = {name: value for name, value in values.items() if value is not None}
    base = base or GenerationOptions()
    searches = given.get("num_beams", 1) != 1 or "penalty_alpha" in given
    if base.do_sample and not given.get("do_sample") and ("do_sample" in given or searches):
        base = dataclasses.replace(base, do_sample=False, **_SAMPLING)
    return dataclasses.replace(base, **given)


_WHOLE = {
    "max_new_tokens": 1,
    "min_new_tokens": 0,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "seed": 0,
}
_MAY_BE_UNSET = frozenset({"max_new_tokens", "seed", "penalty_alpha"})
_MOST = 1e6  # scores times or through more are no longer numbers in float32
_NUMBERS: dict[str, tuple[Any, str]] = {
    "temperature": (
        lambda v: 1 / _MOST <= v <= _MOST,
        "a number above 0, from 1e-06 to 1e+06; do_sample=False takes the most probable token",
    ),
    "top_p": (lambda v: 0 < v <= 1, "a number above 0, at most 1"),
    "min_p": (lambda v: 0 <= v < 1, "a number from 0, below 1"),
    "repetition_penalty": (
        lambda v: 1 / _MOST <= v <= _MOST,
        "a number above 0, from 1e-06 to 1e+06; 1 penalises nothing",
    ),
    "length_penalty": (lambda v: abs(v) <= 50, "a number from -50 to 50; 0 takes no account of the length"),
    "diversity_penalty": (lambda v: 0 <= v <= _MOST, "a number from 0"),
    "penalty_alpha": (lambda v: 0 < v <= 1, "a number above 0, at most 1"),
}
_SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    ids = _listed(value)
    _check(name, value, ids is not None and all(_is_whole(i, 0) for i in ids), "a list of token ids")
    return ids or ()


def _listed(value: Any) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, list | tuple | set | frozenset | range) else None


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else _listed(value)
    good = texts is not None and all(isinstance(text, str) and text for text in texts)
    _check("stop", value, good, "texts, none of them empty")
    return texts or ()


def _constraints(value: Any) -> tuple[Constraint, ...]:
    if value in ((), [], None):
        return ()
    from flagai.generate.constraints.spec import as_constraints

    return as_constraints(value)


def _check(name: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {value!r}", expected=expected, where=f"generate.{name}")


def _excluded(found: str, fix: str) -> ConfigError:
    return ConfigError(found, where="generate", fix=fix)
