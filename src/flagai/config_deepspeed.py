"""A deepspeed.json of the user's own: read, compared with the run.yaml, and completed for the engine.

It knows keys and values of both; it knows no process, and nothing of what DeepSpeed does with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flagai.errors import ConfigError, MissingFileError

if TYPE_CHECKING:
    from flagai.config import RunConfig

AUTO: Final = "auto"
_WHERE: Final = "parallel.deepspeed"
_LR: Final = "train.learning_rate"
_SCHEDULERS: Final = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
_OURS: Final = frozenset({
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "optimizer", "scheduler", "bf16", "fp16", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
})  # fmt: skip
"""keys that say what the run.yaml says; compared, and then left out"""
_PASSED: Final = frozenset({
    "zero_optimization", "communication_data_type", "data_types", "steps_per_print", "wall_clock_breakdown",
    "memory_breakdown", "flops_profiler", "comms_logger", "dump_state", "prescale_gradients",
    "gradient_predivide_factor", "log_level",
})  # fmt: skip
_ZERO: Final = frozenset({
    "stage", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size", "use_multi_rank_bucket_allreduce",
    "allgather_partitions", "allgather_bucket_size", "overlap_comm", "offload_param", "offload_optimizer",
    "sub_group_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
    "stage3_module_granularity_threshold", "stage3_use_all_reduce_for_fetch_params", "stage3_allgather_sequential",
    "stage3_gather_16bit_weights_on_model_save", "gather_16bit_weights_on_model_save", "ignore_unused_parameters",
    "round_robin_gradients", "parameter_alignment", "memory_efficient_linear", "log_trace_cache_warnings",
    "enable_sanity_checks", "leaf_module",
})  # fmt: skip
_OFFLOAD: Final = frozenset({"device", "pin_memory", "buffer_count", "buffer_size", "max_in_cpu", "fast_init"})
BUCKET: Final = 10_000_000
"""numbers that travel together: 40 MB in fp32"""
SMALL: Final = 10_000
"""parameters of up to so many numbers stay whole under stage 3: they cost more messages than memory"""
_DEFAULTS: Final = {
    "reduce_bucket_size": BUCKET,
    "stage3_prefetch_bucket_size": BUCKET,
    "stage3_param_persistence_threshold": SMALL,
}

Disagreement = tuple[str, Any, str, Any]
"""key of the file, its value, key of the run.yaml, its value"""


def read_deepspeed(file: str) -> dict[str, Any]:
    """The settings in a deepspeed.json.

    Raises:
        MissingFileError: there is none.
        ConfigError: no JSON object, or a key that means nothing here.
    """
    path = Path(file)
    if not path.is_file():
        raise MissingFileError("there is no such file", where=f"{_WHERE}: {file}", expected="a deepspeed.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"it is no JSON: {error}", where=file, expected="a deepspeed.json") from error
    if not isinstance(found, dict):
        raise ConfigError("it is no JSON object", where=file, expected='{"zero_optimization": …}')
    _check_keys(found, _OURS | _PASSED, file, "")
    zero = _section(found, "zero_optimization")
    _check_keys(zero, _ZERO, file, "zero_optimization.")
    for key in ("offload_optimizer", "offload_param"):
        _check_keys(_section(zero, key), _OFFLOAD, file, f"zero_optimization.{key}.")
        if (device := _section(zero, key).get("device", "none")) not in ("cpu", "none", AUTO):
            raise ConfigError(
                f"zero_optimization.{key}.device is {device!r}",
                where=file,
                expected="cpu, none or auto; disks are not used",
                fix="set it to cpu",
            )
    return found


def check_deepspeed(config: RunConfig) -> None:
    """That the deepspeed.json of a run says nothing else than its run.yaml. Does nothing where there is none.

    Raises:
        ConfigError: they disagree; every disagreement is named, with both values.
    """
    parallel = config.parallel
    if parallel.deepspeed is None:
        return
    if not parallel.strategy.startswith("zero"):
        raise ConfigError(
            f"{_WHERE} means nothing to strategy {parallel.strategy}",
            where=_WHERE,
            expected="strategy zero1, zero2 or zero3",
            fix="set parallel.strategy, or take parallel.deepspeed out",
        )
    own = read_deepspeed(parallel.deepspeed)
    stage = int(parallel.strategy.removeprefix("zero"))
    precision = None if config.train.precision == AUTO else config.train.precision
    found = [*_engine(own, stage, precision, parallel.offload), *_training(own, config), *_optimizer(own, config)]
    _refuse(found, parallel.deepspeed)


def engine_settings(
    file: str | None, *, stage: int, precision: str, offload: bool, reduce_dtype: str | None = None
) -> dict[str, Any]:
    """What DeepSpeed's engine is given: the file's own settings about partitions and messages, and ours for the rest.

    "auto" becomes the value of the run, or a default of ours.

    Raises:
        ConfigError: the file disagrees with one of the arguments.
    """
    own = {} if file is None else read_deepspeed(file)
    _refuse(list(_engine(own, stage, precision, offload)), file or "")
    passed = {key: value for key, value in own.items() if key in _PASSED and value != AUTO}
    zero = {key: value for key, value in _section(own, "zero_optimization").items() if value != AUTO}
    zero = {**_DEFAULTS, **zero, "stage": stage}
    for key in ("offload_optimizer", "offload_param"):
        zero.pop(key, None)
        if offload and (key == "offload_optimizer" or stage == 3):
            given = _section(_section(own, "zero_optimization"), key)
            zero[key] = {**{k: v for k, v in given.items() if v != AUTO}, "device": "cpu"}
    half = {} if precision == "fp32" else {"data_types": {"grad_accum_dtype": "fp32"}}
    reduced = (
        {} if reduce_dtype is None else {"communication_data_type": {"fp32": "fp32", "bf16": "bfp16"}[reduce_dtype]}
    )
    return {
        **half,
        **passed,
        **reduced,
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "loss_scale": 1.0},
    }


def _engine(own: Mapping[str, Any], stage: int, precision: str | None, offload: bool) -> Iterator[Disagreement]:
    zero = _section(own, "zero_optimization")
    if _says(zero, "stage") and zero["stage"] != stage:
        yield "zero_optimization.stage", zero["stage"], "parallel.strategy", f"zero{stage}"
    for key in ("bf16", "fp16"):
        enabled = _section(own, key).get("enabled", AUTO)
        if enabled != AUTO and precision is not None and bool(enabled) != (precision == key):
            yield f"{key}.enabled", enabled, "train.precision", precision
    for key in ("offload_optimizer", "offload_param"):
        device = _section(zero, key).get("device", AUTO)
        meant = "cpu" if offload and (key == "offload_optimizer" or stage == 3) else "none"
        if device not in (AUTO, meant):
            yield f"zero_optimization.{key}.device", device, "parallel.offload", offload


def _training(own: Mapping[str, Any], config: RunConfig) -> Iterator[Disagreement]:
    train = config.train
    clipping = train.max_grad_norm or 0.0
    pairs = (
        ("train_batch_size", "train.batch_size", train.batch_size),
        ("gradient_accumulation_steps", "train.gradient_accumulation_steps", train.gradient_accumulation_steps),
        ("gradient_clipping", "train.max_grad_norm", clipping),
    )
    for key, ours, value in pairs:
        if _says(own, key) and own[key] != value:
            yield key, own[key], ours, value
    key = "train_micro_batch_size_per_gpu"
    if _says(own, key) and train.batch_size is not None:
        parts = train.gradient_accumulation_steps * (config.parallel.processes or 1)
        exact = config.parallel.processes is not None
        size = own[key] * parts
        if size != train.batch_size if exact else train.batch_size % size:
            yield f"{key} × {parts} parts", own[key], "train.batch_size", train.batch_size


def _optimizer(own: Mapping[str, Any], config: RunConfig) -> Iterator[Disagreement]:
    train, optimizer = config.train, _section(own, "optimizer")
    if optimizer and str(optimizer.get("type", AUTO)).lower() not in ("adamw", AUTO):
        yield "optimizer.type", optimizer["type"], "the optimizer of flagai", "AdamW"
    betas = [train.adam_beta1, train.adam_beta2]
    meant = {
        "lr": (_LR, train.learning_rate),
        "betas": ("train.adam_beta1, train.adam_beta2", betas),
        "eps": ("train.adam_epsilon", train.adam_epsilon),
        "weight_decay": ("train.weight_decay", train.weight_decay),
    }
    yield from _params(optimizer, "optimizer", meant)
    scheduler = _section(own, "scheduler")
    if scheduler and (kind := scheduler.get("type", AUTO)) != AUTO and _SCHEDULERS.get(kind) != train.scheduler:
        yield "scheduler.type", kind, "train.scheduler", train.scheduler
    yield from _params(scheduler, "scheduler", {"warmup_max_lr": (_LR, train.learning_rate)})


def _params(section: Mapping[str, Any], name: str, meant: Mapping[str, tuple[str, Any]]) -> Iterator[Disagreement]:
    for key, value in _section(section, "params").items():
        if value == AUTO:
            continue
        ours, expected = meant.get(key, ("the run.yaml, which decides", AUTO))
        if value != expected:
            yield f"{name}.params.{key}", value, ours, expected


def _refuse(found: list[Disagreement], file: str) -> None:
    if found:
        listed = "; ".join(f"{key} is {value!r}, but {ours} is {meant!r}" for key, value, ours, meant in found)
        raise ConfigError(
            f"it disagrees with the run.yaml: {listed}",
            where=f"{_WHERE}: {file}",
            expected="the same values in both",
            fix='write "auto" in the deepspeed.json, or change one of the two',
        )


def _says(section: Mapping[str, Any], key: str) -> bool:
    return section.get(key, AUTO) != AUTO


def _section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    if found is None or found == AUTO:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{key} is {found!r}", where=_WHERE, expected="a JSON object")
    return found


def _check_keys(values: Mapping[str, Any], known: frozenset[str], file: str, prefix: str) -> None:
    for key in values:
        if key not in known:
            near = get_close_matches(key, sorted(known), n=2)
            raise ConfigError(
                f"the key {prefix}{key} means nothing here",
                where=file,
                expected=f"one of: {', '.join(sorted(known))}",
                fix=f"did you mean {' or '.join(near)}?" if near else f"take {prefix}{key} out",
            )
