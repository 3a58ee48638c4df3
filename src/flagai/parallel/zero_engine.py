"""DeepSpeed's engine and what lies where in it: the one file that knows its insides. It knows no loss and no task.

What is read of its ZeRO optimizers are the flat partitions, their layout and the reduced gradients. Written against
deepspeed 0.19.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flagai.errors import ConfigError
from flagai.parallel.zero_optimizer import Flat
from flagai.parallel.zero_pieces import Piece


def load(device: torch.device) -> Any:
    """The package deepspeed, for this kind of device, joined to the process group that there is.

    Raises:
        ConfigError: it was loaded for another kind of device in this process.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    from deepspeed import comm

    # It warns of every optimizer that it did not write itself, on standard output.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # It calls both by their older names, a hundred times a step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.(reduce_scatter|all_gather_into)_tensor`", FutureWarning)
    accelerator: Any = deepspeed.get_accelerator()
    kind = accelerator.device_name()
    if kind != device.type:
        raise ConfigError(
            f"DeepSpeed works on {kind} in this process, the run on {device.type}",
            where="train.device",
            expected=f"the device {kind}",
            fix=f"set the variable DS_ACCELERATOR={device.type} before the start, or train.device={kind}",
        )
    # Shared memory between processes of a CPU would be compiled by g++ at the first start; gloo needs no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not comm.is_initialized():
        comm.init_distributed(auto_mpi_discovery=False, verbose=False)
    return deepspeed


