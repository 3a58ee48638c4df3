"""The words of a plan, and the arithmetic beneath the strategies: names, stages, orders, boxes. One process."""

from __future__ import annotations

from itertools import pairwise

import pytest
import spread_jobs as jobs
import torch
from torch import nn

from flagai.errors import ModelError
from flagai.models.plan import Columns, Kept, Plan, find, matches
from flagai.models.plans import PLANS, plan_of
from flagai.parallel.layers import _check
from flagai.parallel.native import SingleProcess
from flagai.parallel.parts import _runs
from flagai.parallel.plan import blocks, bounds, check_tensor, splits
from flagai.parallel.scale import LossScale
from flagai.parallel.schedule import one_forward_one_backward
from flagai.parallel.tensor import as_saved, reorder


def test_a_pattern_means_the_end_of_a_name() -> None:
    assert matches("glm.transformer.layers.3.attention.query", "attention.query")
    assert matches("layers.3.attention.query", "layers.*.attention.query")
    assert not matches("my_attention.query", "attention.query")
    assert not matches("encoder.layer.0.attention.output.dense", "layer.*.output.dense")
    assert not matches("dense", "output.dense")


@pytest.mark.parametrize("family", ["glm", "bert", "roberta", "modernbert", "gpt2", "opt", "t5", "llama", "qwen3"])
def test_every_matrix_of_a_family_is_divided(family: str) -> None:
    """What a plan forgets would be computed by all: right, but no smaller. Small tables and heads may be whole."""
    model = jobs.model_of(family)
    plan = plan_of(model)
    assert plan is not None
    check_tensor(model, plan, 2)
    divided = {name for name, (_, word) in splits(model, plan).items()}
    inside = "layer", "block", ".h."
    whole = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and name not in divided and any(i in name for i in inside)
    ]
    assert not whole
    assert len(blocks(model, plan)) == 4


def test_plans_of_all_families_name_real_modules() -> None:
    assert set(PLANS) >= {"bert", "roberta", "modernbert", "gpt2", "opt", "t5", "flagai_glm"}
    with pytest.raises(ModelError, match="'nothing'"):
        check_tensor(jobs.model_of("bert"), Plan(tensor={"nothing": Columns()}), 2)


def test_tokens_must_fit_the_products() -> None:
    model, plan = jobs.model_of("glm"), PLANS["flagai_glm"]
    columns = [name for name, (_, word) in splits(model, plan).items() if type(word) is Columns and "layers" in name]
    attention, mlp = find(model, "layers.*.attention"), find(model, "layers.*.mlp")
    _check(model, plan, [*attention, *mlp], columns)
    with pytest.raises(ModelError, match="dense_h_to_4h"):
        _check(model, plan, [*attention], columns)
    with pytest.raises(ModelError, match="input_layernorm"):
        _check(model, plan, [*find(model, "layers.*")], columns)


def test_a_plan_of_ones_own_comes_first() -> None:
    model = jobs.model_of("bert")
    model.flagai_plan = Plan(family="mine")
    assert plan_of(model).family == "mine"
    assert plan_of(nn.Linear(2, 2)) is None


def test_layers_are_shared_out_to_stages() -> None:
    for layers in range(1, 14):
        for count in range(1, layers + 1):
            cuts = [bounds(layers, i, count) for i in range(count)]
            assert cuts[0][0] == 0 and cuts[-1][1] == layers
            assert all(end == first for (_, end), (first, _) in pairwise(cuts))
            sizes = [end - first for first, end in cuts]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("micro_batches", [0, 1, 2, 3, 7])
def test_one_forward_one_backward(stages: int, micro_batches: int) -> None:
    """Each stage does everything once, holds few at once, and nobody waits for ever."""
    orders = [one_forward_one_backward(i, stages, micro_batches) for i in range(stages)]
    done: set[tuple[int, str, int]] = set()
    while any(orders):
        ready = [
            stage
            for stage, order in enumerate(orders)
            if order
            and (
                (order[0].kind == "forward" and (stage == 0 or (stage - 1, "forward", order[0].number) in done))
                or (
                    order[0].kind == "backward"
                    and (stage == stages - 1 or (stage + 1, "backward", order[0].number) in done)
                )
            )
        ]
        assert ready, "a deadlock"
        for stage in ready:
            action = orders[stage].pop(0)
            done.add((stage, action.kind, action.number))
            held = sum((stage, "forward", i) in done and (stage, "backward", i) not in done for i in range(7))
            assert held <= stages - stage
    assert len(done) == 2 * stages * micro_batches


def as_kept(tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    """The inverse of `as_saved`."""
    turned = tensor.t() if kept.transposed else tensor
    return reorder(turned, kept.groups, kept.parts) if kept.groups > 1 else turned.contiguous()


def test_fused_rows_are_put_in_order_and_back() -> None:
    rows = torch.arange(24.0)[:, None] * torch.ones(1, 2)
    ordered = reorder(rows, 3, 2)
    assert ordered[:12, 0].tolist() == [*range(4), *range(8, 12), *range(16, 20)]
    kept = Kept(groups=3, parts=2)
    assert torch.equal(as_saved(as_kept(rows, kept), kept), rows)
    turned = Kept(groups=3, parts=2, transposed=True)
    assert torch.equal(as_saved(as_kept(rows.t(), turned), turned), rows.t())


@pytest.mark.parametrize(("first", "count"), [(0, 24), (0, 12), (12, 12), (5, 9), (23, 1)])
def test_pieces_of_fused_rows_are_found_again(first: int, count: int) -> None:
    saved = torch.arange(24)
    kept = Kept(groups=3, parts=2)
    there = as_kept(saved, kept)
    found = torch.cat([saved[a : a + n] for a, _, n in _runs(first, count, 24, kept)])
    assert torch.equal(found, there[first : first + count])


def test_a_scale_goes_down_and_up_and_is_saved_as_torch_does() -> None:
    scale = LossScale(enabled=True)
    assert not scale.update(float("inf"))
    assert scale.value == 2.0**15
    assert all(scale.update(1.0) for _ in range(2000))
    assert scale.value == 2.0**16
    torch_scale = torch.amp.GradScaler("cpu", enabled=True)
    torch_scale.load_state_dict(scale.state())
    again = LossScale(enabled=True)
    again.load_state(torch_scale.state_dict())
    assert again.state() == scale.state()
    assert LossScale(enabled=False).update(float("inf"))


def test_layers_are_computed_twice() -> None:
    model, calls = jobs.model_of("own"), []
    forward = model.up.forward
    model.up.forward = lambda x: calls.append(len(x)) or forward(x)
    model.flagai_plan = Plan(recompute="up")
    strategy = SingleProcess(device="cpu", recompute=True)
    strategy.place(model)
    strategy.optimizer(jobs.sgd)
    jobs.steps(strategy, "own", (4,), 1)
    assert calls == [4, 4]
    strategy.evaluate(jobs.batch_of("own", 0, jobs.np.arange(3)))
    assert calls == [4, 4, 3]


def test_a_model_without_layers_cannot_compute_them_twice() -> None:
    with pytest.raises(ModelError, match=r"parallel\.recompute"):
        SingleProcess(device="cpu", recompute=True).place(nn.Linear(2, 2))
