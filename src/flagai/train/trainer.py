"""A run from its configuration to a measured model: checks, training, evaluation, report. Knows no backend."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flagai.auto import Loaded, load_saved, save_folder
from flagai.config import RunConfig, TrainConfig
from flagai.data.batching import BatchPlan, slots_of
from flagai.data.example import Example, Examples
from flagai.errors import ConfigError, OutputError
from flagai.models import packing
from flagai.parallel.choose import make_strategy
from flagai.parallel.strategy import Strategy
from flagai.predict import loop as predict_loop
from flagai.tasks.base import Task
from flagai.train import assemble, checkpoint
from flagai.train.callbacks import Callback
from flagai.train.environment import environment
from flagai.train.files import cannot_write, is_system_error, read_json, recover, whole_folder, write_json
from flagai.train.interrupt import Interrupted
from flagai.train.logs import JsonLog, TensorBoardLog, need_tensorboard
from flagai.train.loop import Hooks, Loop, choose_metric
from flagai.train.optim import adamw
from flagai.train.prepare import Prepared, prepare, read_sources, training_file
from flagai.train.run_folder import RunFolder
from flagai.train.state import TrainState
from flagai.train.summary import Measurement, Summary, write_report


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run returns: where the model is, and its metrics on each split that was measured."""

    folder: Path
    metrics: dict[str, dict[str, float]]
    steps: int
    seconds: float


