"""The original's `flagai.launch`: says which release starts several processes. It starts none itself."""

from __future__ import annotations

from flagai._compat._adapters.later import PARALLEL, later_error


def launch_dist(
    launcher: str = "distributed_deepspeed",
    num_nodes: int = 1,
    gpus_per_node: int = 1,
    master_addr: str = "localhost",
    master_port: int = 17500,
    hostfile: str | None = "hostfile",
    nccl_info: bool = False,
    training_script: str = "train.py",
    training_script_paras: object = None,
    training_paras: object = None,
) -> None:
    """Raises LaterModuleError: this release trains in one process."""
    raise later_error("flagai.launch", "launch_dist", PARALLEL)
