"""What every contender of `glm.py` is given: sizes, weights, a batch, a prompt; and how each is measured.

It knows no implementation, and needs only torch, NumPy and the standard library: flagai 1.8.4 reads it too, in its own
environment. Weights and tokens come from a seed, so they are the same in every process.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import harness
import numpy as np
import torch
from torch import Tensor

WORKS = ("forward", "train", "generate")
LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 1e-4, 0.1, 1.0
_IGNORE = -100
_COMMANDS = {"eos": 0, "pad": 0, "sep": 1, "cls": 2, "mask": 3, "unk": 4, "sop": 6, "eop": 7, "gmask": 9}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A GLM and what it is to do.

    Args:
        rows, tokens: the batch of `forward` and `train`; contexts and answers fill every row, there is no pad.
        mode: "token", 15 % of a text in short spans, or "document", a suffix of 25 to 90 % of it.
        context, answer: of `generate`: one text with [gMASK] at its end, and how many tokens are written.
        dropout: of embedding, attention and output, in training.
    """

    layers: int
    hidden: int
    vocab: int
    rows: int
    tokens: int
    mode: str
    context: int
    answer: int
    dropout: float
    device: str

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Case:
        """The case that the options describe; a check is on two rows and without dropout."""
        case = cls(**{name: getattr(arguments, name) for name in cls.__dataclass_fields__})
        return replace(case, rows=min(2, case.rows), dropout=0.0) if arguments.check else case

    @property
    def heads(self) -> int:
        return self.hidden // 64

    @property
    def positions(self) -> int:
        """`max_sequence_length`; the tables have a row more."""
        return max(512, self.tokens, self.context + self.answer)

    def command(self, name: str) -> int:
        """The id of a command token, laid out as in GLM-large-ch (vocabulary 50048)."""
        return self.vocab - 48 + _COMMANDS[name]


def options(description: str) -> argparse.ArgumentParser:
    """The options of the benchmark; every process of a run reads the same."""
    parser = harness.parser(description)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768, help="a multiple of 64, which is the size of a head")
    parser.add_argument("--vocab", type=int, default=50048)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--mode", choices=("token", "document"), default="token")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls in a process; the best one counts")
    parser.add_argument(
        "--peer-python", default="", help="a Python that has flagai 1.8.4; without it that one is skipped"
    )
    parser.add_argument("--no-check", action="store_true", help="do not compare logits, losses and tokens first")
    parser.add_argument("--check", default="", help="file that one contender writes its answers to")
    return parser


