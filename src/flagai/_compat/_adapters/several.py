"""The original's ways to run on several processes, in today's words. Knows no model and no loop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flagai.config import ParallelConfig
from flagai.errors import ConfigError
from flagai.parallel import surroundings, worker, world
from flagai.parallel.choose import from_environment, make_strategy
from flagai.parallel.hostfile import read_hostfile
from flagai.parallel.launch import Launch, start
from flagai.parallel.precision import choose_device
from flagai.parallel.remote import start_on
from flagai.parallel.strategy import Strategy

if TYPE_CHECKING:
    from flagai._compat._adapters.trainer import Trainer
    from flagai.parallel.endings import Ended

_DEFAULT_FILE = "./deepspeed.json"
_LOGGER = logging.getLogger("flagai.trainer")


def begin(args: Trainer) -> ParallelConfig:
    """The section `parallel` of a Trainer's arguments; joins the other processes of a run, or starts them.

    The original's constructor started `training_script` again in every process, and ended its own; so does this.
    A run of one process is a plain one, whatever its `env_type`.

    Raises:
        SystemExit: the processes were started from here, and have ended.
        ConfigError: another `env_type`, or a script that is not there.
    """
    section = from_environment(args.env_type, model_parallel_size=args.model_parallel_size)
    alone = surroundings.find() is None
    if section["strategy"] == "single" or (alone and args.num_nodes * args.num_gpus == 1):
        return ParallelConfig()
    if alone:
        launch_script(
            args.training_script,
            sys.argv[1:],
            nodes=args.num_nodes,
            processes=args.num_gpus,
            address=args.master_ip,
            port=args.master_port,
            hostfile=args.hostfile,
        )
    worker.begin()
    world.open_world(choose_device("auto"))
    if section["strategy"].startswith("zero"):
        section["deepspeed"] = _settings_file(args.deepspeed_config)
    return ParallelConfig(**section)


def _settings_file(path: str | None) -> str | None:
    """The deepspeed.json of the arguments; EnvArgs names one by default, which may not be there."""
    return None if path == _DEFAULT_FILE and not Path(path).is_file() else path


def strategy_of(args: Trainer) -> Strategy:
    """The strategy of a Trainer; several processes take the accelerators of their machine where there are some."""
    device = str(args.pytorch_device) if args.parallel.strategy == "single" else "auto"
    return make_strategy(args.parallel, device=device, precision="fp16" if args.fp16 else "fp32")


def check_optimizer(args: Trainer, optimizer: Any) -> None:
    """Refuse what would train nothing, or save half, in silence. Raises ConfigError."""
    if args.parallel.strategy in ("single", "ddp"):
        return
    for name, given in (
        ("optimizer", optimizer is not None),
        ("save_optim", args.save_optim),
        ("load_optim", args.load_optim),
    ):
        if given:
            raise ConfigError(
                f"{name} is given, and env_type {args.env_type!r} divides parameters and optimizer over the processes",
                where="flagai.trainer.Trainer",
                expected="an optimizer that is built after the division, by the Trainer",
                fix=f"leave {name} out; flagai.Trainer saves and continues divided optimizers",
            )


def launch_script(
    script: str,
    arguments: Sequence[str],
    *,
    nodes: int,
    processes: int,
    address: str,
    port: int,
    hostfile: str | None,
) -> None:
    """Run a script in all processes to their end, then end this one by SystemExit. Errors: as of `flagai train`."""
    if not Path(script).is_file():
        raise ConfigError(
            f"there is no script {script!r} to start in {nodes * processes} processes",
            where="training_script",
            expected="the script that is running now",
            fix="set training_script=__file__",
        )
    launch = Launch(
        command=(sys.executable, script, *arguments),  # which finds modules beside the script
        processes=processes,
        nodes=nodes,
        endpoint=f"{address}:{port}" if nodes > 1 else "",
        patience=surroundings.patience(600.0),
    )
    if nodes > 1 and hostfile is not None and Path(hostfile).is_file():
        hosts = read_hostfile(Path(hostfile))[:nodes]
        ended = start_on(hosts, launch, _LOGGER.info)
    else:
        ended = start(launch, _LOGGER.info)
    _leave(ended)


def _leave(ended: Ended) -> None:
    raise SystemExit(0 if ended.kind == "done" else ended.text or ended.code)
