"""Random streams keep their bits: samples, blanks and the order of batches of every earlier run depend on them."""

from __future__ import annotations

import numpy as np

from flagai.data.streams import stream


def test_streams_keep_their_bits() -> None:
    kept = {
        (7, 3, "abc"): [2041102886295567505, 3359713617216839150],  # the order of batches
        ("blanks", 7, 3, 5): [2966057282276783226, 936195760200365717],
        ("join", 7, 3, "abc"): [1989297742994523361, 637892518293205616],
    }
    for key, numbers in kept.items():
        assert stream(*key).integers(1 << 62, size=2).tolist() == numbers, key
    assert stream("blanks", np.int64(7), 3, 5).integers(1 << 62) == 2966057282276783226
