"""What all processes agree on, how they meet, and what is said of those that are missing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from flagai.errors import ConfigError, OtherRankError, WorldError
from flagai.parallel import meeting, surroundings, worker, world
from flagai.parallel.addresses import free_port
from flagai.parallel.surroundings import Surroundings, find, first_host

SCRIPT = Path(__file__).with_name("world_script.py")

# -- one process ---------------------------------------------------------------------------------------------------


def test_one_process_needs_no_world() -> None:
    assert (world.rank(), world.size(), world.is_first(), world.any_of(True), world.any_of(False)) == (
        0, 1, True, True, False,
    )  # fmt: skip
    assert world.from_first({"a": (1, 2), "b": None}) == {"a": [1, 2], "b": None}
    with pytest.raises(TypeError):
        world.from_first(Path("a"))
    world.note("here")
    world.barrier("save step 1", timeout=0.01)
    world.raise_together(None)
    with pytest.raises(KeyError):
        world.raise_together(KeyError("a"))
    world.close()
    assert world.last_seen() == ""


def test_a_world_needs_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="does not know of others"):
        world.open_world(torch.device("cpu"))


# -- two processes, as Slurm would start them ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What `world_script.every_verb` saw in each of two processes with Slurm's variables."""
    folder = tmp_path_factory.mktemp("world")
    common = os.environ | {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "verbs", str(folder)],
            env=common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=240) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_agree(answers: list[dict]) -> None:
    assert [a["first"] for a in answers] == [True, False]
    for answer in answers:
        assert answer["size"] == 2
        assert answer["from_first"] == {"rank": 0, "text": "你好", "pair": [1, None]}
        assert answer["nothing"] == ""
        assert (answer["any_one"], answer["any_none"]) == (True, False)


@pytest.mark.slow
def test_an_error_on_any_process_is_an_error_on_all(answers: list[dict]) -> None:
    assert [a["first_fails"] for a in answers] == ["DataError: seen by 0", "OtherRankError: rank 0 stopped: seen by 0"]
    assert [a["both_fail"] for a in answers] == ["DataError: seen by 0", "DataError: seen by 1"]


@pytest.mark.slow
def test_the_last_word_of_a_process_is_read_by_the_others(answers: list[dict]) -> None:
    assert answers[0]["left"] == ["rank 1 stopped: left by 1"] * 2
    assert answers[1]["left"] == ["None", "None"], "its own word says nothing to itself"


@pytest.mark.slow
def test_a_barrier_says_who_is_missing_and_where(answers: list[dict]) -> None:
    first = answers[0]["late"].splitlines()[0]
    assert first.startswith("rank 1 did not come to 'save step 40': it was last seen at '")
    # The other one may have gone on to the next barrier meanwhile; it was certainly not at the earlier evaluation.
    assert first.endswith(("'evaluation at step 40'", "'both know'"))


# -- meeting -------------------------------------------------------------------------------------------------------


def place(rank: int, size: int = 2, **given) -> Surroundings:
    return Surroundings(by="Slurm", rank=rank, size=size, address="127.0.0.1", **given)


def test_a_missing_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_TIMEOUT", "0.1")
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    with pytest.raises(WorldError, match="ranks 1, 2 did not come"):
        meeting._open_round(store, place(0, 3))
    with pytest.raises(WorldError, match="rank 2 came, but others did not"):
        meeting._come(store, place(2, 3))


def test_a_first_process_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_TIMEOUT", "0.3")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    port = free_port()
    with pytest.raises(WorldError, match=f"127.0.0.1:{port}: rank 1 cannot reach the first process"):
        meeting._store(place(1, port=port))


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use") as caught:
            meeting._store(place(0, port=port))
        assert f"MASTER_PORT={port + 1}" in caught.value.fix


def test_nobody_says_where_the_first_process_is() -> None:
    with pytest.raises(ConfigError, match="MASTER_ADDR"):
        meeting._store(Surroundings(by="Open MPI", rank=1, size=2))


def test_a_second_meeting_in_the_same_store_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started again find what the ones before them left, and must not take it for the others'."""
    monkeypatch.setenv("FLAGAI_TIMEOUT", "20")
    store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    store.set_timeout(timedelta(seconds=20))

    def meet(late_first: bool) -> set[str]:
        tokens: list[str] = []
        other = threading.Thread(target=lambda: tokens.append(meeting._come(store, place(1))))
        first = threading.Thread(target=lambda: tokens.append(meeting._open_round(store, place(0))))
        for thread in (other, first) if late_first else (first, other):
            thread.start()
            thread.join(0.1)
        other.join(20)
        first.join(20)
        assert len(tokens) == 2
        return set(tokens)

    rounds = [meet(late_first) for late_first in (False, True, True)]
    assert [len(tokens) for tokens in rounds] == [1, 1, 1], "both come out with the same token"
    assert len(set.union(*rounds)) == 3


# -- what started this process -------------------------------------------------------------------------------------

SLURM = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7001"}


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
            Surroundings(by="torchrun", rank=1, size=2, local_rank=1, address="a", port=5),
        ),
        (
            SLURM | {"SLURM_STEP_NODELIST": "gpu[07-08,12]"},
            Surroundings(by="Slurm", rank=3, size=4, local_rank=1, address="gpu07", port=29501),
        ),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),  # one task: a machine of its own
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, None),  # the shell of an allocation
        (
            {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            Surroundings(by="Open MPI", rank=2, size=4),
        ),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MASTER_ADDR": "b"},
            Surroundings(by="MPI", rank=1, size=2, local_rank=1, address="b"),
        ),
        # torchrun under Slurm: its own word counts.
        (
            SLURM | {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "c"},
            Surroundings(by="torchrun", rank=0, size=1, address="c"),
        ),
    ],
)  # fmt: skip
def test_launchers_are_recognised(variables: dict[str, str], found: Surroundings | None) -> None:
    assert find(variables) == found


def test_what_is_found_is_said_in_the_words_of_torchrun() -> None:
    variables = SLURM | {"SLURM_JOB_NODELIST": "n5", "MASTER_PORT": "77"}
    surroundings.adopt(variables)
    assert {name: variables[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")} == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "n5", "MASTER_PORT": "77",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}])
def test_variables_that_cannot_be_meant(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="RANK"):
        find(wrong)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[007-009,12],x", "gpu007"), ("a[3]-ib,b", "a3-ib"), ("", "")],
)
def test_the_first_host_of_slurms_lists(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_wrong_timeout(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGAI_TIMEOUT", text)
    with pytest.raises(ConfigError, match="FLAGAI_TIMEOUT"):
        surroundings.patience()


# -- which errors follow from others -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "follows"),
    [
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("NCCL error in: remote process exited"), True),
        (dist.DistNetworkError("failed to recv, got 0 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("Connection closed by peer"), False),
        (WorldError("rank 1 did not come"), False),
        (OtherRankError("rank 1 stopped"), False),  # known by its class
    ],
)
def test_broken_connections_are_recognised(error: Exception, follows: bool) -> None:
    assert worker.is_broken(error) is follows
