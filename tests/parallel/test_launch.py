"""Processes that are started, watched, started again, stopped; and what is told when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from flagai.config import load_config
from flagai.errors import ConfigError, DataError, MissingFileError, OtherRankError, OutputError
from flagai.parallel import endings, launch, remote, worker
from flagai.parallel.addresses import address_towards, check_free, free_port, interface_of, is_here, split_endpoint
from flagai.parallel.agent import FAILURES
from flagai.parallel.endings import Ended, cause_of_restart, ended
from flagai.parallel.hostfile import Host, read_hostfile
from flagai.parallel.launch import Launch, start
from flagai.parallel.requests import Requests
from flagai.parallel.wanted import is_single, processes_here

SCRIPT = Path(__file__).with_name("world_script.py")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of a launcher from outside; tests on a busy machine wait for less."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", worker.FOLDER, worker.AGENT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLAGAI_TIMEOUT", "120")


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


# -- what is told --------------------------------------------------------------------------------------------------


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


# -- requests ------------------------------------------------------------------------------------------------------


def test_signals_of_one_moment_are_one_request() -> None:
    with Requests() as requests:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert (requests.asked, requests.insisted) == (True, False)
        requests._since -= 4
        signal.raise_signal(signal.SIGINT)
        assert requests.insisted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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


# -- several machines ----------------------------------------------------------------------------------------------


def test_a_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("# our machines\nnode1 slots=8\n\n  node2   slots = 4 # the old one\nnode3\n")
    assert read_hostfile(path) == [
        Host(name="node1", slots=8), Host(name="node2", slots=4), Host(name="node3", slots=1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a slots=2\na slots=3\n", "hostfile:2: a is named twice"),
        ("a slots=0\n", "hostfile:1: cannot be read"),
        ("a b slots=2\n", "hostfile:1: cannot be read"),
        ("-oProxyCommand=x slots=2\n", "hostfile:1: cannot be read"),
        ("# nothing\n", "no machine is named"),
    ],
)
def test_hostfiles_that_cannot_be_meant(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "hostfile"
    path.write_text(text)
    with pytest.raises(ConfigError, match=found):
        read_hostfile(path)
    with pytest.raises(MissingFileError):
        read_hostfile(tmp_path / "other")


def test_words_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    node = [*launch.PYTHON, "-m", "flagai.parallel.node"]
    monkeypatch.setattr(remote.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert remote.command("n1.invalid", "ip netns exec {host}") == ["ip", "netns", "exec", "n1.invalid", *node]
    assert remote.command("localhost", "ssh {host}") == node
    monkeypatch.setattr(remote, "PYTHON", ("/opt/a b/python", "-P"))
    assert remote.command("n1.invalid", "ssh -p 22 u@{host}")[:5] == [
        "ssh",
        "-p",
        "22",
        "u@n1.invalid",
        "'/opt/a b/python'",
    ]
    with pytest.raises(ConfigError, match="where the name of the machine goes"):
        remote.command("n1.invalid", "ssh")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="no program 'no-such-program'"):
        remote.command("n1.invalid", "no-such-program {host}")


def test_the_first_machine_must_be_known_to_the_others() -> None:
    hosts = [Host(name="localhost", slots=1), Host(name="n2", slots=1)]
    with pytest.raises(ConfigError, match="where the others cannot reach it"):
        remote.start_on(hosts, Launch(command=("a",), processes=1), print)


def test_a_machine_that_does_not_answer_ends_the_launch(tmp_path: Path) -> None:
    """The other one would wait for it; here it is a program that answers and waits."""
    shell = tmp_path / "shell"
    shell.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import sys, json
            if sys.argv[1] == "n2.invalid":
                sys.exit("n2: no route to host")
            sys.stdin.readline()
            print({remote.MARK!r} + json.dumps({{"here": True}}), flush=True)
            sys.stdin.read()
            """
        )
    )
    shell.chmod(0o755)
    hosts = [Host(name="n1.invalid", slots=1), Host(name="n2.invalid", slots=1)]
    began = time.monotonic()
    end = remote.start_on(hosts, Launch(command=("a",), processes=1), print, shell=f"{shell} {{host}}")
    assert time.monotonic() - began < 25, "it does not wait for the others"
    assert end.kind == "failed"
    assert end.text.splitlines()[:2] == ["n2.invalid: this machine does not answer", "  it said: n2: no route to host"]


