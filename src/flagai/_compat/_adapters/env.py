"""The original's EnvArgs (an argument parser) and EnvTrainer (its Trainer from those arguments). Knows no model."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from flagai._compat._adapters.trainer import Trainer
from flagai.errors import ConfigError

_DEFAULTS: dict[str, tuple[Any, type]] = {
    "env_type": ("pytorch", str),
    "experiment_name": ("test_experiment", str),
    "epochs": (1, int),
    "batch_size": (1, int),
    "lr": (1e-5, float),
    "seed": (1234, int),
    "fp16": (False, bool),
    "pytorch_device": ("cpu", str),
    "clip_grad": (1.0, float),
    "checkpoint_activations": (False, bool),
    "gradient_accumulation_steps": (1, int),
    "weight_decay": (1e-5, float),
    "warm_up": (0.1, float),
    "log_interval": (100, int),
    "eval_interval": (1000, int),
    "save_interval": (1000, int),
    "save_dir": (None, str),
    "load_dir": (None, str),
    "save_optim": (False, bool),
    "save_rng": (False, bool),
    "load_type": ("latest", str),
    "load_optim": (False, bool),
    "load_rng": (False, bool),
    "tensorboard_dir": ("tensorboard_summary", str),
    "deepspeed_activation_checkpointing": (False, bool),
    "num_checkpoints": (1, int),
    "master_ip": ("localhost", str),
    "master_port": (17750, int),
    "num_nodes": (1, int),
    "num_gpus": (1, int),
    "hostfile": ("./hostfile", str),
    "deepspeed_config": ("./deepspeed.json", str),
    "model_parallel_size": (1, int),
    "training_script": ("train.py", str),
}


class EnvArgs:
    """A parser of the original's command line arguments; booleans are the words True and False.

    Args:
        defaults: other defaults by name.

    Raises:
        ConfigError: a name that is no argument.
    """

    def __init__(self, **defaults: Any) -> None:
        if unknown := sorted(defaults.keys() - _DEFAULTS.keys()):
            raise ConfigError(
                f"EnvArgs has no {unknown[0]!r}", where="EnvArgs", expected=", ".join(_DEFAULTS), fix="use add_arg"
            )
        self.parser = argparse.ArgumentParser(description="flagai", allow_abbrev=False)
        for name, (default, kind) in _DEFAULTS.items():
            self.add_arg(name, defaults.get(name, default), kind)

    def add_arg(
        self, arg_name: str, default: Any = None, type: Any = str, help: str = "", store_true: bool = False
    ) -> None:
        """Add `--arg_name`."""
        if store_true:
            self.parser.add_argument(f"--{arg_name}", default=default, action="store_true", help=help)
        else:
            self.parser.add_argument(f"--{arg_name}", default=default, type=_truth if type is bool else type, help=help)

    def parse_args(self, args: list[str] | None = None) -> argparse.Namespace:
        """The values of the command line (or of `args`)."""
        return self.parser.parse_args(args)


class EnvTrainer(Trainer):
    """The original's Trainer with its arguments from `EnvArgs`."""

    def __init__(self, env_args: argparse.Namespace) -> None:
        names = list(inspect.signature(Trainer.__init__).parameters)[1:]
        super().__init__(**{name: getattr(env_args, name) for name in names if hasattr(env_args, name)})


def _truth(word: str) -> bool:
    if word.lower() in ("true", "1", "yes"):
        return True
    if word.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither True nor False")
