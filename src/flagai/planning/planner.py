"""A run before it is started: what it will need, in which layout, and whether that is there. Starts no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagai.config import RunConfig
from flagai.errors import ConfigError, FlagaiError
from flagai.parallel.precision import choose_device, resolve_precision
from flagai.planning import machine
from flagai.planning.ghosts import Ghosts
from flagai.planning.held import held
from flagai.planning.layouts import SINGLE, Layout, alternatives, changed
from flagai.planning.made import make
from flagai.planning.measure import measure as measured_in_processes
from flagai.planning.prepared import Prepared, prepared
from flagai.planning.results import Change, Disk, Measured, Planned, Row
from flagai.planning.search import smallest
from flagai.planning.simulate import Need, Simulator

Tell = Callable[[str], None]


def plan(
    config: RunConfig,
    *,
    memory: int | None = None,
    processes: int | None = None,
    device: str | None = None,
    measure: bool = True,
    offline: bool = False,
    tell: Tell = lambda _: None,
) -> Planned:
    """What a run will need: bytes under every strategy, measured steps, time, disk, and the smallest change that fits.

    Args:
        memory: bytes of one device; None: those of this machine's.
        processes: for which other layouts are compared; None: those of the settings, or the GPUs that are here.
        device: "cpu" or "cuda": where the run will be; None: where it would be on this machine.
        measure: whether to make real steps, in processes of their own.
        offline: open no socket.
        tell: hears what is done.

    Raises:
        FlagaiError: whatever `Trainer` would refuse.
    """
    here = choose_device(config.train.device).type
    tell("reading the data")
    ready = prepared(config, offline=offline, tell=lambda _: None)
    planner = _Planner(config, device or here, processes, ready, memory)
    rows = planner.rows(tell)
    seen = None
    if measure:
        tell("measuring real steps")
        seen = planner.measured(rows[0], elsewhere=planner.kind != here, offline=offline)
    return planner.planned(rows, seen, planner.change(tell))


class _Planner:
    """One call of `plan`."""

    def __init__(
        self, config: RunConfig, kind: str, processes: int | None, ready: Prepared, memory: int | None
    ) -> None:
        if kind not in ("cpu", "cuda"):
            raise ConfigError(f"memory on {kind!r} is not known", expected="cpu or cuda", where="device")
        self.config, self.kind, self._ready = config, kind, ready
        config = _settled(config, kind)
        mine = own_processes(config, kind)
        self.processes = processes or (mine if mine > 1 else max(2, machine.count_devices(kind)))
        self._search = processes or max(mine, machine.count_devices(kind))
        self.layout = Layout(config=config, processes=mine if mine == 1 or processes is None else processes)
        _ = self.layout.sizes  # refused now rather than later
        self._simulator = Simulator(
            lambda ghosts: make(config, ready.parts, ghosts, kind=kind), ready.parts.task.loss, kind=kind
        )
        self.program = machine.program_memory() if kind == "cpu" else machine.GPU_CONTEXT
        shared = self.layout.processes if kind == "cpu" and memory is None else 1
        self.memory = (memory or machine.device_memory(kind)) // shared

    def rows(self, tell: Tell) -> list[Row]:
        """The table: the user's own layout first."""
        rows = []
        for layout in alternatives(self.layout, self.processes, kind=self.kind):
            tell(f"counting: {layout.name}")
            rows.append(self._row(layout, own=not rows))
        return rows

    def _row(self, layout: Layout, *, own: bool) -> Row:
        words = {"name": layout.name, "processes": layout.processes, "settings": layout.changes, "own": own}
        try:
            needed = self._need(layout)
        except FlagaiError as error:
            if own:
                raise
            return Row(**words, problem=error.found)
        there, peak = needed.held, needed.peak + self.program
        return Row(
            **words,
            parameters=there.parameters,
            gradients=there.gradients,
            optimizer=there.optimizer,
            buffers=there.buffers,
            gathered=there.gathered,
            activations=needed.activations,
            batch=needed.batch,
            offloaded=needed.aside,
            peak=peak,
            fits=peak <= self.memory,
        )

    def _need(self, layout: Layout) -> Need:
        cuts = layout.config.train.gradient_accumulation_steps
        return self._simulator.need(layout, self._ready.work.heaviest(accumulation=cuts, processes=layout.data))

    def change(self, tell: Tell) -> Change:
        """The smallest change that fits."""
        return smallest(
            self.layout,
            lambda layout: self._said(layout, tell) or self._need(layout).peak + self.program,
            lambda layout: self._simulator.at_least(layout) + self.program,
            self.memory,
            processes=self._search,
            parts=self._ready.work.most_parts // self.layout.data,
            kind=self.kind,
        )

    @staticmethod
    def _said(layout: Layout, tell: Tell) -> int:
        tell(f"trying: {' '.join(layout.changes) or 'the settings as they are'}")
        return 0

    def measured(self, row: Row, *, elsewhere: bool, offline: bool) -> Measured:
        """Real steps of the user's own layout, where they can be made here."""
        needed, room = row.peak * row.processes, machine.available_memory()
        if elsewhere:
            return Measured(predicted=row.peak, problem=f"this machine has no {self.kind}")
        if self.kind == "cuda" and row.processes > machine.count_devices("cuda"):
            return Measured(predicted=row.peak, problem=f"there are fewer than {row.processes} GPUs here")
        if self.kind == "cpu" and needed > room:
            found = f"it needs {needed / 2**30:.1f} GiB, and {room / 2**30:.1f} GiB are available here"
            return Measured(predicted=row.peak, problem=found)
        try:
            found = measured_in_processes(self.config.to_dict(), row.processes, offline=offline)
        except FlagaiError as error:
            return Measured(predicted=row.peak, problem=error.found)
        peak, heaviest, typical = (max(told[key] for told in found) for key in ("peak", "heaviest", "typical"))
        return Measured(predicted=row.peak, peak=int(peak), heaviest=heaviest, typical=typical)

    def planned(self, rows: list[Row], seen: Measured | None, change: Change) -> Planned:
        """All of it together."""
        train, work = self.config.train, self._ready.work
        heaviest = work.heaviest(accumulation=train.gradient_accumulation_steps, processes=self.layout.data)
        model = make(self.config, self._ready.parts, Ghosts(), kind=self.kind)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        disk = self._disk(model)
        return Planned(
            parameters=sum(p.numel() for p in model.parameters()),
            trained=trained,
            device=self.kind,
            memory=self.memory,
            program=self.program,
            steps=work.total_steps,
            examples=heaviest.examples,
            length=heaviest.length,
            parts=heaviest.parts,
            rows=tuple(rows),
            change=change,
            measured=seen,
            seconds=self._seconds(seen),
            disk=disk,
            copy=disk.checkpoint // self.layout.processes if getattr(train, "async_save", False) else 0,
        )

    def _disk(self, model: Any) -> Disk:
        """Weights and moments of each checkpoint that is kept, of one more while it is written; best and final."""
        train = self.config.train
        one = held(model, Layout(config=changed(self.layout, SINGLE, processes=1).config, processes=1))
        weights = one.gradients if self.config.model.lora is not None else one.parameters
        checkpoint = weights + one.optimizer
        kept = train.keep_last + getattr(train, "keep_best", 0) + 1
        models = 2 * weights
        return Disk(
            checkpoint=checkpoint,
            checkpoints=kept * checkpoint,
            models=models,
            total=kept * checkpoint + models,
            free=machine.free_disk(Path(self.config.output)),
        )

    def _seconds(self, seen: Measured | None) -> float | None:
        """All steps, by a straight line through the two that were measured."""
        if seen is None or seen.problem:
            return None
        work = self._ready.work
        heavy = work.slots[work.heaviest_step(self.config.train.gradient_accumulation_steps, (0, self.layout.data))]
        typical = work.slots[work.typical_step]
        slope = (seen.heaviest - seen.typical) / (heavy - typical) if heavy > typical else 0.0
        mean = seen.typical + max(0.0, slope) * (work.slots.mean() - typical)
        return float(max(0.0, mean) * work.total_steps)


def _settled(config: RunConfig, kind: str) -> RunConfig:
    """The settings with "auto" replaced by what it will be: bf16 on a GPU that is not here."""
    here = choose_device(config.train.device)
    precision = config.train.precision
    if precision == "auto":
        precision = resolve_precision(precision, here) if here.type == kind else "bf16" if kind == "cuda" else "fp32"
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": precision})})


def own_processes(config: RunConfig, kind: str) -> int:
    """The processes that the settings ask for, on a device of this kind."""
    parallel = config.parallel
    if parallel.strategy == "single":
        return 1
    divided = parallel.tensor * parallel.pipeline * parallel.context
    least = divided * (parallel.shard or 1)
    return parallel.processes or max(least if least > 1 else 2, machine.count_devices(kind) // divided * divided)
