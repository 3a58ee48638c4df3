"""flagai takes pretrained models to work: train, measure, explain and serve them for language tasks.

The public names are loaded when they are first used: importing flagai loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flagai.auto import AutoLoader as AutoLoader
    from flagai.config import RunConfig as RunConfig
    from flagai.config import load_config as load_config
    from flagai.errors import FlagaiError as FlagaiError
    from flagai.predict.predictor import Predictor as Predictor
    from flagai.train.trainer import Trainer as Trainer

__version__ = "2.0.0a1"
__path__ = [*__path__, *(f"{folder}/_compat" for folder in __path__)]  # the import paths of the original project

_EXPORTS = {
    "AutoLoader": "flagai.auto",
    "FlagaiError": "flagai.errors",
    "Predictor": "flagai.predict.predictor",
    "RunConfig": "flagai.config",
    "Trainer": "flagai.train.trainer",
    "load_config": "flagai.config",
}
__all__ = [*_EXPORTS, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
