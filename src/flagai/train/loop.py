"""The training loop, once. Knows a task by its loss and a strategy by its verbs, no model and no file format.

Every process of a run goes through it; what decides its course (a stop, the metrics) is the same on all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flagai.config import TrainConfig
from flagai.data.batching import BatchPlan
from flagai.data.example import Example
from flagai.errors import ConfigError, NonFiniteLossError, OutOfMemoryError
from flagai.parallel import world
from flagai.parallel.strategy import Strategy
from flagai.tasks.base import Task
from flagai.train.callbacks import Callback
from flagai.train.feed import Feed, Portion
from flagai.train.interrupt import Interrupt, Interrupted
from flagai.train.memory import Streams, give_back, is_out_of_memory, too_large
from flagai.train.optim import schedule
from flagai.train.state import TrainState


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop asks of its owner: metrics of the current model, and two ways to keep it."""

    evaluate: Callable[[], dict[str, float] | None]
    """metrics on the evaluation data, None where there is none"""
    save_best: Callable[[], None]
    save_checkpoint: Callable[[TrainState], str]
    worth_keeping: Callable[[], bool] = lambda: False
    """whether the model that was just measured deserves a checkpoint, though it is not the best"""


def _mean(total: float, count: float) -> float:
    """A batch of texts without anything to learn (blank ones in NER) has count 0, and loss 0."""
    return total / count if count else 0.0


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
        OutOfMemoryError: a step does not fit, even one example at a time.
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
        self._plan, self._callbacks, self.state = plan, callbacks, state
        self._feed = Feed(config, task, examples, plan, axis=strategy.data_axis(), pieces=state.pieces)
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
        self._weight = 1.0

    def run(self, peak_rates: Sequence[float]) -> None:
        """Train to the end.

        Args:
            peak_rates: the highest learning rate of each parameter group.
        """
        # The stages of a pipeline see the same examples, and each of them counts these.
        self._weight = self._strategy.data_axis()[1] / self._strategy.reduce([1.0])[0]
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
        last = 0 if self.state.stopped else self.total_steps
        for portion in self._feed.portions(range(self.state.step, last)):
            self._step(portion, peak_rates)
            kept = self._due(self._config.eval_steps) and self._evaluate()
            if self._interrupt.agreed():
                self._save()
                raise Interrupted
            # Right after a new best model: a run continued from before it might take another course.
            if kept or self._due(self._config.save_steps):
                self._save()
            if self.state.stopped:
                return

    def _step(self, portion: Portion, peak_rates: Sequence[float]) -> None:
        began = time.perf_counter()
        world.note(f"step {portion.step + 1}")
        portion, loss_sum, count = self._learned(portion)
        self._check_loss(loss_sum, count)
        norm = self._strategy.clip(self._config.max_grad_norm)
        self._check_norm(norm)
        factor = self._factor(self.state.step)
        self._strategy.step([rate * factor for rate in peak_rates])
        useful, slots = (round(n * self._weight) for n in self._strategy.reduce([portion.useful, portion.slots]))
        self._count(time.perf_counter() - began, useful, slots, portion.examples)
        row = {
            "step": self.state.step,
            "epoch": self._plan.locate(self.state.step - 1)[0] + 1,
            "loss": _mean(loss_sum, count),
            "learning_rate": peak_rates[0] * factor,
            "grad_norm": norm,
        }
        seconds = time.perf_counter() - began
        self._log(row, {"loss": loss_sum, "count": count, "tokens": useful, "slots": slots, "seconds": seconds})

    def _learned(self, portion: Portion) -> tuple[Portion, float, float]:
        """Forward and backward: (what was computed, loss sum, count); where memory ends, again in smaller parts."""
        streams = Streams(self._strategy.device)
        while True:
            try:
                loss_sum, count = self._strategy.accumulate(portion.micro_batches, self._task.loss)
                return portion, loss_sum, count
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if (told := self._cannot_shrink(portion)) is not None:
                    raise told from error
            # Out here, for while the error is handled its traceback keeps the activations alive.
            give_back(self._strategy.model, self._strategy.device)
            streams.restore()
            portion = self._shrunk(portion)

    def _cannot_shrink(self, portion: Portion) -> OutOfMemoryError | None:
        """The error where smaller parts are no way out."""
        parts, step = self._feed.parts, portion.step + 1
        if world.size() > 1:
            return too_large(
                step, portion.most, f"set train.gradient_accumulation_steps={2 * parts}", rank=world.rank()
            )
        if self._task.pair_loss:
            return too_large(step, portion.most, "lower train.batch_size: the loss compares the pairs of one part")
        return too_large(step, portion.most, "") if portion.most <= 1 else None

    def _shrunk(self, portion: Portion) -> Portion:
        before = self._feed.parts
        self.state.pieces = self._feed.pieces = 2 * self._feed.pieces
        text = (
            f"out of memory at step {portion.step + 1}: from here on a step is computed in {self._feed.parts} parts "
            f"instead of {before}; this step is computed again, with the same random numbers"
        )
        self._tell(lambda callback: callback.on_message(text))
        return self._feed.portion(portion.step)

    def _count(self, seconds: float, useful: int, slots: int, examples: int) -> None:
        self.state.step += 1
        self.state.seconds += seconds
        self.state.tokens += useful
        self.state.slots += slots
        self.state.examples += examples

    def _log(self, row: dict[str, Any], sums: dict[str, float]) -> None:
        window = self.state.window
        for key, value in sums.items():
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
        """Evaluate and keep the best; whether a checkpoint is due for it."""
        world.note(f"evaluation at step {self.state.step}")
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
        return improved or self._hooks.worth_keeping()

    def evaluation_progress(self, done: int, total: int) -> None:
        """For the owner's evaluation: shows progress, and stops it when the run was asked to stop."""
        self._tell(lambda callback: callback.on_evaluation_progress(done, total))
        if self._interrupt.agreed():
            self._save()
            raise Interrupted

    def _save(self) -> None:
        world.note(f"save step {self.state.step}")
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
