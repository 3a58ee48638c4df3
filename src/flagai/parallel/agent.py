"""torchrun's agent as a process of its own that ends with its launcher. Knows no run: only torchrun's arguments.

Started as `python -m flagai.parallel.agent <launcher's process number> <arguments of torchrun>`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flagai.parallel.worker import AGENT, FOLDER, die_with_parent

FAILURES: Final = "failures.json"
"""in the shared folder: rank, exit code and time of each process that ended with an error"""
TROUBLE: Final = "trouble.json"
"""in the shared folder: what kept the machines from meeting"""
LOG: Final = "agent.log"
"""in the shared folder: what the agent itself says"""


def main(arguments: Sequence[str]) -> int:
    """Run the agent to its end; its exit code."""
    die_with_parent(int(arguments[0]))
    os.environ[AGENT] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    shared = Path(os.environ[FOLDER])
    _log_to(shared / LOG)
    options = parse_args(list(arguments[1:]))
    try:
        run(options)
    except ChildFailedError as error:
        rows = [
            {"rank": rank, "local_rank": failure.local_rank, "code": failure.exitcode, "time": failure.timestamp}
            for rank, failure in error.failures.items()
        ]
        (shared / FAILURES).write_text(json.dumps(rows), encoding="utf-8")
        return 1
    except RendezvousError as error:
        text = _trouble(error, options.rdzv_endpoint, options.nnodes)
        (shared / TROUBLE).write_text(json.dumps(text), encoding="utf-8")
        return 1
    return 0


def _trouble(error: Exception, endpoint: str, nodes: str) -> str:
    from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousTimeoutError

    if isinstance(error, RendezvousTimeoutError):
        return (
            f"{endpoint}: not all of {nodes} machines came\n"
            "  expected: the same command on each of them, with the same --nnodes and --rdzv-endpoint\n"
            "  to do: look which of them says nothing; if one is only slow, set FLAGAI_TIMEOUT to more seconds"
        )
    if isinstance(error, RendezvousConnectionError):
        return (
            f"{endpoint}: nobody answers there\n"
            "  expected: the first machine of the run, which listens on that port\n"
            "  to do: start the run there too; check that its name leads there and that no firewall is between"
        )
    return f"{endpoint}: the machines did not meet: {error}"


def _log_to(path: Path) -> None:
    """What the agent says goes to a file: the first process shares its terminal, and the launcher tells the rest."""
    for name in logging.root.manager.loggerDict:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.root.handlers = [logging.FileHandler(path, encoding="utf-8")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
