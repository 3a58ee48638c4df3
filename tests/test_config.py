"""RunConfig: every wrong key and value is named where the user typed it; text and settings round-trip."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from flagai.config import (
    DEFAULT_EVAL_FRACTION,
    RESERVED,
    DataConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
    diff,
    flatten,
    json_schema,
    load_config,
)
from flagai.config_text import parse_yaml, to_yaml
from flagai.errors import ConfigError, MissingFileError, UnknownNameError

SMALL: dict[str, Any] = {"model": "all-MiniLM-L6-v2", "task": "classification"}

EXAMPLE = """\
model: GLM-large-ch
task: classification
data: {train: train.jsonl, eval: dev.jsonl}
train: {epochs: 3, batch_tokens: 4096, learning_rate: 2e-5, precision: bf16}
parallel: {strategy: single}
output: runs/intent
"""


def load(text: str, *overrides: str, folder: Path | None = None) -> RunConfig:
    """The config of a YAML text; with `folder`, written to a run.yaml there first."""
    if folder is None:
        return load_config(parse_yaml(text).values, overrides)
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return load_config(folder / "run.yaml", overrides)


def refusal(*overrides: str, text: str = "model: m\ntask: t\n") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides)
    return caught.value


# -- what a good file means ----------------------------------------------------------------------------------------


def test_example_of_the_plan() -> None:
    config = load(EXAMPLE)
    assert config.model == ModelConfig(name="GLM-large-ch")
    assert config.task == TaskConfig(name="classification")
    assert (config.data.train, config.data.eval) == ("train.jsonl", "dev.jsonl")
    assert (config.train.batch_tokens, config.train.batch_size) == (4096, None)
    assert config.train.learning_rate == 2e-5
    assert config.output == "runs/intent"


def test_name_and_mapping_are_the_same() -> None:
    assert load("{model: m, task: t}") == load("{model: {name: m}, task: {name: t}}")


def test_names_that_stay_fixed() -> None:
    fixed = {
        "data": "train eval test columns max_length stride audit",
        "train": "epochs max_steps batch_size batch_tokens gradient_accumulation_steps learning_rate weight_decay "
        "warmup_ratio scheduler max_grad_norm precision seed eval_steps save_steps logging_steps best_metric "
        "early_stopping keep_last num_workers resume",
        "data.columns": "text text_pair label",
        "model.lora": "r alpha dropout target_modules",
        "task": "name labels multi_label class_weights",
    }
    keys = set(flatten(load_config({**SMALL, "model": {"name": "m", "lora": {}}})))
    for section, names in fixed.items():
        for name in names.split():
            wanted = f"{section}.{name}"
            assert any(key == wanted or key.startswith(f"{wanted}.") for key in keys), wanted


def test_python_and_yaml_are_the_same() -> None:
    by_hand = RunConfig(
        model=ModelConfig(name="m", lora=LoraConfig(r=4)),
        task=TaskConfig(name="t", labels=("a", "b")),
        train=TrainConfig(epochs=1),
    )
    assert by_hand == load("{model: {name: m, lora: {r: 4}}, task: {name: t, labels: [a, b]}, train: {epochs: 1}}")


def test_everything_is_frozen() -> None:
    config = load_config(SMALL)
    for section, key in ((config, "output"), (config.train, "epochs"), (config.model, "name")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(section, key, "x")


def test_every_key_is_described() -> None:
    def bare(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            if not (field.description or "").strip():
                yield f"{model.__name__}.{name}"
            if isinstance(field.default, BaseModel):
                yield from bare(type(field.default))

    assert [*bare(RunConfig), *bare(TaskConfig), *bare(ModelConfig), *bare(LoraConfig)] == []


# -- unknown keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "where", "meant"),
    [
        ("modle=x", "modle", "'model'"),
        ("model.nmae=x", "model.nmae", "'name'"),
        ("model.lora.alhpa=1", "model.lora.alhpa", "'alpha'"),
        ("task.label=[a]", "task.label", "'labels'"),
        ("data.trian=x", "data.trian", "'train'"),
        ("data.columns.txt=x", "data.columns.txt", "'text'"),
        ("data.audit.fail_abvoe=0.1", "data.audit.fail_abvoe", "'fail_above'"),
        ("train.learning_rat=1", "train.learning_rat", "'learning_rate'"),
        ("parallel.stratgy=x", "parallel.stratgy", "'strategy'"),
        ("learning_rate=1", "learning_rate", "'train.learning_rate'"),  # right name, wrong section
        ("model.max_length=1", "model.max_length", "'data.max_length'"),
        ("train.lr=1", "train.lr", "'train.learning_rate'"),  # what others call it
        ("train.num_train_epochs=1", "train.num_train_epochs", "'epochs'"),
        ("output_dir=x", "output_dir", "'output'"),
    ],
)
def test_unknown_key_names_what_was_meant(override: str, where: str, meant: str) -> None:
    error = refusal(override)
    assert isinstance(error, UnknownNameError)
    assert error.where == where
    assert repr(where.rpartition(".")[2]) in error.found
    assert meant in error.fix


def test_unknown_key_without_neighbour_lists_the_keys() -> None:
    error = refusal("zzzzzzz=1")
    assert "take the key out" in error.fix
    assert "data, generate, model, output, parallel, task, train" in error.expected


@pytest.mark.parametrize("section", sorted(RESERVED))
def test_reserved_section_says_that_it_comes(section: str) -> None:
    error = refusal(f"{section}.x=1")
    assert error.where == section
    assert "not available yet" in error.found
    assert "release" in error.found


def test_misspelt_required_key_is_told_before_the_missing_one() -> None:
    error = refusal(text="{model: m, task: {nmae: t}}")
    assert error.where == "task.nmae"
    assert "'name'" in error.fix
    assert "also: task.name: nothing is set" in error.fix


# -- wrong values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "found", "expected"),
    [
        ("train.epochs=0", "found 0", "a whole number > 0"),
        ("train.epochs=1.5", "found 1.5", "a whole number > 0"),
        ("train.epochs=true", "found True", "a whole number > 0"),
        ("train.epochs=many", "found 'many'", "a whole number > 0"),
        ("train.learning_rate=-1", "found -1", "a number > 0"),
        ("train.learning_rate=.nan", "found nan", "a number > 0"),
        ("train.learning_rate=.inf", "found inf", "a number > 0"),
        ("train.learning_rate=null", "found None", "a number > 0"),
        ("train.learning_rate=[1]", "found [1]", "a number > 0"),
        ("train.warmup_ratio=1", "found 1", "a number ≥ 0 and < 1"),
        ("train.max_grad_norm=x", "found 'x'", "a number > 0 or null"),
        ("train.tensorboard=3", "found 3", "true or false"),
        ("train.packing=never", "found 'never'", "'auto' or true or false"),
        ("train.precision=fp64", "found 'fp64'", "one of 'fp32', 'bf16', 'fp16', 'auto'"),
        ("train.device=cuda:x", "found 'cuda:x'", "a text"),
        ("parallel.strategy=fsdp2", "found 'fsdp2'", "'single'"),
        ("data.audit.fail_above=2", "found 2", "a number ≥ 0 and ≤ 1 or null"),
        ("data.columns=text", "found 'text'", "a mapping of keys"),
        ("task.labels=a", "found 'a'", "a list of texts or null"),
        ("task.class_weights=some", "found 'some'", "'balanced'"),
        ("task.threshold=1", "found 1", "a number > 0 and < 1 or null"),
        ("model.source=github", "found 'github'", "one of 'auto', 'huggingface', 'modelscope'"),
        ("model.lora.r=a", "found 'a'", "a whole number > 0"),
        ("output=[a]", "found ['a']", "a text"),
    ],
)
def test_wrong_value_says_found_and_expected(override: str, found: str, expected: str) -> None:
    error = refusal(override)
    assert error.where == override.partition("=")[0]
    assert error.found == found
    assert expected in error.expected
    assert error.fix


def test_misspelt_choice_names_the_nearest() -> None:
    assert "did you mean 'bf16'" in refusal("train.precision=bf61").fix


def test_number_for_a_text_says_to_quote_it() -> None:
    error = refusal("model.revision=1234567")
    assert "quotes: '1234567'" in error.fix
    assert load("{model: m, task: t}", "model.revision='1234567'").model.revision == "1234567"


def test_all_mistakes_are_named_at_once() -> None:
    text = str(refusal("train.epochs=0", "train.seed=-1", "data.max_length=x"))
    assert all(key in text for key in ("train.epochs", "train.seed", "data.max_length"))


def test_python_gets_the_same_error() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig(model="m", task="t", train={"epochs": 0})
    assert (caught.value.where, caught.value.found) == ("train.epochs", "found 0")
    with pytest.raises(UnknownNameError, match="tain"):
        RunConfig(**SMALL, tain={})


def test_missing_task() -> None:
    error = refusal(text="model: m")
    assert (error.where, error.found) == ("task", "nothing is set")


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["train.batch_size=32", "train.batch_tokens=4096"], ["train.batch_size", "train.batch_tokens"]),
        (
            ["train.batch_size=4", "train.gradient_accumulation_steps=8"],
            ["train.batch_size", "train.gradient_accumulation_steps"],
        ),
        (["data.eval=x", "data.eval_fraction=0.1"], ["data.eval", "data.eval_fraction"]),
        (["data.max_length=256", "data.stride=256"], ["data.stride", "data.max_length"]),
        (["train.early_stopping=2", "data.eval_fraction=0"], ["train.early_stopping", "data.eval_fraction"]),
        (["train.best_metric=f1", "data.eval_fraction=0"], ["train.best_metric", "data.eval_fraction"]),
        (["model.name=m", "model.config={model_type: bert}"], ["model.name", "model.config"]),
        (["model=null", "model={revision: x}"], ["model.name", "model.config"]),
        (["task.labels=[a, b, a]"], ["task.labels", "'a'"]),
        (["task.score_range=[5, 0]"], ["task.score_range"]),
    ],
)
def test_keys_that_contradict_each_other_are_both_named(overrides: list[str], keys: list[str]) -> None:
    text = str(refusal(*overrides))
    assert all(key in text for key in keys), text


def test_exactly_one_batch_rule_is_in_force() -> None:
    def sizes(*overrides: str) -> tuple[int | None, int | None]:
        train = load("{model: m, task: t}", *overrides).train
        return train.batch_size, train.batch_tokens

    assert sizes() == (32, None)
    assert sizes("train.batch_size=8") == (8, None)
    assert sizes("train.batch_tokens=512") == (None, 512)
    assert sizes("train.batch_size=null") == (32, None)
    assert sizes("train.batch_size=8", "train.batch_size=null", "train.batch_tokens=512") == (None, 512)


def test_holdout() -> None:
    assert DataConfig(train="a").holdout == DEFAULT_EVAL_FRACTION
    assert DataConfig(train="a", eval="b").holdout == 0
    assert DataConfig(train="a", eval_fraction=0.2).holdout == 0.2
    assert DataConfig(train="a", eval_fraction=0).holdout == 0


def test_option_of_another_task_is_refused_and_a_default_is_not() -> None:
    task = load("{model: m, task: {name: t, multi_label: true, inner_dim: 64}}").task
    task.check_used({"multi_label"})
    with pytest.raises(ConfigError, match="multi_label means nothing to the task 't'") as caught:
        task.check_used({"labels", "head"})
    assert (caught.value.where, caught.value.expected) == ("task.multi_label", "any of: head, labels")
    resolved = load_config(parse_yaml(load_config(SMALL).to_yaml()).values).task
    resolved.check_used(())  # a resolved run.yaml names every option, at its default


# -- overrides -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["train.epochs=7"], ["--train.epochs=7"], ["--train.epochs", "7"]])
def test_three_ways_to_write_an_override(words: list[str]) -> None:
    assert load(EXAMPLE, *words).train.epochs == 7


def test_later_override_wins_and_the_mapping_is_left_alone() -> None:
    values = {**SMALL, "train": {"epochs": 1}}
    assert load_config(values, ["train.epochs=2", "--train.epochs", "5"]).train.epochs == 5
    assert values["train"] == {"epochs": 1}


def test_override_opens_a_name_into_a_mapping() -> None:
    config = load("{model: m, task: t}", "model.lora.r=4", "task.labels=[a, b]")
    assert (config.model.name, config.model.lora) == ("m", LoraConfig(r=4))
    assert (config.task.name, config.task.labels) == ("t", ("a", "b"))


def test_override_of_a_section_replaces_it() -> None:
    assert load("{model: {name: m, revision: r}, task: t}", "model=n").model == ModelConfig(name="n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a#b", "a#b"),
        ("a: b", "a: b"),
        ("@x", "@x"),
        ("*.jsonl", "*.jsonl"),
        ("C:\\data", "C:\\data"),
        ("数据/训练 集.jsonl", "数据/训练 集.jsonl"),
        ('"7"', "7"),
        ("a=b", "a=b"),
        ("null", None),
        ("", None),
    ],
)
def test_override_values_are_taken_whole(text: str, value: str | None) -> None:
    assert load("{model: m, task: t}", f"data.train={text}").data.train == value
    assert load("{model: m, task: t}", "--data.train", text).data.train == value


@pytest.mark.parametrize("words", [["train.epochs"], ["--train.epochs"], ["=3"], ["train..epochs=3"], ["-x"]])
def test_word_that_is_no_override(words: list[str]) -> None:
    error = refusal(*words)
    assert "sets nothing" in error.found
    assert "train.learning_rate=3e-5" in error.expected


def test_override_that_cannot_be_read() -> None:
    error = refusal("task.labels=[a, b")
    assert (error.where, "cannot be read" in error.found) == ("task.labels", True)


def test_override_below_a_value() -> None:
    assert "no key 'x'" in refusal("output.x=1", text=EXAMPLE).found


def test_negative_and_dashed_values() -> None:
    assert refusal("--train.seed", "-1").found == "found -1"
    assert load(EXAMPLE, "--output", "--odd").output == "--odd"


# -- YAML traps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2E-5", 2e-5),
        ("1e5", 1e5),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("3.", 3.0),
        ("010", 10),  # octal in YAML 1.1
        ("0x1F", 31),
        ("12:30:45", "12:30:45"),  # a number to base 60 in YAML 1.1
        ("2026-11-23", "2026-11-23"),  # a date
        ("1_000", "1_000"),
        ("yes", "yes"),  # true in YAML 1.1
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("1.2.3", "1.2.3"),
        ("<<", "<<"),
        ("=", "="),
        ("1e", "1e"),
        ("+", "+"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    from flagai.config_text import parse_value

    by_file = parse_yaml(f"a: '{text}'" if text == "<<" else f"a: {text}").values["a"]
    for found in (by_file, parse_value(text)):
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["1e5", "1e-5", "0x1F", "yes", "no", "null", "~", "010", "12:30", "2026-11-23", "", " a", "#", "真", "<<"]
)
def test_text_that_looks_like_something_else_survives(text: str) -> None:
    assert parse_yaml(to_yaml({"a": text, "b": (text,)})).values == {"a": text, "b": [text]}


def test_labels_may_look_like_numbers_and_truth_values() -> None:
    config = load("{model: m, task: {name: t, labels: [yes, no, 0, 1.5, true], class_weights: {0: 2, yes: 1}}}")
    assert config.task.labels == ("yes", "no", "0", "1.5", "true")
    assert config.task.class_weights == {"0": 2.0, "yes": 1.0}
    assert load_config(parse_yaml(config.to_yaml()).values) == config


def test_yes_and_no_still_mean_a_truth_value_where_one_is_wanted() -> None:
    assert load("{model: m, task: {name: t, multi_label: yes}, train: {tensorboard: no}}").task.multi_label is True


def test_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xef\xbb\xbfmodel: m\ntask: t\n")
    assert load_config(tmp_path / "run.yaml").model.name == "m"


def test_anchors_and_merge_keys_work() -> None:
    assert load("{model: m, task: t, train: {<<: {epochs: 2, seed: 1}, seed: 2}}").train.epochs == 2
    assert load("{model: m, task: t, train: {<<: {epochs: 2, seed: 1}, seed: 2}}").train.seed == 2


@pytest.mark.parametrize(
    ("text", "line", "column", "found"),
    [
        ("model: m\ntask: t\nmodel: n\n", 3, 1, "stands here twice"),
        ("model: m\ntrain:\n  epochs: 1\n  seed: 2\n  epochs: 3\n", 5, 3, "stands here twice"),
        ("model: m\ntask: [a, b\n", 3, 1, "expected"),
        ("model: m\n\ttask: t\n", 2, 1, "'\\t'"),
        ("model: m\n task: t\n", 2, 6, "mapping values"),
        ("model: !!python/object/apply:os.system [ls]\ntask: t\n", 1, 8, "constructor"),
        ("? [a, b]\n: c\n", 1, 3, "a key is a list"),
        ("a: 1\n---\nb: 2\n", 2, 1, "document"),
    ],
)
def test_yaml_errors_carry_line_and_column(tmp_path: Path, text: str, line: int, column: int, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, folder=tmp_path)
    assert caught.value.where == f"{tmp_path / 'run.yaml'}:{line}:{column}"
    assert found in caught.value.found


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "model:m task:t", "7"])
def test_file_without_keys(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="not keys and values"):
        load(text, folder=tmp_path)


def test_circular_yaml_ends() -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load("model: m\ntask: t\ntrain: &x\n  x: *x\n")


def test_mistakes_carry_file_line_and_key(tmp_path: Path) -> None:
    text = "model: m\ntask: t\ntrain:\n  seed: 1\n  epochs: none\n  learning_rat: 3\n"
    with pytest.raises(ConfigError) as caught:
        load(text, folder=tmp_path)
    assert caught.value.where == f"{tmp_path / 'run.yaml'}:6: train.learning_rat"
    assert f"{tmp_path / 'run.yaml'}:5: train.epochs: found 'none'" in str(caught.value)


def test_mistake_of_an_override_does_not_blame_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load("model: m\ntask: t\ntrain: {epochs: 1}\n", "train.epochs=x", folder=tmp_path)
    assert caught.value.where == "train.epochs"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(MissingFileError) as caught:
            load_config(path)
        assert caught.value.where == str(path)


def test_file_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes("model: 模型\n".encode("gb18030"))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "run.yaml")


# -- paths ---------------------------------------------------------------------------------------------------------


def test_relative_paths_lie_beside_the_file_or_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, here = tmp_path / "run", tmp_path / "here"
    for folder in (run, here):
        folder.mkdir()
    for file in (run / "both.jsonl", here / "both.jsonl", here / "only_here.jsonl"):
        file.touch()
    (run / "model").mkdir()
    monkeypatch.chdir(here)
    text = "model: model\ntask: t\ndata: {train: both.jsonl, eval: only_here.jsonl, test: nowhere.jsonl}\n"
    config = load(text, folder=run)
    assert config.model.name == str(run / "model")
    assert (config.data.train, config.data.eval) == (str(run / "both.jsonl"), "only_here.jsonl")
    assert config.data.test == "nowhere.jsonl"
    assert load(text, "data.train=both.jsonl", folder=run).data.train == "both.jsonl"


def test_hub_id_is_no_path(tmp_path: Path) -> None:
    assert load("model: org/name\ntask: t\n", folder=tmp_path).model.name == "org/name"


# -- round trip, difference, schema --------------------------------------------------------------------------------


def everything() -> RunConfig:
    return load_config(
        {
            "model": {"name": "m", "revision": "1e5", "lora": {"r": 2, "target_modules": ["q", "v"]}},
            "task": {"name": "t", "labels": ["否", "no", "1"], "class_weights": {"否": 2.0}, "score_range": [0, 5]},
            "data": {"train": "a b: c.jsonl", "columns": {"text": "问题 #1"}, "audit": {"fail_above": 0.5}},
            "train": {"batch_tokens": 100, "learning_rate": 1e-7, "resume": False, "packing": True},
        }
    )


@pytest.mark.parametrize("config", [load_config(SMALL), load(EXAMPLE), everything()], ids=["small", "plan", "all"])
def test_round_trip(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    again = load_config(tmp_path / "run.yaml")
    assert again == config
    assert again.to_yaml() == config.to_yaml()
    assert RunConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_diff_names_each_changed_key() -> None:
    old = load("{model: m, task: t, train: {epochs: 1}}")
    new = load("{model: {name: m, lora: {r: 4}}, task: {name: t, labels: [a]}, train: {epochs: 2}}")
    changes = diff(old, new)
    assert ("train.epochs", 1, 2) in changes
    assert ("task.labels", None, ["a"]) in changes
    assert ("model.lora.r", None, 4) in changes
    assert {key.split(".")[0] for key, _, _ in changes} == {"train", "task", "model"}
    assert diff(old, old) == []
    assert [(key, b, a) for key, a, b in changes if not key.startswith("model.lora")] == [
        change for change in diff(new, old) if not change[0].startswith("model.lora")
    ]


def test_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for values in (SMALL, parse_yaml(EXAMPLE).values, everything().to_dict(), load_config(SMALL).to_dict()):
        assert list(validator.iter_errors(values)) == []
    for wrong in ({"modle": "x"}, {"train": {"epochs": 0}}, {"train": {"precision": "fp64"}}, {"task": {"nam": 1}}):
        assert list(validator.iter_errors({**SMALL, **wrong})) != []


def test_schema_describes_the_keys() -> None:
    text = json.dumps(json_schema())
    assert "highest learning rate" in text
    assert "rank of the adapters" in text
