"""Two machines on one: network namespaces joined by a cable, in a user namespace of their own that ends with them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("10.77.0.1", "10.77.0.2")
# A namespace is named by its address, so that the name of a machine is what leads to it, as on a real network.
SET_UP = """
set -e
mount -t tmpfs none /run
for i in 1 2; do ip netns add 10.77.0.$i; done
ip link add cable1 type veth peer name cable2
for i in 1 2; do
  ip link set cable$i netns 10.77.0.$i
  ip netns exec 10.77.0.$i ip addr add 10.77.0.$i/24 dev cable$i
  ip netns exec 10.77.0.$i ip link set cable$i up
  ip netns exec 10.77.0.$i ip link set lo up
done
echo ready
read end
"""


def why_not() -> str:
    """Why this machine cannot be two, "" if it can."""
    if missing := [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]:
        return f"needs {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "-rnm", "ip", "link", "add", "cable1", "type", "veth", "peer", "name", "cable2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return tried.stderr.strip()


@contextmanager
def two_machines() -> Iterator[list[str]]:
    """The words that run a command on the machine `{host}`, one of `ADDRESSES`."""
    keeper = subprocess.Popen(
        ["unshare", "-rnm", "bash", "-c", SET_UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n"
        inside = ["nsenter", "-t", str(keeper.pid), "-U", "-n", "-m", "--preserve-credentials"]
        yield [*inside, "ip", "netns", "exec", "{host}"]
    finally:
        keeper.communicate("end\n", timeout=30)
