"""A contender of `generate.py`: flagai 1.8.4, run by a Python that has it; it prints one JSON line.

    <python with flagai 1.8.4> benchmarks/generate_peer_flagai184.py --one "gpt2 batch 1 beam 1 fp32: flagai 1.8.4"

Its models and its ways of writing are called as they are: one text after the other, for it takes no batches. It needs
nothing of ours.
"""

from __future__ import annotations

import contextlib
import io
from importlib import import_module
from typing import Any

from generate_peer_case import Case, fill, options, run, show
from peer_flagai184_glm import fields

_BASE = import_module("flagai.model.base_model")
_WRITING = import_module("flagai.model.predictor.utils")


class Ids:
    """As much of its tokenizer as writing asks for: one prompt's ids in, the answer's ids out."""

    def __init__(self, case: Case, ids: list[int]) -> None:
        self.case, self.ids = case, ids

    def encode_plus(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(self.ids)}

    def decode(self, ids: list[int]) -> list[int]:
        return list(ids)

    def EncodeAsIds(self, text: str) -> list[int]:
        return list(self.ids[1:])

    def DecodeIds(self, ids: list[int]) -> list[int]:
        return list(ids)

    def get_command_id(self, name: str) -> int:
        # No end token and no other mask: every contender writes the same number of tokens.
        known = {"cls": "cls", "sop": "sop", "gMASK": "gmask"} if self.case.model == "glm" else {}
        return self.case.command(known[name]) if name in known else -1


class GPT2:
    """By its `gpt_random_sample_use_cache`, which its Predictor calls; the best token only (top_k = 1)."""

    def __init__(self, case: Case) -> None:
        self.case = case
        made = {
            "activation_function": "gelu_new",
            "n_head": case.heads,
            "n_embd": case.hidden,
            "hidden_size": case.hidden,
            "n_layer": case.layers,
            "n_positions": case.positions,
            "n_ctx": case.positions,
            "vocab_size": case.vocab,
            "n_inner": None,
            "checkpoint_activations": False,
        }
        self.model = import_module("flagai.model.gpt2_model").GPT2Model(_BASE.change_json_to_cls(made))
        fill(self.model)
        self.model.to(case.dtype).eval()
        self.write = import_module("flagai.model.predictor.gpt").gpt_random_sample_use_cache

    def generate(self) -> list[list[int]]:
        case, found = self.case, []
        for ids in case.prompts():
            found.append(self.write(self.model, Ids(case, ids), "", case.context, case.answer, 1, 1.0, 1.0, 1.0, "cpu"))
        return found


class GLM:
    """By its `glm_generate_sample`."""

    def __init__(self, case: Case) -> None:
        self.case = case
        sizes = {"layers": case.layers, "vocab": case.vocab, "hidden": case.hidden, "heads": case.heads}
        made = fields(**sizes, positions=case.positions, dropout=0.1)
        self.model = import_module("flagai.model.glm_model").GLMForSeq2Seq(_BASE.change_json_to_cls(made))
        fill_glm(self.model.model)
        self.model.to(case.dtype).eval()

    def generate(self) -> list[list[int]]:
        case, found = self.case, []
        for ids in case.prompts():
            text = Ids(case, ids)
            row = _WRITING.glm_generate_sample(
                self.model.model, text, "[gMASK]", top_k=1, out_seq_length=case.answer, eod_token=-1
            )
            found.append(row[len(ids) + 1 :])
        return found


def fill_glm(model: Any) -> None:
    """Our names have the projection in three parts: theirs are the parts one below the other."""
    import torch

    names = {}
    for name, parameter in model.named_parameters():
        if "query_key_value" in name:
            for place, part in enumerate(("query", "key", "value")):
                ours = f"glm.{name.replace('query_key_value', part)}"
                names[ours] = parameter.data.chunk(3)[place]
        else:
            names[f"glm.{name}"] = parameter.data

    class Named(torch.nn.Module):
        def named_parameters(self, *_: Any, **__: Any) -> Any:
            return iter(names.items())

    fill(Named())


if __name__ == "__main__":
    arguments = options(__doc__ or "").parse_args()
    kinds = {"gpt2": GPT2, "glm": GLM}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its configuration
        row = run(kinds[arguments.one.split()[0]], arguments)
    show(row)
