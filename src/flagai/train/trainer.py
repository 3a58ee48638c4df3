"""A run from its configuration to a measured model: what is read, checked and built before it begins. Knows no backend.

With several processes, each runs the same Trainer; only the first one writes and speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flagai.config import RunConfig, TrainConfig
from flagai.config_deepspeed import check_deepspeed
from flagai.data.batching import BatchPlan, slots_of
from flagai.data.example import Examples
from flagai.errors import ConfigError, DataError
from flagai.models import packing
from flagai.parallel import world
from flagai.parallel.choose import make_strategy
from flagai.parallel.precision import choose_device
from flagai.parallel.strategy import Strategy
from flagai.parallel.ways import no_writing
from flagai.tasks.base import Task
from flagai.train import assemble, checkpoint
from flagai.train.callbacks import Callback
from flagai.train.continuing import differences, told
from flagai.train.environment import environment
from flagai.train.files import recover
from flagai.train.hollow import hollow_model, is_large
from flagai.train.logs import need_tensorboard
from flagai.train.loop import choose_metric
from flagai.train.prepare import Prepared, prepare, read_sources, training_file
from flagai.train.run import Plan, Run, TrainResult
from flagai.train.run_folder import RunFolder
from flagai.train.turns import by_first, each, first_alone

__all__ = ["TrainResult", "Trainer"]


class Trainer:
    """Train one model as a RunConfig says.

    Args:
        config: the run.
        model, tokenizer, task: your own instead of those the config names.
        callbacks: watchers of the run; `flagai.train.progress.Progress` draws a line in the terminal. With several
            processes, those of the first one are told.
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
        check_deepspeed(config)
        training_file(config)
        if config.parallel.strategy != "single":
            world.open_world(choose_device(config.train.device))
        self.config, self.offline = config, offline
        self.callbacks = tuple(callbacks) if world.is_first() else ()
        self._given_model = model
        self._filled_from: Path | None = None
        self.handed_over = any(part is not None for part in (model, tokenizer, task))
        # What has to be downloaded is downloaded once.
        self._parts = first_alone(
            lambda: assemble.ingredients(config, offline=offline, model=model, tokenizer=tokenizer, task=task)
        )
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
            OtherRankError: another process ended by an error, which the message shows.
        """
        data = self._data()
        self._check_measurable(data)
        described = {"splits": data.sources.describe(), "audit": data.audit.to_json()}
        batches = each(lambda: batch_plan(self.config.train, data))
        start = self._newest() if by_first(lambda: self.folder.decide(self.config, described)) else None
        train = self.config.train
        strategy = make_strategy(self.config.parallel, device=train.device, precision=train.precision)
        torch.manual_seed(self.config.train.seed)
        model = each(lambda: self._model(start, strategy))
        facts = environment(str(strategy.device), strategy.precision) | {"processes": world.size()}
        layout = self._layout(strategy)
        if start is not None:
            self._compare(start, layout)
        by_first(lambda: self.folder.begin(self.config, described, facts, fresh=start is None))
        each(self.folder.check_shared)
        plan = Plan(
            config=self.config,
            folder=self.folder,
            task=self.task,
            tokenizer=self.tokenizer,
            data=data,
            batches=batches,
            start=start,
            filled_from=self._filled_from,
            facts=facts,
            layout=layout,
            source=assemble.origin(self.config, self._parts),
            handed_over=self.handed_over,
            callbacks=self.callbacks,
        )
        return Run(plan, strategy, model).finish()

    def _data(self) -> Prepared:
        """The data, the same on all processes; corpora are made by the first one, and found by the others."""

        def make() -> Prepared:
            return prepare(self.config, self.task, read_sources(self.config, self.task, self._say), self._say)

        data = first_alone(make) if self.task.from_corpus else each(make)
        expected = by_first(lambda: data.hash)
        each(lambda: _check_same(data.hash, expected, self.config))
        return data

    def _check_measurable(self, data: Prepared) -> None:
        measured = {"eval", "test"} & data.examples.keys()
        if self.config.parallel.pipeline > 1 and self.task.writes and not self.task.measured_by_loss and measured:
            raise no_writing()

    def _model(self, start: checkpoint.Checkpoint | None, strategy: Strategy) -> Any:
        model = self._build(start, strategy)
        self.task.check_model(model)
        return self._packed(model)

    def _build(self, start: checkpoint.Checkpoint | None, strategy: Strategy) -> Any:
        """The model at its beginning; in a continued run the shape of it, whose numbers come from the checkpoint."""
        if self._given_model is not None:
            return self._given_model
        self._filled_from = None
        if strategy.takes_meta and (folder := self._whole_folder(start)) is not None:
            model = hollow_model(folder, self.task, self.tokenizer)
            if model is not None:
                self._filled_from = None if start is not None else folder
                return model
        if start is not None:
            return assemble.saved_model(start, offline=self.offline)
        return assemble.new_model(self.config, self._parts)

    def _whole_folder(self, start: checkpoint.Checkpoint | None) -> Path | None:
        """The folder whose numbers each process may read by itself; None where every process builds the whole model."""
        if start is not None:
            return start.folder
        folder, head = self._parts.folder, self.task.head()
        if folder is None or self.config.model.lora is not None or head.num_labels or head.module:
            return None  # what starts anew needs numbers of its own
        return folder if is_large(folder) else None

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
        by_first(lambda: recover(self.folder.root))
        found = checkpoint.newest(self.folder / "checkpoints", self._say)
        if found is None:
            by_first(lambda: checkpoint.refuse_damaged(self.folder / "checkpoints"))
        self._say(
            f"continuing {self.config.output} from step {found.step}"
            if found
            else f"the unfinished run in {self.config.output} has no complete checkpoint: starting it again"
        )
        return found

    def _compare(self, start: checkpoint.Checkpoint, layout: dict[str, Any]) -> None:
        """Say what is not as it was when the checkpoint was written, and what is used."""
        asked = torch.get_num_threads()
        checkpoint.restore_threads(start, self._say)
        now = checkpoint.layout() | layout | {"asked_threads": asked}
        if rows := differences(start.manifest, self.config, now):
            self._say(told(rows))

    def _layout(self, strategy: Strategy) -> dict[str, Any]:
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


def _check_same(found: str, expected: str, config: RunConfig) -> None:
    if found != expected:
        raise DataError(
            f"rank {world.rank()} reads other training data than rank 0",
            where=config.data.train or "data.mixture",
            expected=f"records with the hash {expected[:12]}, found {found[:12]}",
            fix="put the same files on all machines, or on a shared disk",
        )
