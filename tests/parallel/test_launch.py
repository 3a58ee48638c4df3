"""Processes that are started, watched, started again, stopped, and with which arguments; how many there are."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flagai.config import load_config
from flagai.errors import ConfigError
from flagai.parallel import launch, worker
from flagai.parallel.addresses import address_towards, check_free, free_port, interface_of, is_here, split_endpoint
from flagai.parallel.launch import Launch, start
from flagai.parallel.wanted import is_single, processes_here

pytestmark = pytest.mark.usefixtures("no_launcher")
SCRIPT = Path(__file__).with_name("world_script.py")


def script(mode: str, folder: Path) -> tuple[str, ...]:
    return sys.executable, str(SCRIPT), mode, str(folder)


# -- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_process_brings_all_back_and_the_first_error_is_shown_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    end = start(Launch(command=script("killed-then-error", tmp_path), processes=2, restarts=1), said.append)
    assert len(said) == 1 and said[0].startswith("rank 1 ") and said[0].endswith("\nrestart 1 of 1"), said
    assert {path.name for path in tmp_path.glob("began-*")} == {"began-0-0", "began-0-1", "began-1-0", "began-1-1"}
    assert (end.kind, end.text, end.code) == ("failed", "rank 1: train.jsonl:3: the cause", 1)
    shown = capfd.readouterr().err
    assert "Traceback" not in shown and "closed by peer" not in shown, shown


@pytest.mark.proof
def test_a_killed_process_brings_all_back_to_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    assert start(Launch(command=script("killed-once", tmp_path), processes=2, restarts=1), said.append).kind == "done"
    assert len(said) == 1


@pytest.mark.proof
def test_a_process_that_says_nothing_is_quoted(tmp_path: Path) -> None:
    end = start(Launch(command=script("exit", tmp_path), processes=2), lambda text: None)
    assert end.kind == "failed"
    assert end.text.splitlines() == ["rank 1 ended with exit code 3", "  it said last:", "  oh dear"]


LAUNCHER = """
import sys
from flagai.parallel.launch import Launch, start
ended = start(Launch(command=tuple(sys.argv[1:]), processes=2), print)
print(ended.kind, ended.text)
"""


def launcher(folder: Path) -> subprocess.Popen[str]:
    """A launcher in a process of its own, once both of its processes work."""
    words = [sys.executable, "-c", LAUNCHER, *script("stop", folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(folder.glob("working-*"))) == 2, process)
    return process


def wait_for(condition, process: subprocess.Popen[str] | None = None, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        assert process is None or process.poll() is None, "the launcher ended"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_request_to_stop_reaches_the_processes(tmp_path: Path) -> None:
    process = launcher(tmp_path)
    try:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert out == "stopped the same command continues\n"


@pytest.mark.proof
def test_nothing_outlives_a_killed_launcher(tmp_path: Path) -> None:
    process = launcher(tmp_path)
    numbers = [int(path.read_text()) for path in tmp_path.glob("began-*")]
    assert len(numbers) == 2 and all(map(runs, numbers))
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not any(map(runs, numbers)), seconds=30)


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]


def test_only_processes_of_now_are_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of one that ended may be another program's."""
    for attempt, rank, number in ((0, 0, 101), (0, 1, 102), (1, 0, 103)):
        row = {"rank": rank, "pid": number, "attempt": attempt}
        (tmp_path / f"process-{attempt}-{rank}.json").write_text(json.dumps(row))
    asked: list[int] = []
    monkeypatch.setattr(launch.os, "kill", lambda number, _: asked.append(number))
    launch._stop(tmp_path)
    launch._stop(tmp_path)
    assert asked == [103]


# -- arguments -----------------------------------------------------------------------------------------------------


