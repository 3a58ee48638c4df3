"""A model, its tokenizer and its task, ready to answer. Knows no trainer and no server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flagai.data.record import Record
from flagai.errors import DataError, ModelError
from flagai.models import packing
from flagai.parallel.native import SingleProcess
from flagai.parallel.precision import choose_device, resolve_precision
from flagai.predict import loop, original, writing, writing_original
from flagai.tasks.base import Task
from flagai.tasks.table import TASKS

_CHUNK = 2048  # records encoded and sorted together; bounds memory on endless input


class Predictor:
    """Predict with the code that evaluation uses.

    Args:
        model: a model from AutoLoader, Trainer or transformers.
        tokenizer: its fast tokenizer.
        task: default is the task that AutoLoader or a saved folder gave the model.
        device: default is where the model is.
        precision: "fp32", "bf16", "fp16" or "auto".
        pack: compute no padding where the model allows it; answers do not depend on it.

    Raises:
        ModelError: the model has no task; the message lists the tasks.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        task: Task | None = None,
        *,
        device: str | None = None,
        precision: str = "fp32",
        pack: bool = True,
    ) -> None:
        tokenizer = getattr(tokenizer, "flagai_tokenizer", tokenizer)
        if (unwrap := getattr(model, "flagai_unwrap", None)) is not None:
            # A class of the original (`flagai.model.bert_model`) is wrapped around what computes.
            model, task = unwrap(tokenizer, task)
        self.model, self.tokenizer = model, tokenizer
        self._task = task if task is not None else _task_of(model, tokenizer)
        chosen = choose_device(device or str(model.device), where="device")
        precision = resolve_precision(precision, chosen, where="precision")
        self._strategy = SingleProcess(device=str(chosen), precision=precision)
        self._strategy.place(model)
        if pack:
            packing.enable(model)

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, device: str = "auto", precision: str = "fp32", offline: bool = False
    ) -> Predictor:
        """The predictor of a trained folder: `<output>/final`, or the run's own.

        Args:
            folder: what training wrote.
            device, precision: as for `Predictor`; `auto` is the first accelerator, else the CPU.
            offline: open no socket, not even for the base of a LoRA model.

        Raises:
            MissingFileError: there is no trained model; an unfinished run says so.
            OfflineError: the base of a LoRA model is not on this machine.
        """
        from flagai.auto import load_saved, trained_folder

        loaded = load_saved(trained_folder(folder), offline=offline)
        return cls(loaded.model, loaded.tokenizer, loaded.task, device=device, precision=precision)

    @property
    def task(self) -> Task:
        """What the model answers. Raises ModelError for a model without one."""
        if self._task is None:
            raise _no_task(self.model)
        return self._task

    @property
    def has_task(self) -> bool:
        """Masked language models and bare encoders have none: they answer by the original's methods only."""
        return self._task is not None

    def predict(self, inputs: Any, *, batch_size: int | None = None, batch_tokens: int | None = None) -> Any:
        """One result for one input, a list for a list.

        Args:
            inputs: a text, a pair `(text, text_pair)`, a mapping with the task's fields, or a list of these.
            batch_size, batch_tokens: speed and memory only; answers do not depend on them.

        Raises:
            DataError: an input without its fields, or beyond the model where the run neither cut nor windowed texts.
        """
        if isinstance(inputs, str | tuple | Mapping):
            return self.predict([inputs], batch_size=batch_size, batch_tokens=batch_tokens)[0]
        if not isinstance(inputs, Iterable):
            as_record(inputs)  # raises: neither an input nor a list of them
        records = [as_record(item, i + 1) for i, item in enumerate(inputs)]
        return list(self.predict_records(records, batch_size=batch_size, batch_tokens=batch_tokens))

    def predict_records(
        self,
        records: Sequence[Record],
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Any]:
        """Results in the order of the records, as they become ready."""
        for start in range(0, len(records), _CHUNK):
            chunk = [without_label(record) for record in records[start : start + _CHUNK]]
            examples = [example for windows in self.task.encode_many(chunk) for example in windows]
            self.task.check_fits(examples, chunk, trained=True)
            answers = loop.answer(
                self.task, self._strategy.evaluate, examples, chunk, batch_size=batch_size, batch_tokens=batch_tokens
            )
            yield from answers.results
            if progress is not None:
                progress(min(start + _CHUNK, len(records)), len(records))

    def generate(
        self,
        texts: Any,
        *,
        stream: Callable[[int, int, str], None] | None = None,
        logprobs: bool = False,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        **options: Any,
    ) -> Any:
        """Write with any model that can: a `Writing` for a text, a list for a list; a `Written` from a trained task.

        A decoder (GPT-2, OPT, …) writes a text on; an encoder-decoder (T5, BART) or a BERT trained as UniLM answers
        it; a GLM fills its masks ([MASK], [sMASK], [gMASK]) in order, each answer seeing those before it, or writes on
        where there is none. Texts of different lengths go through the model together; results do not depend on that.
        A model whose task writes (`poetry`, `title-generation`, …) takes texts as that task does.

        Args:
            texts: a text, a mapping with it as `text`, or a list of these.
            stream: called with (number of the text, number of the blank in it, piece) for every piece of an answer as
                soon as it is there; both count from 0. With constraints pieces come when an answer is complete.
            logprobs: each result as a `flagai.predict.pieces.Traced`: with its tokens, their log-probabilities, and
                what ended it.
            batch_size, batch_tokens: speed and memory only.
            options: of `flagai.generate.options.GenerationOptions`, under Hugging Face's names: `max_new_tokens`,
                `do_sample`, `top_k`, `top_p`, `temperature`, `num_beams`, `stop`, `constraints`, `seed`, …; default is
                what the task says. With `num_return_sequences` above 1 there is a tuple of results for each text.

        Raises:
            ModelError: the model does not write.
            DataError: what is no text, an empty text, a mask the vocabulary lacks, control tokens in a text, or a text
                beyond the model.
            ConfigError: options that cannot be meant, constraints that cannot be met, or answers beyond the model.
        """
        sizes = {"batch_size": batch_size, "batch_tokens": batch_tokens}
        return writing.generate(self, texts, stream=stream, logprobs=logprobs, **sizes, **options)

    def evaluate(self, batch: Mapping[str, Any], loss: Any = None, answer: Any = None) -> Any:
        """Outputs of the model for one padded batch, see `Strategy.evaluate`."""
        return self._strategy.evaluate(batch, loss, answer)

    # -- the original's methods, see `predict/original.py` ------------------------------------------------------

    def predict_embedding(self, text: str | Sequence[str], maxlen: int = 256) -> Any:
        """The vector of a text: a 1-D fp32 tensor on the CPU; a list of them for a list of texts."""
        return original.predict_embedding(self, text, maxlen)

    def predict_cls_classifier(self, text: str | Sequence[str], maxlen: int = 512) -> int:
        """The index of the most probable class of a text, or of a pair given as a list of two texts."""
        return original.predict_cls_classifier(self, text, maxlen)

    def predict_masklm(self, text: str | Sequence[str], maxlen: int = 512) -> Any:
        """The text with the most probable token in place of each mask; a list for a list of texts."""
        return original.predict_masklm(self, text, maxlen)

    def predict_ner(self, text: str | Sequence[str], target: Sequence[str], maxlen: int = 256) -> Any:
        """Entities as (first character, last character, label), both ends inclusive; `target` names the classes."""
        return original.predict_ner(self, text, target, maxlen)

    def predict_generate_randomsample(
        self,
        text: str,
        input_max_length: int = 256,
        out_max_length: int = 200,
        top_k: int = 30,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        temperature: float = 1.0,
    ) -> str:
        """What a model writes for a text by drawing tokens: only what is new.

        A GLM's text with masks comes back whole, with control tokens; a mask that the vocabulary lacks is read as
        [MASK], with a warning.

        Args:
            input_max_length: longer texts are cut; not a GLM's, whose masks could be cut away.
            out_max_length: most tokens of each answer.
        """
        options = {"top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty, "temperature": temperature}
        return writing_original.randomsample(self, text, input_max_length, out_max_length, **options)

    def predict_generate_beamsearch(
        self, text: str, input_max_length: int = 256, out_max_length: int = 100, beam_size: int = 1
    ) -> str:
        """The same by beam search; scores are divided by the length, which the original did not."""
        return writing_original.beamsearch(self, text, input_max_length, out_max_length, beam_size)

    def predict_generate_contrastive_search(
        self, text: str, input_max_length: int = 256, out_max_length: int = 100, beam_size: int = 1
    ) -> str:
        """The same by contrastive search among the `beam_size` most probable tokens; a decoder's has the text, too."""
        return writing_original.contrastive(self, text, input_max_length, out_max_length, beam_size)

    def __getattr__(self, name: str) -> Any:
        raise original.later(name) or AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def as_record(item: Any, line: int = 0) -> Record:
    """An input of `predict` as a record."""
    if isinstance(item, Record):
        return item
    if isinstance(item, str):
        return Record({"text": item}, line=line)
    if isinstance(item, Mapping):
        return Record(dict(item), line=line)
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return Record({"text": item[0], "text_pair": item[1]}, line=line)
    raise DataError(
        f"an input is {item!r}",
        where=f"input {line}" if line else "",
        expected='a text, a pair (text, text_pair), or a mapping {"text": …}',
    )


def without_label(record: Record) -> Record:
    """Prediction must not look at labels, nor fail on one it does not know."""
    if "label" not in record.fields:
        return record
    return Record({k: v for k, v in record.fields.items() if k != "label"}, record.file, record.line)


def _task_of(model: Any, tokenizer: Any) -> Task | None:
    from flagai.auto import task_of

    task = task_of(model, tokenizer)
    if task is None and writing.writes_by_itself(model, tokenizer):
        return writing.plain_task(model, tokenizer)
    if task is None and not original.answers_without_task(model):
        raise _no_task(model)
    return task


def _no_task(model: Any) -> ModelError:
    return ModelError(
        f"{type(model).__name__} carries no task",
        expected=f"a task, one of: {', '.join(sorted(TASKS))}",
        fix='load it with AutoLoader("<task>", …), or pass Predictor(model, tokenizer, task)',
    )
