"""What a predictor writes: `generate`, and the original's two methods for it. Knows no decoding and no checkpoint.

The original's methods answer as it did: a text with masks comes back whole, as the model saw it, with control tokens.
Without a mask only what was written on comes back. Their random numbers come from torch's global generator. A mask
that the vocabulary lacks ([gMASK] on several published models) is [MASK] to them, with a warning; `generate` refuses.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flagai.data.record import Record
from flagai.errors import LaterReleaseError, ModelError
from flagai.models.glm.commands import MASKS
from flagai.models.glm.inputs_checks import lacking_masks
from flagai.predict import loop
from flagai.tasks.masks import split
from flagai.tasks.writing import NOTHING, WritingTask

if TYPE_CHECKING:
    from flagai.models.glm.commands import Commands
    from flagai.predict.predictor import Predictor

Stream = Callable[[int, int, str], None]
"""called with (number of the text, number of the blank in it, what is new of its answer) while answers grow"""


def can_write(model: Any, tokenizer: Any) -> bool:
    """Whether this version writes with a model: a GLM with its output layer, and a GLM's tokenizer."""
    kind = getattr(getattr(model, "config", None), "model_type", "")
    return kind == "flagai_glm" and hasattr(model, "lm_head") and hasattr(tokenizer, "commands")


def writing_task(predictor: Predictor, name: str) -> WritingTask:
    """The model's own task where it writes, else the one that fills and writes on as the text asks.

    Raises:
        LaterReleaseError: a model of a family that writes in a later release.
        ModelError: a model that does not write.
    """
    if predictor.has_task and isinstance(predictor.task, WritingTask):
        return copy.copy(predictor.task)
    if can_write(predictor.model, predictor.tokenizer):
        return plain_task(predictor.model, predictor.tokenizer)
    raise _cannot(predictor, name)


def plain_task(model: Any, tokenizer: Any) -> WritingTask:
    """The task `lm` for a model that carries none."""
    from flagai.auto import most_tokens
    from flagai.config import TaskConfig

    return WritingTask(TaskConfig(name="lm"), tokenizer, max_length=most_tokens(tokenizer, model.config))


def generate(
    predictor: Predictor,
    texts: Any,
    *,
    stream: Stream | None = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    **options: Any,
) -> Any:
    """See `Predictor.generate`."""
    from flagai.generate.options import make_options

    task = writing_task(predictor, "generate")
    task.generation = make_options(options, task.generation)
    records = _records(texts)
    if stream is not None:
        task.on_token = _Pieces(task, stream)
    examples = [example for windows in task.encode_many(records) for example in windows]
    results = loop.answer(
        task, predictor.evaluate, examples, records, batch_size=batch_size, batch_tokens=batch_tokens
    ).results
    return results[0] if isinstance(texts, str | Mapping) else results


def _records(texts: Any) -> list[Record]:
    """Each text as a record; `DataError` for what is none."""
    from flagai.predict.predictor import as_record

    if not isinstance(texts, Iterable):
        as_record(texts)  # raises: neither a text nor a list of them
    one = isinstance(texts, str | Mapping)
    return [as_record(text, i + 1) for i, text in enumerate([texts] if one else texts)]


class _Pieces:
    """Tokens as they come → text as it grows; a character of several tokens is told when it is whole."""

    def __init__(self, task: WritingTask, stream: Stream) -> None:
        self._task, self._stream = task, stream
        self._tokens: dict[tuple[int, int], list[int]] = {}
        self._told: dict[tuple[int, int], str] = {}

    def __call__(self, record: int, blank: int, token: int) -> None:
        key = (record, blank)
        tokens = self._tokens.setdefault(key, [])
        tokens.append(token)
        text, told = self._task.text_of(tokens), self._told.get(key, "")
        if not text.endswith("\ufffd") and text != told and text.startswith(told):
            self._told[key] = text
            self._stream(record, blank, text[len(told) :])


# -- the original's methods ------------------------------------------------------------------------------------


def predict_generate_randomsample(predictor: Predictor, text: str, out_max_length: int, **options: Any) -> str:
    """See `Predictor.predict_generate_randomsample`."""
    return _original(predictor, "predict_generate_randomsample", text, out_max_length, {"do_sample": True, **options})


def predict_generate_beamsearch(predictor: Predictor, text: str, out_max_length: int, beam_size: int) -> str:
    """See `Predictor.predict_generate_beamsearch`."""
    return _original(predictor, "predict_generate_beamsearch", text, out_max_length, {"num_beams": beam_size})


def _original(predictor: Predictor, method: str, text: str, out_max_length: int, options: Mapping[str, Any]) -> str:
    task = _as_original(predictor, method, out_max_length, options)
    text = _known_masks(text, task.tokenizer.commands, method)
    record = Record({"text": text})
    (example,) = task.encode(record)
    (row,) = loop.run(task, predictor.evaluate, [example])
    answers = [[int(i) for i in one if i != NOTHING] for one in row["answers"][0]]
    if not split(text).masks:
        return task.text_of(answers[0])
    start = task.tokenizer.commands.sop
    return task.tokenizer.DecodeIds([*example.input_ids, *(i for one in answers for i in (start, *one))])


def _known_masks(text: str, commands: Commands, method: str) -> str:
    """The text with [MASK] in place of masks that the vocabulary lacks: the original's scripts write [gMASK] to all."""
    lost = lacking_masks(text, commands) if isinstance(text, str) else ()
    if lost:
        message = f"Predictor.{method}: the vocabulary has no {', '.join(lost)}; {MASKS[0]} is read instead"
        warnings.warn(message, stacklevel=5)
    for mask in lost:
        text = text.replace(mask, MASKS[0])
    return text


def _as_original(predictor: Predictor, method: str, out_max_length: int, options: Mapping[str, Any]) -> WritingTask:
    """A task that takes the text as it is: no prompt of a poem around it, and answers within the model's positions."""
    from flagai.generate.options import make_options
    from flagai.generate.prompts import most_positions

    writing_task(predictor, method)  # raises for a model that does not write
    task = plain_task(predictor.model, predictor.tokenizer)
    checked = make_options({"max_new_tokens": out_max_length, **options})
    # `out_max_length` is a bound: what the model has no positions for could not be written anyway.
    most = min(out_max_length, (most_positions(predictor.model) or out_max_length + 1) - 1)
    task.generation = make_options({"max_new_tokens": most}, checked)
    return task


def _cannot(predictor: Predictor, name: str) -> Exception:
    model = type(predictor.model).__name__
    if name == "generate":
        return ModelError(
            f"{model} does not write",
            where="Predictor.generate",
            expected='a GLM with its tokenizer: AutoLoader("lm", …); other families come with a later release',
        )
    return LaterReleaseError(
        f"Predictor.{name} is not part of this release for {model}",
        expected="a GLM with its tokenizer",
        fix="wait for the release of flagai 2 that brings text generation for all families",
    )
