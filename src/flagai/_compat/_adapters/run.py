"""One call of the original's `Trainer.train`: strategy, loop, evaluation and checkpoints. Knows no model family."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flagai._compat._adapters import batches, checkpoints, several
from flagai._compat._adapters.logs import Log
from flagai._compat._adapters.measuring import measure, save_best
from flagai.errors import CheckpointError
from flagai.parallel import world
from flagai.parallel.strategy import Strategy
from flagai.train.callbacks import Callback
from flagai.train.logs import TensorBoardLog
from flagai.train.loop import Hooks, Loop
from flagai.train.optim import adamw
from flagai.train.state import TrainState
from flagai.train.turns import by_first

if TYPE_CHECKING:
    from flagai._compat._adapters.trainer import Trainer

_DEFAULT_TENSORBOARD = "tensorboard_summary"


class Run:
    """The mutable middle between the old arguments and the loop; `state` says where it is."""

    def __init__(
        self, trainer: Trainer, model: Any, train_data: Any, valid_data: Any, metrics: Sequence[Any], collate_fn: Any
    ) -> None:
        self._args, self.model, self._metrics, self._collate_fn = trainer, model, metrics, collate_fn
        self._train_data, self._valid_data = train_data, valid_data
        self.state = TrainState()
        self._strategy = several.strategy_of(trainer)
        self._forward = batches.Forward(model, trainer.forward_step)
        divided = trainer.parallel.strategy not in ("single", "ddp") or trainer.parallel.tensor > 1
        self._twin = [copy.deepcopy(self._forward)] if divided else []
        self._found: dict[str, Any] = {}
        self._optimizer: Any = None
        self._scheduler: Any = None
        self._loop: Loop | None = None
        self._best: int | None = None
        # The best score so far, as the original starts it: a custom rule with metrics looks for more, a loss for less.
        self._rule = trainer.save_best
        more = bool(metrics) and self._rule is not save_best
        self._score = -math.inf if more else math.inf
        self._improvements, self._written = 0, -1

    def train(self, optimizer: Any, scheduler: Any) -> None:
        """Load, train to the end, evaluate."""
        self._load_weights()
        self._strategy.place(self._forward)
        if not self._args.epochs:
            self._evaluate_only()
            return
        config = self._args.train_config(own_schedule=scheduler is not None)
        self._optimizer = self._strategy.optimizer(adamw(config) if optimizer is None else lambda _: optimizer)
        self._scheduler = scheduler
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self._load_rest()
        if scheduler is not None:
            rates = [group["lr"] for group in self._optimizer.param_groups]
        plan = batches.plan_of(
            self._train_data,
            batch_size=self._args.batch_size * self._strategy.data_axis()[1],
            accumulation=config.gradient_accumulation_steps,
            seed=config.seed,
        )
        task: Any = batches.OldTask(batches.collate_of(self._train_data, self._collate_fn))
        hooks = Hooks(evaluate=self._evaluate, save_best=self._save_best, save_checkpoint=self._save)
        samples = batches.dataset_of(self._train_data)
        watchers = self._callbacks(rates)
        self._loop = Loop(config, task, self._strategy, samples, plan, hooks, self.state, watchers)
        if self.state.step >= self._loop.total_steps:
            for watcher in watchers:
                watcher.on_message(
                    f"nothing is left to train: the checkpoint is at iteration {self.state.step} "
                    f"of {self._loop.total_steps}"
                )
        self._loop.run(rates)

    def with_step(self, step: batches.Step) -> Strategy:
        """The strategy of the placed model, called by way of another `forward_step`."""
        self._forward.step = step
        return self._strategy

    def _callbacks(self, rates: list[float]) -> tuple[Callback, ...]:
        watchers: list[Callback] = []
        if self._scheduler is not None:
            watchers.append(_OwnSchedule(self._scheduler, self._optimizer, rates))
        if not world.is_first():
            return tuple(watchers)
        watchers.append(Log())
        if self._args.tensorboard_dir and self._args.tensorboard_dir != _DEFAULT_TENSORBOARD:
            watchers.append(TensorBoardLog(Path(self._args.tensorboard_dir)))
        return tuple(watchers)

    # -- evaluation ------------------------------------------------------------------------------------------------

    def _measure(self) -> dict[str, float]:
        return measure(
            self._strategy,
            self._valid_data,
            batch_size=self._args.batch_size,
            collate_fn=self._collate_fn,
            metrics=self._metrics,
            progress=self._loop.evaluation_progress if self._loop is not None else None,
        )

    def _evaluate(self) -> dict[str, float] | None:
        if self._valid_data is None:
            return None
        values = self._measure()
        score = self._rule(self._score, dict(values))
        if score != self._score and not math.isnan(score):
            self._score, self._improvements = score, self._improvements + 1
        return {**values, "improvements": float(self._improvements)}

    def _evaluate_only(self) -> None:
        if self._valid_data is not None:
            found = self._measure()
            if world.is_first():
                Log().on_evaluate(self.state, found, improved=False)

    # -- checkpoints -----------------------------------------------------------------------------------------------

    def _save_best(self) -> None:
        self._best = self.state.step
        self._save(self.state)

    def _save(self, state: TrainState) -> str:
        if not self._args.save_dir:
            return ""
        root = Path(self._args.save_dir)
        folder = root / str(state.step)
        if self._written != state.step:
            model, extra = self._whole(), self._extra(state)
            by_first(lambda: checkpoints.write_folder(folder, model, extra, tokenizer=self._args.tokenizer))
            self._written = state.step
        by_first(lambda: checkpoints.write_tracker(root, state.step, state.step if self._best is None else self._best))
        return str(folder)

    @torch.no_grad()
    def _whole(self) -> Any:
        """The model on one process, for the format is one file; a copy where it lies on several."""
        if not self._twin:
            return self.model
        tensors = dict(self._twin[0].named_parameters()) | dict(self._twin[0].named_buffers())
        for name, tensor in self._strategy.weights():
            if world.is_first():
                tensors[name].copy_(tensor)
        return self._twin[0].model

    def _extra(self, state: TrainState) -> dict[str, Any]:
        extra: dict[str, Any] = {"iteration": state.step}
        if math.isfinite(self._score):
            extra["best_score"] = float(self._score)
        if self._args.save_optim:
            extra["optimizer"] = self._optimizer.state_dict()
            schedule = {"num_iters": state.step} if self._scheduler is None else self._scheduler.state_dict()
            extra |= {"lr_scheduler": schedule, "scaler": self._strategy.state()["scaler"]}
        if self._args.save_rng:
            extra |= checkpoints.random_state()
        return extra

    def _load_weights(self) -> None:
        if not self._args.load_dir:
            return
        self._found = checkpoints.read(self._args.load_dir, self._args.load_type)
        try:
            self.model.load_state_dict(self._found["module"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights do not fit the model: {str(error).splitlines()[0]}",
                where=str(self._args.load_dir),
                expected=f"a checkpoint of a {type(self.model).__name__} of this size",
            ) from error
        self.state.step = self.state.evaluated_step = checkpoints.iteration_of(self._found)
        self._best = checkpoints.best_of(self._args.load_dir)
        self._score = float(self._found.get("best_score", self._score))

    def _load_rest(self) -> None:
        """Optimizer, schedule and random streams, where asked for. Raises CheckpointError where they are not there."""
        if not self._found:
            return
        if self._args.load_optim:
            self._need("optimizer", "optim")
            self._optimizer.load_state_dict(self._found["optimizer"])
            if self._scheduler is not None:
                self._scheduler.load_state_dict(self._found["lr_scheduler"])
        if self._args.load_rng:
            self._need("torch_rng_state", "rng")
            checkpoints.restore_random(self._found)

    def _need(self, key: str, option: str) -> None:
        if key not in self._found:
            raise CheckpointError(
                f"the checkpoint holds no {key}",
                where=str(self._args.load_dir),
                expected=f"one that was written with save_{option}=True",
                fix=f"load_{option}=False",
            )


class _OwnSchedule(Callback):
    """Steps the user's scheduler after each optimizer step; the loop reads its rates from `rates`."""

    def __init__(self, scheduler: Any, optimizer: Any, rates: list[float]) -> None:
        self._scheduler, self._optimizer, self._rates = scheduler, optimizer, rates

    def on_step(self, state: TrainState, row: Any) -> None:
        self._scheduler.step()
        self._rates[:] = [group["lr"] for group in self._optimizer.param_groups]
