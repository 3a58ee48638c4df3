"""What the processes of a `world` do: train a tiny model for a few steps under a strategy, and tell what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flagai.data.batching import cut
from flagai.parallel.axes import Sizes
from flagai.parallel.native import SingleProcess
from flagai.parallel.spread import Spread
from flagai.parallel.strategy import Strategy

VOCABULARY = 96
ROWS = (8, 7, 6, 8, 5, 8, 3, 8, 1, 8, 8, 2, 8, 7, 8, 8, 4, 8, 1, 5)
"""examples of each of 20 steps: some batches leave one process without an example"""


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


def _lora() -> Any:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(MODELS["bert"](), LoraConfig(r=4, target_modules=["query", "value"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


MODELS["headed"] = _headed
MODELS["lora"] = _lora
MODELS["three heads"] = lambda: _hugging_face(
    "BertForMaskedLM", "BertConfig", **_SIZES | {"hidden_size": 48, "num_attention_heads": 3}
)
MODELS["one layer"] = lambda: _hugging_face("BertForMaskedLM", "BertConfig", **_SIZES | {"num_hidden_layers": 1})


def model_of(family: str) -> Any:
    """A tiny random model, the same in every process; weights large enough for differences to show."""
    torch.manual_seed(1)
    model = _quiet(MODELS[family]())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.0 if family in ("t5", "own", "moody") else 4.0)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    return model


def batch_of(family: str, step: int, part: np.ndarray) -> dict[str, Any]:
    """One micro-batch: the examples of `part`, each a function of its number, padded to the longest of them."""
    rows = [np.random.default_rng((step, int(i))) for i in part]
    lengths = [int(rng.integers(6, 24)) for rng in rows]
    drawn = [(rng.integers(3, VOCABULARY, 24), rng.random(24), rng.integers(3, VOCABULARY, 24)) for rng in rows]
    tokens, chance, labels = (np.stack(values)[:, : max(lengths)] for values in zip(*drawn, strict=True))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = tokens * mask
    asked = (chance < 0.4) & (mask > 0)
    asked[:, 1] = True
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "asked": asked, "labels": labels}
    if family == "glm":
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        batch |= {
            "position_ids": np.stack([places, places // 5], axis=1),
            "context_length": np.array([length // 2 for length in lengths]),
            "logits_to_keep": asked,
        }
    return batch


def loss_of(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed cross entropy of the tokens that are asked for (or of the rows), and their number."""
    logits, labels, asked = outputs["logits"], batch["labels"], batch["asked"]
    if logits.dim() == 2 and logits.shape[-1] != VOCABULARY:
        return functional.cross_entropy(logits, labels[:, 0] % 3, reduction="sum"), labels.new_tensor(len(logits))
    kept = logits if logits.dim() == 2 else logits[asked]
    return functional.cross_entropy(kept, labels[asked], reduction="sum"), asked.sum()


def forward_names(model: Any, family: str) -> Any:
    """T5 reads its labels shifted as the decoder's input."""
    if family == "t5":
        original = model.forward

        def forward(input_ids: Tensor, attention_mask: Tensor) -> Any:
            return original(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=input_ids)

        model.forward = forward
    return model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Plain steps: what is not learned from stays, and noise is not made larger."""
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.02, momentum=0.9)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Two groups, as in training; an epsilon above the noise of gradients that are zero in exact arithmetic."""
    groups: dict[bool, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault(parameter.dim() > 1, []).append(parameter)
    made = [{"params": p, "weight_decay": 0.01 if k else 0.0, "peak": 0.003} for k, p in groups.items()]
    return torch.optim.AdamW(made, lr=0.003, eps=1e-5, fused=True)


def steps(
    strategy: Strategy,
    family: str,
    rows: tuple[int, ...],
    accumulation: int,
    *,
    first: int = 0,
    clip: float | None = 20.0,
) -> list[tuple[float, float]]:
    """(mean loss, gradient norm) of each step."""
    found = []
    groups = strategy._optimizer.param_groups  # type: ignore[attr-defined]
    for step, count in enumerate(rows, first):
        parts = cut(np.arange(count), accumulation=accumulation, axis=strategy.data_axis())
        total, number = strategy.accumulate([batch_of(family, step, part) for part in parts], loss_of)
        norm = strategy.clip(clip)
        strategy.step([group["lr"] for group in groups])
        found.append((total / number, norm))
    return found


def make(sizes: Mapping[str, int] | None, **options: Any) -> Strategy:
    """One process where no sizes are given."""
    if sizes is None:
        return SingleProcess(device="cpu", **options)
    return Spread(Sizes(**sizes), device="cpu", **options)


def _arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's state in a form that travels between processes."""
    arrays = {part: {k: v.numpy().copy() for k, v in state[part].items()} for part in ("optimizer", "random")}
    return {**arrays, "scaler": state["scaler"]}


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    tensors = {part: {k: torch.from_numpy(v) for k, v in state[part].items()} for part in ("optimizer", "random")}
    return {**tensors, "scaler": state["scaler"]}


def _to_meta(model: nn.Module) -> None:
    """Parameters without numbers, as a large model is built."""
    empty: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = empty.setdefault(id(parameter), nn.Parameter(parameter.to("meta")))


def _begin(strategy: Strategy, model: Any, start: Mapping[str, Any] | None, *, meta: bool) -> Any:
    """The placed model with the weights of `start`: read before placing, or after it where the model is on meta."""
    saved = {} if start is None else {name: torch.from_numpy(value) for name, value in start["weights"].items()}
    if start is not None and not meta:
        model.load_state_dict(saved, strict=False)
    if meta:
        _to_meta(model)
    placed = strategy.place(model)
    if meta:
        strategy.fill(lambda name, key, box: saved[name][box.slices])
    return placed


def train(
    family: str,
    sizes: Mapping[str, int] | None,
    *,
    accumulation: int = 1,
    rows: tuple[int, ...] = ROWS,
    optimizer: str = "adamw",
    first: int = 0,
    start: Mapping[str, Any] | None = None,
    meta: bool = False,
    plant: str = "",
    packed: bool = False,
    clip: float | None = 20.0,
    **options: Any,
) -> dict[str, Any]:
    """Losses, norms, final weights and state of a training.

    Args:
        rows: examples of each step, from step `first` on.
        start: weights and state of another training.
        packed: without pads, as the trainer does it.
        plant: a mistake to make, which the comparison must notice.
    """
    model = forward_names(model_of(family), family)
    strategy = make(sizes, **options)
    if packed:
        from flagai.models import packing

        assert packing.enable(model)
    if plant == "mean of means":
        strategy.reduce = lambda values: list(values)  # type: ignore[method-assign]
    placed = _begin(strategy, model, start, meta=meta)
    strategy.optimizer({"sgd": sgd, "adamw": adamw}[optimizer])
    if start is not None:
        strategy.load_state(_tensors(start["state"]))
    found = steps(strategy, family, rows, accumulation, first=first, clip=clip)
    local = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in placed.parameters())
    return {
        "steps": found,
        "weights": {name: tensor.detach().numpy().copy() for name, tensor in strategy.weights()},
        "state": _arrays(strategy.state()),
        "numbers": local,
    }


