"""The original's `predict_*` with its argument names and return types, on the one loop. Knows no checkpoint format.

A text beyond `maxlen` is cut, as the original did; ends of entities are inclusive. What the original took from a
`target` list at prediction time is checked against the model, and the task's own table is used where it is the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flagai.data.batching import pad
from flagai.data.example import Example
from flagai.data.record import Record
from flagai.errors import DataError, LaterReleaseError, ModelError
from flagai.predict import loop
from flagai.tasks.encoding import TextEncoder
from flagai.tasks.labeling import Labeling
from flagai.tasks.results import Label

if TYPE_CHECKING:
    import torch

    from flagai.predict.predictor import Predictor
    from flagai.tasks.base import Task


def later(name: str) -> LaterReleaseError | None:
    """The error for a method of the original that flagai 2 does not have; None for any other name."""
    if name != "predict_generate_images":
        return None
    return LaterReleaseError(
        f"Predictor.{name} is not part of this release",
        expected="one of: predict, generate, predict_embedding, predict_cls_classifier, predict_masklm, predict_ner, "
        "predict_generate_randomsample, predict_generate_beamsearch, predict_generate_contrastive_search",
        fix="pictures are not planned",
    )


def answers_without_task(model: Any) -> bool:
    """Whether one of the functions here needs no task: masked language models and bare encoders."""
    base = getattr(model, "base_model", None)
    return base is not None and (type(model).__name__.endswith("ForMaskedLM") or base is model)


# -- one vector, one class, entities, masked words -----------------------------------------------------------------


def predict_embedding(predictor: Predictor, text: str | Sequence[str], maxlen: int = 256) -> Any:
    """The vector of a text: a 1-D fp32 tensor on the CPU; a list of them for a list of texts.

    A model with pooling of its own (task `embedding`) answers as `predict` does; any other by the mean of its last
    hidden states over all tokens, special ones counted.
    """
    import torch

    texts = [text] if isinstance(text, str) else list(text)
    pooled = predictor.has_task and "embedding" in predictor.task.outputs
    vectors = _pooled(predictor, texts, maxlen) if pooled else _means(predictor, texts, maxlen)
    tensors = [torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float32)) for vector in vectors]
    return tensors[0] if isinstance(text, str) else tensors


def predict_cls_classifier(predictor: Predictor, text: str | Sequence[str], maxlen: int = 512) -> int:
    """The index of the most probable class of a text, or of a pair given as a list of exactly two texts.

    Raises:
        DataError: a list of another length (`predict` takes many texts).
        ModelError: the model's task has not one class for a text.
    """
    fields = {"text": text} if isinstance(text, str) else _pair(text)
    result = _answers(predictor, predictor.task, [fields], maxlen)[0]
    labels = predictor.task.label_names()
    if not isinstance(result, Label) or labels is None:
        raise ModelError(
            f"the task {predictor.task.options.name!r} does not answer with one class",
            where="predict_cls_classifier",
            expected="a model for classification or semantic-matching",
            fix="use predict",
        )
    return labels.index(result.label)


def predict_ner(predictor: Predictor, text: str | Sequence[str], target: Sequence[str], maxlen: int = 256) -> Any:
    """Entities as (first character, last character, label), both ends inclusive; a list of lists for many texts.

    Args:
        target: the tags in the order of the model's classes (`["O", "B-LOC", "I-LOC", …]`), for GlobalPointer the
            entity types.

    Raises:
        ModelError: the model labels no sequences, or has another number of classes.
    """
    task = _labeling(predictor, [str(label) for label in target])
    texts = [text] if isinstance(text, str) else list(text)
    results = _answers(predictor, task, [{"text": one} for one in texts], maxlen)
    found = [[(entity.start, entity.end - 1, entity.label) for entity in result] for result in results]
    return found[0] if isinstance(text, str) else found


def predict_masklm(predictor: Predictor, text: str | Sequence[str], maxlen: int = 512) -> Any:
    """The text with the most probable token in place of each mask (`[MASK]`); a list for a list of texts.

    Raises:
        ModelError: the model is no masked language model.
        DataError: a text without a mask, or with one beyond `maxlen`.
    """
    if not type(predictor.model).__name__.endswith("ForMaskedLM"):
        raise ModelError(
            f"{type(predictor.model).__name__} does not predict masked words",
            where="predict_masklm",
            expected='a masked language model: AutoLoader("masklm", …)',
        )
    texts = [text] if isinstance(text, str) else list(text)
    mask_id = predictor.tokenizer.mask_token_id
    filled = []
    for one, (example, row) in zip(texts, _run_bare(predictor, texts, maxlen, "logits"), strict=True):
        places = [i for i, token in enumerate(example.input_ids) if token == mask_id]
        best = [int(np.argmax(row[i])) for i in places]
        filled.append(_fill(one, predictor.tokenizer, best))
    return filled[0] if isinstance(text, str) else filled


# -- inner matters -------------------------------------------------------------------------------------------------


def _answers(predictor: Predictor, task: Task, fields: Sequence[dict[str, Any]], maxlen: int) -> list[Any]:
    records = [Record(one, line=i + 1) for i, one in enumerate(fields)]
    task = _shortened(task, predictor.tokenizer, maxlen)
    examples = [example for windows in task.encode_many(records) for example in windows]
    return loop.answer(task, predictor.evaluate, examples, records).results


def _shortened(task: Task, tokenizer: Any, maxlen: int) -> Task:
    """The task with texts cut at `maxlen` tokens; the task itself where it is not beyond that."""
    if maxlen >= task.max_length:
        return task
    short = copy.copy(task)
    short.max_length, short.stride, short.may_cut = maxlen, None, True
    short.text_encoder = TextEncoder(tokenizer, max_length=maxlen)
    return short


def _pair(texts: Sequence[str]) -> dict[str, Any]:
    if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{len(texts)} texts in a list",
            where="predict_cls_classifier",
            expected="one text, or a list of exactly two: a pair",
            fix="predict(texts) answers many texts at once",
        )
    return {"text": texts[0], "text_pair": texts[1]}


def _labeling(predictor: Predictor, target: list[str]) -> Labeling:
    """The model's task, or the same with the labels of `target`."""
    task, count = predictor.task, _num_classes(predictor.model)
    if not isinstance(task, Labeling):
        raise ModelError(
            f"the task {task.options.name!r} finds no entities",
            where="predict_ner",
            expected="a model for ner, ner-crf, ner-gp or sequence-labeling",
        )
    if target in (task.model_labels(), task.label_names()):
        return task
    if len(target) != count:
        raise ModelError(
            f"target names {len(target)} labels, the model has {count} classes",
            where="predict_ner",
            expected="a name for each class in the order of training: O, B- and I- tags, or types for GlobalPointer",
        )
    options = task.options.model_copy(update={"labels": tuple(target)})
    return type(task)(options, predictor.tokenizer, max_length=task.max_length, stride=task.stride)


