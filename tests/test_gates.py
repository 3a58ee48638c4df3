"""Rules of the house that no linter holds: what importing costs, what the package carries, how its files look."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "flagai"
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.read_text(encoding="utf-8").strip())
TORCH_FREE = ("errors", "config", "config_sections", "config_errors", "config_text", "text", "measure", "report")
TORCH_FREE += ("data", "tasks", "cli")
HEAVY = ("torch", "transformers", "sklearn", "scipy", "pandas")


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nprint('\\n' + ' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def is_in(path: Path, rooms: tuple[str, ...]) -> bool:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py") in rooms


# -- what importing costs ------------------------------------------------------------------------------------------


def test_importing_flagai_loads_nothing_heavy() -> None:
    assert loaded("import flagai") == set()


def test_the_public_names_are_listed_without_loading_them() -> None:
    assert loaded("import flagai\nassert 'Trainer' in dir(flagai), dir(flagai)") == set()


def test_help_loads_nothing_heavy() -> None:
    run = "sys.argv = ['flagai', '--help']\nfrom flagai.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert loaded(run) == set()


@pytest.mark.parametrize("room", TORCH_FREE)
def test_room_loads_no_torch(room: str) -> None:
    names = [module_name(path) for path in FILES if is_in(path, (room,))]
    assert names, f"no module in {room}"
    assert loaded("\n".join(f"import {name}" for name in names)) & {"torch", "transformers"} == set()


def test_loaded_sees_what_is_loaded() -> None:
    assert loaded("import scipy") == {"scipy"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_imports(path: Path) -> None:
    if path.name != "__main__.py":
        importlib.import_module(module_name(path))


# -- how files look ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_file_follows_the_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with what it does and what it does not know"
    assert text.count("\n") <= 400, "a file that outgrows 400 lines is split by idea"
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert "pickle" not in imported or path.name == "pickles.py", "our own files are never pickles"
    if not is_in(path, ("cli",)):
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert "print" not in {call.id for call in calls if isinstance(call, ast.Name)}, "the library does not print"


WRITTEN = (
    *("*.md", "*.toml", "Makefile", "NOTICE", "constraints.txt", ".ci/run", "tests/**/*.py", "docs/**/*.*"),
    *("examples/**/*.md", "examples/**/*.yaml", *(f"benchmarks/**/*.{kind}" for kind in ("py", "md", "json", "csv"))),
)
"""what people and measurements wrote, beside the package"""
OF_ONE_MACHINE = re.compile(r"/(?:work|home|root|Users)/\w|file://|--(?:extra-)?index-url")


def test_no_path_of_one_machine_stands_in_the_tree() -> None:
    found = {pattern: [path for path in ROOT.glob(pattern) if path.is_file()] for pattern in WRITTEN}
    assert all(found[pattern] for pattern in ("*.md", "NOTICE", ".ci/run", "docs/**/*.*", "benchmarks/**/*.py"))
    files = {*FILES, *(path for paths in found.values() for path in paths)} - {Path(__file__)}
    texts = {path: path.read_text(encoding="utf-8") for path in files if "__pycache__" not in path.parts}
    assert sorted(str(path) for path, text in texts.items() if OF_ONE_MACHINE.search(text)) == []


@pytest.mark.parametrize("text", ["in /home/ada/models", "see file:///tmp", "pip install --extra-index-url X"])
def test_a_path_of_one_machine_would_be_seen(text: str) -> None:
    assert OF_ONE_MACHINE.search(text)


# -- what the project says of itself -------------------------------------------------------------------------------


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): Version(version) for name, version in pairs}


def test_constraints_are_exact_and_meet_the_lower_bounds() -> None:
    exact, extras = constraints(), project()["optional-dependencies"]
    named = [*project()["dependencies"], *(line for lines in extras.values() for line in lines)]
    for requirement in map(Requirement, named):
        if requirement.name == "flagai":
            continue
        assert [part.operator for part in requirement.specifier] == [">="], f"{requirement}: lower bounds only"
        assert exact[requirement.name.lower().replace("_", "-")] in requirement.specifier


def test_makefile_installs_the_torch_of_the_constraints() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"TORCH := torch=={constraints()['torch']}\n" in text


def test_all_holds_every_extra_for_users() -> None:
    extras = project()["optional-dependencies"]
    named = {extra for line in extras["all"] for extra in Requirement(line).extras}
    assert named == set(extras) - {"all", "dev", "bench"}


# -- what the package carries --------------------------------------------------------------------------------------


def banking77(split: str) -> list[dict[str, str]]:
    file = resources.files("flagai") / "assets" / "banking77" / f"{split}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_embedded_data_is_whole() -> None:
    rows = {split: banking77(split) for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 3804, "dev": 615, "test": 1540}
    assert {len({row["label"] for row in found}) for found in rows.values()} == {77}
    assert all(set(row) == {"text", "label"} and row["text"].strip() for found in rows.values() for row in found)
    texts = [row["text"] for found in rows.values() for row in found]
    assert len(set(texts)) == len(texts), "a row stands in two splits"


def test_embedded_data_names_its_licence() -> None:
    readme = (resources.files("flagai") / "assets" / "banking77" / "README.md").read_text(encoding="utf-8")
    for text in (readme, (ROOT / "NOTICE").read_text(encoding="utf-8")):
        assert "CC BY 4.0" in text
        assert "PolyAI" in text
