"""One process, one device, plain PyTorch. Knows no task and no model family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from flagai.models.dropout import quicken
from flagai.models.kept_logits import call_model
from flagai.models.plans import plan_of
from flagai.parallel.aligned import align
from flagai.parallel.memory import bound_kernel_caches
from flagai.parallel.parts import MASTER, Entries, Part, Read, saved_names, whole_box, whole_part
from flagai.parallel.placing import check_buffers, on_device
from flagai.parallel.precision import autocast, choose_device, resolve_precision
from flagai.parallel.recompute import recompute_layers
from flagai.parallel.strategy import Answer, Batch, Loss, Strategy
from flagai.parallel.ties import Ties

INPUT_NAMES = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "position_ids", "context_length", "logits_to_keep"}
    | {"decoder_input_ids", "decoder_attention_mask"}
)


class SingleProcess(Strategy):
    """The strategy of a laptop: the whole model on one device.

    Args:
        device: "auto", "cpu", "cuda", …
        precision: "fp32", "bf16", "fp16" or "auto"; with fp16 a gradient scaler keeps small gradients alive.
        recompute: compute the activations of each layer again in backward, instead of keeping them.
    """

    def __init__(self, *, device: str = "auto", precision: str = "fp32", recompute: bool = False) -> None:
        self.device, self._recompute = choose_device(device), recompute
        if self.device.type == "cpu":
            bound_kernel_caches()
        self.precision = resolve_precision(precision, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.skips_overflow = self._scaler.is_enabled()
        self._count = 1.0
        self._model: torch.nn.Module = torch.nn.Identity()
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def model(self) -> torch.nn.Module:
        return self._model

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        if self._recompute:
            recompute_layers(model, plan_of(model))
        check_buffers(model)
        ties = Ties.of(model)
        self._model, self._optimizer = on_device(model, self.device), None
        ties.renew(self._model)
        if self.device.type == "cpu":
            align(self._model)
            quicken(self._model)
        return self._model

    def optimizer(self, factory: Callable[[torch.nn.Module], torch.optim.Optimizer]) -> torch.optim.Optimizer:
        self._optimizer = factory(self._model)
        return self._optimizer

    def data_axis(self) -> tuple[int, int]:
        return 0, 1

    def accumulate(self, micro_batches: Iterable[Mapping[str, Any]], loss: Loss) -> tuple[float, float]:
        self._model.train()
        total, count, unit = 0.0, 0.0, 0.0
        for micro_batch in micro_batches:
            batch = self._to_device(micro_batch)
            with autocast(self.device, self.precision):
                outputs = call_model(self._model, inputs_of(batch, self._model))
            part, part_count = loss(outputs, batch)
            # A sum over the batch would overflow fp16 at the scaler's first scale: keep it near a mean.
            unit = unit or (max(part_count.item(), 1.0) if self.skips_overflow else 1.0)
            self._scaler.scale(part / unit).backward()
            total += part.item()
            count += part_count.item()
        self._count = count / (unit or 1.0)
        return total, count

    def clip(self, max_norm: float | None) -> float:
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._trained())
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        # Division by the count and clipping are one multiplication over the gradients.
        count = self._count or 1.0  # nothing to learn in the whole batch: the gradients are zero
        norm = torch.nn.utils.get_total_norm(gradients).item() / count
        factor = 1 / count
        if max_norm is not None and norm > max_norm:
            factor *= max_norm / (norm + 1e-6)
        torch._foreach_mul_(gradients, factor)  # pyright: ignore[reportPrivateImportUsage]
        return norm

    def step(self, learning_rates: Sequence[float]) -> None:
        optimizer = self._trained()
        for group, rate in zip(optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = rate
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def evaluate(
        self, batch: Mapping[str, Any], loss: Loss | None = None, answer: Answer | None = None
    ) -> tuple[Mapping[str, Any], tuple[float, float] | None]:
        self._model.eval()
        moved = self._to_device(batch)
        with torch.inference_mode(), autocast(self.device, self.precision):
            outputs = call_model(self._model, inputs_of(moved, self._model)) if loss or answer is None else {}
            answers = outputs if answer is None else answer(self._model, moved)
        if loss is None:
            return answers, None
        with torch.inference_mode():
            part, count = loss(outputs, moved)
        return answers, (part.item(), count.item())

    def reduce(self, scalars: Sequence[float]) -> list[float]:
        return list(scalars)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        tensors = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        return ((name, tensors[name]) for name in saved_names(self._model))

    def parts(self) -> Iterator[Part]:
        for name, tensor in self.weights():
            yield whole_part(name, "", tensor)
        if self._optimizer is None:
            return
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._model.named_parameters()}
        for parameter, values in self._optimizer.state.items():
            for key, value in values.items():
                if isinstance(value, torch.Tensor):
                    yield whole_part(names[parameter], key, value)

    @torch.no_grad()
    def fill(self, read: Read, names: Collection[str] | None = None) -> None:
        for name, tensor in self.weights():
            if names is None or name in names:
                tensor.copy_(read(name, "", whole_box(tensor.shape)))

    def state(self) -> dict[str, Any]:
        streams = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            streams["cuda"] = torch.cuda.get_rng_state(self.device)
        return {"random": streams, "scaler": self._scaler.state_dict()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any], entries: Entries, read: Read) -> None:
        optimizer = self._trained()
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in self._model.named_parameters():
            for key, shape in entries.get(name, {}).items() if parameter in trained else ():
                value = read(name, key, whole_box(shape))
                if key == MASTER:
                    parameter.copy_(value)
                else:  # fused AdamW keeps `step` beside the parameter; the others have the parameter's shape and type
                    dtype = parameter.dtype if shape else value.dtype
                    optimizer.state[parameter][key] = value.to(parameter.device, dtype)
        torch.set_rng_state(state["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)
        if self._scaler.is_enabled() and state["scaler"]:
            self._scaler.load_state_dict(dict(state["scaler"]))

    def barrier(self, name: str) -> None:
        """One process has no one to wait for."""

    def _trained(self) -> torch.optim.Optimizer:
        assert self._optimizer is not None, "optimizer() comes before the first step"
        return self._optimizer

    def _to_device(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return {key: torch.as_tensor(value).to(self.device, non_blocking=True) for key, value in batch.items()}


def inputs_of(batch: Batch, model: torch.nn.Module | None = None) -> dict[str, torch.Tensor]:
    """The part of a batch that goes to the model; the rest are targets, unless the model says `takes_whole_batch`."""
    whole = getattr(model, "takes_whole_batch", False)
    return {key: value for key, value in batch.items() if whole or key in INPUT_NAMES}
