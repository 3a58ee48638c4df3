"""Several processes, plain PyTorch: copies, shards, tensor parts and stages, one by one or together.

It knows the order in which a model is spread and the steps that follow; how each is done stands in a file of its own,
and which families can be divided how stands in their plans.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel

from flagai.errors import ModelError
from flagai.models.dropout import quicken
from flagai.models.kept_logits import call_model
from flagai.models.plan import Plan
from flagai.models.plans import plan_of
from flagai.parallel import sharded, streams
from flagai.parallel.aligned import align
from flagai.parallel.axes import CONTEXT, PIPELINE, TENSOR, Sizes, axes_of
from flagai.parallel.context import Context, check_context, share_tokens
from flagai.parallel.even import even
from flagai.parallel.exchange import Alone, Exchange
from flagai.parallel.gradients import Gradients
from flagai.parallel.held import Held
from flagai.parallel.later import Later
from flagai.parallel.memory import bound_kernel_caches
from flagai.parallel.native import inputs_of
from flagai.parallel.parts import Entries, Part, Read, saved_names
from flagai.parallel.pipeline import Pipeline
from flagai.parallel.placing import (
    check_buffers,
    local_device,
    on_device,
    put_together,
    same_everywhere,
    undivided,
)
from flagai.parallel.precision import autocast, choose_device, resolve_precision
from flagai.parallel.recompute import recompute_layers
from flagai.parallel.replicas import Replicas
from flagai.parallel.scale import LossScale
from flagai.parallel.stage import Stage
from flagai.parallel.strategy import Answer, Loss, Strategy
from flagai.parallel.tensor import Divided, divide
from flagai.parallel.ties import Ties
from flagai.parallel.ways import Ways, no_writing
from flagai.parallel.world import open_world, total


class Spread(Strategy):
    """A model on several processes of one grid.

    Args:
        sizes: processes along each axis; their product is the number of all.
        device: "auto", "cpu" or "cuda"; with CUDA each process takes the device of its local rank.
        precision: "fp32", "bf16", "fp16" or "auto".
        plan: how the model is divided; None: that of its family (`models/plans.py`).
        ways: the switches of `Ways` (ways.py), such as recompute=True.

    Raises:
        ConfigError: the processes that there are do not fit the sizes.
    """

    takes_meta = True

    def __init__(
        self,
        sizes: Sizes,
        *,
        device: str = "auto",
        precision: str = "fp32",
        plan: Plan | None = None,
        **ways: Any,
    ) -> None:
        self.ways = Ways(**ways)
        self.ways.check(sizes)
        self.device = local_device(choose_device(device))
        if self.device.type == "cpu":
            bound_kernel_caches()
        self.precision = resolve_precision(precision, self.device)
        open_world(self.device)
        self.axes = axes_of(sizes, self.device)
        self._plan = plan
        self._divided_loss = self.ways.divided_loss and sizes.tensor > 1
        self._context: Context | None = None
        self._scale = LossScale(enabled=self.precision == "fp16")
        self.skips_overflow = self._scale.enabled
        self._exchange: Exchange = Alone()
        self._pipeline: Pipeline | None = None
        self._model: nn.Module = nn.Identity()
        self._optimizer: torch.optim.Optimizer | None = None
        self._count = 1.0

    @property
    def model(self) -> nn.Module:
        return self._model

    def place(self, model: nn.Module) -> nn.Module:
        plan = self._plan if self._plan is not None else plan_of(model)
        self._exchange.close()
        self._exchange, self._pipeline, self._optimizer, self._context = Alone(), None, None, None
        sizes, ways = self.axes.sizes, self.ways
        check_buffers(model)
        if sizes.context > 1:
            check_context(model, plan, sizes.context, ways.context_method, tensor=sizes.tensor)
        align(model)
        ties, names = Ties.of(model), saved_names(model)
        same_everywhere(model, self.device)
        stage = None
        if sizes.pipeline > 1:
            stage = Stage(model, plan, self.axes.index(PIPELINE), sizes.pipeline, ways.runs(sizes))
        done = self._divide(model, plan)
        shares = self._share(model, plan)
        if ways.recompute:
            recompute_layers(model, plan)
        later = Later(stage.layers) if stage is not None and ways.schedule == "zero-bubble" else None
        if sizes.shard > 1:
            self._exchange = sharded.shard(model, plan, self.axes, self._shards())
        self._model = on_device(model, self.device if not ways.offload else torch.device("cpu"))
        ties.renew(model)
        self.held = Held(model, names, ties, {} if done is None else done.kept, self.axes)
        if sizes.replicate > 1 and sizes.shard == 1:
            trained = [t for t in self.held.tensors.values() if isinstance(t, nn.Parameter) and t.requires_grad]
            self._exchange = Replicas(trained, self.axes.data, dtype=ways.reduce_dtype)
        if stage is not None:
            tokens = [t for t in (self._context, None if done is None else done.tokens) if t is not None]
            self._pipeline = Pipeline(
                stage,
                self.axes,
                self._inputs,
                formats=lambda: autocast(self.device, self.precision),
                schedule=ways.schedule,
                later=later,
                tokens=tokens,
            )
        summed = {TENSOR: () if done is None else done.summed, CONTEXT: shares}
        self._gradients = Gradients(self.held, summed, self.axes)
        streams.begin_own(self.axes)
        if self.device.type == "cpu":
            quicken(model)
        return model

    def _divide(self, model: nn.Module, plan: Plan | None) -> Divided | None:
        """The products of a model on the processes of a tensor group; None where there is one process."""
        if self.axes.sizes.tensor == 1:
            return None
        mesh = self.axes.mesh[TENSOR]
        sequence = self.ways.sequence
        return divide(model, needed_plan(plan, model), mesh, sequence=sequence, loss=self._divided_loss)

    def _share(self, model: nn.Module, plan: Plan | None) -> Sequence[str]:
        """The tokens of a text on the processes of a context group: the parameters applied to shares of them."""
        if self.axes.sizes.context == 1:
            return ()
        self._context = Context(self.axes.group(CONTEXT), self.ways.context_method)
        return share_tokens(model, needed_plan(plan, model), self._context)

    def _shards(self) -> sharded.Options:
        return sharded.Options(offload=self.ways.offload, reduce_dtype=self.ways.reduce_dtype)

    def optimizer(self, factory: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        assert not isinstance(self._model, nn.Identity), "place() comes before optimizer()"
        self._optimizer = factory(self._model)
        sharded.as_optimizable(self._optimizer)
        return self._optimizer

    def data_axis(self) -> tuple[int, int]:
        return self.axes.data_axis

    def accumulate(self, micro_batches: Iterable[Mapping[str, Any]], loss: Loss) -> tuple[float, float]:
        self._model.train()
        weighted = [(batch, 1.0) for batch in micro_batches]
        if self.axes.sizes.shard > 1:
            weighted = even([batch for batch, _ in weighted], self.axes.data, self.device)
        unit = self._unit(weighted)
        sums = [0.0, 0.0]
        batches = [(self._to_device(batch), weight) for batch, weight in weighted]

        def score(outputs: Any, batch: Mapping[str, Tensor], weight: float) -> Tensor:
            part, count = loss(outputs, batch)
            part = undivided(part)
            sums[0] += part.item() * weight
            sums[1] += count.item() * weight
            return part * (weight * self._scale.value / unit)

        with self._loss_context():
            self._run(batches, score)
        self._exchange.finish()
        self._gradients.settle()
        both = self.reduce(sums) if self.axes.is_last_stage else self.reduce([0.0, 0.0])
        self._count = both[1] / unit
        return both[0], both[1]

    def _run(self, batches: list[tuple[dict[str, Tensor], float]], score: Callable[..., Tensor]) -> None:
        if self._pipeline is not None:
            self._pipeline.train([b for b, _ in batches], lambda o, i: score(o, *batches[i]), self._exchange.arm)
            return
        for i, (batch, weight) in enumerate(batches):
            with autocast(self.device, self.precision):
                outputs = call_model(self._model, self._inputs(batch))
            scored = score(outputs, batch, weight)
            if i == len(batches) - 1:
                self._exchange.arm()
            scored.backward()

    def clip(self, max_norm: float | None) -> float:
        return self._gradients.clip(max_norm, (self._count or 1.0) * self._scale.value)

    def step(self, learning_rates: Sequence[float]) -> None:
        optimizer = self._trained()
        for group, rate in zip(optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        if self._scale.update(self._gradients.norm):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def evaluate(
        self, batch: Mapping[str, Any], loss: Loss | None = None, answer: Answer | None = None
    ) -> tuple[Mapping[str, Any], tuple[float, float] | None]:
        """As `Strategy` says; every process calls it with the same batch and gets the same answers."""
        self._model.eval()
        moved = self._to_device(batch)
        with torch.no_grad(), autocast(self.device, self.precision), self._loss_context():
            outputs = self._outputs(moved) if loss or answer is None else {}
            scored = None
            if loss is not None and outputs is not None:
                part, count = loss(outputs, moved)
                scored = (undivided(part).item(), count.item())
            answers = put_together(outputs) if answer is None else self._answered(answer, moved)
        if self._pipeline is None:
            return answers or {}, scored
        return self._from_last_stage((answers, scored))

    def reduce(self, scalars: Sequence[float]) -> list[float]:
        """Sums over the processes that stand for themselves: those of one tensor group count once."""
        values = torch.tensor(list(scalars), dtype=torch.float64, device=self.device)
        return total(values * float(self.axes.speaks)).tolist()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for (name, _), tensor in self.held.whole({(n, ""): t for n, t in self.held.tensors.items()}):
            yield name, tensor

    def parts(self) -> Iterator[Part]:
        yield from self.held.parts({(n, ""): t for n, t in self.held.tensors.items()})
        yield from self.held.parts(self._moments())

    def fill(self, read: Read, names: Collection[str] | None = None) -> None:
        for name, tensor in self.held.tensors.items():
            if names is None or name in names:
                self.held.fill(name, "", tensor, read)

    def state(self) -> dict[str, Any]:
        return {"random": streams.collect(self.device), "scaler": self._scale.state()}

    def load_state(self, state: Mapping[str, Any], entries: Entries, read: Read) -> None:
        self.held.fill_moments(self._trained(), entries, read)
        streams.restore(state["random"], self.axes)
        self._scale.load_state(state["scaler"])

    def barrier(self, name: str) -> None:
        dist.barrier()

    def _moments(self) -> dict[tuple[str, str], Tensor]:
        if self._optimizer is None:
            return {}
        names = self.held.names_of()
        return {
            (names[parameter], key): value
            for parameter, values in self._optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }

    def _unit(self, weighted: Sequence[tuple[Mapping[str, Any], float]]) -> float:
        """With a loss scale the sum of losses is kept near a mean, else it would overflow at the first scale."""
        if not self._scale.enabled:
            return 1.0
        size = torch.tensor([float(torch.as_tensor(b["input_ids"]).numel()) for b, _ in weighted[:1]] or [1.0])
        size = size.to(self.device)
        dist.all_reduce(size, dist.ReduceOp.MAX)
        return max(1.0, size.item())

    def _outputs(self, batch: Mapping[str, Tensor]) -> Any:
        if self._pipeline is not None:
            return self._pipeline.run(batch)
        return call_model(self._model, self._inputs(batch))

    def _answered(self, answer: Answer, batch: Mapping[str, Tensor]) -> Mapping[str, Any]:
        if self._pipeline is not None:
            raise no_writing()
        alone = nullcontext() if self._context is None else self._context.off()
        with sharded.whole(self._model), alone:
            return answer(self._model, batch)

    def _from_last_stage(self, found: Any) -> Any:
        told = [found]
        last = self.axes.sizes.pipeline - 1
        dist.broadcast_object_list(told, self.axes.rank_of(last), group=self.axes.group(PIPELINE))
        return told[0]

    def _loss_context(self) -> AbstractContextManager[Any]:
        return loss_parallel() if self._divided_loss else nullcontext()

    def _inputs(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return inputs_of(batch, self._model)

    def _trained(self) -> torch.optim.Optimizer:
        assert self._optimizer is not None, "optimizer() comes before the first step"
        return self._optimizer

    def _to_device(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {key: torch.as_tensor(value).to(self.device, non_blocking=True) for key, value in batch.items()}


def needed_plan(plan: Plan | None, model: nn.Module) -> Plan:
    if plan is not None:
        return plan
    family = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    raise ModelError(
        f"nothing says how {family} is divided",
        where="parallel.tensor",
        expected="a family with a plan: GLM, BERT, RoBERTa, ModernBERT, GPT-2, OPT, T5, Llama-like ones",
        fix="set model.flagai_plan to a Plan of your own, or train with strategy fsdp",
    )
