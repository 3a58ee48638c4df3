"""Contenders of `generate.py`: Hugging Face's `generate`, with each of its caches. They know of ours only the GLM."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from generate_peer_case import Case, fill


def build(case: Case) -> Any:
    """The model of the case's weights, without an end token."""
    makers = {"gpt2": _gpt2, "t5": _t5, "glm": _glm}
    with torch.device("meta"):
        model = makers[case.model](case)
    model.to_empty(device="cpu")
    model.tie_weights()
    convolutions = {name for name, one in model.named_modules() if type(one).__name__ == "Conv1D"}
    fill(model, transposed=lambda name: name.removesuffix(".weight") in convolutions)
    for name in ("eos_token_id", "bos_token_id", "forced_eos_token_id"):
        setattr(model.generation_config, name, None)
    model.generation_config.pad_token_id = 0
    return model.to(case.dtype).eval()


def _gpt2(case: Case) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {
        "n_layer": case.layers,
        "n_embd": case.hidden,
        "n_head": case.heads,
        "n_positions": case.positions,
    }
    return GPT2LMHeadModel(GPT2Config(vocab_size=case.vocab, bos_token_id=None, eos_token_id=None, **sizes))


def _t5(case: Case) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {
        "d_model": case.hidden,
        "d_ff": 4 * case.hidden,
        "num_layers": case.layers,
        "num_heads": case.heads,
    }
    ends: dict[str, Any] = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": None}
    return T5ForConditionalGeneration(T5Config(vocab_size=case.vocab, d_kv=64, **sizes, **ends))


def _glm(case: Case) -> Any:
    from flagai.models.glm.configuration import GLMConfig
    from flagai.models.glm.modeling import GLMForConditionalGeneration

    return GLMForConditionalGeneration(
        GLMConfig(
            num_layers=case.layers,
            vocab_size=case.vocab,
            hidden_size=case.hidden,
            num_attention_heads=case.heads,
            max_sequence_length=case.positions,
        )
    )


def inputs(case: Case) -> dict[str, torch.Tensor]:
    """Prompts as a batch, padded on the side that the family wants."""
    prompts = case.prompts()
    width = max(map(len, prompts))
    if case.model == "glm":
        return _glm_inputs(case, prompts, width)
    pads = [[0] * (width - len(prompt)) for prompt in prompts]
    left = case.model == "gpt2"
    ids = [pad + prompt if left else prompt + pad for pad, prompt in zip(pads, prompts, strict=True)]
    real = [
        [0] * len(p) + [1] * len(q) if left else [1] * len(q) + [0] * len(p) for p, q in zip(pads, prompts, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(real)}


def _glm_inputs(case: Case, prompts: list[list[int]], width: int) -> dict[str, torch.Tensor]:
    """Contexts, pads on the left, and the start of the answer at the end."""
    sop = case.command("sop")
    pads = [width - len(prompt) for prompt in prompts]
    ids = [[0] * pad + prompt + [sop] for pad, prompt in zip(pads, prompts, strict=True)]
    places = [[*[0] * pad, *range(len(prompt)), len(prompt) - 1] for pad, prompt in zip(pads, prompts, strict=True)]
    blocks = [[*[0] * width, 1] for _ in prompts]
    return {
        "input_ids": torch.tensor(ids),
        "position_ids": torch.stack([torch.tensor(places), torch.tensor(blocks)], 1),
        "attention_mask": torch.tensor([[0] * pad + [1] * (width + 1 - pad) for pad in pads]),
        "context_length": torch.full((len(prompts),), width),
    }


class HuggingFace:
    """`generate` with a cache of the given kind.

    Args:
        cache: "dynamic", "static" or "compiled" (static under torch.compile).
    """

    def __init__(self, case: Case, *, cache: str) -> None:
        self.case, self.model, self.inputs = case, build(case), inputs(case)
        self.settings: dict[str, Any] = {} if cache == "dynamic" else {"cache_implementation": "static"}
        if cache == "compiled":
            from transformers import CompileConfig

            compile_config: Any = CompileConfig(fullgraph=False, mode="default")
            compile_config._compile_all_devices = True
            self.settings["compile_config"] = compile_config

    @torch.inference_mode()
    def generate(self) -> list[list[int]]:
        case = self.case
        found = self.model.generate(
            **self.inputs,
            max_new_tokens=case.answer,
            min_new_tokens=case.answer,
            num_beams=case.beams,
            do_sample=False,
            **self.settings,
        )
        return found[:, -case.answer :].tolist()


ENGINES = {
    "HF dynamic": partial(HuggingFace, cache="dynamic"),
    "HF static": partial(HuggingFace, cache="static"),
    "HF static compiled": partial(HuggingFace, cache="compiled"),
}
