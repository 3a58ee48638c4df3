"""The contenders of `glm.py` that are ours: flagai's GLM, its strategy's training step, its way of writing an answer.

They do what `flagai train` and `flagai predict` do with a batch and a text; they know no other contender.
"""

from __future__ import annotations

from functools import partial

import torch
from glm_peer_case import LEARNING_RATE, MAX_NORM, WEIGHT_DECAY, Case, batch, prompt, weights
from torch import Tensor

from flagai.config import TrainConfig
from flagai.generate.blanks import fill
from flagai.generate.options import GenerationOptions
from flagai.models import packing
from flagai.models.glm.commands import Commands
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.parallel.native import SingleProcess
from flagai.tasks.pretraining import BlankInfilling
from flagai.train.optim import adamw


class Ours:
    """fp32."""

    precision = "fp32"

    def __init__(self, case: Case) -> None:
        self.case = case
        self.strategy = SingleProcess(device=case.device, precision=self.precision)
        self.model = self.strategy.place(build(case))
        packing.enable(self.model)
        self.groups = self.strategy.optimizer(
            adamw(TrainConfig(learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY))
        ).param_groups
        # The form in which the task blank-infilling collates.
        self.batch = batch(case)
        self.batch["attention_mask"] = torch.ones_like(self.batch["input_ids"])
        self.batch["logits_to_keep"] = self.batch["labels"] >= 0

    def forward(self) -> Tensor:
        given = {name: value for name, value in self.batch.items() if name != "logits_to_keep"}
        return self.strategy.evaluate(given)[0]["logits"]

    def train(self) -> float:
        loss = partial(BlankInfilling.loss, object.__new__(BlankInfilling))  # it looks at no option of the task
        total, count = self.strategy.accumulate([self.batch], loss)
        self.strategy.clip(MAX_NORM)
        self.strategy.step([LEARNING_RATE] * len(self.groups))
        return total / count

    @torch.inference_mode()
    def generate(self) -> list[int]:
        self.model.eval()
        names = ("cls", "eos", "pad", "sep", "unk", "mask", "sop", "eop", "gmask")
        commands = Commands(**{name: self.case.command(name) for name in names})
        options = GenerationOptions(max_new_tokens=self.case.answer, min_new_tokens=self.case.answer)
        ((answers,),) = fill(self.model, [prompt(self.case)], commands=commands, options=options)
        return list(answers[0].tokens)


class OursBf16(Ours):
    """Products in bf16: under autocast with fp32 weights to train and for whole batches; bf16 weights to write."""

    precision = "bf16"

    def generate(self) -> list[int]:
        self.model.to(torch.bfloat16)
        return super().generate()


def build(case: Case) -> GLMForConditionalGeneration:
    """Our model of the case's weights; the published fused projection becomes three."""
    with torch.device("meta"):
        model = GLMForConditionalGeneration(
            GLMConfig(
                num_layers=case.layers,
                vocab_size=case.vocab,
                hidden_size=case.hidden,
                num_attention_heads=case.heads,
                max_sequence_length=case.positions,
                embedding_dropout_prob=case.dropout,
                attention_dropout_prob=case.dropout,
                output_dropout_prob=case.dropout,
            )
        )
    model.to_empty(device=case.device)
    model.tie_weights()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights(case):
            for ours, part in _split(f"glm.{name}", value):
                parameters.pop(ours).copy_(part)
    if parameters:
        raise SystemExit(f"no values for {', '.join(parameters)}")
    return model


def _split(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    if "query_key_value" not in name:
        return [(name, value)]
    return [
        (name.replace("query_key_value", part), rows)
        for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True)
    ]