class Engine:
    """A model and an optimizer in DeepSpeed's hands.

    Args:
        model: as `place` left it.
        flat: over the model's parameters.
        settings: DeepSpeed's own.
    """

    def __init__(self, model: nn.Module, flat: Flat, settings: Mapping[str, Any], device: torch.device) -> None:
        deepspeed = load(device)
        self.flat, self._model = flat, model
        trained = [p for group in flat.param_groups for p in group["params"]]
        self._engine = _made(deepspeed, model, flat, dict(settings))
        self._zero: Any = self._engine.optimizer
        self._zero.custom_loss_scaler, self._zero.external_loss_scale = True, 1.0
        self.stage = int(self._engine.zero_optimization_stage())
        frugal = self.stage == 3 and settings["zero_optimization"].get("memory_efficient_linear", True)
        self._linear = deepspeed.runtime.zero.linear.zero3_linear_wrap if frugal else nn.functional.linear
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._partitions = list(self._cut())
        flat.bind(self._partitions, [self._names[p] for p in trained])
        self.called: Any = _Called(self._engine, model)

    @property
    def used(self) -> set[str]:
        """Parameters that this step changes; the others keep still."""
        return self.flat.used

    @used.setter
    def used(self, names: set[str]) -> None:
        self.flat.used = names

    def begin(self) -> None:
        """Before the first micro-batch of a step: gradients of the last one that nobody would overwrite are gone."""
        self._zero.external_loss_scale = 1.0
        if self.stage == 3:
            self._zero.grad_partitions_flat_buffer.zero_()
        for flat, _ in self._partitions:
            if flat.grad is not None:
                flat.grad.zero_()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Stage 3 multiplies in a way that keeps no whole matrix for backward; outside, torch is as it was."""
        before, nn.functional.linear = nn.functional.linear, self._linear
        try:
            yield
        finally:
            nn.functional.linear = before

    def together(self) -> AbstractContextManager[None]:
        """Backwards inside only add up; at the end their sum is exchanged (stage 1)."""
        return self._engine.coalesce_grad_reduction()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Backward of one micro-batch; `last` of its step."""
        if self.stage > 1:
            self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def with_gradient(self) -> set[Tensor]:
        """The parameters that have a gradient here, not exchanged yet (stage 1)."""
        return {p for p in self._names if p.requires_grad and self._zero.get_gradient_for_reduction(p) is not None}

    @torch.no_grad()
    def add_missing(self, used: set[str]) -> None:
        """A gradient of zeros for each parameter that only other processes used (stage 1)."""
        there = self.with_gradient()
        for parameter, name in self._names.items():
            if name in used and parameter not in there:
                parameter.grad = torch.zeros_like(parameter)
                if self._zero.use_grad_accum_attribute:
                    self._zero._fill_param_grad_accum_attribute(parameter)

    def gradients(self) -> Iterator[Tensor]:
        """This process's part of the gradients, a mean over all processes."""
        for number, (flat, _) in enumerate(self._partitions):
            if flat.grad is not None:
                yield flat.grad
            else:
                yield from self._zero.averaged_gradients[number] or ()

    def step(self, divisor: float) -> None:
        """One step of the optimizer on the gradients divided by `divisor`; they are gone afterwards."""
        self._zero.external_loss_scale = divisor
        if self.stage == 1:
            self._engine.set_gradient_accumulation_boundary(True)
        self._engine.step()

    def drop(self) -> None:
        """Forget the gradients of this step."""
        self._zero.zero_grad(set_to_none=True)
        for number in list(self._zero.averaged_gradients):
            self._zero.averaged_gradients[number] = None

    def refresh(self) -> None:
        """After parameters were filled: those that are kept whole beside their parts (stage 3) are told again."""
        if self.stage == 3 and (persistent := self._zero.persistent_parameters):
            for parameter in persistent:
                parameter.partition()
            persistent[0].all_gather(persistent)

    def from_masters(self) -> None:
        """The model's weights from those in fp32."""
        if self.stage < 3:
            self._zero.update_lp_params()
            return
        for i, flat in enumerate(self._zero.fp32_partitioned_groups_flat):
            self._zero.fp16_partitioned_groups_flat[i].data.copy_(flat.data)
            self._zero._unflatten_partitioned_parameters(i)
        self.refresh()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All parameters whole, for what calls parts of a model by itself (decoding)."""
        if self.stage < 3:
            yield
            return
        from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

        with unwrap_model_for_generation(self._engine):
            yield

    def close(self) -> None:
        """Take DeepSpeed's hooks away."""
        self._engine.destroy()

    def _cut(self) -> Iterator[tuple[Tensor, list[Piece]]]:
        """The flat partitions of this process, each with the pieces that it consists of."""
        if self.stage == 3:
            yield from self._cut_by_parameter()
            return
        zero, me = self._zero, dist.get_rank()
        for i, flat in enumerate(zero.single_partition_of_fp32_groups):
            place, size = zero.optimizer.param_groups[i]["place"], int(zero.partition_size[i])
            pieces, order = [], zip(zero.round_robin_bit16_groups[i], zero.round_robin_bit16_offsets[i], strict=True)
            for parameter, offset in order:
                first, last = max(offset, me * size), min(offset + parameter.numel(), (me + 1) * size)
                if first < last:
                    there = flat.detach()[first - me * size : last - me * size]
                    shape = tuple(parameter.shape)
                    pieces.append(Piece(self._names[parameter], shape, first - offset, there, place))
            yield flat, pieces

    def _cut_by_parameter(self) -> Iterator[tuple[Tensor, list[Piece]]]:
        zero = self._zero
        for i, (group, flat) in enumerate(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True)):
            place = zero.optimizer.param_groups[zero.sub_group_to_group_id[i]]["place"]
            offset, pieces = 0, []
            for parameter in group:
                start, count = _run(parameter)
                if count:
                    there = flat.detach()[offset : offset + count]
                    pieces.append(Piece(self._names[parameter], tuple(parameter.ds_shape), start, there, place))
                offset += parameter.partition_numel()
            yield flat, pieces


