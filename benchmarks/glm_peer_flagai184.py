"""A contender of `glm.py`: flagai 1.8.4, run by a Python that has it; it prints one JSON line.

    <python with flagai 1.8.4> benchmarks/glm_peer_flagai184.py --one "train: flagai 1.8.4"

Its model, its training step and its way of writing an answer are called as they are. It needs nothing of ours.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from importlib import import_module
from typing import Any

import torch
from glm_peer_case import LEARNING_RATE, MAX_NORM, WEIGHT_DECAY, Case, batch, load, options, prompt, run, show
from peer_flagai184_glm import fields
from torch import Tensor

# By name, since in the project's own environment these modules are other ones.
_BASE, _GLM, _OPTIMIZERS, _TRAINER, _WRITING = (
    import_module(f"flagai.{name}")
    for name in ("model.base_model", "model.glm_model", "optimizers", "trainer", "model.predictor.utils")
)


def config(case: Case) -> Any:
    """Its configuration object, as its AutoLoader makes it from the config.json of GLM-large-ch."""
    sizes = {"layers": case.layers, "vocab": case.vocab, "hidden": case.hidden, "heads": case.heads}
    return _BASE.change_json_to_cls(fields(**sizes, positions=case.positions, dropout=case.dropout))


class Ids:
    """As much of its tokenizer as writing an answer asks for: the prompt's ids in, the answer's ids out."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def EncodeAsIds(self, text: str) -> list[int]:
        return prompt(self.case)[1:]

    def DecodeIds(self, ids: list[int]) -> list[int]:
        return list(ids)

    def get_command_id(self, name: str) -> int:
        # No end token and no other mask: every contender writes the same number of tokens.
        known = {"cls": "cls", "sop": "sop", "gMASK": "gmask"}
        return self.case.command(known[name]) if name in known else -1


class Original:
    """The contender."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = _GLM.GLMForSeq2Seq(config(case))
        load(self.model.model, case)
        self.model.to(case.device)
        self.batch = batch(case)
        with tempfile.TemporaryDirectory() as folder:
            self.trainer = _TRAINER.Trainer(env_type="pytorch", clip_grad=MAX_NORM, tensorboard_dir=folder)
        self.trainer.accumulate_count = 0  # as its train() begins
        self.optimizer = _OPTIMIZERS.get_optimizer(
            _OPTIMIZERS.get_optimizer_param_groups(self.model),
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            cpu_optimizer=True,
            cpu_torch_adam=True,
        )

    def inputs(self) -> dict[str, Tensor]:
        """Fresh each time: its step adds to what it is given. The separator goes by the name of attention_mask."""
        labels = self.batch["labels"]
        return {
            "input_ids": self.batch["input_ids"],
            "position_ids": self.batch["position_ids"],
            "attention_mask": self.batch["context_length"],
            "target_ids": labels.clamp(min=0),
            "loss_mask": (labels >= 0).long(),
        }

    @torch.no_grad()
    def forward(self) -> Tensor:
        self.model.eval()
        given = self.inputs()
        return self.model.model(given["input_ids"], given["position_ids"], given["attention_mask"])["logits"]

    def train(self) -> float:
        self.model.train()
        loss, _ = self.trainer.train_step_pytorch(self.inputs(), self.model, self.optimizer, None)
        self.optimizer.zero_grad()  # its step on the CPU leaves the gradients to grow; the others would differ
        return loss.item()

    def generate(self) -> list[int]:
        """By its `glm_generate_sample`, which its Predictor calls; the best token only (top_k = 1)."""
        ids = _WRITING.glm_generate_sample(
            self.model.model, Ids(self.case), "[gMASK]", top_k=1, out_seq_length=self.case.answer, eod_token=-1
        )
        return ids[self.case.context + 1 :]


if __name__ == "__main__":
    arguments = options(__doc__ or "").parse_args()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its configuration
        row = run(Original, arguments, arguments.one.partition(":")[0])
    show(row)
    sys.stdout.flush()
