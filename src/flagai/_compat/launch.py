"""The original's `flagai.launch`: a script in several processes. It knows neither model nor training."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flagai._compat._adapters.several import launch_script


def launch_dist(
    launcher: str = "distributed_deepspeed",
    num_nodes: int = 1,
    gpus_per_node: int = 1,
    master_addr: str = "localhost",
    master_port: int = 17500,
    hostfile: str | None = "hostfile",
    nccl_info: bool = False,
    training_script: str = "train.py",
    training_script_paras: Sequence[str] | None = None,
    training_paras: Sequence[str] | None = None,
) -> None:
    """Start `training_script` in all processes and wait for their end; whatever the launcher, torchrun's agent does it.

    Raises:
        ConfigError: a script that is not there, or machines that cannot be reached.
        SystemExit: when they have ended, with an exit code or the first error.
    """
    given = [*(training_script_paras or ()), *(training_paras or ())]
    launch_script(
        training_script,
        given or sys.argv[1:],
        nodes=num_nodes,
        processes=gpus_per_node,
        address=master_addr,
        port=master_port,
        hostfile=hostfile,
    )
