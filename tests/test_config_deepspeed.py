"""A deepspeed.json beside a run.yaml: what they say together, and every place where they disagree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flagai.config import RunConfig, load_config
from flagai.config_deepspeed import check_deepspeed, engine_settings, read_deepspeed
from flagai.errors import ConfigError, MissingFileError

AUTO = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto", "total_num_steps": "auto"}},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 2,
        "reduce_bucket_size": "auto",
        "overlap_comm": True,
        "offload_optimizer": {"device": "none"},
    },
}


def written(folder: Path, own: Any) -> str:
    path = folder / "deepspeed.json"
    path.write_text(own if isinstance(own, str) else json.dumps(own), encoding="utf-8")
    return str(path)


def run(file: str, **train: Any) -> RunConfig:
    parallel = train.pop("parallel", {"strategy": "zero2"})
    return load_config({"task": "classification", "train": train, "parallel": {**parallel, "deepspeed": file}})


def test_a_file_that_leaves_everything_open(tmp_path: Path) -> None:
    file = written(tmp_path, AUTO)
    check_deepspeed(run(file))
    settings = engine_settings(file, stage=2, precision="bf16", offload=False)
    assert settings["zero_optimization"]["overlap_comm"] is True
    assert settings["zero_optimization"]["reduce_bucket_size"] == 10_000_000
    assert settings["bf16"] == {"enabled": True}
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "auto" not in json.dumps(settings)
    assert settings.keys().isdisjoint({"optimizer", "scheduler", "train_batch_size"})


def test_clipping_is_ours(tmp_path: Path) -> None:
    """DeepSpeed clips at 1 where nothing is said."""
    assert engine_settings(None, stage=1, precision="fp32", offload=False)["gradient_clipping"] == 0.0


def test_a_file_that_says_the_same(tmp_path: Path) -> None:
    own = {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.5,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.98], "weight_decay": 0.1}},
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}},
    }
    config = run(
        written(tmp_path, own),
        batch_size=16,
        gradient_accumulation_steps=2,
        max_grad_norm=0.5,
        learning_rate=1e-4,
        adam_beta2=0.98,
        weight_decay=0.1,
        precision="bf16",
        parallel={"strategy": "zero3", "offload": True, "processes": 2},
    )
    check_deepspeed(config)


def test_every_disagreement_is_named_with_both_values(tmp_path: Path) -> None:
    own = {
        "train_batch_size": 7,
        "train_micro_batch_size_per_gpu": 5,
        "gradient_accumulation_steps": 3,
        "gradient_clipping": 0.25,
        "optimizer": {"type": "Lamb", "params": {"lr": 0.125, "betas": [0.5, 0.75], "bias_correction": False}},
        "scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 77}},
        "fp16": {"enabled": True},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
    }
    with pytest.raises(ConfigError) as caught:
        check_deepspeed(run(written(tmp_path, own), max_grad_norm=None))
    pairs = [
        ("train_batch_size is 7", "train.batch_size is 32"),
        ("train_micro_batch_size_per_gpu × 1 parts is 5", "train.batch_size is 32"),
        ("gradient_accumulation_steps is 3", "train.gradient_accumulation_steps is 1"),
        ("gradient_clipping is 0.25", "train.max_grad_norm is 0.0"),
        ("optimizer.type is 'Lamb'", "the optimizer of flagai is 'AdamW'"),
        ("optimizer.params.lr is 0.125", "train.learning_rate is 5e-05"),
        ("optimizer.params.betas is [0.5, 0.75]", "train.adam_beta1, train.adam_beta2 is [0.9, 0.999]"),
        ("optimizer.params.bias_correction is False", "the run.yaml, which decides is 'auto'"),
        ("scheduler.type is 'WarmupCosineLR'", "train.scheduler is 'linear'"),
        ("scheduler.params.warmup_num_steps is 77", "the run.yaml, which decides is 'auto'"),
        ("fp16.enabled is True", "train.precision is 'fp32'"),
        ("zero_optimization.stage is 3", "parallel.strategy is 'zero2'"),
        ("zero_optimization.offload_optimizer.device is 'cpu'", "parallel.offload is False"),
    ]
    text = str(caught.value)
    for theirs, ours in pairs:
        assert f"{theirs}, but {ours}" in text, (theirs, text)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"zero_optimisation": {}}, ["zero_optimisation", "zero_optimization"]),
        ({"zero_optimization": {"stage3_max_live_parameter": 1}}, ["did you mean stage3_max_live_parameters"]),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, ["nvme", "cpu"]),
        ({"zero_optimization": {"offload_param": {"nvme_path": "/x"}}}, ["offload_param.nvme_path"]),
        ({"zero_optimization": 2}, ["a JSON object"]),
        ("{", ["no JSON"]),
        ("[]", ["no JSON object"]),
    ],
)
def test_files_that_mean_nothing(tmp_path: Path, own: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_deepspeed(run(written(tmp_path, own)))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"parallel\.deepspeed"):
        check_deepspeed(run(str(tmp_path / "none.json")))


def test_a_file_beside_another_strategy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="zero1, zero2 or zero3"):
        check_deepspeed(run(written(tmp_path, AUTO), parallel={"strategy": "ddp"}))


def test_the_trainer_asks_before_it_reads_data(tmp_path: Path) -> None:
    from flagai import Trainer

    config = load_config(
        {
            "task": "classification",
            "data": {"train": str(tmp_path)},
            "parallel": {"strategy": "zero2", "deepspeed": written(tmp_path, {"zero_optimization": {"stage": 1}})},
        }
    )
    with pytest.raises(ConfigError, match=r"zero_optimization\.stage is 1"):
        Trainer(config)


def test_a_path_beside_the_run_yaml(tmp_path: Path) -> None:
    written(tmp_path, AUTO)
    text = "task: classification\nparallel: {strategy: zero2, deepspeed: deepspeed.json}\n"
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    file = load_config(tmp_path / "run.yaml").parallel.deepspeed
    assert file is not None
    assert read_deepspeed(file)["zero_optimization"]["stage"] == 2


def test_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[1] / "examples/zero"
    for path in sorted(folder.glob("*.yaml")):
        config = load_config(path)
        check_deepspeed(config)
        assert config.parallel.strategy.startswith("zero")