def _num_classes(model: Any) -> int:
    """GlobalPointer counts its types itself; its body has no classes."""
    return getattr(getattr(model, "head", None), "num_labels", None) or model.config.num_labels


def _pooled(predictor: Predictor, texts: list[str], maxlen: int) -> list[np.ndarray]:
    results = _answers(predictor, predictor.task, [{"text": text} for text in texts], maxlen)
    return [np.asarray(result.vector, dtype=np.float32) for result in results]


def _means(predictor: Predictor, texts: list[str], maxlen: int) -> list[np.ndarray]:
    return [row.mean(axis=0) for _, row in _run_bare(predictor, texts, maxlen, "last_hidden_state")]


def _run_bare(predictor: Predictor, texts: list[str], maxlen: int, name: str) -> list[tuple[Example, np.ndarray]]:
    """An output [tokens, …] for each text, of the model without its task."""
    from flagai.auto import most_tokens

    limit = min(maxlen, most_tokens(predictor.tokenizer, predictor.model.config))
    encoded = TextEncoder(predictor.tokenizer, max_length=limit)(texts)
    windows = [one.windows[0] for one in encoded]
    examples = [Example(w.input_ids, i, token_type_ids=w.token_type_ids) for i, w in enumerate(windows)]
    inner = _Bare(predictor, name)
    rows = loop.run(inner, inner.evaluate, examples, names=(name,))  # type: ignore[arg-type]
    return [(example, row[name]) for example, row in zip(examples, rows, strict=True)]


class _Bare:
    """What `loop.run` reads of a task, for a model without one; runs the encoder alone where its states are wanted."""

    shared_outputs: tuple[str, ...] = ()
    writes = False

    def __init__(self, predictor: Predictor, name: str) -> None:
        self._predictor = predictor
        self._encoder_only = name == "last_hidden_state"
        self.token_axes, self.outputs = {name: (0,)}, (name,)
        self.loss = None

    def collate(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        length = max(map(len, examples))
        rows = {
            "input_ids": pad([e.input_ids for e in examples], self._predictor.tokenizer.pad_token_id or 0),
            "attention_mask": pad([[1] * len(e) for e in examples], 0, length=length),
        }
        if examples[0].token_type_ids is not None:
            rows["token_type_ids"] = pad([e.token_type_ids or [] for e in examples], 0, length=length)
        return rows

    def collect(self, outputs: Any, batch: Any, count: int) -> Any:
        return outputs

    def evaluate(self, batch: Any, loss: None = None) -> tuple[Any, None]:
        if not self._encoder_only:
            return self._predictor.evaluate(batch)
        import torch

        encoder = self._predictor.model.base_model
        inputs: dict[str, torch.Tensor] = {k: torch.as_tensor(v).to(encoder.device) for k, v in batch.items()}
        encoder.eval()
        with torch.inference_mode():
            return encoder(**inputs), None


def _fill(text: str, tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text with its masks replaced from left to right; the characters around them stay as given."""
    parts = text.split(tokenizer.mask_token)
    if len(parts) == 1 or len(parts) - 1 != len(tokens):
        raise DataError(
            f"the text has {len(parts) - 1} masks, {len(tokens)} of them within maxlen",
            where="predict_masklm",
            expected=f"at least one {tokenizer.mask_token}, all of them within maxlen",
        )
    words = [tokenizer.decode([token]).strip().removeprefix("##") for token in tokens]
    return "".join(part + word for part, word in zip(parts, [*words, ""], strict=True))
