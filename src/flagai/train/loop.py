"""The training loop, once. Knows a task by its loss and a strategy by its verbs, no model and no file format."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flagai.config import TrainConfig
from flagai.data.batching import BatchPlan, cut
from flagai.data.example import Example, Examples
from flagai.errors import ConfigError, NonFiniteLossError
from flagai.parallel.strategy import Strategy
from flagai.tasks.base import Task
from flagai.train.callbacks import Callback
from flagai.train.interrupt import Interrupt, Interrupted
from flagai.train.optim import schedule
from flagai.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop asks of its owner: metrics of the current model, and two ways to keep it."""

    evaluate: Callable[[], dict[str, float] | None]
    """metrics on the evaluation data, None where there is none"""
    save_best: Callable[[], None]
    save_checkpoint: Callable[[TrainState], str]


def _mean(total: float, count: float) -> float:
    """A batch of texts without anything to learn (blank ones in NER) has count 0, and loss 0."""
    return total / count if count else 0.0


def _useful(batch: dict[str, Any]) -> int:
    """Tokens that are no pads; of a mask [B, 1, L, L] those that see themselves."""
    mask = batch["attention_mask"]
    return int((mask if mask.ndim == 2 else mask.diagonal(axis1=-2, axis2=-1)).sum())


def choose_metric(config: TrainConfig, task: Task) -> str:
    """The metric by which the best model is chosen. Raises ConfigError for one the task does not have."""
    name, known = config.best_metric or task.best_metric, (*task.metric_names, "loss")
    if name != "loss" and config.eval_written == 0:
        raise ConfigError(
            f"the best model is chosen by {name!r}, and train.eval_written is 0: nothing is written to measure it by",
            where="train.eval_written",
            expected="a number of records, or train.best_metric: loss",
        )
    if name in known:
        return name
    raise ConfigError(
        f"the task {task.options.name!r} has no metric {name!r}",
        where="train.best_metric",
        expected=f"one of: {', '.join(known)}",
        fix="choose one of these, or leave it out",
    )