def test_the_arguments_of_the_agent(tmp_path: Path) -> None:
    here = Launch(command=("a", "b c"), processes=3)
    alone = launch._arguments(here, launch._meeting_point(here), tmp_path)
    assert alone[-2:] == ["a", "b c"] and "--no-python" in alone
    assert {"--nnodes=1", "--nproc-per-node=3", "--redirects=1:3,2:3", "--rdzv-endpoint=localhost:0"} <= set(alone)
    port = free_port()
    several = Launch(command=("a",), processes=1, nodes=2, endpoint=f"127.0.0.1:{port}", restarts=4, patience=7)
    words = launch._arguments(several, launch._meeting_point(several), tmp_path)
    assert {"--nnodes=2", "--max-restarts=4", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"} <= set(
        words
    )
    assert any("is_host=1,join_timeout=7" in word for word in words)
    assert not any(word.startswith("--redirects") for word in words)


def test_what_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    several = Launch(command=("a",), processes=64, nodes=2, endpoint=f"127.0.0.1:{free_port()}")
    made = launch._environment(several, launch._meeting_point(several), tmp_path)
    assert made["OMP_NUM_THREADS"] == "3"
    assert made[worker.FOLDER] == str(tmp_path)
    if sys.platform == "linux":
        assert made["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert launch._environment(several, launch._meeting_point(several), tmp_path)["OMP_NUM_THREADS"] == "1"


def test_a_port_in_use_is_found_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            start(Launch(command=("a",), processes=1, nodes=2, endpoint=f"127.0.0.1:{port}"), print)
        with pytest.raises(ConfigError, match="in use"):
            check_free(port, where="here", fix="")


def test_a_meeting_point_that_leads_nowhere() -> None:
    with pytest.raises(ConfigError, match=r"no way leads from here to 'no-such-host\.invalid'"):
        start(Launch(command=("a",), processes=1, nodes=2, endpoint="no-such-host.invalid:5"), print)


@pytest.mark.parametrize(
    ("text", "found"), [("a:5", ("a", 5)), ("a", ("a", 29500)), ("[::1]:7", ("::1", 7)), ("[::1]", ("::1", 29500))]
)
def test_endpoints(text: str, found: tuple[str, int]) -> None:
    assert split_endpoint(text, where="here") == found


@pytest.mark.parametrize("text", ["", ":5", "a:b", "a:70000", "a:-1"])
def test_endpoints_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        split_endpoint(text, where="here")


def test_names_of_this_machine() -> None:
    assert is_here("localhost") and is_here("127.0.0.1") and is_here(socket.gethostname())
    assert not is_here("no-such-host.invalid")
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert address_towards("no-such-host.invalid") is None


# -- how many ------------------------------------------------------------------------------------------------------

RUN = {"model": "m", "task": "classification", "data": {"train": "a.jsonl"}}


@pytest.mark.parametrize(
    ("parallel", "count"),
    [
        ({"strategy": "ddp"}, 1),
        ({"strategy": "ddp", "processes": 3}, 3),
        ({"strategy": "ddp", "tensor": 2, "pipeline": 2}, 4),
        ({"strategy": "fsdp", "shard": 2}, 2),
    ],
)
def test_processes_on_a_cpu(parallel: dict, count: int) -> None:
    config = load_config({**RUN, "parallel": parallel, "train": {"device": "cpu"}})
    assert processes_here(config) == count and not is_single(config)


def test_processes_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)

    def count(device: str, **parallel) -> int:
        given = {"strategy": "ddp", **parallel}
        return processes_here(load_config({**RUN, "parallel": given, "train": {"device": device}}))

    assert (count("auto"), count("cuda"), count("auto", processes=2), count("cpu", processes=8)) == (4, 4, 2, 8)
    assert count("cuda:1", processes=1) == 1
    with pytest.raises(ConfigError, match="there are 4 GPUs"):
        count("auto", processes=5)
    with pytest.raises(ConfigError, match=r"train\.device is 'cuda:1'"):
        count("cuda:1")


def test_one_process_and_several() -> None:
    assert is_single(load_config(RUN))
    with pytest.raises(ConfigError, match=r"parallel.processes is 2, but the strategy is one process"):
        is_single(load_config({**RUN, "parallel": {"processes": 2}}))
