"""A kill reaches everything that a command has started, sessions of its own or not."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from flagai.verify import processes
from flagai.verify.processes import Command, ended_together

PARENT = """
import subprocess, sys, time
child = "import os, pathlib, time; pathlib.Path(os.environ['WHERE']).write_text(str(os.getpid())); time.sleep(60)"
subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
print("started")
time.sleep(60)
"""


def started(tmp_path: Path) -> tuple[Command, int]:
    child = tmp_path / "child"
    command = Command([sys.executable, "-S", "-c", PARENT], log=tmp_path / "log", environment={"WHERE": str(child)})
    end = time.monotonic() + 20
    while not child.is_file() or not child.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    return command, int(child.read_text())


def living(number: int) -> bool:
    """Not counting what is dead and only not yet waited for."""
    status = Path(f"/proc/{number}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find them")
def test_a_worker_in_a_session_of_its_own_dies_too(tmp_path: Path) -> None:
    command, child = started(tmp_path)
    assert living(child) and command.code() is None
    command.kill()
    assert not living(child)
    assert command.code() == -9


def test_without_the_mark_it_would_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, child = started(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "_marked", lambda mark: [])
        command.kill()
        assert living(child)
    command.kill()
    assert not living(child)


def test_the_end_and_the_words_of_a_command(tmp_path: Path) -> None:
    command = Command([sys.executable, "-S", "-c", "print('好'); raise SystemExit(3)"], log=tmp_path / "log")
    end = time.monotonic() + 20
    while command.code() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert command.code() == 3 and command.output() == "好"
    command.kill()


def test_sigterm_ends_what_was_started(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ended_together():
        command, child = started(tmp_path)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            command.kill()
    assert ended.value.code == 143 and not living(child)
    assert signal.getsignal(signal.SIGTERM) is before
