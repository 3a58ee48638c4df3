"""The tiny models that the processes of a `world` train: one of each family, and some of nobody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 96


def _quiet(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def _glm(**more: Any) -> Any:
    from flagai.models.glm.configuration import GLMConfig
    from flagai.models.glm.modeling import GLMForConditionalGeneration

    rates = dict.fromkeys(("embedding_dropout_prob", "attention_dropout_prob", "output_dropout_prob"), 0.0)
    sizes = {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "max_sequence_length": 40}
    return GLMForConditionalGeneration(GLMConfig(vocab_size=VOCABULARY, **sizes, **rates, **more))


def _hugging_face(kind: str, config: str, **values: Any) -> Any:
    import transformers

    return getattr(transformers, kind)(getattr(transformers, config)(vocab_size=VOCABULARY, **values))


_SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
_BERT = {"max_position_embeddings": 48, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MODELS: dict[str, Callable[[], Any]] = {
    "glm": _glm,
    "bert": lambda: _hugging_face("BertForMaskedLM", "BertConfig", **_SIZES, **_BERT),
    "classifier": lambda: _hugging_face("BertForSequenceClassification", "BertConfig", num_labels=3, **_SIZES, **_BERT),
    "roberta": lambda: _hugging_face("RobertaForMaskedLM", "RobertaConfig", **_SIZES, **_BERT),
    "modernbert": lambda: _hugging_face(
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        **_SIZES,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    "gpt2": lambda: _hugging_face(
        "GPT2LMHeadModel",
        "GPT2Config",
        n_embd=32,
        n_layer=4,
        n_head=4,
        n_positions=48,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "opt": lambda: _hugging_face(
        "OPTForCausalLM",
        "OPTConfig",
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=64,
        word_embed_proj_dim=32,
        max_position_embeddings=48,
        dropout=0.0,
    ),
    "t5": lambda: _hugging_face(
        "T5ForConditionalGeneration",
        "T5Config",
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
        feed_forward_proj="gated-gelu",
    ),
    "llama": lambda: _hugging_face("LlamaForCausalLM", "LlamaConfig", **_SIZES, num_key_value_heads=2),
    "qwen3": lambda: _hugging_face(
        "Qwen3ForCausalLM", "Qwen3Config", **_SIZES, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True
    ),
}


class Pairs(nn.Module):
    """A head that is none of Hugging Face's: scores of each token from it and its neighbour."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, VOCABULARY)

    def forward(self, outputs: Any, attention_mask: Tensor) -> dict[str, Tensor]:
        """Scores [batch, tokens, vocabulary]."""
        hidden = self.norm(outputs["last_hidden_state"]) * attention_mask[..., None]
        return {"logits": self.out(hidden + functional.pad(hidden[:, :-1], (0, 0, 1, 0)))}


def _headed() -> Any:
    from transformers import BertConfig, BertModel

    from flagai.models.headed import HeadedModel

    return HeadedModel(BertModel(BertConfig(vocab_size=VOCABULARY, **_SIZES, **_BERT)), Pairs())


def _lora(family: str, targets: list[str], **options: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(MODELS[family](), LoraConfig(r=4, target_modules=targets, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


MODELS["headed"] = _headed
MODELS["lora"] = lambda: _lora("bert", ["query", "value", "dense"])
MODELS["lora gpt2"] = lambda: _lora("gpt2", ["c_attn", "c_proj"], fan_in_fan_out=True)
MODELS["lora t5"] = lambda: _lora("t5", ["q", "v"])
MODELS["dora"] = lambda: _lora("bert", ["query"], use_dora=True)
MODELS["three heads"] = lambda: _hugging_face(
    "BertForMaskedLM", "BertConfig", **_SIZES | {"hidden_size": 48, "num_attention_heads": 3}
)
MODELS["one layer"] = lambda: _hugging_face("BertForMaskedLM", "BertConfig", **_SIZES | {"num_hidden_layers": 1})


class Feed(nn.Module):
    """A network of the user's own: no configuration, no family."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 16)
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Scores [batch, tokens, vocabulary]."""
        x = self.table(input_ids)
        return {"logits": self.out(x + self.down(torch.relu(self.up(x))))}


MODELS["own"] = Feed


class Moody(Feed):
    """A network of which some examples need a part that others do not touch."""

    def __init__(self) -> None:
        super().__init__()
        self.rare, self.never = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """As there."""
        x = self.table(input_ids)
        asking = input_ids[:, 0] % 6 == 0
        if asking.any():
            x = x + asking[:, None, None] * self.rare(x)
        return {"logits": 0.1 * self.out(x + self.down(torch.relu(self.up(x))))}


MODELS["moody"] = Moody


def model_of(family: str) -> Any:
    """A tiny random model, the same in every process; weights large enough for differences to show."""
    torch.manual_seed(1)
    model = _quiet(MODELS[family.removesuffix(" kept")]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.0 if family in ("t5", "t5 kept", "own", "moody") else 4.0)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    return model