def parts(family: str, sizes: Mapping[str, int] | None, **options: Any) -> list[tuple[Any, ...]]:
    """What this process would save after two steps, and the whole weights and state to compare it with."""
    strategy = make(sizes, **options)
    strategy.place(model_of(family))
    strategy.optimizer(adamw)
    steps(strategy, family, (8, 5), 1)
    mine = [(p.name, p.key, p.whole, p.box.offset, p.box.shape, p.tensor.numpy().copy()) for p in strategy.parts()]
    whole = {(name, ""): tensor.detach().numpy().copy() for name, tensor in strategy.weights()}
    for entry, value in strategy.state()["optimizer"].items():
        name, _, key = entry.rpartition("/")
        whole[name, key] = value.numpy().copy()
    return [mine, whole]  # type: ignore[list-item]


def evaluate(family: str, sizes: Mapping[str, int] | None, **options: Any) -> dict[str, Any]:
    """Scores and loss of a batch, as evaluation gets them."""
    strategy = make(sizes, **options)
    strategy.place(model_of(family))
    outputs, scored = strategy.evaluate(batch_of(family, 0, np.arange(5)), loss_of)
    return {"logits": outputs["logits"].numpy().copy(), "loss": scored}


def dropped(family: str, sizes: Mapping[str, int], **options: Any) -> tuple[Any, Any]:
    """With dropout: the gradient norm that this process sees, and the sum of its random numbers afterwards."""
    model = model_of(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    strategy = make(sizes, **options)
    strategy.place(model)
    strategy.optimizer(adamw)
    found = steps(strategy, family, (8, 8, 8), 1)
    weights = {name: tensor.detach().double().sum().item() for name, tensor in strategy.weights()}
    return found, weights, torch.rand(3).tolist()  # type: ignore[return-value]


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


def wrong_plan(**arguments: Any) -> dict[str, Any]:
    """ModernBERT by a plan that forgets that q, k and v are one fused layer."""
    from dataclasses import replace

    from flagai.models.plan import Columns
    from flagai.models.plans import PLANS

    plan = PLANS["modernbert"]
    plan = replace(plan, tensor={**plan.tensor, "attn.Wqkv": Columns()})
    return train("modernbert", plan=plan, **arguments)


def own(sizes: Mapping[str, int] | None) -> dict[str, Any]:
    """A user's module, divided by a plan of a few lines."""
    from flagai.models.plan import Columns, Plan, Rows, Vocabulary

    plan = Plan(
        tensor={"table": Vocabulary(), "up": Columns(), "down": Rows(), "out": Columns(gather=True)},
        divides=(("inner size", 64),),
    )
    return train("own", sizes, **({} if sizes is None else {"plan": plan}))


def error(family: str, sizes: Mapping[str, int], when: str = "place", **options: Any) -> tuple[str, str]:
    """The error that a wrong request gives: its class and text."""
    try:
        strategy = make(sizes, **options)
        if when == "optimizer":
            strategy.optimizer(adamw)
        strategy.place(model_of(family))
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""
