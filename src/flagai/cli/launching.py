"""Starts the processes of `flagai train` where a run asks for several. Knows no training: each runs the verb."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flagai.cli.ending import Failed, Stopped
from flagai.config import RunConfig
from flagai.errors import ConfigError
from flagai.parallel import surroundings
from flagai.parallel.endings import Ended
from flagai.parallel.hostfile import Host, read_hostfile
from flagai.parallel.launch import PYTHON, Launch, start
from flagai.parallel.remote import SSH, start_on
from flagai.parallel.wanted import is_single, processes_here, several_for_single

_PATIENCE = 600.0
"""seconds that machines wait for one another, unless FLAGAI_TIMEOUT says otherwise"""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The options of the verb that concern several machines.

    Args:
        nnodes: machines; None: one, or those of the hostfile.
        node_rank: 0 on the machine of the meeting point; None: found out by its name.
        endpoint: `host:port` where they meet.
        hostfile: file of lines `host slots=N`.
        restarts: how often processes are started again after one has ended with an error.
        ssh: words that run a command on `{host}`; "": those of ssh.
    """

    nnodes: int | None = None
    node_rank: int | None = None
    endpoint: str = ""
    hostfile: Path | None = None
    restarts: int = 0
    ssh: str = ""


def needs_launch(config: RunConfig, machines: Machines) -> bool:
    """Whether this process is to start others, and not one of them or alone.

    Raises:
        ConfigError: options that contradict one another, or the settings.
    """
    if surroundings.find() is not None:
        return False
    if not is_single(config):
        return True
    for name, given in (("--hostfile", machines.hostfile), ("--nnodes", (machines.nnodes or 1) > 1)):
        if given:
            raise several_for_single("several machines are asked for", where=name)
    return False


def launch(config: RunConfig, words: Sequence[str], machines: Machines) -> None:
    """Run `flagai` with these words in all processes of the run, to the end.

    Raises:
        ConfigError: settings or options that do not fit the machines.
        Stopped: on request.
        Failed: with the first error of any process.
    """
    hosts = _hosts(machines)
    here = processes_here(config) if hosts is None else 0
    nodes = len(hosts) if hosts else machines.nnodes or 1
    _check(config, hosts, here * nodes if hosts is None else sum(host.slots for host in hosts))
    planned = Launch(
        command=(*PYTHON, "-m", "flagai", *words),
        processes=here,
        nodes=nodes,
        endpoint=machines.endpoint,
        hosts_endpoint=None if machines.node_rank is None else machines.node_rank == 0,
        restarts=machines.restarts,
        patience=surroundings.patience(_PATIENCE),
    )
    _tell(_opening(config, planned, hosts))
    _settle(start(planned, _tell) if hosts is None else start_on(hosts, planned, _tell, shell=machines.ssh or SSH))


def _hosts(machines: Machines) -> list[Host] | None:
    """The machines of the hostfile, of which `--nnodes` takes the first; None where there is no hostfile."""
    if machines.hostfile is not None:
        hosts = read_hostfile(machines.hostfile)
        if machines.nnodes is not None and machines.nnodes > len(hosts):
            raise ConfigError(
                f"--nnodes is {machines.nnodes}, and {machines.hostfile} names {len(hosts)} machines",
                where="--nnodes",
                fix="leave --nnodes out: all machines of the hostfile are taken",
            )
        return hosts[: machines.nnodes]
    if (machines.nnodes or 1) > 1 and not machines.endpoint:
        raise ConfigError(
            f"--nnodes is {machines.nnodes}, and nothing says where the machines meet",
            where="--nnodes",
            expected="--rdzv-endpoint host:port, the same on all machines, or --hostfile on one of them",
            fix="give the address of one of the machines and a free port, for instance --rdzv-endpoint node1:29500",
        )
    if (machines.nnodes or 1) == 1 and (machines.endpoint or machines.node_rank):
        raise ConfigError(
            "a meeting point or a node rank is given for one machine",
            where="--rdzv-endpoint" if machines.endpoint else "--node-rank",
            expected="--nnodes, the number of machines",
            fix="give --nnodes too, or leave this out",
        )
    return None


def _check(config: RunConfig, hosts: list[Host] | None, total: int) -> None:
    from flagai.parallel.choose import sizes_of

    stated = config.parallel.processes
    if hosts is not None and stated is not None and any(host.slots != stated for host in hosts):
        raise ConfigError(
            f"parallel.processes is {stated}, and the hostfile has "
            + ", ".join(f"{host.name} slots={host.slots}" for host in hosts),
            where="parallel.processes",
            expected="the same number, or only one of the two",
            fix="take parallel.processes out: the slots of the hostfile are taken",
        )
    sizes_of(config.parallel, total)


def _opening(config: RunConfig, planned: Launch, hosts: list[Host] | None) -> str:
    if hosts is not None:
        places = ", ".join(f"{host.slots} on {host.name}" for host in hosts)
        return f"starting {config.parallel.strategy}: processes {places}"
    number = f"{planned.processes} process{'es' if planned.processes > 1 else ''}"
    if planned.nodes == 1:
        return f"starting {config.parallel.strategy}: {number}"
    return (
        f"starting {config.parallel.strategy}: {number} here; {planned.nodes} machines meet at {planned.endpoint}, "
        "and the one with rank 0 shows the progress"
    )


def _settle(ended: Ended) -> None:
    if ended.kind == "stopped":
        raise Stopped(ended.text)
    if ended.kind != "done":
        raise Failed(ended.text, ended.code)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
