"""The caches of compiled kernels are bounded, in time and in truth, and what the user set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flagai.parallel.memory import bound_kernel_caches
from flagai.parallel.native import SingleProcess

_NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def test_what_the_user_says_stays() -> None:
    environ = {_NAMES[0]: "7", "PATH": "/bin"}
    bound_kernel_caches(environ)
    assert environ.pop(_NAMES[0]) == "7" and environ.pop("PATH") == "/bin"
    assert list(environ) == [_NAMES[1]] and 0 < int(environ[_NAMES[1]]) < 1024


def test_a_strategy_on_the_cpu_bounds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # both, so that the value of before comes back
    SingleProcess(device="cpu")
    assert all(name in os.environ for name in _NAMES)
    monkeypatch.undo()


_GROWTH = """
import ctypes, sys, torch
from flagai.parallel.memory import bound_kernel_caches

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ord small maps mapped us fs used free keep".split()]

heap = ctypes.CDLL(None).mallinfo2
heap.restype = Heap
torch.set_num_threads(1)
if sys.argv[1] == "bounded":
    bound_kernel_caches()
weights = torch.randn(64, 64, dtype=torch.bfloat16)
used = []
for tokens in range(32, 32 + 400):
    torch.nn.functional.linear(torch.zeros(tokens, 64, dtype=torch.bfloat16), weights)
    if tokens in (32 + 150, 32 + 399):
        used.append(heap().used)
sys.stdout.write(str(used[1] - used[0]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc how much is in use")
def test_new_shapes_stop_costing_memory_once_the_caches_are_full() -> None:
    def grown(how: str) -> int:
        environ = {name: value for name, value in os.environ.items() if name not in _NAMES}
        command = [sys.executable, "-c", _GROWTH, how]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if "mallinfo2" in done.stderr:
            pytest.skip("another C library, or one older than glibc 2.33")
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    free = grown("free")
    if free < 1_000_000:
        pytest.skip("this processor's bf16 products compile no kernels")
    assert grown("bounded") < free / 4
