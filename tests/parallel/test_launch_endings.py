"""What is told when a process of a launch fails, ends, is killed or is asked to stop."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from flagai.errors import ConfigError, DataError, OtherRankError, OutputError
from flagai.parallel import endings, worker
from flagai.parallel.agent import FAILURES
from flagai.parallel.endings import Ended, cause_of_restart, ended

pytestmark = pytest.mark.usefixtures("no_launcher")


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder between a launcher and its processes."""
    monkeypatch.setenv(worker.FOLDER, str(tmp_path))
    return tmp_path


def leave(monkeypatch: pytest.MonkeyPatch, rank: int, error: BaseException, attempt: int = 0) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
    worker.report(error)


def fail(shared: Path, *rows: tuple[int, int, float]) -> None:
    """As the agent leaves it: rank, exit code, time."""
    found = [{"rank": rank, "local_rank": rank, "code": code, "time": when} for rank, code, when in rows]
    (shared / FAILURES).write_text(json.dumps(found))


BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1\nframe #0: …")


def test_a_cause_comes_before_what_followed_from_it(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0, BROKEN)
    leave(monkeypatch, 2, OtherRankError("rank 1 stopped: bad"))
    leave(monkeypatch, 1, DataError("bad"))
    fail(shared, (0, 1, time.time()), (1, 1, time.time()), (2, 1, time.time()), (3, -signal.SIGTERM, time.time()))
    end = ended(shared, 1, asked=False)
    assert (end.kind, end.text, end.code) == ("failed", "rank 1: bad", 1)


def test_what_all_say_is_said_without_a_rank(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in (1, 0):
        leave(monkeypatch, rank, ConfigError("unknown task"))
    assert ended(shared, 1, asked=False).text == "unknown task"
    assert ended(shared, 1, asked=False).code == 2


def test_a_killed_process_is_the_cause_of_broken_connections(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0, BROKEN)
    fail(shared, (0, 1, time.time()), (1, -signal.SIGKILL, time.time()))
    text = ended(shared, 1, asked=False).text
    assert text.startswith("rank 1 was ended by signal 9 (SIGKILL)") and "memory" in text


def test_a_process_killed_long_after_an_error_is_not_its_cause(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent kills what does not end by itself after half a minute."""
    leave(monkeypatch, 0, ValueError("bug"))
    fail(shared, (0, 1, time.time()), (1, -signal.SIGKILL, time.time() + 30))
    assert ended(shared, 1, asked=False).text == "rank 0: ValueError: bug"


def test_an_error_elsewhere_is_left_to_the_other_machine(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0, BROKEN)
    end = ended(shared, 1, asked=False)
    assert end.kind == "follower" and "frame #0" not in end.text
    assert end.text.startswith("rank 0: the connection to the other processes broke: [gloo")


def test_an_error_while_stopping_is_told(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(shared, 1, asked=True) == Ended(kind="stopped", code=1)
    worker.stopped("again")
    assert ended(shared, 0, asked=True).text == "again"
    leave(monkeypatch, 1, OutputError("the disk is full"))
    assert ended(shared, 1, asked=True).text == "rank 1: the disk is full"


def test_only_the_last_attempt_is_told(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0, DataError("first"), attempt=0)
    leave(monkeypatch, 0, DataError("second"), attempt=1)
    assert ended(shared, 1, asked=False).text == "rank 0: second"
    assert cause_of_restart(shared, 0) == "rank 0: first"


def test_why_processes_are_started_again(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in range(2):
        (shared / f"process-0-{rank}.json").write_text(json.dumps({"rank": rank, "pid": 70 + rank, "attempt": 0}))
    assert cause_of_restart(shared, 0) == "rank 0, 1 ended without a word"
    leave(monkeypatch, 0, BROKEN)
    assert cause_of_restart(shared, 0) == "rank 1 ended without a word"
    (shared / endings.LOG).write_text("failed (exitcode: -11) local_rank: 1 (pid: 71) of binary: python")
    assert cause_of_restart(shared, 0) == "rank 1 was ended by signal 11 (SIGSEGV)"


def test_what_the_user_has_to_mend_is_not_tried_again(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0, ConfigError("unknown task"), attempt=0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(SystemExit):
        worker.begin()
    assert [report.attempt for report in worker.reports(shared)] == [0, 1]


def test_a_process_that_begins_after_a_request_to_stop_ends(shared: Path) -> None:
    (shared / worker.STOP).touch()
    with pytest.raises(SystemExit) as caught:
        worker.begin()
    assert caught.value.code == 0


def test_without_a_launcher_nothing_is_left_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    worker.begin()
    worker.report(ValueError("a"))
    worker.stopped("b")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_that_fails_by_itself_is_quoted(shared: Path) -> None:
    (shared / endings.LOG).write_text("no such option")
    assert "no such option" in ended(shared, 1, asked=False).text
