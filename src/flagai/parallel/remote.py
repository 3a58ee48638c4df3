"""Starts a run on several machines from one of them, over ssh or what the user has instead. Knows no training."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from flagai.errors import ConfigError
from flagai.parallel.addresses import free_port, is_here, split_endpoint
from flagai.parallel.endings import Ended
from flagai.parallel.hostfile import Host
from flagai.parallel.launch import PYTHON, Launch, Say, start
from flagai.parallel.node import MARK, STOP, job
from flagai.parallel.requests import Requests
from flagai.parallel.surroundings import PORT

SSH: Final = "ssh -o BatchMode=yes -o ConnectTimeout=15 {host}"
"""how a command is run on another machine; the command follows"""
_FORWARDED: Final = ("FLAGAI_", "GLOO_", "NCCL_", "TORCH_", "HF_", "TRANSFORMERS_", "OMP_", "PYTHONPATH")
_GRACE: Final = 30.0
"""seconds that the other machines have to end by themselves when one has failed"""
_LOOK: Final = 0.2
_LAST_LINES: Final = 10


def start_on(hosts: Sequence[Host], launch: Launch, say: Say, *, shell: str = SSH) -> Ended:
    """Run on all machines of a hostfile, with as many processes on each as it has slots.

    All need this working folder and this Python under the same paths, as on a shared file system.

    Args:
        launch: the command; its `processes`, `nodes`, `name` and `hosts_endpoint` are set here.
        say: shows a line.
        shell: words that run a command on the machine `{host}`.

    Raises:
        ConfigError: no address for the machines to meet.
        KeyboardInterrupt: the second request to stop.
    """
    if len(hosts) == 1 and is_here(hosts[0].name):
        return start(replace(launch, processes=hosts[0].slots), say)
    launch = replace(launch, nodes=len(hosts), name=uuid.uuid4().hex, endpoint=_endpoint(hosts, launch))
    with Requests() as requests:
        machines: list[_Machine] = []
        try:
            for i, host in enumerate(hosts):
                machines.append(
                    _Machine(host, replace(launch, processes=host.slots, hosts_endpoint=i == 0), shell, say)
                )
            _wait(machines, requests, launch.patience)
        finally:
            for machine in machines:
                machine.close()
        return _first([machine.ended() for machine in machines], asked=requests.asked)


def _endpoint(hosts: Sequence[Host], launch: Launch) -> str:
    first = hosts[0].name
    if launch.endpoint:
        host, port = split_endpoint(launch.endpoint, where="--rdzv-endpoint")
        return f"{host}:{port}"
    if len(hosts) > 1 and first in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError(
            f"the first machine is {first!r}, where the others cannot reach it",
            where="hostfile",
            expected="a name or an address that all machines know",
            fix="write this machine's name or address there",
        )
    port = os.environ.get("MASTER_PORT") or (free_port() if is_here(first) else PORT)
    return f"{first}:{port}"


def _wait(machines: Sequence[_Machine], requests: Requests, patience: float) -> None:
    """Until all have ended; where one fails, the others get some seconds to say so too."""
    began, failed = time.monotonic(), 0.0
    while any(machine.runs() for machine in machines):
        now = time.monotonic()
        if requests.insisted:
            raise KeyboardInterrupt
        for machine in machines:
            if requests.asked:
                machine.stop()
            if machine.is_silent() and machine.runs() and now - began > patience:
                machine.give_up(patience)
        if not failed and any(machine.failed() for machine in machines):
            failed = now
        # A machine that was never reached leaves the others waiting for it.
        grace = 0.0 if any(machine.failed() and machine.is_silent() for machine in machines) else _GRACE
        if failed and now - failed > grace:
            return
        time.sleep(_LOOK)


def _first(ends: Sequence[Ended], *, asked: bool) -> Ended:
    """Of the ends on all machines the one to tell."""
    stopped = [end for end in ends if end.kind == "stopped"]
    if (asked or stopped) and not any(end.kind == "failed" for end in ends):
        return max(stopped, key=lambda end: len(end.text), default=Ended(kind="stopped", code=1))
    order = {"failed": 0, "follower": 1, "stopped": 2, "done": 3}
    return min(ends, key=lambda end: (order[end.kind], end.time))


class _Machine:
    """One machine of the run: the process that reaches it, and what it says."""

    def __init__(self, host: Host, launch: Launch, shell: str, say: Say) -> None:
        self.host, self._say = host, say
        self._here, self._ended, self._asked, self._closed = threading.Event(), None, False, False
        self._said: deque[str] = deque(maxlen=_LAST_LINES)
        self._words = command(host.name, shell)
        self._process: subprocess.Popen[str] = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._send(job(launch, directory=str(Path.cwd()), environment=forwarded()))
        self._readers = [
            threading.Thread(target=read, args=(pipe,), daemon=True)
            for read, pipe in ((self._hear, self._process.stdout), (self._overhear, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def runs(self) -> bool:
        return self._process.poll() is None

    def is_silent(self) -> bool:
        """Whether nothing was heard from it so far."""
        return not self._here.is_set()

    def failed(self) -> bool:
        return not self.runs() and self.ended().kind in ("failed", "follower")

    def stop(self) -> None:
        """Ask its processes to stop, once."""
        if not self._asked:
            self._asked = True
            self._send(f"{STOP}\n")

    def give_up(self, seconds: float) -> None:
        """End the connection of a machine that said nothing for so long."""
        self._said.append(f"nothing, for {seconds:g} seconds")
        self.close()
        self._closed = False  # it did not end with the others: they wait for it

    def close(self) -> None:
        """End the connection, and with it the processes at its other end."""
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                stdin.close()
        self._closed = self._closed or self.runs()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader, pipe in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(5)
            if pipe is not None and not reader.is_alive():
                pipe.close()

    def ended(self) -> Ended:
        """How it ended, by its own word or by the end of the connection."""
        for reader in self._readers:
            reader.join(5)
        if self._ended is not None:
            return self._ended
        if self._closed:
            return Ended(kind="follower", text=f"{self.host.name}: ended with the others", code=1, time=time.time())
        found = "the connection ended" if self._here.is_set() else "this machine does not answer"
        lines = [f"{self.host.name}: {found}", *(f"  it said: {line}" for line in self._said)]
        return Ended(
            kind="failed", text="\n".join([*lines, f"  to do: try it by hand: {shlex.join(self._words)}"]), code=1
        )

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; `ended` says how
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _hear(self, pipe: IO[str]) -> None:
        for line in pipe:
            # A process that ended within a line of its own leaves the mark in the middle.
            text, mark, word = line.partition(MARK)
            if text:
                sys.stdout.write(text + "\n" if mark else text)
                sys.stdout.flush()
            if mark:
                self._understand(json.loads(word))

    def _understand(self, word: dict[str, Any]) -> None:
        if "here" in word:
            self._here.set()
        elif "say" in word:
            self._say(f"{self.host.name}: {word['say']}")
        elif "ended" in word:
            self._ended = Ended(**word["ended"])

    def _overhear(self, pipe: IO[str]) -> None:
        """What ssh itself says before the machine is reached is told with its error, if there is one."""
        for line in pipe:
            if self._here.is_set():
                sys.stderr.write(line)
                sys.stderr.flush()
            else:
                self._said.append(line.rstrip())


def command(host: str, shell: str) -> list[str]:
    """The words that start a node there; on this machine without a shell.

    Raises:
        ConfigError: the shell does not say where the name of the machine goes.
    """
    node = [*PYTHON, "-m", "flagai.parallel.node"]
    if is_here(host):
        return node
    if "{host}" not in shell:
        raise ConfigError(
            f"the words {shell!r} do not say where the name of the machine goes",
            where="--ssh",
            expected="{host} somewhere in it",
            fix=f"for instance: {SSH}",
        )
    words = [word.replace("{host}", host) for word in shlex.split(shell)]
    if shutil.which(words[0]) is None:
        raise ConfigError(
            f"there is no program {words[0]!r} here",
            where="--ssh",
            expected="words that run a command on another machine",
            fix=f"install it, or give other words by --ssh; default: {SSH}",
        )
    # ssh joins its words, and the shell at the other end takes them apart again.
    over_ssh = Path(words[0]).name == "ssh"
    return words + ([shlex.quote(word) for word in node] if over_ssh else node)


def forwarded() -> dict[str, str]:
    """The variables of this process that the processes on other machines need too."""
    return {name: value for name, value in os.environ.items() if name.startswith(_FORWARDED)}
