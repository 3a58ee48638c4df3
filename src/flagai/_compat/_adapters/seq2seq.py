"""The original's data of texts with targets for GLM, and its collate function for them. Knows no model and no loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flagai.data.batching import pad
from flagai.errors import ConfigError, DataError, MissingFileError, unknown_name

_PAIRED = ("gigaword", "cnn_dm", "cnn_dm_original", "lang8_hsk", "xsum")
_TASKS = (*_PAIRED, "cmrc")
_FILES = {"train": "train", "dev": "val", "test": "test"}
_QUOTES = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'", "–": "-"})
_BRACKETS = {"lrb": "(", "rrb": ")", "lsb": "[", "rsb": "]", "lcb": "{", "rcb": "}"}


@dataclass
class Seq2SeqExample:
    """One source with its target; `meta` has `question`, `answer` and `ref`, the target."""

    guid: str
    text_a: str
    text_b: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Seq2SeqCollateArguments:
    """What `ConstructSeq2seqStrategy` reads.

    Args:
        task_mask: [sMASK] instead of [MASK] in front of a source, where the vocabulary has it.
        max_src_length, max_tgt_length: most tokens; what is longer is cut, the end of a target is kept.
        no_block_position: all tokens of a target at block position 1, as the original has it; False counts them.
    """

    cloze_eval: bool = True
    pretrained_bert: bool = False
    task_mask: bool = True
    continuous_prompt: bool = False
    prefix_prompt: int = 0
    max_src_length: int = 464
    max_tgt_length: int = 48
    min_tgt_length: int = 0
    no_block_position: bool = True


class Seq2SeqDataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """`data_dir/<task_name>/{train,val,test}.{source,target}`, a text a line; for `cmrc` `{train,dev,test}.json`.

    Raises:
        UnknownNameError: another task.
        MissingFileError, DataError: files that are not there, or of different length.
    """

    def __init__(
        self,
        task_name: str = "lang8_hsk",
        data_dir: str = "./data",
        dataset_type: str = "train",
        tokenizer: Any = None,
        **_: Any,
    ) -> None:
        if task_name not in _TASKS:
            raise unknown_name("task", task_name, _TASKS, where="Seq2SeqDataset")
        if dataset_type not in _FILES:
            raise unknown_name("dataset_type", dataset_type, _FILES, where="Seq2SeqDataset")
        folder = Path(data_dir)
        folder = folder / task_name if (folder / task_name).is_dir() else folder
        read = _cmrc if task_name == "cmrc" else _paired
        self.example_list = list(read(folder, task_name, dataset_type))
        self.examples = {example.guid: example for example in self.example_list}

    def __len__(self) -> int:
        return len(self.example_list)

    def __getitem__(self, index: int) -> Seq2SeqExample:
        return self.example_list[index]


def _paired(folder: Path, task: str, split: str) -> Iterator[Seq2SeqExample]:
    sources, targets = (_lines(folder / f"{_FILES[split]}.{kind}", task) for kind in ("source", "target"))
    if len(sources) != len(targets):
        raise DataError(
            f"{len(sources)} sources and {len(targets)} targets",
            where=str(folder),
            expected="line n of both files belonging together",
        )
    for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
        yield Seq2SeqExample(f"{split}-{i}", source, target, {"ref": target})


def _lines(file: Path, task: str) -> list[str]:
    if not file.is_file():
        raise MissingFileError(f"no {file.name}", where=str(file.parent), expected="train.source, train.target, …")
    lines = file.read_text("utf-8").removesuffix("\n").split("\n")
    return [_plain(line.strip().translate(_QUOTES), task) for line in lines]


def _plain(line: str, task: str) -> str:
    """Without the marks that the published files have in place of brackets, and between sentences."""
    if task in ("gigaword", "cnn_dm"):
        for name, bracket in _BRACKETS.items():
            line = line.replace(f"-{name}-", bracket).replace(f"-{name.upper()}-", bracket)
        line = line.replace("<S_SEP>", "").replace("``", '"').replace("''", '"')
    return line


def _cmrc(folder: Path, task: str, split: str) -> Iterator[Seq2SeqExample]:
    file = folder / f"{split}.json"
    if not file.is_file():
        raise MissingFileError(f"no {file.name}", where=str(folder), expected="train.json, dev.json, test.json of CMRC")
    number = 0
    for article in json.loads(file.read_text("utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                # in their order, each once
                for answer in dict.fromkeys(one["text"] for one in asked.get("answers") or ()):
                    meta = {"answer": answer, "question": asked["question"], "ref": answer}
                    yield Seq2SeqExample(f"{split}-{number}", paragraph["context"], meta=meta)
                    number += 1


class ConstructSeq2seqStrategy:
    """Examples → what `GLMForSeq2Seq` takes: a context with its mask, then start and target at the mask's place.

    Unlike the original's, contexts are padded behind the target and not in front of it, where the model would see the
    pads, and a target that is cut keeps its end.
    """

    def __init__(self, args: Any, tokenizer: Any, task_name: str) -> None:
        if task_name not in _TASKS:
            raise unknown_name("task", task_name, _TASKS, where="ConstructSeq2seqStrategy")
        if not hasattr(tokenizer, "commands"):
            raise ConfigError(
                f"{type(tokenizer).__name__} has no masks",
                where="ConstructSeq2seqStrategy",
                expected="a GLM's tokenizer",
            )
        self.args, self.tokenizer, self.task_name = args, tokenizer, task_name

    def __call__(self, examples: Sequence[Seq2SeqExample]) -> dict[str, Any]:
        """`input_ids`, `target_ids`, `loss_mask` [B, L], `position_ids` [B, 2, L], `attention_mask` [B], `uid`."""
        rows = [(*self._source(example), self._target(example)) for example in examples]
        commands = self.tokenizer.commands
        length = max(len(source) + len(target) for source, _, target in rows)
        ids = [[*source, commands.sop, *target[:-1]] for source, _, target in rows]
        return {
            "input_ids": _tensor(ids, commands.pad, length),
            "target_ids": _tensor([[0] * len(source) + target for source, _, target in rows], 0, length),
            "loss_mask": _tensor([[0] * len(s) + [1] * len(t) for s, _, t in rows], 0, length),
            "position_ids": torch.stack(
                [
                    _tensor([[*range(len(s)), *[place] * len(t)] for s, place, t in rows], 0, length),
                    _tensor([[0] * len(s) + self._blocks(len(t)) for s, _, t in rows], 0, length),
                ],
                dim=1,
            ),
            "attention_mask": torch.tensor([len(source) for source, _, _ in rows]),
            "uid": [example.guid for example in examples],
        }

    def _blocks(self, length: int) -> list[int]:
        return [1] * length if self.args.no_block_position else list(range(1, length + 1))

    def _source(self, example: Seq2SeqExample) -> tuple[list[int], int]:
        """The context, cut to `max_src_length`, and where its mask stands."""
        commands, encode = self.tokenizer.commands, self.tokenizer.EncodeAsIds
        most = self.args.max_src_length
        if self.task_name == "cmrc":
            question = encode(f"问题：{example.meta['question'].strip()}答案：")[: most // 2]
            front = [commands.cls, *question, commands.mask]
            return [*front, *encode(example.text_a.rstrip())][:most], len(front) - 1
        mask = commands.smask if self.args.task_mask and commands.smask is not None else commands.mask
        front = [commands.cls, mask, *encode(" Content:")]
        return [*front, *encode(f" {example.text_a}")][:most], 1

    def _target(self, example: Seq2SeqExample) -> list[int]:
        text = example.meta["answer"].strip() if example.text_b is None else example.text_b
        return [*self.tokenizer.EncodeAsIds(f" {text}")[: self.args.max_tgt_length - 1], self.tokenizer.commands.eop]


def _tensor(rows: Sequence[Sequence[int]], filler: int, length: int) -> Tensor:
    return torch.from_numpy(pad([list(row) for row in rows], filler, length=length))
