"""Load a Hugging Face body and account for every name: what was missing, left over or of another shape.

It knows neither heads of ours nor tasks; what may be new is decided by whether a name belongs to the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from flagai.errors import CheckpointError, ModelError, unknown_name
from flagai.models.families import BODIES as FAMILY_BODIES
from flagai.models.families import family_of
from flagai.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BODIES: Final = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "masked-lm": "AutoModelForMaskedLM",
    "conditional-generation": "AutoModelForSeq2SeqLM",
    "causal-lm": "AutoModelForCausalLM",
    "encoder": "AutoModel",
}
GENERATION: Final = "generation"
"""the kind of body that writes, whichever it is for the family (`families.BODIES`)"""
_COUNTERS: Final = re.compile(r"(^|\.)(position_ids|inv_freq|masked_bias|attn\.bias)$")
"""buffers that old files hold and today's models compute"""
_POOLER: Final = re.compile(r"(^|\.)pooler\.")
_SHOWN: Final = 8
_ONLY_2022: Final = {"max_sequence_length", "block_position_encoding"}
"""fields of a GLM of 2022 that GLM-4, which bears the same name in transformers, does not have"""


def quiet_config(raw: Mapping[str, Any], where: str) -> Any:
    """A configuration from the content of a config.json. Errors: `ModelError` for a family not in transformers."""
    from transformers import CONFIG_MAPPING

    if is_glm(raw):
        return _glm_config(raw, where)
    fields = {name: value for name, value in raw.items() if name != "auto_map"}
    family = fields.pop("model_type", None)
    if not isinstance(family, str):
        raise ModelError("config.json names no model_type", expected='for instance "bert"', where=where)
    if "quantization_config" in raw:
        raise _quantised(where)
    if family not in CONFIG_MAPPING:
        raise _unknown_family(family, raw, where)
    return _made(CONFIG_MAPPING[family], fields, where)


