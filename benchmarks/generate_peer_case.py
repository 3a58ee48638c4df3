"""What every contender of `generate.py` is given: sizes, weights, prompts; and how each is measured.

It knows no implementation, and needs only torch and the standard library: flagai 1.8.4 reads it too, in its own
environment. Weights come from a seed and their names, so they are the same in every process.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import harness
import torch
from torch import Tensor

MODELS = ("gpt2", "t5", "glm")
_COMMANDS = {"eos": 0, "pad": 0, "sep": 1, "cls": 2, "mask": 3, "unk": 4, "sop": 6, "eop": 7, "gmask": 9}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and what it is to write.

    Args:
        model: "gpt2" (GPT-2 124M), "t5" (the shape of T5-base) or "glm" (12 × 768).
        batch: prompts; one has `context` tokens, of several the i-th has a share of it from 1/4 to all.
        beams: 1 is greedy.
        answer: tokens written for each; there is no end token.
        precision: "fp32" or "bf16", of weights and products.
    """

    model: str
    batch: int
    beams: int
    precision: str
    layers: int
    hidden: int
    vocab: int
    context: int
    answer: int

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Case:
        """The case of a name like "gpt2 batch 16 beam 4 bf16"."""
        model, _, batch, _, beams, precision = arguments.one.partition(":")[0].split()
        sizes = {name: getattr(arguments, name) for name in ("layers", "hidden", "context", "answer")}
        vocab = arguments.vocab or {"gpt2": 50257, "t5": 32128, "glm": 50048}[model]
        return cls(model=model, batch=int(batch), beams=int(beams), precision=precision, vocab=vocab, **sizes)

    @property
    def heads(self) -> int:
        return self.hidden // 64

    @property
    def positions(self) -> int:
        return max(512, self.context + self.answer)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def command(self, name: str) -> int:
        """GLM: the id of a command token, laid out as in GLM-large-ch (vocabulary 50048)."""
        return self.vocab - 48 + _COMMANDS[name]

    def prompts(self) -> list[list[int]]:
        """The ids of each prompt."""
        draw = random.Random(0)
        most = max(1, self.batch - 1)
        lengths = [round(self.context * (0.25 + 0.75 * i / most)) for i in range(self.batch)]
        lengths = [self.context] if self.batch == 1 else draw.sample(lengths, self.batch)
        return [self._prompt(draw, length) for length in lengths]

    def _prompt(self, draw: random.Random, length: int) -> list[int]:
        if self.model != "glm":
            return [draw.randrange(10, self.vocab - 60) for _ in range(length)]
        words = [draw.randrange(10, self.vocab - 60) for _ in range(length - 2)]
        return [self.command("cls"), *words, self.command("gmask")]


def options(description: str) -> argparse.ArgumentParser:
    """The options of the benchmark; every process of a run reads the same."""
    parser = harness.parser(description)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16])
    parser.add_argument("--beams", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--engines", nargs="*", default=None, help="contenders to run (default: all)")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768, help="a multiple of 64, which is the size of a head")
    parser.add_argument("--vocab", type=int, default=0, help="default: that of the model")
    parser.add_argument("--context", type=int, default=128, help="tokens of the longest prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens written for each prompt")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls in a process; the best one counts")
    parser.add_argument("--peer-python", default="", help="a Python that has flagai 1.8.4; without it that is skipped")
    return parser


@torch.no_grad()
def fill(model: torch.nn.Module, *, transposed: Callable[[str], bool] = lambda name: False) -> None:
    """Give every parameter values that depend on its name and shape alone; tied ones get those of the first name.

    Args:
        transposed: whether a parameter is stored as [inputs, outputs].
    """
    for name, parameter in model.named_parameters():
        seed = zlib.crc32(name.encode())
        if parameter.dim() == 1:
            value = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
            value = value * 0.05 + (1.0 if name.endswith("weight") else 0.0)
        else:
            shape = tuple(parameter.shape)[::-1] if transposed(name) else tuple(parameter.shape)
            value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * _spread(name, shape)
            value = value.t() if transposed(name) else value
        parameter.copy_(value)


def _spread(name: str, shape: Sequence[int]) -> float:
    if "relative_attention_bias" in name:
        return 0.5
    if any(part in name for part in ("wte", "wpe", "shared", "embeddings", "embed_tokens", "lm_head")):
        return 0.05
    # T5 does not divide scores by √64: its queries are made smaller.
    return shape[1] ** -0.5 / (8 if name.endswith("Attention.q.weight") else 1)


class Engine(Protocol):
    """A contender: built from a `Case`, it writes."""

    def generate(self) -> list[list[int]]:
        """The `answer` tokens behind each prompt."""
        ...


def run(engine: Callable[[Case], Engine], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one contender in this process."""
    torch.set_num_threads(arguments.threads)
    case = Case.of(arguments)
    contender = engine(case)
    tokens = contender.generate()
    seconds = harness.best_of(contender.generate, arguments.repeats)
    return {
        "speed": case.batch * case.answer / seconds,
        "ms_per_step": seconds * 1e3 / case.answer,
        "tokens": tokens,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        **getattr(contender, "notes", {}),
    }


def reading_peak(threads: int) -> float:
    """GB/s at which all threads together read memory, best of several ways: what writing a token cannot exceed."""
    torch.set_num_threads(threads)
    matrix = torch.randn(50048, 768)
    column = torch.randn(768, 1).expand(threads, 768, 1)
    cut = matrix[: 50048 // threads * threads].view(threads, -1, 768)
    ways: list[Callable[[], Tensor]] = [
        lambda: matrix.sum(),
        lambda: matrix.amax(),
        lambda: torch.bmm(cut, column),
        lambda: torch.nn.functional.linear(torch.ones(1, 768), matrix),
    ]
    return matrix.nbytes / min(harness.best_of(way, 10) for way in ways) / 1e9


def show(row: dict[str, Any]) -> None:
    """The line that the parent process reads."""
    print(json.dumps(row))
    sys.stdout.flush()