class Trainer:
    """Train one model as a RunConfig says.

    Args:
        config: the run.
        model, tokenizer, task: your own instead of those the config names.
        callbacks: watchers of the run; `flagai.train.progress.Progress` draws a line in the terminal.
        offline: open no socket.

    Raises:
        FlagaiError: whatever is wrong with settings, data, model or folder, before a model is moved to a device.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        model: Any = None,
        tokenizer: Any = None,
        task: Task | None = None,
        callbacks: Sequence[Callback] = (),
        offline: bool = False,
    ) -> None:
        training_file(config)
        self.config, self.callbacks, self.offline = config, tuple(callbacks), offline
        self._given_model = model
        self.handed_over = any(part is not None for part in (model, tokenizer, task))
        self._parts = assemble.ingredients(config, offline=offline, model=model, tokenizer=tokenizer, task=task)
        self.task, self.tokenizer = self._parts.task, self._parts.tokenizer
        choose_metric(config.train, self.task)
        if config.train.tensorboard:
            need_tensorboard()
        if self.task.pair_loss and config.train.gradient_accumulation_steps > 1:
            self._say(
                f"the loss {config.task.loss!r} compares the pairs of one part of a batch: "
                f"{config.train.gradient_accumulation_steps} parts are not the same as one"
            )
        self.folder = RunFolder(config.output)

    def train(self) -> TrainResult:
        """Run to the end, or continue an unfinished run of the same settings.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the folder continues with the same call.
        """
        data = prepare(self.config, self.task, read_sources(self.config, self.task, self._say), self._say)
        described = {"splits": data.sources.describe(), "audit": data.audit.to_json()}
        plan = batch_plan(self.config.train, data)
        continues = self.folder.decide(self.config, described)
        start = self._newest() if continues else None
        train = self.config.train
        strategy = make_strategy(self.config.parallel, device=train.device, precision=train.precision)
        torch.manual_seed(self.config.train.seed)
        model = self._build(start)
        self.task.check_model(model)
        model = self._packed(model)
        facts = environment(str(strategy.device), strategy.precision)
        if start is not None:
            self._warn_of_other_bits(start, strategy)
        self.folder.begin(self.config, described, facts, fresh=start is None)
        return _Run(self, data, plan, strategy, model, start, facts, self._layout(strategy)).finish()

    def _build(self, start: checkpoint.Checkpoint | None) -> Any:
        if start is not None:
            return assemble.saved_model(start, offline=self.offline, like=self._given_model)
        return self._given_model if self._given_model is not None else assemble.new_model(self.config, self._parts)

    def _packed(self, model: Any) -> Any:
        """The model with packing on, where it is wanted and can be had."""
        wanted = self.config.train.packing
        if wanted is not False and not packing.enable(model) and wanted is True:
            raise ConfigError(
                packing.why_not(model),
                where="train.packing",
                expected="auto or false for this model",
                fix="leave it at auto: batches are padded, and as exact",
            )
        return model

    def _newest(self) -> checkpoint.Checkpoint | None:
        recover(self.folder.root)
        found = checkpoint.newest(self.folder / "checkpoints", self._say)
        self._say(
            f"continuing {self.config.output} from step {found.step}"
            if found
            else f"the unfinished run in {self.config.output} has no complete checkpoint: starting it again"
        )
        return found

    def _warn_of_other_bits(self, start: checkpoint.Checkpoint, strategy: Strategy) -> None:
        now = checkpoint.layout() | self._layout(strategy)
        if different := start.differences(now):
            self._say(f"the continued run will not be equal to the bit: {'; '.join(different)}")

    def _layout(self, strategy: Strategy) -> dict[str, str]:
        kind = strategy.device.type
        return {"device": kind, "strategy": self.config.parallel.strategy, "precision": strategy.precision}

    def _say(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_message(text)


def batch_plan(train: TrainConfig, data: Prepared) -> BatchPlan:
    """Which examples each step of a run sees. Raises ConfigError for an example beyond `batch_tokens`."""
    examples = data.examples["train"]
    return BatchPlan(
        (lambda epoch: slots_of(examples.at(epoch))) if isinstance(examples, Examples) else slots_of(examples),
        batch_size=train.batch_size,
        batch_tokens=train.batch_tokens,
        seed=train.seed,
        data_hash=data.hash,
    )


def evenly(total: int, most: int) -> list[int]:
    """At most so many of 0 … total - 1, evenly spread."""
    count = min(total, most)
    return [i * total // count for i in range(count)]


BEST = "best.json"
"""beside the best weights: the step they are of"""


class _Run:
    """One call of `Trainer.train` after its checks: the mutable middle between model and disk."""

    def __init__(
        self,
        trainer: Trainer,
        data: Prepared,
        plan: BatchPlan,
        strategy: Strategy,
        model: Any,
        start: checkpoint.Checkpoint | None,
        facts: dict[str, Any],
        layout: dict[str, str],
    ) -> None:
        self.config, self.task, self.folder, self.say = trainer.config, trainer.task, trainer.folder, trainer._say
        self.parts, self.handed_over = trainer._parts, trainer.handed_over
        self.tokenizer, self.data, self.facts, self.offline = trainer.tokenizer, data, facts, trainer.offline
        self.layout, self.start = layout, start
        self.strategy, self.model = strategy, strategy.place(model)
        self.optimizer = strategy.optimizer(adamw(self.config.train))
        self.plan = plan
        self.state = TrainState()
        self.callbacks = (JsonLog(self.folder / "log.jsonl"), *self._tensorboard(), *trainer.callbacks)
        self._hooks = Hooks(evaluate=self._evaluate, save_best=self._save_best, save_checkpoint=self._save_checkpoint)

    def finish(self) -> TrainResult:
        """Train, take the best weights, measure, save and report."""
        try:
            self.loop = self._begin()
            self.loop.run([group["peak"] for group in self.optimizer.param_groups])
            best = self._best()
            measured = self._measure(best)
            self._save_final(best, measured)
        except (Interrupted, KeyboardInterrupt):
            self.folder.mark("interrupted", step=self.state.step)
            raise
        except BaseException as error:
            with contextlib.suppress(OutputError):  # a full disk must not hide what went wrong
                self.folder.mark("failed", step=self.state.step, error=str(error))
            if is_system_error(error):
                raise cannot_write(error, Path(error.filename or self.folder.root)) from error
            raise
        self.folder.mark("finished", step=self.state.step)
        return TrainResult(
            folder=self.folder / "final",
            metrics={m.split: m.metrics for m in measured},
            steps=self.state.step,
            seconds=self.state.seconds,
        )

    def _begin(self) -> Loop:
        """The loop at the step of the checkpoint, or at the first one with its head set."""
        examples = self.data.examples["train"]
        if self.start is not None:
            state, self.state = checkpoint.load(self.start)
            self.strategy.load_state(state)
        elif getattr(self.model, "fresh_parameters", True):
            self.task.start(self.model, examples, self._rows)
        return Loop(
            self.config.train, self.task, self.strategy, examples, self.plan, self._hooks, self.state, self.callbacks
        )

    def _tensorboard(self) -> tuple[Callback, ...]:
        return (TensorBoardLog(self.folder / "tensorboard"),) if self.config.train.tensorboard else ()

    def _rows(self, examples: Sequence[Example], names: Sequence[str]) -> predict_loop.Rows:
        return predict_loop.run(self.task, self.strategy.evaluate, examples, names=names)

    def _evaluate(self) -> dict[str, float] | None:
        """Metrics and mean loss of the current weights on the evaluation data."""
        if "eval" not in self.data.examples:
            return None
        progress = self.loop.evaluation_progress
        if self.task.measured_by_loss:
            return self._measure_split("eval", self.task, self.strategy.evaluate, progress).metrics
        most = self.config.train.eval_written
        if most is None or not self.task.writes:
            return self._measure_split("eval", self.task, self.strategy.evaluate, progress).metrics
        return self._measure_part(most, progress)

    def _measure_part(self, most: int, progress: Callable[[int, int], None]) -> dict[str, float]:
        """The loss of all evaluation data, and the other metrics of as many records as are written to on the way."""
        evaluate, examples = self.strategy.evaluate, self.data.examples["eval"]
        loss = predict_loop.mean_loss(self.task, evaluate, examples, progress=progress)
        metrics = {} if loss is None else {"loss": loss}
        chosen = evenly(len(self.data.sources.records["eval"]), most)
        if not chosen:
            return metrics
        records = [self.data.sources.records["eval"][i] for i in chosen]
        windows = [window for i, record in enumerate(records) for window in self.task.encode(record, i)]
        results = predict_loop.answer(self.task, evaluate, windows, records, progress=progress).results
        return self.task.metrics(results, [self.task.gold(record) for record in records]) | metrics

    def _measure_split(
        self,
        split: str,
        task: Task,
        evaluate: predict_loop.Evaluate,
        progress: Callable[[int, int], None] | None = None,
    ) -> Measurement:
        examples, records = self.data.examples[split], self.data.sources.records[split]
        began = time.perf_counter()
        if task.measured_by_loss:
            loss = predict_loop.mean_loss(task, evaluate, examples, progress=progress)
            seconds = time.perf_counter() - began
            return Measurement(split, records, [], [], predict_loop.loss_metrics(loss), seconds)
        answers = predict_loop.answer(task, evaluate, examples, records, with_loss=True, progress=progress)
        seconds = time.perf_counter() - began
        golds = [task.gold(record) for record in records]
        # Tuned at every evaluation, so that the best model is chosen by what it can do and not by a default threshold.
        results = task.tune(answers.results, golds) if split == "eval" else answers.results
        metrics = task.metrics(results, golds)
        if answers.loss is not None:
            metrics["loss"] = answers.loss
        return Measurement(split, records, results, golds, metrics, seconds)

    def _best(self) -> Loaded:
        """The best weights: those in `best/`, or the last ones where nothing was evaluated."""
        if not (self.folder / "best").is_dir():
            if self.state.best_step is not None:
                self.say(f"the best model (step {self.state.best_step}) is missing: the last weights are taken")
            return Loaded(self.model, self.tokenizer, self.task)
        step = read_json(self.folder / "best" / BEST)["step"]
        self.say(f"the best model is that of step {step}")
        return load_saved(self.folder / "best", trainable=True, offline=self.offline)

    def _measure(self, best: Loaded) -> list[Measurement]:
        """Every split but the training data, with the task as it is saved: tuned on the evaluation data first."""
        task = best.task
        assert task is not None
        if self.config.train.packing is not False:
            packing.enable(best.model)
        self.strategy.place(best.model)
        splits = [split for split in ("eval", "test") if split in self.data.examples]
        return [self._measure_split(split, task, self.strategy.evaluate) for split in splits]

    def _save_final(self, best: Loaded, measured: Sequence[Measurement]) -> None:
        source, sha256 = assemble.origin(self.config, self.parts)
        summary = Summary(
            config=self.config,
            data={"splits": self.data.sources.describe(), "audit": self.data.audit.to_json()},
            environment=self.facts,
            state=self.state,
            best_metric=self.loop.best_metric,
            measured=measured,
            train_golds=self.data.sources.golds(self.task),
            model=best.model,
            task=best.task,
            source=source,
            weights_sha256=sha256,
            handed_over=self.handed_over,
        )
        card = write_report(self.folder, summary)
        with whole_folder(self.folder / "final") as temporary:
            save_folder(temporary, best)
            (temporary / "README.md").write_text(card, encoding="utf-8")

    def _save_best(self) -> None:
        with whole_folder(self.folder / "best") as temporary:
            save_folder(temporary, Loaded(self.model, self.tokenizer, self.task))
            write_json(temporary / BEST, {"step": self.state.step})

    def _save_checkpoint(self, state: TrainState) -> str:
        root = self.folder / "checkpoints"
        target = root / f"step-{state.step}"
        checkpoint.save(
            target,
            save_model=lambda folder: save_folder(folder, Loaded(self.model, self.tokenizer, self.task)),
            strategy_state=self.strategy.state(),
            state=state,
            extra={"data": self.data.hash, **self.layout},
        )
        checkpoint.keep_newest(root, self.config.train.keep_last, last=state.step)
        return str(target)