class Loop:
    """Steps, evaluations and checkpoints of one run, from `state.step` to the end.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; the weights are still those of the last good step.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint was written.
    """

    def __init__(
        self,
        config: TrainConfig,
        task: Task,
        strategy: Strategy,
        examples: Sequence[Example],
        plan: BatchPlan,
        hooks: Hooks,
        state: TrainState,
        callbacks: Sequence[Callback],
    ) -> None:
        self._config, self._task, self._strategy, self._hooks = config, task, strategy, hooks
        self._examples, self._plan, self._callbacks = examples, plan, callbacks
        self.state = state
        self.total_steps = config.max_steps or sum(plan.num_steps(epoch) for epoch in range(config.epochs))
        self._factor = schedule(
            config.scheduler,
            total=self.total_steps,
            warmup_ratio=config.warmup_ratio,
            decay_ratio=config.decay_ratio,
            decay_steps=config.decay_steps,
        )
        self.best_metric = choose_metric(config, task)
        self._interrupt = Interrupt()

    def run(self, peak_rates: Sequence[float]) -> None:
        """Train to the end.

        Args:
            peak_rates: the highest learning rate of each parameter group.
        """
        self._tell(lambda callback: callback.on_start(self.state, self.total_steps))
        try:
            with self._interrupt:
                self._run(peak_rates)
        finally:
            self._tell(lambda callback: callback.on_end(self.state))

    def _run(self, peak_rates: Sequence[float]) -> None:
        # A checkpoint written while an evaluation was interrupted continues with that evaluation.
        if self.state.step and self._due(self._config.eval_steps) and self.state.evaluated_step < self.state.step:
            self._evaluate()
        for micro_batches, fill in self._steps():
            self._step(micro_batches, fill, peak_rates)
            improved = self._due(self._config.eval_steps) and self._evaluate()
            if self._interrupt.requested:
                self._save()
                raise Interrupted
            # Right after a new best model: a run continued from before it might take another course.
            if improved or self._due(self._config.save_steps):
                self._save()
            if self.state.stopped:
                return

    def _steps(self) -> Iterator[tuple[list[dict[str, Any]], tuple[int, int, int]]]:
        """The batches from the current step on; with `num_workers`, threads collate ahead, in the same order."""
        steps = range(self.state.step, 0 if self.state.stopped else self.total_steps)
        if not self._config.num_workers:
            yield from map(self._collate, steps)
            return
        with ThreadPoolExecutor(self._config.num_workers) as pool:
            ahead = [pool.submit(self._collate, step) for step in steps[: self._config.num_workers]]
            for step in steps:
                ready = ahead.pop(0).result()
                if (later := step + self._config.num_workers) < self.total_steps:
                    ahead.append(pool.submit(self._collate, later))
                yield ready

    def _collate(self, step: int) -> tuple[list[dict[str, Any]], tuple[int, int, int]]:
        epoch, indices = self._plan.locate(step)[0], self._plan.step(step)
        examples = self._examples.at(epoch) if isinstance(self._examples, Examples) else self._examples
        parts = cut(indices, accumulation=self._config.gradient_accumulation_steps, axis=self._strategy.data_axis())
        micro_batches = [
            self._task.collate_training([examples[i] for i in part], epoch=epoch, seed=self._config.seed)
            for part in parts
        ]
        useful = sum(map(_useful, micro_batches))
        return micro_batches, (useful, sum(batch["input_ids"].size for batch in micro_batches), len(indices))

    def _step(
        self, micro_batches: list[dict[str, Any]], fill: tuple[int, int, int], peak_rates: Sequence[float]
    ) -> None:
        began = time.perf_counter()
        loss_sum, count = self._strategy.accumulate(micro_batches, self._task.loss)
        self._check_loss(loss_sum, count)
        norm = self._strategy.clip(self._config.max_grad_norm)
        self._check_norm(norm)
        factor = self._factor(self.state.step)
        self._strategy.step([rate * factor for rate in peak_rates])
        self._count(time.perf_counter() - began, fill)
        row = {
            "step": self.state.step,
            "epoch": self._plan.locate(self.state.step - 1)[0] + 1,
            "loss": _mean(loss_sum, count),
            "learning_rate": peak_rates[0] * factor,
            "grad_norm": norm,
        }
        self._log(row, loss_sum, count, fill, time.perf_counter() - began)

    def _count(self, seconds: float, fill: tuple[int, int, int]) -> None:
        self.state.step += 1
        self.state.seconds += seconds
        self.state.tokens += fill[0]
        self.state.slots += fill[1]
        self.state.examples += fill[2]

    def _log(
        self, row: dict[str, Any], loss_sum: float, count: float, fill: tuple[int, int, int], seconds: float
    ) -> None:
        window = self.state.window
        for key, value in {
            "loss": loss_sum,
            "count": count,
            "tokens": fill[0],
            "slots": fill[1],
            "seconds": seconds,
        }.items():
            window[key] = window.get(key, 0.0) + value
        means = {
            "tokens_per_second": window["tokens"] / window["seconds"],
            "useful_share": window["tokens"] / window["slots"],
        }
        self._tell(lambda callback: callback.on_step(self.state, row | means))
        if self.state.step % self._config.logging_steps == 0 or self._finished():
            mean = row | means | {"loss": _mean(window["loss"], window["count"])}
            self._tell(lambda callback: callback.on_log(mean))
            self.state.window = {}

    def _evaluate(self) -> bool:
        """Evaluate and keep the best; whether this is the best so far."""
        metrics = self._hooks.evaluate()
        if metrics is None:
            return False
        value = metrics[self.best_metric]
        improved = self._is_better(value)
        if improved:
            self._hooks.save_best()
            self.state.best_metric, self.state.best_step = value, self.state.step
        self.state.evaluations_without_gain = 0 if improved else self.state.evaluations_without_gain + 1
        self.state.evaluated_step = self.state.step
        patience = self._config.early_stopping
        if patience is not None and self.state.evaluations_without_gain >= patience:
            self.state.stopped = True
        self._tell(lambda callback: callback.on_evaluate(self.state, metrics, improved))
        return improved

    def evaluation_progress(self, done: int, total: int) -> None:
        """For the owner's evaluation: shows progress, and stops it when the run was asked to stop."""
        self._tell(lambda callback: callback.on_evaluation_progress(done, total))
        if self._interrupt.requested:
            self._save()
            raise Interrupted

    def _save(self) -> None:
        folder = self._hooks.save_checkpoint(self.state)
        self._tell(lambda callback: callback.on_save(self.state, folder))

    def _is_better(self, value: float) -> bool:
        best = self.state.best_metric
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best if self.best_metric in self._task.lower_is_better else value > best

    def _due(self, every: int | None) -> bool:
        if self._finished():
            return True
        if every is not None:
            return self.state.step % every == 0
        return self._plan.locate(self.state.step)[1] == 0

    def _finished(self) -> bool:
        return self.state.step >= self.total_steps

    def _check_loss(self, loss_sum: float, count: float) -> None:
        if not math.isfinite(loss_sum):
            raise self._not_finite(f"the loss is {_mean(loss_sum, count)}")

    def _check_norm(self, norm: float) -> None:
        # With fp16 an overflow is expected now and then: the scaler skips that step and lowers its scale.
        if not math.isfinite(norm) and self._strategy.skips_overflow is False:
            raise self._not_finite(f"the gradient norm is {norm}")

    def _not_finite(self, found: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"{found} at step {self.state.step + 1}",
            where="train",
            expected="a finite loss",
            fix="lower train.learning_rate, or use precision bf16 or fp32 instead of fp16; "
            f"the weights of step {self.state.step} were not touched",
        )

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in self._callbacks:
            call(callback)
