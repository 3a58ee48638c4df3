"""The lean loop gives the scores of the general writer: every family, rows that come, go, move and are repeated."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.generate.writers.tiny import COMMANDS, VOCAB, build, prompts_of
from torch import Tensor

from flagai.errors import DataError, ModelError
from flagai.generate.lean import LeanWriter, forget, products, supports
from flagai.generate.writers.base import Prompt, Writer
from flagai.generate.writers.make import make_writer
from flagai.models import packing
from flagai.parallel.native import SingleProcess

FAMILIES = ("gpt2", "opt", "llama", "qwen2", "t5", "mt5", "bart", "bert", "roberta", "glm")
BOUND = 1e-4


@pytest.fixture(params=["packed", "plain"])
def _packing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies from the first product on, or never: both kinds of products are tried with every family."""
    monkeypatch.setattr(products, "USES_BEFORE_PACKING", 0 if request.param == "packed" else 10**9)
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    yield
    for name in FAMILIES:
        forget(build(name))


def lean_of(model: Any) -> LeanWriter:
    found = make_writer(model, commands=COMMANDS)
    assert isinstance(found, LeanWriter)
    return found


class Both:
    """Asks both writers the same and compares the answers."""

    def __init__(self, name: str, bound: float = BOUND) -> None:
        model = build(name)
        self.lean, self.general, self.bound = lean_of(model), make_writer(model, commands=COMMANDS, fast=False), bound
        self.rows = 0

    def keep_hidden(self) -> None:
        self.lean.keep_hidden = self.general.keep_hidden = True

    def _same(self, a: Tensor, b: Tensor) -> None:
        assert a.shape == b.shape and a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=self.bound, rtol=self.bound)

    def _same_hidden(self) -> None:
        mine, theirs = self.lean.hidden(), self.general.hidden()
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=self.bound, rtol=self.bound)

    def begin(self, prompts: list[Prompt]) -> None:
        self._same(self.lean.begin(prompts), self.general.begin(prompts))
        self._same_hidden()
        self.rows += len(prompts)

    def feed(self, tokens: list[int], opens: list[bool] | None = None) -> None:
        given = None if opens is None else torch.tensor(opens)
        self._same(*(one.feed(torch.tensor(tokens), given) for one in (self.lean, self.general)))
        self._same_hidden()

    def select(self, rows: list[int]) -> None:
        for one in (self.lean, self.general):
            one.select(torch.tensor(rows, dtype=torch.long))
        self.rows = len(rows)


@torch.inference_mode()
@pytest.mark.usefixtures("_packing")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_random_walk_is_that_of_the_general_writer(name: str) -> None:
    """Begin, feed and select in any order; a row that is copied and goes on otherwise than its twin included."""
    draw = random.Random(7)
    both = Both(name)
    both.keep_hidden()
    prompts, fed = prompts_of(name), 0
    while fed < 16:
        action = draw.choice(["begin", "feed", "feed", "select", "beams"])
        if action == "begin" and both.rows < 8:
            both.begin(draw.sample(prompts, draw.randint(1, 3)))
        elif action == "feed" and both.rows:
            both.feed([draw.randrange(2, 29) for _ in range(both.rows)])
            fed += 1
        elif action == "select" and both.rows:
            both.select(draw.sample(range(both.rows), draw.randint(1, both.rows)))
        elif action == "beams" and both.rows:
            both.select([draw.randrange(both.rows) for _ in range(draw.randint(1, 9))])


