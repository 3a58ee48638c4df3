"""Random streams that are a function of a key alone. Knows not what is drawn from them."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(*key: object) -> np.random.Generator:
    """A stream of its own for every key, whose parts are joined by "/"; counter-based: the same on every machine.

    sha256 of the key → Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))
