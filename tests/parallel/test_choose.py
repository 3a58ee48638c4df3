"""Settings → strategy: what fits together, what the original's names mean, and what is refused."""

from __future__ import annotations

import pytest

from flagai.config import ParallelConfig, load_config
from flagai.errors import ConfigError, MissingExtraError, UnknownNameError
from flagai.parallel.axes import Sizes
from flagai.parallel.choose import from_environment, make_strategy, sizes_of
from flagai.parallel.native import SingleProcess


def test_one_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert isinstance(make_strategy(ParallelConfig(), device="cpu"), SingleProcess)


@pytest.mark.parametrize(
    ("settings", "processes", "sizes"),
    [
        ({"strategy": "ddp"}, 4, Sizes(replicate=4)),
        ({"strategy": "ddp", "tensor": 2}, 4, Sizes(replicate=2, tensor=2)),
        ({"strategy": "ddp", "tensor": 2, "pipeline": 2}, 8, Sizes(replicate=2, tensor=2, pipeline=2)),
        ({"strategy": "fsdp"}, 4, Sizes(shard=4)),
        ({"strategy": "fsdp", "shard": 2}, 4, Sizes(replicate=2, shard=2)),
        ({"strategy": "fsdp", "tensor": 2}, 8, Sizes(shard=4, tensor=2)),
        ({"strategy": "fsdp", "pipeline": 2, "schedule": "interleaved"}, 4, Sizes(pipeline=2, shard=2)),
        ({"strategy": "ddp", "context": 2, "tensor": 2}, 8, Sizes(replicate=2, context=2, tensor=2)),
    ],
)
def test_the_processes_that_are_left_over_see_different_examples(
    settings: dict[str, object], processes: int, sizes: Sizes
) -> None:
    assert sizes_of(ParallelConfig(**settings), processes) == sizes  # type: ignore[arg-type]
    assert sizes.total == processes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tensor": 2}, ["parallel.tensor", "strategy ddp or fsdp"]),
        ({"pipeline": 2}, ["parallel.pipeline", "strategy ddp or fsdp"]),
        ({"strategy": "zero2", "pipeline": 2}, ["parallel.pipeline", "strategy ddp"]),
        ({"strategy": "ddp", "schedule": "interleaved"}, ["parallel.schedule", "parallel.pipeline"]),
        ({"context": 2}, ["parallel.context", "strategy ddp or fsdp"]),
        ({"strategy": "ddp", "offload": True}, ["parallel.offload", "fsdp"]),
        ({"strategy": "ddp", "shard": 2}, ["parallel.shard", "fsdp"]),
        ({"strategy": "ddp", "sequence": True}, ["parallel.sequence", "parallel.tensor"]),
        ({"strategy": "dpp"}, ["parallel.strategy", "ddp"]),
        ({"tensors": 2}, ["parallel.tensors", "tensor"]),
        ({"strategy": "ddp", "tensor": 0}, ["parallel.tensor"]),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"task": "classification", "parallel": settings})
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_processes_that_cannot_be_cut() -> None:
    with pytest.raises(ConfigError, match="a multiple of 2"):
        sizes_of(ParallelConfig(strategy="ddp", tensor=2), 3)
    with pytest.raises(ConfigError, match=r"parallel\.shard"):
        sizes_of(ParallelConfig(strategy="fsdp", shard=3), 4)


def test_several_processes_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        make_strategy(ParallelConfig(strategy="ddp"), device="cpu")


def test_one_process_is_not_started_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flagai.parallel.world.processes", lambda: 2)
    with pytest.raises(ConfigError, match=r"parallel\.strategy=ddp"):
        make_strategy(ParallelConfig(), device="cpu")


def test_what_this_release_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"flagai\[deepspeed\]"):
        make_strategy(ParallelConfig(strategy="zero2"), device="cpu")


def test_the_names_of_the_original() -> None:
    assert from_environment("pytorch") == {"strategy": "single", "tensor": 1}
    assert from_environment("pytorchDDP") == {"strategy": "ddp", "tensor": 1}
    assert from_environment("deepspeed") == {"strategy": "zero2", "tensor": 1}
    assert from_environment("deepspeed+mpu", model_parallel_size=4) == {"strategy": "fsdp", "tensor": 4}
    assert from_environment("bmtrain") == {"strategy": "bmtrain", "tensor": 1}
    with pytest.raises(UnknownNameError, match="pytorchDDP"):
        from_environment("pytorchddp")
    with pytest.raises(ConfigError, match="model_parallel_size"):
        from_environment("pytorchDDP", model_parallel_size=2)


@pytest.mark.parametrize("name", ["pytorch", "pytorchDDP", "deepspeed", "deepspeed+mpu", "bmtrain"])
def test_the_names_of_the_original_are_settings(name: str) -> None:
    assert ParallelConfig(**from_environment(name)).strategy
