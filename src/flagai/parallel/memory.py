"""Bounds what torch's CPU libraries keep for themselves while the shapes of batches change. Knows no model, no step.

For half-precision products torch calls oneDNN, which compiles a kernel for every new shape; oneDNN keeps 1024 of them
and torch's own layer above it 1024 more. In training the number of tokens changes from step to step, so hardly any is
used again, and a process grows by gigabytes. The layers of one step share their shapes: a small cache serves them.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

# Kernels kept; several times what the layers of one step need.
_KERNELS: Final = 128
# oneDNN's own cache of primitives, and that of the layer between torch and oneDNN (pytorch/pytorch, issue 98688).
_NAMES: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kernel_caches(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the sizes of both caches where the user has not; each is read once, at the first product of the process.

    Args:
        environ: variables of this process; what is set in `os.environ` is seen by the libraries.
    """
    for name in _NAMES:
        environ.setdefault(name, str(_KERNELS))
