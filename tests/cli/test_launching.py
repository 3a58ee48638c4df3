"""`flagai train` for several processes: when it starts others, with which words, and how their end becomes its own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from flagai.cli import ending, launching
from flagai.cli.launching import Machines, needs_launch
from flagai.cli.train import _again, _speaks
from flagai.config import load_config
from flagai.errors import ConfigError, DataError
from flagai.parallel import worker
from flagai.parallel.endings import Ended
from flagai.parallel.launch import PYTHON, Launch

RUN = {"model": "m", "task": "classification", "data": {"train": "a.jsonl"}, "train": {"device": "cpu"}}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of a launcher from outside."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", worker.FOLDER, worker.AGENT, "FLAGAI_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list:
    """What would have been started; all of it ends well."""
    seen: list = []

    def note(*arguments, **options) -> Ended:
        seen.append((*arguments, options))
        return Ended(kind="done")

    monkeypatch.setattr(launching, "start", note)
    monkeypatch.setattr(launching, "start_on", note)
    return seen


def config(**parallel):
    return load_config({**RUN, "parallel": parallel})


def write_run(folder: Path, text: str = "") -> Path:
    path = folder / "run.yaml"
    path.write_text(json.dumps(RUN | {"parallel": {"strategy": "ddp", "processes": 2}}) + text, encoding="utf-8")
    return path


# -- when ----------------------------------------------------------------------------------------------------------


def test_one_process_starts_no_other() -> None:
    assert not needs_launch(config(), Machines())
    assert needs_launch(config(strategy="ddp"), Machines())


def test_a_process_that_was_started_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not needs_launch(config(strategy="ddp"), Machines())


@pytest.mark.parametrize("machines", [Machines(nnodes=2), Machines(hostfile=Path("hosts"))])
def test_several_machines_need_a_strategy(machines: Machines) -> None:
    with pytest.raises(ConfigError, match=r"several machines are asked for, but the strategy is one process"):
        needs_launch(config(), machines)


# -- with which words ----------------------------------------------------------------------------------------------


def test_each_process_runs_the_same_words(cli, tmp_path: Path, started: list) -> None:
    path = write_run(tmp_path)
    spoken = cli("train", path, "train.max_steps=3", "--max-restarts", 2, "--fresh", "--offline")
    assert (spoken.code, spoken.out, spoken.err) == (0, "", "starting ddp: 2 processes\n")
    words = (*PYTHON, "-m", "flagai", "train", str(path), "train.max_steps=3", "--fresh", "--offline")
    assert started[0][0] == Launch(command=words, processes=2, restarts=2)


def test_several_machines_by_a_meeting_point(cli, tmp_path: Path, started: list) -> None:
    path = write_run(tmp_path)
    spoken = cli("train", path, "--nnodes", 2, "--node-rank", 1, "--rdzv", "n1:5")
    assert spoken.code == 0 and "2 processes here; 2 machines meet at n1:5" in spoken.err
    made = started[0][0]
    assert (made.nodes, made.endpoint, made.hosts_endpoint, made.processes) == (2, "n1:5", False, 2)


def test_several_machines_by_a_hostfile(cli, tmp_path: Path, started: list) -> None:
    path, hosts = write_run(tmp_path), tmp_path / "hosts"
    hosts.write_text("n1 slots=2\nn2 slots=2\nn3 slots=2\n")
    spoken = cli("train", path, "--hostfile", hosts, "--nnodes", 2, "--ssh", "rsh {host}")
    assert spoken.code == 0 and "2 on n1, 2 on n2\n" in spoken.err
    taken, made, _, options = started[0]
    assert [host.name for host in taken] == ["n1", "n2"] and made.nodes == 2 and options == {"shell": "rsh {host}"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--nnodes", "2"], "nothing says where the machines meet"),
        (["--rdzv-endpoint", "n1:5"], "a meeting point or a node rank is given for one machine"),
        (["--node-rank", "1"], "a meeting point or a node rank is given for one machine"),
        (["parallel.tensor=3"], "cannot be cut into groups"),
        (["--hostfile", "hosts", "--nnodes", "9"], "names 1 machines"),
        (["--hostfile", "hosts"], "the hostfile has n1 slots=4"),
        (["--hostfile", "none"], "there is no such hostfile"),
    ],
)
def test_words_that_cannot_be_meant(
    words: list[str], found: str, cli, tmp_path: Path, started: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path)
    Path("hosts").write_text("n1 slots=4\n")
    spoken = cli("train", "run.yaml", *words)
    assert spoken.code in (1, 2) and found in spoken.err, spoken
    assert started == []


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "code", "shown"),
    [
        (Ended(kind="failed", text="rank 1: bad", code=2), 2, "flagai: rank 1: bad\n"),
        (Ended(kind="follower", text="rank 0: broke", code=1), 1, "flagai: rank 0: broke\n"),
        (Ended(kind="stopped", text="the same command continues a", code=1), 1, "interrupted\n  the same command"),
    ],
)
def test_the_end_of_all_is_that_of_the_verb(
    ended: Ended, code: int, shown: str, cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "start", lambda *arguments: ended)
    spoken = cli("train", write_run(tmp_path))
    assert spoken.code == code and shown in spoken.err


def test_processes_started_again_continue_also_what_began_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = load_config({**RUN, "train": {"resume": False}})
    assert _again(fresh).train.resume is False
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert _again(fresh).train.resume == "auto"
    assert _again(load_config({**RUN, "train": {"resume": True}})).train.resume is True


def test_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _speaks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, speaks in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert _speaks() is speaks


class Left(Exception):
    """In place of the end of the process."""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in a process that a launcher has started; its end is an exception."""
    monkeypatch.setenv(worker.FOLDER, str(tmp_path))

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(ending.os, "_exit", leave)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "code", "kind", "text"),
    [
        (DataError("bad", where="a:1"), 1, "error", "a:1: bad"),
        (ConfigError("bad"), 1, "error", "bad"),
        (ending.Stopped("again"), 0, "stopped", "again"),
        (KeyboardInterrupt(), 0, "stopped", ""),
        (RuntimeError("Connection closed by peer"), 1, "follower", "the connection to the other processes broke"),
    ],
)
def test_a_process_leaves_its_end_to_its_launcher(
    error: BaseException,
    code: int,
    kind: str,
    text: str,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from flagai.cli import app as module

    def fail() -> None:
        raise error

    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(Left) as left:
        ending.main()
    assert left.value.args == (code,)
    (found,) = worker.reports(shared)
    assert (found.kind, found.text.startswith(text)) == (kind, True)
    assert capsys.readouterr().err == "", "the launcher shows it"


# -- the whole way -------------------------------------------------------------------------------------------------

SETTINGS = ["train.max_steps=24", "train.batch_size=8", "train.save_steps=4", "train.eval_steps=12", "train.device=cpu"]


def command(folder: Path, model: Path, output: str, *words: str) -> list[str]:
    """A run of two processes, as typed."""
    run = [f"model={model}", f"output={folder / output}", f"data.train={folder}/train.jsonl"]
    run += [f"data.eval={folder}/dev.jsonl", "parallel.strategy=ddp", *SETTINGS]
    (folder / "run.yaml").write_text(json.dumps({"task": "classification", **{k: RUN[k] for k in ("model", "data")}}))
    return [*PYTHON, "-m", "flagai", "train", str(folder / "run.yaml"), *run, *words]


def weights(folder: Path) -> dict:
    return load_file(folder / "final/model.safetensors")


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def processes_of(output: Path) -> list[int]:
    """The workers of a run: processes whose command names its folder, and that have a rank."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"output={output}".encode() in words and b"\0RANK=1\0" in variables:
            found.append(int(entry.name))
    return found


def wait_for_step(output: Path, step: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 400
    while not (output / f"checkpoints/step-{step}/MANIFEST.json").is_file():
        assert process.poll() is None, process.returncode
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.proof
def test_a_killed_process_costs_nothing_but_time(reviews: Path, tiny_bert: Path) -> None:
    """kill -9 of one process in the midst: the agent starts both again, and the weights are those of a quiet run."""
    two = "parallel.processes=2"
    subprocess.run(command(reviews, tiny_bert, "quiet", two), check=True, timeout=500)
    killed = reviews / "killed"
    process = subprocess.Popen(
        command(reviews, tiny_bert, "killed", two, "--max-restarts", "1", "--fresh"), stderr=subprocess.PIPE, text=True
    )
    wait_for_step(killed, 4, process)
    for number in processes_of(killed):
        os.kill(number, signal.SIGKILL)
    assert process.stderr is not None
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert "restart 1 of 1" in said and "rank 1 was ended by signal 9" in said, said
    assert "continuing" in said
    assert same(weights(reviews / "quiet"), weights(killed))


@pytest.mark.proof
@pytest.mark.skipif(sys.platform != "linux", reason="needs network namespaces")
def test_two_machines_by_hostfile_and_by_meeting_point(reviews: Path, tiny_bert: Path) -> None:
    """Both train, are stopped in the midst, and continue to the weights of one machine with two processes."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))
    from two_machines import ADDRESSES, two_machines, why_not

    if reason := why_not():
        pytest.skip(reason)
    subprocess.run(command(reviews, tiny_bert, "one", "parallel.processes=2"), check=True, timeout=500)
    hosts = reviews / "hosts"
    hosts.write_text("".join(f"{address} slots=1\n" for address in ADDRESSES))
    with two_machines() as shell:
        by_hostfile = command(reviews, tiny_bert, "hostfile", "--hostfile", str(hosts), "--ssh", shlex.join(shell))
        stop_and_continue([by_hostfile], reviews / "hostfile")
        meeting = ["parallel.processes=1", "--nnodes", "2", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500"]
        typed = command(reviews, tiny_bert, "meeting", *meeting)
        on_both = [[word.replace("{host}", a) for word in shell] + typed for a in ADDRESSES]
        stop_and_continue(on_both, reviews / "meeting")
    for output in ("hostfile", "meeting"):
        assert same(weights(reviews / "one"), weights(reviews / output)), output


def stop_and_continue(commands: list[list[str]], output: Path) -> None:
    """SIGTERM to one launcher after some steps; then all of them again."""
    first = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for words in commands]
    try:
        wait_for_step(output, 4, first[0])
        first[-1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=400)[1] for process in first]
    finally:
        for process in first:
            process.kill()
    assert [process.returncode for process in first] == [1] * len(first), said
    assert all("interrupted" in text for text in said), said
    again = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for words in commands]
    try:
        told = [process.communicate(timeout=400)[1] for process in again]
    finally:
        for process in again:
            process.kill()
    assert [process.returncode for process in again] == [0] * len(again), told
    assert any("continuing" in text for text in told), told
