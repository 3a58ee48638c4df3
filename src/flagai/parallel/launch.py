"""Starts the processes of a run on this machine by torchrun's agent, and waits for their end. Knows no training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flagai.errors import ConfigError
from flagai.parallel import worker
from flagai.parallel.addresses import address_towards, check_free, interface_of, is_here, split_endpoint
from flagai.parallel.endings import Ended, cause_of_restart, ended
from flagai.parallel.requests import Requests

_LOOK: Final = 0.2
"""seconds between two looks at the processes"""
_WHERE: Final = "--rdzv-endpoint"

PYTHON: Final = (sys.executable, "-P")
"""this interpreter, which takes no module from the working folder, as little as the command `flagai` does"""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What runs on this machine, alone or beside others.

    Args:
        command: what each process runs, an argument list.
        processes: how many of them run here.
        nodes: machines that take part.
        endpoint: `host:port` where they meet; "" for one machine.
        hosts_endpoint: whether the meeting point is on this machine; None: found out by its name.
        name: a word that the machines of one run share.
        restarts: how often the processes are started again after one of them ended with an error.
        patience: seconds to wait for other machines.
    """

    command: tuple[str, ...]
    processes: int
    nodes: int = 1
    endpoint: str = ""
    hosts_endpoint: bool | None = None
    name: str = "flagai"
    restarts: int = 0
    patience: float = 600.0


def start(launch: Launch, say: Say, requests: Requests | None = None) -> Ended:
    """Run all processes of this machine to their end.

    A SIGINT or SIGTERM asks them to stop, which saves a checkpoint; another one ends them at once.

    Args:
        say: shows a line; told of restarts.
        requests: where requests to stop are set besides by signals.

    Raises:
        ConfigError: the port of the meeting point is in use, or its name leads nowhere.
        KeyboardInterrupt: the second signal.
    """
    place = _meeting_point(launch)
    with tempfile.TemporaryDirectory(prefix="flagai-") as name, requests or Requests() as requests:
        shared = Path(name)
        agent = [*PYTHON, "-m", "flagai.parallel.agent", str(os.getpid()), *_arguments(launch, place, shared)]
        process = subprocess.Popen(
            agent, env=_environment(launch, place, shared), stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _wait(process, shared, requests, launch, say)
        finally:
            # If something threw this process out of its wait: the others end with the agent.
            process.kill()
            process.wait()
        return ended(shared, process.returncode, asked=requests.asked)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The meeting point as seen from here."""

    endpoint: str
    here: bool
    address: str | None
    """of this machine, as the others see it"""


def _meeting_point(launch: Launch) -> _Place:
    if launch.nodes == 1:
        return _Place(endpoint="localhost:0", here=True, address=None)
    host, port = split_endpoint(launch.endpoint, where=_WHERE)
    here = is_here(host) if launch.hosts_endpoint is None else launch.hosts_endpoint
    if (address := address_towards(host)) is None:
        raise ConfigError(
            f"no way leads from here to {host!r}",
            where=_WHERE,
            expected="a name or an address that every machine of the run can reach",
            fix="give the address of the first machine",
        )
    if here:
        check_free(port, where=_WHERE, fix=f"end the other run, or take another port: {host}:{port + 1}")
    return _Place(endpoint=f"{host}:{port}", here=here, address=address)


def _arguments(launch: Launch, place: _Place, shared: Path) -> list[str]:
    """Those of torchrun. All but the first process of a machine speak into files."""
    silent = ",".join(f"{i}:3" for i in range(1, launch.processes))
    seconds = f"{max(1, round(launch.patience))}"
    settings = {"is_host": int(place.here), "join_timeout": seconds, "timeout": seconds, "read_timeout": seconds}
    return [
        f"--nnodes={launch.nodes}",
        f"--nproc-per-node={launch.processes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={place.endpoint}",
        f"--rdzv-id={launch.name}",
        f"--rdzv-conf={','.join(f'{key}={value}' for key, value in settings.items())}",
        f"--max-restarts={launch.restarts}",
        f"--log-dir={shared / 'log'}",
        *([f"--redirects={silent}"] if silent else []),
        *([f"--local-addr={place.address}"] if place.address else []),
        "--no-python",
        *PYTHON,
        "-m",
        "flagai.parallel.worker",
        *launch.command,
    ]


def _environment(launch: Launch, place: _Place, shared: Path) -> dict[str, str]:
    """That of this process; what the user has set stays."""
    made = {
        # Several processes with a thread for every core each would take turns at the cores.
        "OMP_NUM_THREADS": str(max(1, _cores() // launch.processes)),
        "PYTHONUNBUFFERED": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if place.address is not None and (interface := interface_of(place.address)) is not None:
        # Otherwise both libraries take the interface that the machine's own name leads to, which may be the loopback.
        made |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return made | dict(os.environ) | {worker.FOLDER: str(shared)}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _wait(process: subprocess.Popen[Any], shared: Path, requests: Requests, launch: Launch, say: Say) -> None:
    """Until the agent ends: passes a request to stop on to the processes, and tells of restarts."""
    seen = 0
    while process.poll() is None:
        if requests.insisted:
            raise KeyboardInterrupt
        if requests.asked:
            _stop(shared)
        now = max((row["attempt"] for row in worker.processes(shared)), default=0)
        if now > seen and not requests.asked:
            say(f"{cause_of_restart(shared, now - 1)}\nrestart {now} of {launch.restarts}")
        seen = max(seen, now)
        time.sleep(_LOOK)


def _stop(shared: Path) -> None:
    """Ask each process once to stop; those that have not begun find the word when they do."""
    (shared / worker.STOP).touch()
    rows = worker.processes(shared)
    now = max((row["attempt"] for row in rows), default=0)
    # Those of earlier attempts have ended, and their numbers may be other programs' by now.
    for number in (row["pid"] for row in rows if row["attempt"] == now):
        asked = shared / f"asked-{number}"
        if not asked.exists():
            asked.touch()
            try:
                os.kill(number, signal.SIGTERM)
            except ProcessLookupError:
                continue  # it has ended by itself