def is_glm(raw: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is that of a GLM of 2022: ours, the remote code's or FlagAI's.

    FlagAI's files name no type; GLM-4, which bears the name of the remote code's, is transformers'.
    """
    kind = raw.get("model_type")
    if kind is None:
        return {"max_sequence_length", "num_layers"} <= raw.keys()
    return kind == "flagai_glm" or (kind == "glm" and not _ONLY_2022.isdisjoint(raw))


def _glm_config(raw: Mapping[str, Any], where: str) -> Any:
    from flagai.models.glm import registration  # noqa: F401 - it registers the classes
    from flagai.models.glm.configuration import GLMConfig

    fields = {name: value for name, value in raw.items() if name != "auto_map"}
    if "quantization_config" in raw:
        raise _quantised(where)
    try:
        return _made(GLMConfig, fields, where)
    except ModelError as error:
        if error.where:
            raise
        raise ModelError(error.found, expected=error.expected, fix=error.fix, where=where) from error


def _quantised(where: str) -> ModelError:
    return ModelError(
        "the weights are quantised", expected="plain weights", fix="use the model's plain copy", where=where
    )


def _made(kind: Any, fields: dict[str, Any], where: str) -> Any:
    try:
        with quiet_transformers():
            return kind.from_dict(fields)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"the configuration cannot be meant ({_first_line(error)})", where=where) from error
    except Exception as error:  # huggingface_hub's strict dataclasses raise classes of their own
        if type(error).__module__.startswith("huggingface_hub"):
            raise ModelError(f"the configuration cannot be meant ({_first_line(error)})", where=where) from error
        raise


def _unknown_family(family: str, raw: Mapping[str, Any], where: str) -> ModelError:
    code = "; it brings program code of its own, which flagai never runs" if "auto_map" in raw else ""
    return ModelError(
        f"the family {family!r} is not one of transformers' models{code}",
        expected="a family that transformers has",
        fix="choose another model, or check model_type in config.json",
        where=where,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def auto_class(body: str, config: Any, where: str) -> Any:
    """The model class for a kind of body and a configuration.

    Errors: `UnknownNameError` for another word, `ModelError` where the family has no such class.
    """
    import transformers

    if body == GENERATION:
        body = _writing_body(config, where)
    if body not in BODIES:
        raise unknown_name("body", body, (*BODIES, GENERATION))
    table = getattr(transformers, BODIES[body])._model_mapping
    unusable = body == "encoder" and getattr(config, "is_encoder_decoder", False)
    if unusable or type(config) not in table:
        raise ModelError(
            f"the family {config.model_type!r} has no {body} model",
            expected="an encoder such as BERT, RoBERTa, MiniLM, DistilBERT or ModernBERT",
            fix="choose another model for this task; `flagai models` lists what runs",
            where=where,
        )
    found = table[type(config)]
    return found[0] if isinstance(found, tuple | list) else found


def _writing_body(config: Any, where: str) -> str:
    family = family_of(config)
    if family is None:
        raise ModelError(
            f"the family {config.model_type!r} has no model that writes",
            expected="a GLM, an encoder-decoder (T5, BART), a decoder (GPT-2, Qwen) or a masked model (BERT)",
            fix="choose another model for this task; `flagai models` lists what runs",
            where=where,
        )
    return FAMILY_BODIES[family]


def load_body(
    body: str,
    config: Any,
    folder: Path,
    state: dict[str, torch.Tensor] | None,
    *,
    dtype: torch.dtype | None,
    seed: int,
) -> tuple[PreTrainedModel, LoadReport]:
    """The body with what the folder (or `state`) holds; new parameters come from `seed`, no global stream is moved."""
    kind = auto_class(body, config, str(folder))
    options = {"config": config, "dtype": dtype or torch.float32, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True, "local_files_only": True, "use_safetensors": state is None or None}
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(seed)
        try:
            model, info = kind.from_pretrained(None if state is not None else str(folder), state_dict=state, **options)
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(f"the weights cannot be loaded ({_first_line(error)})", where=str(folder)) from error
    report = LoadReport.of(info)
    if body == "encoder" and any(_POOLER.search(name) for name in report.missing):
        # A pooler nobody trained would be saved as if somebody had; our heads read the hidden states.
        drop_pooler(model)
        report = report.without_pooler()
    return model, report


def drop_pooler(model: Any) -> None:
    """Take the pooler off an encoder that has one."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What did not match between a checkpoint and a model, by the model's names (`unexpected`: the checkpoint's)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, str]
    errors: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> LoadReport:
        """From transformers' `output_loading_info`."""
        wrong = {
            name: f"{list(theirs)} in the file, {list(ours)} in the model"
            for name, theirs, ours in info["mismatched_keys"]
        }
        return cls(
            missing=tuple(sorted(info["missing_keys"])),
            unexpected=tuple(sorted(name for name in info["unexpected_keys"] if not _COUNTERS.search(name))),
            mismatched=dict(sorted(wrong.items())),
            errors=tuple(map(str, info.get("error_msgs") or ())),
        )

    def without_pooler(self) -> LoadReport:
        """The same report with no word about a missing pooler."""
        kept = tuple(name for name in self.missing if not _POOLER.search(name))
        return LoadReport(missing=kept, unexpected=self.unexpected, mismatched=self.mismatched, errors=self.errors)

    def check(self, model: PreTrainedModel, *, fresh: bool, where: str) -> list[str]:
        """The names that may be new and are. Errors: `CheckpointError` listing every name that must not be.

        A head may be new (`fresh`), and so may the pooler between body and head. Left-over tensors are allowed then
        where they belong to no part of the body: heads of other tasks. A pooler without use is always allowed.
        """
        missing = [name for name in self.missing if not (fresh and _is_head(name, model))]
        wrong = [f"{name}: {what}" for name, what in self.mismatched.items() if not (fresh and _is_head(name, model))]
        parts = _parts(model)
        extra = [name for name in self.unexpected if not _may_be_left(name, model, parts, fresh)]
        if missing or wrong or extra or self.errors:
            raise _incomplete(missing, wrong, extra, self.errors, where)
        return sorted({*self.missing, *self.mismatched})


def _is_head(name: str, model: PreTrainedModel) -> bool:
    prefix = f"{model.base_model_prefix}."
    if model.base_model is model:
        return False
    return not name.startswith(prefix) or bool(_POOLER.search(name))


def _may_be_left(name: str, model: PreTrainedModel, parts: set[str], fresh: bool) -> bool:
    # Files of token classifiers often hold the pooler of the model they grew from; nothing reads it.
    part = _part(name, model)
    return part not in parts and (fresh or part == "pooler")


def _part(name: str, model: PreTrainedModel) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]


def _parts(model: PreTrainedModel) -> set[str]:
    return {name.partition(".")[0] for name in model.base_model.state_dict()}


def _incomplete(
    missing: list[str], wrong: list[str], extra: list[str], errors: Iterable[str], where: str
) -> CheckpointError:
    lines = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for what, names in (
            ("parameters are not in the checkpoint", missing),
            ("have another shape", wrong),
            ("tensors of the checkpoint have no place in the model", extra),
            ("problems", list(errors)),
        )
        if names
    ]
    return CheckpointError(
        "the checkpoint does not fill the model; " + "; ".join(lines),
        expected="every parameter from the checkpoint",
        fix="config.json and weights must be of one model; copy or download the whole folder again",
        where=where,
    )