def test_of_several_machines_the_cause_is_told() -> None:
    done, follows = Ended(kind="done"), Ended(kind="follower", text="broke", code=1, time=1.0)
    early, late = (Ended(kind="failed", text=text, code=1, time=when) for text, when in (("early", 2.0), ("late", 3.0)))
    assert remote._first([done, follows, late, early], asked=False) is early
    assert remote._first([done, follows], asked=False) is follows
    assert remote._first([done, done], asked=False) is done
    stopped = Ended(kind="stopped", text="again", code=1)
    assert remote._first([follows, stopped], asked=True) is stopped
    assert remote._first([late, stopped], asked=True) is late


def test_a_node_does_its_job_and_ends_with_its_input(tmp_path: Path) -> None:
    from flagai.parallel.node import MARK, job

    command = (
        sys.executable,
        "-c",
        "import os, time; print(os.getcwd(), os.environ['A_WORD'], flush=True); time.sleep(600)",
    )
    text = job(Launch(command=command, processes=1), directory=str(tmp_path), environment={"A_WORD": "你好"})
    process = subprocess.Popen(
        [*launch.PYTHON, "-m", "flagai.parallel.node"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watch = threading.Timer(120, process.kill)
    watch.start()
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(text)
        process.stdin.flush()
        assert process.stdout.readline() == f'{MARK}{{"here": true}}\n'
        assert process.stdout.readline() == f"{tmp_path} 你好\n"
        out, _ = process.communicate(timeout=60)  # closes its input
    finally:
        watch.cancel()
        process.kill()
    assert json.loads(out.removeprefix(MARK))["ended"]["kind"] == "stopped"


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


@pytest.mark.proof
@pytest.mark.parametrize(("here", "found"), [(True, "not all of 2 machines came"), (False, "nobody answers there")])
def test_machines_that_do_not_meet(here: bool, found: str) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    alone = Launch(
        command=("true",), processes=1, nodes=2, endpoint=endpoint, hosts_endpoint=here, patience=4, restarts=0
    )
    end = start(alone, lambda text: None)
    assert end.kind == "failed" and end.text.startswith(f"{endpoint}: {found}"), end


def fake_shell(folder: Path, script: str) -> str:
    """A program in the place of ssh, whose first argument is the machine."""
    shell = folder / "fake"
    shell.write_text(f"#!{sys.executable}\nimport json, sys, time\nMARK = {remote.MARK!r}\n{textwrap.dedent(script)}")
    shell.chmod(0o755)
    return f"{shell} {{host}}"


def test_a_machine_that_stays_silent_is_named(tmp_path: Path) -> None:
    script = """
    sys.stdin.readline()
    if sys.argv[1] == "n1.invalid":
        print(MARK + json.dumps({"here": True}), flush=True)
    sys.stdin.read()
    """
    hosts = [Host(name="n1.invalid", slots=1), Host(name="n2.invalid", slots=1)]
    quick = Launch(command=("a",), processes=1, patience=1.0)
    end = remote.start_on(hosts, quick, print, shell=fake_shell(tmp_path, script))
    lines = ["n2.invalid: this machine does not answer", "  it said: nothing, for 1 seconds"]
    assert (end.kind, end.text.splitlines()[:2]) == ("failed", lines)


def test_a_word_after_half_a_line_is_heard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = """
    sys.stdin.readline()
    print(MARK + json.dumps({"here": True}), flush=True)
    print("half a line", end="")
    print(MARK + json.dumps({"ended": {"kind": "done"}}), flush=True)
    """
    hosts = [Host(name="n1.invalid", slots=1)]
    end = remote.start_on(hosts, Launch(command=("a",), processes=1), print, shell=fake_shell(tmp_path, script))
    assert end.kind == "done"
    assert capsys.readouterr().out == "half a line\n"


def test_only_processes_of_now_are_asked_to_stop(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of one that ended may be another program's."""
    for attempt, rank, number in ((0, 0, 101), (0, 1, 102), (1, 0, 103)):
        row = {"rank": rank, "pid": number, "attempt": attempt}
        (shared / f"process-{attempt}-{rank}.json").write_text(json.dumps(row))
    asked: list[int] = []
    monkeypatch.setattr(launch.os, "kill", lambda number, _: asked.append(number))
    launch._stop(shared)
    launch._stop(shared)
    assert asked == [103]
