"""The folder of a run: whose it is, whether it may be written, continued or must be left alone. Knows no model."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Literal

from flagai.config import RunConfig, diff, load_config
from flagai.data.whole import TEMPORARY
from flagai.errors import OutputError
from flagai.parallel import world
from flagai.train.files import cannot_write, discard_unfinished, is_system_error, read_json, write_json, write_text

STATUS = "status.json"
PROGRAM = "flagai"
# The status goes last: without it the folder would be taken for something else.
_OURS = (
    "run.yaml", "data.json", "env.json", "log.jsonl", "report.json", "report.html",
    "checkpoints", "best", "final", "tensorboard",
    STATUS,
)  # fmt: skip
_SAME_RUN_KEYS = frozenset(
    {"output", "train.resume", "train.num_workers", "train.device"}
    | {"train.keep_last", "train.keep_best", "train.async_save"}
)
_SAME_RUN_SECTION = "parallel."
"""settings that may differ between the parts of one run: they say where and by how many it is computed, not what"""

Status = Literal["running", "interrupted", "failed", "finished"]


class RunFolder:
    """`root` with its status. Nothing is written before `begin`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def decide(self, config: RunConfig, data: dict[str, Any]) -> bool:
        """Whether to continue what is in the folder (True) or to start in it (False).

        Raises:
            OutputError: it is something else's folder, a finished run, or a run with other settings or data.
        """
        if self.root.exists() and not self.root.is_dir():
            raise OutputError("this is a file", where=str(self.root), expected="a folder", fix="choose another output")
        # A first start that was killed at once may have left nothing but a file that is not whole.
        if not self.root.exists() or all(path.name.startswith(TEMPORARY) for path in self.root.iterdir()):
            return False
        status = self._status()
        if config.train.resume is False:
            return False
        if status["status"] == "finished":
            raise OutputError(
                "a finished run is here",
                where=str(self.root),
                fix=f"choose another name, for instance output={self._next_name()}, or start anew with --fresh",
            )
        if not (self / "run.yaml").is_file() or not (self / "checkpoints").is_dir():
            return False
        self._refuse_other_settings(config, data)
        return True

    def begin(self, config: RunConfig, data: dict[str, Any], environment: dict[str, Any], *, fresh: bool) -> None:
        """Create the folder, or take it over; a fresh start removes what an older run left."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if fresh:
                self._clear()
            # The status comes first: a folder with one is known as ours, whatever else could not be written.
            self.mark("running")
            # How this call was to deal with an older run is no setting of the run: its run.yaml must continue it.
            plain = config.model_copy(update={"train": config.train.model_copy(update={"resume": "auto"})})
            write_text(self / "run.yaml", plain.to_yaml())
        except OSError as error:
            self._leave(fresh)
            if not is_system_error(error):
                raise
            raise cannot_write(error, self.root) from error
        write_json(self / "data.json", data)
        write_json(self / "env.json", environment)

    def check_shared(self) -> None:
        """Refuse a folder that this process does not see as the first one left it. Raises OutputError."""
        if not (self / STATUS).is_file():
            raise OutputError(
                f"rank {world.rank()} does not see the folder that rank 0 has begun",
                where=str(self.root),
                expected="one folder that all machines see under the same path",
                fix="choose an output on a shared disk",
            )

    def mark(self, status: Status, **values: Any) -> None:
        """Write status.json: that the folder is flagai's, the status, and `values` (step, error)."""
        write_json(self / STATUS, {"program": PROGRAM, "version": 1, "status": status, **values})

    def _status(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            status = read_json(self / STATUS)
            # Others write a status.json too; ours says so.
            if isinstance(status, dict) and status.get("program") == PROGRAM:
                return status
        raise OutputError(
            "the folder is not empty, and not a run of flagai",
            where=str(self.root),
            expected="a new folder, or that of an unfinished run",
            fix="choose another output",
        )

    def _refuse_other_settings(self, config: RunConfig, data: dict[str, Any]) -> None:
        old = load_config(self / "run.yaml")
        changed = [
            item
            for item in diff(old, config)
            if item[0] not in _SAME_RUN_KEYS and not item[0].startswith(_SAME_RUN_SECTION)
        ]
        if _hashes(read_json(self / "data.json")) != _hashes(data):
            raise OutputError(
                "the unfinished run here was trained on other data",
                where=str(self.root),
                expected="the same training and evaluation records",
                fix="restore them, choose another output, or start anew with --fresh",
            )
        if changed and config.train.resume is not True:
            lines = "".join(f"\n    {key}: {before!r} there, {now!r} now" for key, before, now in changed)
            raise OutputError(
                f"the unfinished run here has other settings:{lines}",
                where=str(self.root),
                fix="continue it with the settings of now by --resume, or start anew with --fresh",
            )

    def _leave(self, fresh: bool) -> None:
        """Take back a folder that could not be begun."""
        with contextlib.suppress(OSError):
            if fresh:
                self._clear()
                self.root.rmdir()

    def _next_name(self) -> str:
        number = 2
        while (name := self.root.with_name(f"{self.root.name}-{number}")).exists():
            number += 1
        return str(name)

    def _clear(self) -> None:
        discard_unfinished(self.root)
        for name in _OURS:
            path = self / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _hashes(data: dict[str, Any]) -> dict[str, str]:
    return {split: source["hash"] for split, source in data["splits"].items() if split != "test"}
