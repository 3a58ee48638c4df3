"""What an answer that was never learned would reach: the source itself, its first sentence, its first units.

It knows no model; a model that is not better than these has learned nothing that the source does not give away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Final

from flagai.measure.generation import References, generation_metrics, units
from flagai.text import is_cjk, is_punctuation, segment

# A Chinese stop ends a sentence by itself, a Latin one before white space or a Han character, not inside "3.5".
_SENTENCE: Final = re.compile(r".+?(?:[。！？!?…]+[”’」』\"')）]*|[.．](?=\s|$|[\u4e00-\u9fff])|$)", re.DOTALL)


def first_sentence(text: str) -> str:
    """A text up to its first stop, the stop included ("lead-1"); all of it where it has none."""
    found = _SENTENCE.match(text.strip())
    return found[0].strip() if found else ""


def first_units(text: str, count: int) -> str:
    """The first `count` units of a text (characters in Chinese, else words; punctuation not counted), as they stand."""
    at = seen = 0
    for unit in segment(text):
        if seen == count:
            break
        at = text.index(unit, at) + len(unit)
        seen += not is_punctuation(unit[0])
    return text[:at].strip()


def untrained_answers(sources: Sequence[str], train_targets: References) -> dict[str, list[str]]:
    """name → an answer for each source: "copy of the source", "first sentence", "first N units".

    N is the median length of the training targets, which makes the third the fairest for titles.
    """
    targets = [entry if isinstance(entry, str) else entry[0] for entry in train_targets if entry]
    answers = {"copy of the source": list(sources), "first sentence": [first_sentence(text) for text in sources]}
    if targets:
        size = max(1, round(median(len(units(target)) for target in targets)))
        word = "characters" if sum(map(_is_chinese, targets)) * 2 > len(targets) else "words"
        answers[f"first {size} {word}"] = [first_units(text, size) for text in sources]
    return answers


def best_untrained(
    sources: Sequence[str], gold: References, train_targets: References, *, metric: str = "rouge_l"
) -> tuple[str, dict[str, float]]:
    """(name, metrics) of the best of `untrained_answers` by `metric`, the first of equals."""
    answers = untrained_answers(sources, train_targets)
    measured = {name: generation_metrics(gold, texts) for name, texts in answers.items()}
    best = max(measured, key=lambda name: measured[name][metric])
    return best, measured[best]


def _is_chinese(text: str) -> bool:
    return sum(map(is_cjk, text)) * 2 > len(text)
