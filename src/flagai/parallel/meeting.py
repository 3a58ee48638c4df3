"""How processes that were started together find one another. Knows no run: only addresses, ports and who is missing."""

from __future__ import annotations

import json
import os
import secrets
import time
from datetime import timedelta
from typing import Final

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from flagai.errors import ConfigError, WorldError
from flagai.parallel.addresses import check_free
from flagai.parallel.surroundings import Surroundings, patience

_LOOK: Final = 0.02
"""seconds between two looks at who is there"""


def join(place: Surroundings, backend: str) -> None:
    """Open the process group of all.

    Raises:
        ConfigError: nothing says where the first process is, or its port is taken.
        WorldError: the first process does not answer, or some of the others do not come.
    """
    store = _store(place)
    token = _open_round(store, place) if place.rank == 0 else _come(store, place)
    dist.init_process_group(
        backend,
        store=PrefixStore(token, store),
        rank=place.rank,
        world_size=place.size,
        timeout=timedelta(seconds=patience()),
    )


def _store(place: Surroundings) -> Store:
    """The keys and values that all share: held by torchrun's agent where there is one, else by the first process."""
    if not place.address:
        raise ConfigError(
            f"{place.by} started {place.size} processes, and nothing says where the first one is",
            where="environment",
            expected="the variable MASTER_ADDR: the host of rank 0",
            fix="export MASTER_ADDR=<host of rank 0> (127.0.0.1 if all are on one machine)",
        )
    holds = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if holds:
        other = f"end the other run, or take another port: MASTER_PORT={place.port + 1}"
        check_free(place.port, where="MASTER_PORT", fix=other)
    try:
        return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            place.address,
            place.port,
            place.size,
            is_master=holds,
            timeout=timedelta(seconds=patience()),
            wait_for_workers=False,
        )
    except (dist.DistError, TimeoutError) as error:
        raise WorldError(
            f"rank {place.rank} cannot reach the first process",
            where=f"{place.address}:{place.port}",
            expected=f"rank 0, started by {place.by}, listening there",
            fix="check that it runs, that the name leads to its machine from here, and that no firewall is between",
        ) from error


# An agent that starts processes again keeps its store, with all that the ones before have left in it, and the machines
# need not agree on how often that happened. So every meeting has a token of its own, drawn by the first process; the
# others know that it is this meeting's, and no earlier one's, by a number of their own that comes back under it.


def _open_round(store: Store, place: Surroundings) -> str:
    """The token of this meeting, once all have come. Raises WorldError, naming those who have not."""
    token = secrets.token_hex(8)
    store.set("round", token)
    end = time.monotonic() + patience()
    while absent := [i for i in range(1, place.size) if not store.check([f"{token}/hello/{i}"])]:
        if time.monotonic() > end:
            names = ", ".join(map(str, absent))
            raise _late(place, f"rank{'s' if len(absent) > 1 else ''} {names} did not come")
        time.sleep(_LOOK)
    store.set(f"{token}/go", json.dumps([store.get(f"{token}/hello/{i}").decode() for i in range(1, place.size)]))
    return token


def _come(store: Store, place: Surroundings) -> str:
    """The token of the meeting at which this process was seen. Raises WorldError."""
    mine = secrets.token_hex(8)
    end = time.monotonic() + patience()
    while time.monotonic() < end:
        token = store.get("round").decode() if store.check(["round"]) else ""
        if token:
            store.set(f"{token}/hello/{place.rank}", mine)
            if store.check([f"{token}/go"]) and json.loads(store.get(f"{token}/go"))[place.rank - 1] == mine:
                return token
        time.sleep(_LOOK)
    raise _late(place, f"rank {place.rank} came, but others did not")


def _late(place: Surroundings, found: str) -> WorldError:
    return WorldError(
        found,
        where=f"{place.address}:{place.port}",
        expected=f"all {place.size} processes within {patience():g} seconds",
        fix=f"look at what {place.by} says of them; if they are only slow, set FLAGAI_TIMEOUT to more seconds",
    )
