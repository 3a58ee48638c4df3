"""The documents against the code: links, commands, settings, samples, trees; and one language against the other."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from flagai.config import RunConfig, load_config
from flagai.config_text import parse_yaml
from flagai.data.records import read_records
from flagai.tasks.table import TASKS
from flagai.train.run_folder import _OURS

ROOT = Path(__file__).parent.parent
README, README_ZH = ROOT / "README.md", ROOT / "README_zh.md"
NOT_OURS = {"runs", "build", "dist", "shared"}
PAGES = [*sorted(ROOT.glob("*.md"))] + [
    page
    for folder in sorted(ROOT.iterdir())
    if folder.is_dir() and folder.name not in NOT_OURS and not folder.name.startswith(".")
    for page in sorted(folder.rglob("*.md"))
]
DOCS = [page for page in PAGES if page.parent == ROOT or page.is_relative_to(ROOT / "docs")]
PAIRS = [
    (README, README_ZH),
    *((page, ROOT / "docs/zh" / page.name) for page in sorted((ROOT / "docs/en").glob("*.md"))),
]
FENCE = re.compile(r"^```(\S*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CONFIG_SECTIONS = set(RunConfig.model_fields)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str | None = None) -> list[tuple[str, str]]:
    """(file name after the language, content) of the fenced blocks."""
    return [(m[2], m[3]) for m in FENCE.finditer(text_of(page)) if language is None or m[1] == language]


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def headings(page: Path) -> list[str]:
    return re.findall(r"^(#+) ", prose(page), re.MULTILINE)


# -- links ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", DOCS, ids=name)
def test_files_named_in_prose_exist(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|docs|benchmarks|examples|\.ci)/[\w./-]+)`", prose(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


# -- two languages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: name(page))
def test_the_languages_agree(english: Path, chinese: Path) -> None:
    assert headings(english) == headings(chinese)
    assert blocks(english) == blocks(chinese)
    assert len(re.findall(r"^[|]", prose(english), re.MULTILINE)) == len(
        re.findall(r"^[|]", prose(chinese), re.MULTILINE)
    )


def test_no_page_stands_in_one_language_only() -> None:
    assert {p.name for p in (ROOT / "docs/en").iterdir()} == {p.name for p in (ROOT / "docs/zh").iterdir()}


def test_the_readme_leads_with_the_two_commands() -> None:
    for page in (README, README_ZH):
        assert blocks(page)[0][1] == "make quickstart\nmake test\n"
        assert text_of(page).index("```") < 20, "nothing but the title stands before them"


# -- commands ------------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words after `flagai` wherever it is called: in lines of code and in code inside a sentence."""
    spans = re.findall(r"`((?:\.venv/bin/)?flagai [^`]+)`", prose(page))
    lines = [line.strip() for _, content in blocks(page) for line in content.splitlines()]
    for span in [*spans, *lines]:
        if found := re.match(r"(?:\.venv/bin/)?flagai ([a-z-].*)", span):
            yield shlex.split(found[1], comments=True)


def find_command(words: list[str]) -> tuple[object, list[str]]:
    from flagai.cli.app import app

    command: object = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist_and_take_what_is_shown(page: Path) -> None:
    for words in commands(page):
        command, rest = find_command(words)
        options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
        assert not getattr(command, "commands", None) or rest == ["--help"], words
        strange = [word for word in rest if word.startswith("-") and "." not in word]
        assert [word for word in strange if word.partition("=")[0] not in {*options, "--help"}] == [], words


def test_commands_are_found_at_all() -> None:
    verbs = {words[0] for words in commands(README)}
    assert {"init", "train", "predict", "eval"} <= verbs


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {target for page in DOCS for target in re.findall(r"(?:^|`)make ([a-z]+)", text_of(page), re.MULTILINE)}
    assert {"quickstart", "test"} <= named <= targets


# -- trees ---------------------------------------------------------------------------------------------------------


def tree(page: Path) -> list[str]:
    """The paths that the annotated tree names, each with its folder in front."""
    content = next(content for _, content in blocks(page) if content.startswith("src/flagai/"))
    stack: list[str] = []
    paths = []
    for line in content.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], line.split()[0]]
        paths.append("".join(stack))
    return paths


