"""What a GLM is made of, and the published config.json files read as that. It knows no weights and no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from flagai.errors import ModelError
from flagai.models.loading import is_glm

PUBLISHED_TYPE: Final = "glm"
"""what published folders call themselves; transformers gives the same name to GLM-4, another model"""

_REQUIRED: Final = ("num_layers", "hidden_size", "num_attention_heads", "max_sequence_length", "vocab_size")
# Fields of published files that say how the original program ran, not what the model is.
_RUNTIME: Final = frozenset(
    {
        "architectures",
        "auto_map",
        "bad_words_id",
        "checkpoint_activations",
        "checkpoint_num_layers",
        "max_memory_length",
        "model_type",
        "output_predict",
        "parallel_output",
        "spell_func",
        "transformers_version",
        "torch_dtype",
        "relative_encoding",
        "block_position_encoding",
        "spell_length",
    }
)
_CHOICES: Final = {"gelu": ("tanh", "erf"), "pool_token": ("cls", "start", "pad")}


@strict
class GLMConfig(PreTrainedConfig):
    """The sizes and switches of a GLM (Du et al., ACL 2022, arXiv 2103.10360).

    Args:
        num_layers, hidden_size, num_attention_heads: the transformer; the inner size is four times `hidden_size`.
        vocab_size: rows of the embedding, usually the vocabulary padded to a multiple of 128.
        max_sequence_length: the longest input; both position tables have one row more.
        embedding_dropout_prob, attention_dropout_prob, output_dropout_prob: rates in training.
        attention_scale: how far scores are scaled down before the softmax and up again inside it, for fp16; the result
            does not depend on it. Only `attn_implementation="eager"` does so: the others keep scores in fp32 anyway.
        gelu: "tanh" is what the published weights were trained with; "erf" is what the Hugging Face remote code runs.
        attend_to_pads: True reproduces the original, whose padded contexts are attended to.
        pool_token: which token a classifier looks at: "cls" the first, "start" the first answer token, "pad" the last
            of the context.
    """

    model_type = "flagai_glm"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - transformers' own spelling
    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "num_layers",
        "max_position_embeddings": "max_sequence_length",
    }

    num_layers: int = 24
    vocab_size: int = 30592
    hidden_size: int = 1024
    num_attention_heads: int = 16
    max_sequence_length: int = 512
    embedding_dropout_prob: float | int = 0.1
    attention_dropout_prob: float | int = 0.1
    output_dropout_prob: float | int = 0.1
    attention_scale: float | int = 1.0
    layernorm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    gelu: Literal["tanh", "erf"] = "tanh"
    attend_to_pads: bool = False
    pool_token: Literal["cls", "start", "pad"] = "cls"
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    tie_word_embeddings: bool = True
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ModelError(
                    f"{name} is {getattr(self, name)!r}",
                    expected=" or ".join(map(repr, known)),
                    fix="correct config.json",
                )
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}",
                fix="correct config.json",
            )

    @property
    def head_dim(self) -> int:
        """Numbers of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers has it; the content of a published config.json is read as ours.

        Raises:
            ModelError: the file describes a GLM-4, or a branch that no released checkpoint uses.
        """
        if config_dict.get("model_type", PUBLISHED_TYPE) == PUBLISHED_TYPE:
            config_dict = from_published(config_dict)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """As transformers has it, without its warning that "glm" is another type."""
        raw, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        published = is_glm(raw) and raw.get("model_type") != cls.model_type
        return (from_published(raw) | {"model_type": cls.model_type} if published else raw), rest

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json; `auto_map` would ask a reader to run code from the folder, so it is dropped."""
        values = super().to_dict()
        values.pop("auto_map", None)
        return values


def from_published(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields from a published config.json.

    Raises:
        ModelError: it is another model, or asks for a branch that no released checkpoint uses.
    """
    if missing := [name for name in _REQUIRED if name not in raw]:
        raise ModelError(
            f"config.json has no {', '.join(missing)}",
            expected="the fields of a GLM of 2022",
            fix="a GLM-4 is loaded by transformers' AutoModel; else copy config.json again",
        )
    _refuse(raw, "relative_encoding", False)
    _refuse(raw, "block_position_encoding", True)
    _refuse(raw, "spell_length", None)
    _refuse(raw, "intermediate_size", 4 * int(raw["hidden_size"]))
    return {name: value for name, value in raw.items() if name not in _RUNTIME and name != "intermediate_size"}


def _refuse(raw: Mapping[str, Any], name: str, only: Any) -> None:
    found = raw.get(name, only)
    if found != only:
        raise ModelError(
            f"config.json says {name} = {found!r}",
            expected=f"{only!r}, as in every released checkpoint",
            fix="run such a model with the program that made it",
        )
