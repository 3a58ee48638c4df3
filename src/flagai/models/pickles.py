"""Foreign PyTorch pickles: which globals a file names, and its tensors, read without running anything in it.

It knows nothing of models: what comes back is the object as it was saved, of plain containers and tensors only, and
`Inert` in the place of states (of random generators, of programs) that nobody reads.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

from flagai.errors import CheckpointError

_LEGACY_PICKLES: Final = 5
"""a file of torch < 1.6 is five pickles (magic, protocol, system, object, keys) and then raw bytes"""
_MOST_PICKLE_BYTES: Final = 1 << 28

_TYPES: Final = ["Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
_ALLOWED: Final = frozenset(
    {"collections.OrderedDict", "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"}
    | {f"torch._utils._rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter", "parameter_with_state")}
    | {f"torch.{name}Storage" for name in _TYPES}
    | {
        f"torch.{name}"
        for name in ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    }
    | {"torch.storage.UntypedStorage", "torch.serialization._get_layout", "builtins.set"}
    | {"numpy.ndarray", "numpy.dtype", "_codecs.encode"}
    | {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
)
"""the random state of NumPy lies in the original's files where save_rng was set"""
_INERT: Final = frozenset(
    {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
    | {"argparse.Namespace", "random.Random", "numpy.random.__RandomState_ctor"}
    | {f"numpy.random._pickle.__{what}_ctor" for what in ("randomstate", "generator", "bit_generator")}
    | {"numpy.random._mt19937.MT19937", "numpy.random._pcg64.PCG64"}
    | {f"numpy.random.bit_generator.{what}SeedSequence" for what in ("", "__pyx_unpickle_")}
    | {f"deepspeed.runtime.fp16.loss_scaler.{what}" for what in ("LossScaler", "DynamicLossScaler", "LossScalerBase")}
)
"""what published training states name besides: never imported, an `Inert` stands in its place"""
_DTYPES: Final = "?bBhHiIlLqQefdSU"
"""of NumPy arrays: numbers and texts, no Python objects"""


class Inert:
    """Stands for an object of a pickle that was not made: takes whatever the pickle gives it and keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def globals_in(path: str | Path) -> frozenset[str]:
    """The dotted names of everything a pickle would import, found by reading its opcodes; nothing is executed.

    Errors: `CheckpointError` where the file is no pickle or is cut off.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            return frozenset(_globals_in_archive(path))
        with open(path, "rb") as file:
            return frozenset(_globals_in_stream(file))
    except (ValueError, EOFError, OSError, IndexError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _globals_in_archive(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        members = [item for item in archive.infolist() if item.filename.endswith(".pkl")]
        if not members:
            raise ValueError("the archive holds no data.pkl")
        for item in members:
            if item.file_size > _MOST_PICKLE_BYTES:
                raise ValueError(f"{item.filename} is {item.file_size:,} bytes long, too long for a list of tensors")
            with archive.open(item) as file:
                yield from _globals_in_pickle(file)


def _globals_in_stream(file: IO[bytes]) -> Iterator[str]:
    for number in range(_LEGACY_PICKLES):
        if number and file.read(1) != b"\x80":  # the raw bytes of a file that is not torch's follow
            return
        file.seek(-1 if number else 0, 1)
        yield from _globals_in_pickle(file)


def _globals_in_pickle(file: IO[bytes]) -> Iterator[str]:
    """Follow the strings on the pickle machine's stack far enough to name what STACK_GLOBAL imports."""
    pushed: list[object] = []
    memo: dict[object, object] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
            pushed.append(None)
        elif name == "STACK_GLOBAL":
            yield _joined(pushed[-2:])
            pushed.append(None)
        elif name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = pushed[-1] if pushed else None
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            pushed.append(memo.get(argument))
        elif opcode.stack_after:
            pushed.append(argument if isinstance(argument, str) else None)


def _joined(parts: list[object]) -> str:
    if len(parts) == 2 and all(isinstance(part, str) for part in parts):
        return ".".join(map(str, parts))
    return "<a name made while unpickling>"


def load(path: str | Path) -> Any:
    """The object in a PyTorch file: tensors on the CPU (memory-mapped where the file allows it) in plain containers.

    States of random generators and of programs come back as `Inert`, NumPy arrays as they are.
    Errors: `CheckpointError`, naming the globals, where a file asks for anything else, before it is opened;
    `CheckpointError` for a file that is damaged or cut off.
    """
    path = Path(path)
    names = globals_in(path)
    _refuse_code(path, names)
    allowed: list[Any] = [*_numpy_globals(), *((Inert, name) for name in sorted(names & _INERT))]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _unsafe(path, _first_line(error)) from error
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def _refuse_code(path: Path, names: frozenset[str]) -> None:
    if foreign := sorted(names - _ALLOWED - _INERT):
        raise _unsafe(path, ", ".join(foreign))


def _unsafe(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the pickle wants to import and call {what}; it was not opened and nothing of it was executed",
        expected="tensors in plain containers",
        fix="get the weights as safetensors, or convert the file where you trust it",
        where=str(path),
    )


def _unreadable(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"the file is damaged, cut off or no PyTorch file ({_first_line(error)})",
        fix="copy or download it again",
        where=str(path),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _numpy_globals() -> list[Any]:
    from numpy._core import multiarray  # the public name moved between NumPy 1 and 2; old files hold the old one

    rebuild = getattr(multiarray, "_reconstruct")  # noqa: B009 (a private name that pickles of arrays hold)
    kinds = {type(np.dtype(kind)) for kind in _DTYPES}
    return [np.ndarray, np.dtype, rebuild, (rebuild, "numpy.core.multiarray._reconstruct"), *kinds]


def save(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a PyTorch file of tensors in plain containers: only for layouts of others, whose format is a pickle.

    Errors: OSError as it comes.
    """
    try:
        torch.save(dict(content), path)
    except RuntimeError as error:  # what torch's writer makes of a refusal of the operating system
        raise OSError(None, _first_line(error), str(path)) from error
