"""The original's three methods of writing, with its arguments and return types, for every family. Knows no decoding.

They return a text. A GLM's comes back whole where it has masks, as the model saw it, with control tokens; what was
written on, or for a text, comes back alone; contrastive search gives the text and what was written on. Random numbers
come from torch's global generator. A mask that the vocabulary lacks ([gMASK] on several published models) is [MASK] to
them, with a warning; `generate` refuses.

Where they differ from the original on purpose: beams keep their own words and are compared by the mean of their
log-probabilities; a text stays within the model's positions; the penalty for repetition counts the answer alone.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flagai.data.record import Record
from flagai.errors import ConfigError
from flagai.models.glm.commands import MASKS
from flagai.models.glm.inputs_checks import lacking_masks
from flagai.predict import loop
from flagai.predict.writing import answers, plain_task, writing_task
from flagai.tasks.blanks import GLMBlanks
from flagai.tasks.encoding import TextEncoder
from flagai.tasks.generation import GenerationTask
from flagai.tasks.masks import split
from flagai.tasks.writing import NOTHING, WritingTask, the_text

if TYPE_CHECKING:
    from flagai.generate.options import GenerationOptions
    from flagai.models.glm.commands import Commands
    from flagai.predict.predictor import Predictor

_ALPHA = 0.6
"""the original's weight of likeness in contrastive search"""


def randomsample(predictor: Predictor, text: str, input_max_length: int, out_max_length: int, **options: Any) -> str:
    """See `Predictor.predict_generate_randomsample`."""
    chosen = {"do_sample": True, **options}
    return _write(predictor, "predict_generate_randomsample", text, input_max_length, out_max_length, chosen)


def beamsearch(predictor: Predictor, text: str, input_max_length: int, out_max_length: int, beam_size: int) -> str:
    """See `Predictor.predict_generate_beamsearch`."""
    chosen = {"num_beams": beam_size}
    return _write(predictor, "predict_generate_beamsearch", text, input_max_length, out_max_length, chosen)


def contrastive(predictor: Predictor, text: str, input_max_length: int, out_max_length: int, beam_size: int) -> str:
    """See `Predictor.predict_generate_contrastive_search`."""
    if not isinstance(beam_size, int) or beam_size < 1:
        raise ConfigError(f"beam_size is {beam_size!r}", expected="a whole number ≥ 1", where="contrastive search")
    # One candidate leaves no choice: that is greedy decoding.
    chosen = {"penalty_alpha": _ALPHA, "top_k": beam_size} if beam_size > 1 else {}
    name = "predict_generate_contrastive_search"
    return _write(predictor, name, text, input_max_length, out_max_length, chosen, whole=True)


def _write(
    predictor: Predictor,
    method: str,
    text: str,
    input_max_length: int,
    out_max_length: int,
    options: Mapping[str, Any],
    *,
    whole: bool = False,
) -> str:
    from flagai.generate.options import make_options

    own = writing_task(predictor, method)  # raises for a model that does not write
    checked = make_options({"max_new_tokens": out_max_length, **options})
    if own.family == "glm":
        return _by_glm(predictor, method, text, checked)
    if not isinstance(own, WritingTask):  # trained for a task: its template, its length of sources
        own.max_length, own.may_cut = min(own.max_length, input_max_length), True
        own.generation = _within(predictor, own, Record({"text": text}), checked)
        return answers(predictor, own, [Record({"text": text})])[0].text
    task = plain_task(predictor.model, predictor.tokenizer)
    record = Record({"text": _shortened(task, the_text(Record({"text": text})), input_max_length)})
    task.generation = _within(predictor, task, record, checked)
    result = answers(predictor, task, [record])[0]
    return result.blanks[0] if task.family == "decoder" and not whole else result.text


def _shortened(task: WritingTask, text: str, most: int) -> str:
    """The text cut where it has more than `most` tokens, special ones counted."""
    encoded = TextEncoder(task.tokenizer, max_length=min(most, task.max_length))([text])[0]
    if not encoded.tokens_lost:
        return text
    return text[: max((end for _, end in encoded.windows[0].offsets or ()), default=len(text))]


def _within(
    predictor: Predictor, task: GenerationTask, record: Record, options: GenerationOptions
) -> GenerationOptions:
    """The options with `out_max_length` taken for a bound: what the model has no positions for cannot be written."""
    from flagai.generate.writers.make import make_writer

    (example,) = task.encode(record)
    writer = make_writer(predictor.model, tokenizer=task.tokenizer, end_ids=())
    ids = list(example.input_ids)
    room = writer.room(GLMBlanks(task.tokenizer).prompt(ids) if task.family == "glm" else task.arrangement.prompt(ids))
    if room is not None and options.penalty_alpha is not None:
        room -= 1  # contrastive search reads the last token of an answer too
    most = options.max_new_tokens if room is None else min(options.max_new_tokens or room, room)
    return dataclasses.replace(options, max_new_tokens=most)


# -- GLM -----------------------------------------------------------------------------------------------------------


def _by_glm(predictor: Predictor, method: str, text: str, options: GenerationOptions) -> str:
    # The text is taken as it is: no prompt of a poem around it.
    task = plain_task(predictor.model, predictor.tokenizer)
    text = _known_masks(text, task.tokenizer.commands, method)
    record = Record({"text": text})
    task.generation = _within(predictor, task, record, options)
    (example,) = task.encode(record)
    (row,) = loop.run(task, predictor.evaluate, [example])
    found = [[int(i) for i in one if i != NOTHING] for one in row["answers"][0]]
    if not split(text).masks:
        return task.text_of(found[0])
    start = task.tokenizer.commands.sop
    return task.tokenizer.DecodeIds([*example.input_ids, *(i for one in found for i in (start, *one))])


def _known_masks(text: str, commands: Commands, method: str) -> str:
    """The text with [MASK] in place of masks that the vocabulary lacks: the original's scripts write [gMASK] to all."""
    lost = lacking_masks(text, commands) if isinstance(text, str) else ()
    if lost:
        message = f"Predictor.{method}: the vocabulary has no {', '.join(lost)}; {MASKS[0]} is read instead"
        warnings.warn(message, stacklevel=6)
    for mask in lost:
        text = text.replace(mask, MASKS[0])
    return text
