"""One call of `Trainer.train` after its checks: the mutable middle between model and disk. Knows no backend.

Every process of a run goes through it; files, report and callbacks are the first one's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flagai.auto import Loaded, describe_folder
from flagai.config import RunConfig
from flagai.data.batching import BatchPlan
from flagai.errors import OutputError
from flagai.parallel import world
from flagai.parallel.company import company
from flagai.parallel.strategy import Strategy
from flagai.tasks.base import Task
from flagai.tasks.saved import read_task_json
from flagai.train import checkpoint
from flagai.train.callbacks import Callback
from flagai.train.ending import broken
from flagai.train.files import cannot_write, is_system_error, read_json, write_json
from flagai.train.interrupt import Interrupted
from flagai.train.logs import JsonLog, TensorBoardLog
from flagai.train.loop import Hooks, Loop
from flagai.train.measuring import Measuring
from flagai.train.optim import adamw
from flagai.train.prepare import Prepared
from flagai.train.reading_back import read_back
from flagai.train.run_folder import RunFolder, Status
from flagai.train.starting import start_head
from flagai.train.state import TrainState
from flagai.train.summary import Measurement, ModelFacts, Summary, write_report

BEST = "best.json"
"""beside the best weights: the step they are of"""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run returns: where the model is, and its metrics on each split that was measured."""

    folder: Path
    metrics: dict[str, dict[str, float]]
    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that was settled and checked before a model goes to a device."""

    config: RunConfig
    folder: RunFolder
    task: Task
    tokenizer: Any
    data: Prepared
    batches: BatchPlan
    start: checkpoint.Checkpoint | None
    """where the run goes on, None for one from the beginning"""
    filled_from: Path | None
    """the folder whose numbers a model without any waits for"""
    facts: dict[str, Any]
    """about the machine, for the report"""
    layout: dict[str, Any]
    """what bits depend on beside the settings, for the manifests"""
    source: tuple[str, str]
    """where the weights came from, and their sha256"""
    handed_over: bool
    callbacks: tuple[Callback, ...]


class Run:
    """Model, optimizer and state of a run while it goes on."""

    def __init__(self, plan: Plan, strategy: Strategy, model: Any) -> None:
        self.plan, self.config, self.task, self.folder = plan, plan.config, plan.task, plan.folder
        self.strategy = strategy
        self._facts = ModelFacts.of(model)
        if plan.start is None and getattr(model, "fresh_parameters", True):
            start_head(self.task, model, plan.data, self.config.train, strategy)
        self.model = strategy.place(model)
        if plan.filled_from is not None:
            read_back(strategy, plan.filled_from)
        self.optimizer = strategy.optimizer(adamw(self.config.train))
        self.state = TrainState()
        self._score: checkpoint.Score | None = None
        self._measuring = Measuring(self.task, plan.data, self.config.train, strategy.evaluate)
        self._saver = checkpoint.Saver(
            self.folder / "checkpoints",
            strategy,
            describe=self._describe,
            asynchronous=self.config.train.async_save,
            keep_last=self.config.train.keep_last,
            keep_best=self.config.train.keep_best,
        )
        self._hooks = Hooks(
            evaluate=self._evaluate,
            save_best=self._save_best,
            save_checkpoint=self._save_checkpoint,
            worth_keeping=lambda: self._score is not None and self._saver.wants(self._score),
        )

    def finish(self) -> TrainResult:
        """Train, take the best weights, measure, save and report."""
        try:
            self.loop = self._begin()
            self.loop.run([group["peak"] for group in self.optimizer.param_groups])
            self._saver.wait()
            self._take_best()
            measured = self._measure()
            self._save_final(measured)
        except (Interrupted, KeyboardInterrupt) as stop:
            self._stopped(stop)
            raise
        except BaseException as error:
            if (told := self._failed(error)) is error:
                raise  # with the cause that it has itself
            raise told from error
        self._mark("finished")
        return TrainResult(
            folder=self.folder / "final",
            metrics={m.split: m.metrics for m in measured},
            steps=self.state.step,
            seconds=self.state.seconds,
        )

    def _begin(self) -> Loop:
        """The loop at the step of the checkpoint, or at the first one."""
        batches = self.plan.batches
        if self.plan.start is not None:
            world.note(f"loading step {self.plan.start.step}")
            self.state = checkpoint.load(self.plan.start, self.strategy, self.say)
            self._measure_anew(self.plan.start)
            if self.state.epoch_key == batches.key:
                batches.recall(self.state.epoch_steps)
        examples = self.plan.data.examples["train"]
        return Loop(
            self.config.train,
            self.task,
            self.strategy,
            examples,
            batches,
            self._hooks,
            self.state,
            self._callbacks(),
        )

    def _measure_anew(self, start: checkpoint.Checkpoint) -> None:
        """The best value so far counts no more where the run is continued with another metric to choose by."""
        settings = start.manifest.get("settings")
        if settings is None or self.state.best_metric is None:
            return
        before = settings["train"].get("best_metric") or self.task.best_metric
        now = self.config.train.best_metric or self.task.best_metric
        if before != now:
            self.say(f"the best model is chosen by {now} from here on, and no more by {before}")
            self.state.best_metric = self.state.best_step = None
            self.state.evaluations_without_gain = 0

    def _callbacks(self) -> tuple[Callback, ...]:
        if not world.is_first():
            return ()
        board = (TensorBoardLog(self.folder / "tensorboard"),) if self.config.train.tensorboard else ()
        return (JsonLog(self.folder / "log.jsonl"), *board, *self.plan.callbacks)

    def say(self, text: str) -> None:
        """Something the user should hear, once."""
        for callback in self.plan.callbacks if world.is_first() else ():
            callback.on_message(text)

    # -- while it trains ---------------------------------------------------------------------------------------------

    def _evaluate(self) -> dict[str, float] | None:
        """Metrics and mean loss of the current weights on the evaluation data; those of the first process count."""
        metrics = self._measuring.on_the_way(self.loop.evaluation_progress)
        if metrics is None:
            return None
        metrics = world.from_first({name: float(value) for name, value in metrics.items()})
        self._score = self._score_of(metrics)
        return metrics

    def _score_of(self, metrics: dict[str, float]) -> checkpoint.Score:
        name = self.loop.best_metric
        return checkpoint.Score(metric=name, value=metrics[name], lower_is_better=name in self.task.lower_is_better)

    def _save_best(self) -> None:
        def describe(folder: Path) -> None:
            self._describe(folder)
            write_json(folder / BEST, {"step": self.state.step})

        checkpoint.write_model(self.strategy, self.folder / "best", describe)

    def _save_checkpoint(self, state: TrainState) -> str:
        batches = self.plan.batches
        state.epoch_key, state.epoch_steps = batches.key, batches.counted()
        extra = {
            "data": self.plan.data.hash,
            "settings": self.config.to_dict(),
            "pieces": state.pieces,
            **self.plan.layout,
        }
        score = self._score if state.evaluated_step == state.step else None
        return str(self._saver.save(state, extra, score=score))

    def _describe(self, folder: Path) -> None:
        describe_folder(folder, Loaded(self.strategy.model, self.plan.tokenizer, self.task))

    # -- at the end --------------------------------------------------------------------------------------------------

    def _take_best(self) -> None:
        """The weights of `best/`, and what its task had settled; the last ones where nothing was evaluated."""
        best = self.folder / "best"
        step = company("run").first(lambda: read_json(best / BEST)["step"] if best.is_dir() else None)
        if step is None:
            if self.state.best_step is not None:
                self.say(f"the best model (step {self.state.best_step}) is missing: the last weights are taken")
            return
        self.say(f"the best model is that of step {step}")
        # The folder may be of a course that the run has left: then even the same step has other weights.
        if not step == self.state.step == self.state.best_step:
            read_back(self.strategy, best)
        values = read_task_json(best)
        assert values is not None
        self.task.restore(values["state"])

    def _measure(self) -> list[Measurement]:
        """Every split but the training data, with the task as it is saved: tuned on the evaluation data first."""
        world.note("measuring the best model")
        splits = [split for split in ("eval", "test") if split in self.plan.data.examples]
        return [self._measuring.split(split) for split in splits]

    def _save_final(self, measured: Sequence[Measurement]) -> None:
        source, sha256 = self.plan.source
        data = self.plan.data
        summary = Summary(
            config=self.config,
            data={"splits": data.sources.describe(), "audit": data.audit.to_json()},
            environment=self.plan.facts,
            state=self.state,
            best_metric=self.loop.best_metric,
            measured=measured,
            train_golds=data.sources.golds(self.task),
            model=self._facts,
            task=self.task,
            source=source,
            weights_sha256=sha256,
            handed_over=self.plan.handed_over,
        )
        card = company("run").first(lambda: write_report(self.folder, summary))

        def describe(folder: Path) -> None:
            self._describe(folder)
            (folder / "README.md").write_text(card, encoding="utf-8")

        checkpoint.write_model(self.strategy, self.folder / "final", describe)

    def _stopped(self, stop: BaseException) -> None:
        try:
            if isinstance(stop, Interrupted):
                self._saver.wait()
        finally:
            self._mark("interrupted")

    def _failed(self, error: BaseException) -> BaseException:
        """The error to raise for one that ended the run: another process's, where that was the cause."""
        told = broken(error)
        self._end_saving()
        with contextlib.suppress(OutputError):  # a full disk must not hide what went wrong
            self._mark("failed", error=str(told))
        if is_system_error(told):
            return cannot_write(told, Path(told.filename or self.folder.root))
        return told

    def _end_saving(self) -> None:
        """Wait for a checkpoint that is written behind: a process that ends begins no more work in threads.

        With several processes some may be gone, and the others would wait for them.
        """
        if world.size() > 1:
            return
        try:
            self._saver.wait()
        except Exception as error:  # the run has failed already, and that is what is raised
            self.say(f"the checkpoint that was being written is lost: {world.describe(error)}")

    def _mark(self, status: Status, **values: Any) -> None:
        if world.is_first():
            self.folder.mark(status, step=self.state.step, **values)
