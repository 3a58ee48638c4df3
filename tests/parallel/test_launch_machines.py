"""Several machines: their file, the words that reach them, those that do not answer, and what each of them does."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from flagai.errors import ConfigError, MissingFileError
from flagai.parallel import launch, remote
from flagai.parallel.addresses import free_port
from flagai.parallel.endings import Ended
from flagai.parallel.hostfile import Host, read_hostfile
from flagai.parallel.launch import Launch, start

pytestmark = pytest.mark.usefixtures("no_launcher")


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