class _Called:
    """The engine where it is called, the model for everything else that is asked."""

    def __init__(self, engine: Any, model: nn.Module) -> None:
        self._engine, self._model = engine, model

    def __call__(self, **inputs: Any) -> Any:
        return self._engine(**inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def place(model: nn.Module, settings: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
    """A model on its device, in place, its parameters in `dtype`; for stage 3 divided.

    Stage 3 takes one parameter after the other, so that none but one is ever whole. What is on meta gets room here,
    and waits for `fill`.
    """
    divided = settings["zero_optimization"]["stage"] == 3
    init: Any = None
    if divided:
        init = load(device).zero.Init(config_dict_or_path=dict(settings), dtype=dtype)
    for parameter in model.parameters():
        kind = dtype if parameter.is_floating_point() else parameter.dtype
        if parameter.is_meta:
            made = torch.zeros(parameter.shape, dtype=kind, device=device)
            torch.utils.swap_tensors(parameter, nn.Parameter(made, requires_grad=parameter.requires_grad))
        else:
            parameter.data = parameter.data.to(device, kind).contiguous()
        if divided:
            init._convert_to_zero_parameters([parameter])
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


@contextmanager
def shapes_shown(model: nn.Module) -> Iterator[None]:
    """Divided parameters with the shape of the whole (and no memory): for factories that ask how many dimensions."""
    everything: list[Any] = list(model.parameters())
    divided = [p for p in everything if hasattr(p, "ds_shape") and p.numel() != p.ds_numel]
    kept = [p.data for p in divided]
    for parameter in divided:
        parameter.data = parameter.data.new_empty(()).expand(parameter.ds_shape)
    try:
        yield
    finally:
        for parameter, data in zip(divided, kept, strict=True):
            parameter.data = data


@contextmanager
def readable(model: nn.Module, engine: Engine | None, *, whole: bool) -> Iterator[Any]:
    """What to call for outputs without gradients.

    Args:
        whole: all parameters are put together, for more than calls of the whole model.
    """
    if engine is not None and not whole:
        with engine.at_work():
            yield engine.called if engine.stage == 3 else model
    elif engine is not None:
        with engine.whole():
            yield model
    else:
        with _together(model):
            yield model


@contextmanager
def _together(model: nn.Module) -> Iterator[None]:
    """The parameters of stage 3 whole, before there is an engine."""
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([p for p in model.parameters() if hasattr(p, "ds_shape")]):
        yield


def gathered(tensor: Tensor) -> Tensor:
    """A tensor whole, on all processes; a copy where it lies in runs."""
    if not hasattr(tensor, "ds_shape"):
        return tensor
    from deepspeed.runtime.zero import GatheredParameters

    with GatheredParameters([tensor]):
        return tensor.detach().clone()


def stored(name: str, parameter: Any) -> Piece:
    """A parameter in the model's own dtype as it lies here: whole, or this process's run."""
    if not hasattr(parameter, "ds_shape"):
        return Piece(name, tuple(parameter.shape), 0, parameter.detach().view(-1))
    start, count = _run(parameter)
    return Piece(name, tuple(parameter.ds_shape), start, parameter.ds_tensor.detach()[:count])


def _run(parameter: Any) -> tuple[int, int]:
    """(first number, how many) of a divided parameter that lie on this process; the rest of its room is padding."""
    size = parameter.partition_numel()
    start = size * dist.get_rank()
    return start, max(0, min(size, parameter.ds_numel - start))


def _made(deepspeed: Any, model: nn.Module, flat: Flat, settings: dict[str, Any]) -> Any:
    from deepspeed.runtime import engine
    from deepspeed.runtime.config import DeepSpeedConfig

    class _Engine(engine.DeepSpeedEngine):
        """Stage 1 in bf16 by the same optimizer as everything else, so that there is one layout."""

        def _do_optimizer_sanity_check(self, basic_optimizer: Any) -> Any:
            super()._do_optimizer_sanity_check(basic_optimizer)
            return engine.ZERO_OPTIMIZATION

    # As `deepspeed.initialize` does it, which makes engines of its own class only.
    deepspeed.zero.partition_parameters.shutdown_init_context()
    deepspeed.dist = deepspeed.comm
    return _Engine(
        args=None,
        model=model,
        optimizer=flat,
        config=settings,
        config_class=DeepSpeedConfig(settings),
        dist_init_required=False,
    )
