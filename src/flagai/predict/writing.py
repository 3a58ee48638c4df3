"""What a predictor writes, by any family of models. Knows no decoding and no checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flagai.data.record import Record
from flagai.errors import ModelError
from flagai.predict import loop
from flagai.predict.pieces import Pieces, Recorder, Stream
from flagai.tasks.generation import GenerationTask
from flagai.tasks.writing import WritingTask

if TYPE_CHECKING:
    from flagai.predict.predictor import Predictor


def can_write(model: Any, tokenizer: Any) -> bool:
    """Whether a model has an output layer over its vocabulary, and a tokenizer that belongs to its family."""
    from flagai.models.families import family_of

    config = getattr(model, "config", None)
    family = None if config is None else family_of(config)
    if family == "glm":
        return hasattr(model, "lm_head") and hasattr(tokenizer, "commands")
    if family is None or hasattr(tokenizer, "commands"):
        return False
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def writes_by_itself(model: Any, tokenizer: Any) -> bool:
    """Whether a model without a task is taken to write; a masked language model fills masks unless it is asked to."""
    from flagai.models.families import family_of

    return can_write(model, tokenizer) and family_of(model.config) != "encoder"


def writing_task(predictor: Predictor, name: str) -> GenerationTask:
    """The model's own task where it writes, else the one that fills and writes on as the text asks.

    Raises:
        ModelError: a model that does not write.
    """
    if predictor.has_task and isinstance(predictor.task, GenerationTask):
        task = copy.copy(predictor.task)
        if isinstance(task, WritingTask):
            task.learning = False
        return task
    if can_write(predictor.model, predictor.tokenizer):
        return plain_task(predictor.model, predictor.tokenizer)
    raise _cannot(predictor, name)


def plain_task(model: Any, tokenizer: Any) -> WritingTask:
    """The task `lm` for a model that carries none."""
    from flagai.auto import most_tokens
    from flagai.config import TaskConfig

    task = WritingTask(TaskConfig(name="lm"), tokenizer, max_length=most_tokens(tokenizer, model.config))
    task.meet(model.config)
    return task


def generate(
    predictor: Predictor,
    texts: Any,
    *,
    stream: Stream | None = None,
    logprobs: bool = False,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    **options: Any,
) -> Any:
    """See `Predictor.generate`."""
    from flagai.generate.options import make_options

    task = writing_task(predictor, "generate")
    task.generation = make_options(options, task.generation)
    records = records_of(texts)
    pieces = None if stream is None else Pieces(task, records, stream)
    recorder = Recorder(task) if logprobs else None
    task.on_token = pieces or task.on_token
    if recorder is not None:
        task.write = recorder  # type: ignore[method-assign]
    results = answers(predictor, task, records, batch_size=batch_size, batch_tokens=batch_tokens)
    if pieces is not None:
        pieces.finish()
    if recorder is not None:
        results = [recorder.traced(i, result) for i, result in enumerate(results)]
    return results[0] if isinstance(texts, str | Mapping) else results


def answers(predictor: Predictor, task: GenerationTask, records: Sequence[Record], **sizes: Any) -> list[Any]:
    """What the task writes for records."""
    examples = [example for windows in task.encode_many(records) for example in windows]
    task.check_fits(examples, records, trained=True)
    return loop.answer(task, predictor.evaluate, examples, records, **sizes).results


def records_of(texts: Any) -> list[Record]:
    """Each text as a record; `DataError` for what is none."""
    from flagai.predict.predictor import as_record, without_label

    if not isinstance(texts, Iterable):
        as_record(texts)  # raises: neither a text nor a list of them
    one = isinstance(texts, str | Mapping)
    return [without_label(as_record(text, i + 1)) for i, text in enumerate([texts] if one else texts)]


def _cannot(predictor: Predictor, name: str) -> ModelError:
    return ModelError(
        f"{type(predictor.model).__name__} does not write",
        where=f"Predictor.{name}",
        expected="a model with an output layer over its vocabulary, and its tokenizer: a GLM, GPT-2, OPT, T5, …, or a "
        "BERT trained for seq2seq",
        fix='load it with AutoLoader("lm", …), or train one: task: seq2seq',
    )
