"""How long training stands still for a checkpoint: flagai at once and in the background, `torch.save`, torch's DCP.

    python benchmarks/saving.py --rounds 3 --save

All save the same state: a model of BERT-base's shape (109 million parameters in fp32) and two AdamW moments of each.
`speed` is MiB of state in a second of standing still; `until_on_disk_s` is the time until the save is over.
flagai writes safetensors and a hash of every file, flushes and renames; `torch.save` does none of that by itself, and
is also measured with a flush. Each contender saves several times; its best save counts, the first included.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

Save = Callable[[Path], Callable[[], None]]
"""begins a save into a folder; what it gives ends it"""


def _trained(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """A placed model with moments of AdamW, as after some steps."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from flagai.parallel.native import SingleProcess

    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=arguments.layers)
    strategy = SingleProcess(device="cpu")
    model = strategy.place(BertForMaskedLM(config))
    optimizer = strategy.optimizer(lambda m: torch.optim.AdamW(m.parameters(), lr=1e-4, fused=True))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return strategy, optimizer


def _measure(arguments: argparse.Namespace, make: Callable[[Any, Any], Save]) -> dict[str, Any]:
    strategy, optimizer = _trained(arguments)
    size = sum(part.tensor.nbytes for part in strategy.parts())
    save = make(strategy, optimizer)
    blocked, whole = [], []
    for number in range(arguments.saves):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            began = time.perf_counter()
            end = save(Path(folder) / f"save-{number}")
            blocked.append(time.perf_counter() - began)
            end()
            whole.append(time.perf_counter() - began)
    return {
        "speed": size / 2**20 / min(blocked),
        "blocked_s": min(blocked),
        "first_blocked_s": blocked[0],
        "until_on_disk_s": min(whole),
        "state_mib": size / 2**20,
    }


def flagai(arguments: argparse.Namespace, *, asynchronous: bool) -> dict[str, Any]:
    from flagai.models.saved_form import describe_model
    from flagai.train.checkpoint import Saver
    from flagai.train.state import TrainState

    def make(strategy: Any, optimizer: Any) -> Save:
        savers: list[Saver] = []

        def save(folder: Path) -> Callable[[], None]:
            if not savers:
                describe = lambda inner: describe_model(strategy.model, inner)  # noqa: E731
                savers.append(Saver(folder, strategy, describe=describe, asynchronous=asynchronous))
            savers[0]._root = folder
            savers[0].save(TrainState(step=1), {})
            return savers[0].wait

        return save

    return _measure(arguments, make)


def torch_save(arguments: argparse.Namespace, *, flush: bool, hashed: bool = False) -> dict[str, Any]:
    import torch

    def make(strategy: Any, optimizer: Any) -> Save:
        def save(folder: Path) -> Callable[[], None]:
            folder.mkdir()
            file = folder / "state.pt"
            torch.save({"model": strategy.model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            with file.open("rb") as handle:
                if flush:
                    os.fsync(handle.fileno())
                if hashed:
                    hashlib.file_digest(handle, "sha256")
            return lambda: None

        return save

    return _measure(arguments, make)


def dcp(arguments: argparse.Namespace, *, asynchronous: bool) -> dict[str, Any]:
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.checkpoint.state_dict_saver import async_save
    from torch.distributed.checkpoint.state_dict_saver import save as save_now

    def make(strategy: Any, optimizer: Any) -> Save:
        def save(folder: Path) -> Callable[[], None]:
            model, moments = get_state_dict(strategy.model, optimizer)
            state = {"model": model, "optimizer": moments}
            if not asynchronous:
                save_now(state, checkpoint_id=str(folder))
                return lambda: None
            future: Any = async_save(state, checkpoint_id=str(folder))
            return lambda: future.result()

        return save

    with tempfile.TemporaryDirectory() as place:
        dist.init_process_group("gloo", store=dist.FileStore(f"{place}/store", 1), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
        with contextlib.closing(contextlib.ExitStack()) as stack:
            stack.callback(dist.destroy_process_group)
            return _measure(arguments, make)


CONTENDERS: dict[str, harness.Contender] = {
    "flagai, in the background": lambda a: flagai(a, asynchronous=True),
    "flagai, at once": lambda a: flagai(a, asynchronous=False),
    "torch.save": lambda a: torch_save(a, flush=False),
    "torch.save, flushed": lambda a: torch_save(a, flush=True),
    "torch.save, flushed and hashed": lambda a: torch_save(a, flush=True, hashed=True),
    "torch DCP": lambda a: dcp(a, asynchronous=False),
    "torch DCP, async_save": lambda a: dcp(a, asynchronous=True),
}
RATIOS = [
    ("flagai in the background / torch.save", "flagai, in the background", "torch.save"),
    ("flagai in the background / torch.save, flushed", "flagai, in the background", "torch.save, flushed"),
    ("flagai in the background / DCP async_save", "flagai, in the background", "torch DCP, async_save"),
    ("flagai at once / torch.save", "flagai, at once", "torch.save"),
    ("flagai at once / torch.save, flushed and hashed", "flagai, at once", "torch.save, flushed and hashed"),
    ("flagai at once / DCP", "flagai, at once", "torch DCP"),
]

if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--saves", type=int, default=4)
    options.add_argument("--folder", help="on the disk to be measured; default: the temporary folder")
    given = options.parse_args()
    assert shutil.disk_usage(given.folder or tempfile.gettempdir()).free > 8 << 30, "8 GiB of free disk are needed"
    harness.main(given, CONTENDERS, unit="MiB/s", ratios=RATIOS, script=__file__)