def test_the_tree_is_there() -> None:
    assert [path for path in tree(README) if not list(ROOT.glob(path.rstrip("/")))] == []


def test_the_tree_is_whole() -> None:
    folders = {
        f"src/flagai/{entry.name}/"
        for entry in (ROOT / "src/flagai").iterdir()
        if any(entry.glob("*")) and entry.is_dir()
    }
    assert folders - {"src/flagai/__pycache__/"} <= set(tree(README))


def rooms() -> dict[str, str]:
    """Room → the lines about it, from section 3 of the architecture."""
    content = next(content for _, content in blocks(ROOT / "docs/architecture.md") if content.startswith("errors "))
    found: dict[str, str] = {}
    for line in content.splitlines():
        if not line.startswith(" "):
            room = line.split()[0]
        found[room] = f"{found.get(room, '')} {line.removeprefix(room)}"
    return found


def test_the_rooms_stand_in_the_order_that_is_enforced() -> None:
    contract = tomllib.loads(text_of(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    layers = [layer.strip("()") for layer in reversed(contract["layers"])]
    there = [room for room in layers if list((ROOT / "src/flagai").glob(f"{room}*"))]
    order = list(rooms())
    assert sorted(order) == sorted(there)
    # `config*` may stand in either order: each of the four imports only those it needs.
    assert [room for room in order if "config" not in room] == [room for room in there if "config" not in room]


@pytest.mark.parametrize("room", ["data", "models", "parallel", "tasks", "predict", "train", "planning", "verify"])
def test_the_architecture_names_every_module(room: str) -> None:
    words = re.findall(r"[\w*]+", rooms()[room])
    stems = {path.stem for path in (ROOT / "src/flagai" / room).glob("*.py")} - {"__init__"}
    unnamed = {s for s in stems if not any(s == w or (w.endswith("*") and s.startswith(w[:-1])) for w in words)}
    assert unnamed == set(), "docs/architecture.md, section 3, says nothing of them"


# -- settings ------------------------------------------------------------------------------------------------------


def configurations() -> list[tuple[Path, str]]:
    return [(page, content) for page in PAGES for _, content in blocks(page, "yaml")]


@pytest.mark.parametrize(
    ("page", "content"), configurations(), ids=lambda item: name(item) if isinstance(item, Path) else ""
)
def test_configurations_load(page: Path, content: str) -> None:
    values = parse_yaml(content, str(page)).values
    if set(values) & CONFIG_SECTIONS:
        load_config({"task": "classification", **values})


def test_every_setting_named_in_prose_exists() -> None:
    schema = runpy.run_path(str(ROOT / "docs/make_config_page.py"))
    known = {key for key, _, _ in schema["keys"](schema["json_schema"](), schema["json_schema"]())}
    pattern = re.compile(r"`((?:model|task|data|train|parallel)\.[a-z_.]+?)(?:[:=][^`]*)?`")
    named = {(name(page), key) for page in DOCS for key in pattern.findall(prose(page))}
    files = {"data.json", "task.json", "train.csv", "train.src", "train.tgt", "train.jsonl.gz", "model.safetensors"}
    files |= {"parallel.html", "parallel.json"}
    assert {(page, key) for page, key in named if key not in known and key not in files} == set()


def test_the_page_of_settings_is_current() -> None:
    script = runpy.run_path(str(ROOT / "docs/make_config_page.py"))
    for language in ("en", "zh"):
        path, now, wanted = script["page"](language)
        assert now == wanted, f"{name(path)} is not current: run python docs/make_config_page.py"


# -- samples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"), blocks(ROOT / "docs/en/data.md"), ids=lambda item: item[:12].split("\n")[0]
)
def test_samples_of_data_can_be_read(file: str, content: str, tmp_path: Path) -> None:
    if not file:
        return
    (tmp_path / file).write_text(content, encoding="utf-8")
    records = read_records(tmp_path / file)
    assert records and all(record.text and "label" in record.fields for record in records)


def test_samples_of_data_mean_what_the_page_says(tmp_path: Path) -> None:
    found = {}
    for file, content in blocks(ROOT / "docs/en/data.md"):
        if file:
            (tmp_path / file).write_text(content, encoding="utf-8")
            found[file] = read_records(tmp_path / file)
    assert found["questions.csv"][0].text == "My card, where is it?"
    assert found["pairs.tsv"][1].fields["text_pair"] == "Where is the shop?"
    places = [(r.text[e["start"] : e["end"]], e["label"]) for r in found["places.conll"] for e in r.fields["label"]]
    assert places == [("北京", "LOC")]
    entities = [[r.text[e["start"] : e["end"]] for e in r.fields["label"]] for r in found["entities.jsonl"]]
    assert entities == [["Berlin"], ["Ada", "Bob"], []]
    assert [e["end"] for e in found["cluener.jsonl"][0].fields["label"]] == [4, 7]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_task_option_and_metric_is_described(language: str) -> None:
    page = text_of(ROOT / "docs" / language / "tasks.md")
    wanted = set(TASKS)
    for row in TASKS.values():
        for target in filter(None, (row.target, row.regression)):
            module, _, attribute = target.partition(":")
            cls = getattr(importlib.import_module(module), attribute)
            wanted |= set(cls.used_options)
            wanted |= set(cls.metric_names) if isinstance(cls.metric_names, tuple) else set()
    assert {word for word in wanted if f"`{word}`" not in page and f"`{word}:" not in page} == set()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everything_in_a_run_folder_is_described(language: str) -> None:
    page = text_of(ROOT / "docs" / language / "state.md")
    assert [item for item in _OURS if f"`{item}" not in page and item != "README.md"] == []


def test_what_the_quickstart_is_said_to_print_is_what_it_prints() -> None:
    first = next(content for _, content in blocks(README) if content.startswith("Banking77:")).splitlines()[0]
    assert first in text_of(ROOT / "src/flagai/cli/quickstart.py")


# -- Python --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles(page: Path) -> None:
    for _, content in blocks(page, "python"):
        compile(content, str(page), "exec")


def test_the_readme_runs(
    reviews: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of the README as it stands, in a folder whose run.yaml names a tiny model."""
    monkeypatch.chdir(reviews)
    (reviews / "run.yaml").write_text(
        f"model: {tiny_bert}\ntask: classification\ndata: {{train: train.jsonl, eval: dev.jsonl}}\noutput: runs/one\n",
        encoding="utf-8",
    )
    code, verse, writing = (content for _, content in blocks(README, "python"))
    exec(compile(verse, "README.md", "exec"), {"__name__": "readme"})
    assert "月" in capsys.readouterr().out
    exec(compile(writing, "README.md", "exec"), {"__name__": "readme"})
    poem = capsys.readouterr().out
    given = "白日依山尽，黄河入海流。"
    assert poem.startswith(given) and "MASK" not in poem and len(poem.strip()) > len(given)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("runs/one/final {'accuracy'")
    assert len(printed) == 4 and {line.split()[0] for line in printed[1:]} <= {"positive", "negative"}


def test_the_page_of_writing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of docs/en/writing.md as it stands, with the model that comes with the package."""
    from flagai.generate.constraints import MustContain, Verse
    from flagai.generate.constraints.check import check

    poems, verse, engine, stream = [content for _, content in blocks(ROOT / "docs/en/writing.md", "python")]

    def printed(code: str) -> list[str]:
        exec(compile(code, "writing.md", "exec"), {"__name__": "writing"})
        return capsys.readouterr().out.splitlines()

    poem, *more = printed(poems)
    text, _, score = poem.partition(" ")
    assert check(text, Verse(form="五言绝句")) == check(text, MustContain(("月",))) == [] and 0 < float(score) < 1
    assert len(more) == 2
    assert printed(verse) == ["[]"]
    assert [line.split()[0] for line in sorted(printed(engine))] == ["0", "1", "2"]
    assert len("".join(printed(stream))) > 10