@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_one_length_and_one_row_alone(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths without a mask; a single row is multiplied in pieces, one a thread."""
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    prompt = prompts_of(name)[0]
    both = Both(name)
    both.begin([prompt, prompt])
    for step in range(3):
        both.feed([3 + step, 9 + step])
    both.select([1])
    for step in range(3):
        both.feed([5 + step])
    both.select([])
    both.begin([prompt])
    both.feed([11])


@torch.inference_mode()
def test_blanks_open_one_after_the_other_in_rows_that_changed_places() -> None:
    both = Both("glm")
    both.begin(
        [Prompt(ids=(30, 36, 5, 36, 7, 36, 31), blanks=(1, 3, 5)), Prompt(ids=(30, 4, 36, 36, 31), blanks=(2, 3))]
    )
    both.feed([3, 4])
    both.select([1, 0, 0])
    both.feed([0, 6, 7], [True, False, False])
    both.feed([8, 9, 0], [False, False, True])
    both.select([2, 1, 0])
    both.feed([0, 0, 5], [True, True, False])
    both.feed([2, 3, 4])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["gpt2", "qwen2", "t5", "glm"])
def test_half_precision_is_close(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 has 8 bits: the two ways round differently, so they need not be closer than that."""
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    with torch.random.fork_rng():
        model = type(build(name))(build(name).config).eval()
    model.load_state_dict(build(name).state_dict())
    model.to(torch.bfloat16)
    lean, general = lean_of(model), make_writer(model, commands=COMMANDS, fast=False)
    for writer in (lean, general):
        writer.begin(prompts_of(name))
    for step in range(12):
        tokens = torch.tensor([3, 4, 5, 6]) + step
        a, b = lean.feed(tokens), general.feed(tokens)
        assert float((a - b).abs().max()) < 0.03 * float(b.abs().max()) + 0.05
    assert lean.nbytes["copies"] > 0
    assert not _close(general, name), "the bound would hold for anything"


def _close(writer: Writer, name: str) -> bool:
    first, second = writer.feed(torch.tensor([3, 4, 5, 6])), writer.feed(torch.tensor([9, 9, 9, 9]))
    return float((first - second).abs().max()) < 0.03 * float(second.abs().max()) + 0.05


@pytest.mark.parametrize("change", ["step", "data", "load"])
@pytest.mark.parametrize("name", ["gpt2", "opt", "t5"])
def test_training_between_calls_is_seen(name: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies and joined biases are of the weights as they are, however those were changed."""
    monkeypatch.setattr(products, "USES_BEFORE_PACKING", 0)
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    with torch.random.fork_rng():
        model = type(build(name))(build(name).config).eval()
    model.load_state_dict(build(name).state_dict())
    writer = lean_of(model)
    before = _scores(writer, name)
    if change == "step":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        sum(p.sin().sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
    elif change == "data":
        for parameter in model.parameters():
            parameter.data.mul_(1.5)
    else:
        model.load_state_dict({key: 0.5 * value for key, value in model.state_dict().items()})
    expected = _scores(make_writer(model, commands=COMMANDS, fast=False), name)
    assert float((expected - before).abs().max()) > 100 * BOUND
    for later in (writer, lean_of(model)):
        torch.testing.assert_close(_scores(later, name), expected, atol=BOUND, rtol=BOUND)


@torch.inference_mode()
def _scores(writer: Writer, name: str) -> Tensor:
    writer.select(torch.empty(0, dtype=torch.long))
    writer.begin(prompts_of(name))
    return torch.stack([writer.feed((torch.tensor([3, 4, 5, 6]) + i).to(writer.device)) for i in range(3)])


@torch.inference_mode()
def test_copies_are_made_late_counted_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    model = build("opt")
    forget(model)
    writer = lean_of(model)
    writer.begin(prompts_of("opt")[:2])
    assert writer.nbytes["copies"] == 0
    for _ in range(products.USES_BEFORE_PACKING + 1):
        writer.feed(torch.tensor([3, 4]))
    matrices = sum(one.nbytes for one in writer._spec.products())
    assert writer.nbytes["copies"] == matrices
    assert lean_of(model).nbytes["copies"] == matrices, "a second writer makes no second copy"
    forget(model)
    assert lean_of(model).nbytes["copies"] == 0


@torch.inference_mode()
def test_a_single_row_in_fp32_needs_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_NUMBERS", 0)
    model = build("llama")
    forget(model)
    writer = lean_of(model)
    writer.begin([Prompt(ids=(5,))])
    for _ in range(20):
        writer.feed(torch.tensor([3]))
    assert writer.nbytes["copies"] == 0


@torch.inference_mode()
def test_beams_do_not_copy_the_prompt_they_share() -> None:
    writer = lean_of(build("gpt2"))
    writer.begin([Prompt(ids=tuple(range(2, 12)))])
    writer.select(torch.tensor([0, 0]))
    writer.feed(torch.tensor([3, 4]))
    slots = writer._slots
    assert slots is not None
    slots.keys[0][:, :, :10] = 7.0  # a mark where the prompt's keys were: a copy of the prompt would carry it along
    slots.keys[0][1, :, :10] = 8.0
    writer.select(torch.tensor([0, 0]))
    assert bool((slots.keys[0][1, :, :10] == 8.0).all())
    assert bool((slots.keys[0][1, :, 10] == slots.keys[0][0, :, 10]).all())


def _hook(model: Any) -> None:
    model.lm_head.register_forward_hook(lambda *_: None)


def _replace(model: Any) -> None:
    class Wrapped(torch.nn.Linear):
        pass

    model.lm_head.__class__ = Wrapped


def _mix_dtypes(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().bfloat16())


def _own_attention(model: Any) -> None:
    model.config._attn_implementation = "mine"


@pytest.mark.parametrize("change", [_hook, _replace, _mix_dtypes, _own_attention])
def test_what_is_changed_goes_the_general_way(change: Any) -> None:
    with torch.random.fork_rng():
        model = type(build("llama"))(copy.deepcopy(build("llama").config)).eval()
    assert supports(model) and isinstance(make_writer(model), LeanWriter)
    change(model)
    assert not supports(model)
    assert not isinstance(make_writer(model), LeanWriter)


@pytest.mark.parametrize("name", ["gpt2", "bert", "glm", "t5"])
def test_a_model_in_a_predictors_hands_goes_the_lean_way(name: str) -> None:
    """Predictors and trainers pack a model and exchange its dropouts: neither changes a score."""
    with torch.random.fork_rng():
        model = type(build(name))(copy.deepcopy(build(name).config)).eval()
    packed = packing.enable(model)
    assert packed == (name != "t5")
    SingleProcess(device="cpu").place(model)
    assert supports(model) and isinstance(make_writer(model, commands=COMMANDS), LeanWriter)


def test_t5_in_half_precision_goes_the_general_way() -> None:
    """Its forward clamps there."""
    with torch.random.fork_rng():
        model = type(build("t5"))(build("t5").config).eval()
    assert supports(model) and not supports(model.half()) and supports(model.bfloat16())


@pytest.mark.gpu
@torch.inference_mode()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gpu_gives_the_same(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with torch.random.fork_rng():
        model = type(build(name))(build(name).config).eval()
    model.load_state_dict(build(name).state_dict())
    expected = _scores(lean_of(model), name)
    found = _scores(lean_of(model.cuda()), name)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
        ("gpt2", {"activation_function": "quick_gelu"}),
    ],
)
def test_unknown_settings_go_the_general_way(name: str, fields: dict[str, Any]) -> None:
    config = type(build(name).config)(**{**build(name).config.to_dict(), "layer_types": None, **fields})
    assert not supports(type(build(name))(config))
    assert not supports(build("mistral")) and not supports(torch.nn.Linear(2, 2))


def test_what_is_asked_of_the_general_writer() -> None:
    writer, general = lean_of(build("glm")), make_writer(build("glm"), commands=COMMANDS, fast=False)
    prompt = prompts_of("glm")[0]
    assert writer.fills_blanks and writer.room(prompt) == general.room(prompt)
    assert (writer.end_ids, writer.forbidden_ids) == (general.end_ids, general.forbidden_ids)
    assert writer.vocab_size == VOCAB and writer.device == torch.device("cpu")
    assert writer.begin([]).shape == (0, VOCAB)
    with pytest.raises(ModelError, match="lean loop"):
        LeanWriter(general, build("mistral"))
    with pytest.raises(DataError):
        writer.room(Prompt(ids=(), blanks=(0,)))