def weights(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Names as published with values of a seed, one after the other: logits are wide enough for a clear best token."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=random).mul_(std)

    hidden = case.hidden
    yield "word_embeddings.weight", normal(case.vocab, hidden, std=0.02)
    for table in ("position_embeddings", "block_position_embeddings"):
        yield f"transformer.{table}.weight", normal(case.positions + 1, hidden, std=0.02)
    shapes = {
        "attention.query_key_value": (3 * hidden, hidden),
        "attention.dense": (hidden, hidden),
        "mlp.dense_h_to_4h": (4 * hidden, hidden),
        "mlp.dense_4h_to_h": (hidden, 4 * hidden),
    }
    for layer in range(case.layers):
        stem = f"transformer.layers.{layer}."
        for name, (rows, columns) in shapes.items():
            yield f"{stem}{name}.weight", normal(rows, columns, std=columns**-0.5)
            yield f"{stem}{name}.bias", normal(rows, std=0.02)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{stem}{name}.weight", normal(hidden, std=0.05) + 1
            yield f"{stem}{name}.bias", normal(hidden, std=0.02)
    yield "transformer.final_layernorm.weight", normal(hidden, std=0.05) + 1
    yield "transformer.final_layernorm.bias", normal(hidden, std=0.02)


def load(model: torch.nn.Module, case: Case) -> None:
    """Copy the weights into a model of the published names, one tensor at a time."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights(case):
            parameters.pop(name).copy_(value)
    if parameters:
        raise SystemExit(f"no values for {', '.join(parameters)}")


def batch(case: Case) -> dict[str, Tensor]:
    """`input_ids`, `labels` [rows, tokens] (-100: no target), `position_ids` [rows, 2, tokens], `context_length`.

    As the blank-infilling of the original makes it (Du et al. 2022, section 2.1), with row lengths that fit exactly.
    """
    random = np.random.default_rng(0)
    build = _token_row if case.mode == "token" else _document_row
    rows = [build(case, random, number) for number in range(case.rows)]
    stacked = {name: torch.as_tensor(np.stack([row[name] for row in rows])) for name in rows[0]}
    return {name: value.to(case.device) for name, value in stacked.items()}


def _token_row(case: Case, random: np.random.Generator, number: int) -> dict[str, np.ndarray]:
    spans = max(1, round(case.tokens * (10 + number % 5) / 256))
    text = case.tokens - 2 * spans  # every span adds a mask to the context and <|startofpiece|> to the answers
    masked = max(spans, round(0.15 * text))
    cuts = np.sort(random.choice(np.arange(1, masked), spans - 1, replace=False))
    lengths = np.diff(np.concatenate([[0], cuts, [masked]]))
    context = _words(case, random, text - masked + spans)
    places = np.sort(random.choice(np.arange(1, len(context) - 1), spans, replace=False))
    context[0], context[places], context[-1] = case.command("cls"), case.command("mask"), case.command("eos")
    order = random.permutation(spans)
    answers = [_words(case, random, int(lengths[i])) for i in order]
    return _row(case, context, [int(places[i]) for i in order], answers, eop=True)


def _document_row(case: Case, random: np.random.Generator, number: int) -> dict[str, np.ndarray]:
    share = 0.25 + 0.65 * number / max(1, case.rows - 1)
    length = max(1, round(share * (case.tokens - 1)))
    context = _words(case, random, case.tokens - length)
    context[0], context[-1] = case.command("cls"), case.command("gmask")
    return _row(case, context, [len(context) - 1], [_words(case, random, length)], eop=False)


def _words(case: Case, random: np.random.Generator, count: int) -> np.ndarray:
    return random.integers(10, case.vocab - 48, count)


def _row(case: Case, context: np.ndarray, places: list[int], answers: list[np.ndarray], *, eop: bool) -> dict[str, Any]:
    ids, targets = [context], [np.full(len(context), _IGNORE)]
    positions, blocks = [np.arange(len(context))], [np.zeros(len(context), dtype=int)]
    for place, words in zip(places, answers, strict=True):
        asked = np.append(words, case.command("eop")) if eop else words
        ids.append(np.concatenate([[case.command("sop")], asked[:-1]]))
        targets.append(asked)
        positions.append(np.full(len(asked), place))
        blocks.append(np.arange(1, len(asked) + 1))
    return {
        "input_ids": np.concatenate(ids),
        "position_ids": np.stack([np.concatenate(positions), np.concatenate(blocks)]),
        "context_length": np.array(len(context)),
        "labels": np.concatenate(targets),
    }


def prompt(case: Case) -> list[int]:
    """[CLS], words, [gMASK]: the context of `generate`."""
    words = _words(case, np.random.default_rng(1), case.context - 2)
    return [case.command("cls"), *words.tolist(), case.command("gmask")]


def flops(case: Case, work: str) -> float:
    """What the work needs by formula, the same for all: 2 a weight and a token, attention over all pairs of tokens.

    A backward pass is twice a forward pass. Training needs logits where there are targets, `forward` is asked for all.
    Elementwise work, norms and the optimizer are left out.
    """

    def layers(tokens: float, keys: float) -> float:
        return case.layers * tokens * (2 * 12 * case.hidden**2 + 4 * keys * case.hidden)

    head = 2 * case.hidden * case.vocab
    tokens = case.rows * case.tokens
    if work == "forward":
        return layers(tokens, case.tokens) + tokens * head
    if work == "train":
        return 3 * (layers(tokens, case.tokens) + labelled(case) * head)
    prefill = layers(case.context, case.context)
    return prefill + layers(case.answer, case.context + case.answer / 2) + case.answer * head


def labelled(case: Case) -> int:
    """Targets in the batch."""
    return int((batch(case)["labels"] != _IGNORE).sum())


def weights_read(case: Case) -> float:
    """Numbers that writing an answer must read: every matrix, once for each token."""
    return float(case.answer) * (12 * case.layers * case.hidden**2 + case.vocab * case.hidden)


class Engine(Protocol):
    """A contender: built from a `Case`, it does three things."""

    def forward(self) -> Tensor:
        """Logits [rows, tokens, vocabulary] of the batch, in evaluation."""
        ...

    def train(self) -> float:
        """One step on the batch: forward, loss over the targets, backward, clip, AdamW. The mean loss before it."""
        ...

    def generate(self) -> list[int]:
        """The most probable `answer` tokens behind the prompt, one after the other."""
        ...


def run(engine: Callable[[Case], Engine], arguments: argparse.Namespace, work: str) -> dict[str, Any]:
    """Measure one contender in this process, or with `--check` write what it answers."""
    torch.set_num_threads(arguments.threads)
    case = Case.of(arguments)
    if arguments.check:
        _answers(engine, case, arguments.check)
        return {"speed": 0.0}
    _warm(case.device)
    before = _status("VmRSS")
    contender = engine(case)

    def call() -> None:
        getattr(contender, work)()
        if case.device.startswith("cuda"):
            torch.cuda.synchronize()

    call()
    gc.collect()
    _reset_peak(case.device)
    seconds = harness.best_of(call, arguments.repeats)
    tokens = case.answer if work == "generate" else case.rows * case.tokens
    peak = _peak(case.device)
    return {
        "speed": tokens / seconds,
        "ms": seconds * 1e3,
        "peak_memory_mib": peak,
        "memory_beyond_imports_mib": peak - (0.0 if case.device.startswith("cuda") else before),
    }


def _warm(device: str) -> None:
    """What torch loads with its first product and its first optimizer is no one's memory."""
    a = torch.randn(512, 512, device=device)
    torch.mm(torch.softmax(a @ a, -1).bfloat16(), a.bfloat16())
    torch.optim.AdamW([torch.nn.Parameter(a)])


def _answers(engine: Callable[[Case], Engine], case: Case, file: str) -> None:
    contender = engine(case)
    logits, tokens = contender.forward().float().cpu().numpy(), np.array(contender.generate())
    contender = engine(case)
    losses = np.array([contender.train() for _ in range(3)])
    np.savez(file, logits=logits, tokens=tokens, losses=losses)


def matmul_peak(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """GFLOP/s of square matrix products, best of ten."""
    a = torch.randn(size, size, device=device).to(dtype)

    def product() -> None:
        torch.mm(a, a)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    product()
    return 2 * size**3 / harness.best_of(product, 10) / 1e9


def reading_peak(dtype: torch.dtype, device: str) -> float:
    """GB/s at which a Linear too large for the caches is applied to one token, best of ten."""
    matrix, vector = torch.randn(50048, 768, device=device).to(dtype), torch.randn(1, 768, device=device).to(dtype)

    def product() -> None:
        torch.nn.functional.linear(vector, matrix)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    product()
    return matrix.nbytes / harness.best_of(product, 10) / 1e9


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5", encoding="ascii")


def _peak(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM")


def _status(field: str) -> float:
    """MiB, from Linux; elsewhere the peak of the whole process. `ru_maxrss` would count the process that started us."""
    file = Path("/proc/self/status")
    if not file.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in file.read_text(encoding="ascii").splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def show(row: dict[str, Any]) -> None:
    """The line that the parent process reads."""
    print(json.dumps(row))
