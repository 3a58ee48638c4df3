"""The contenders of `generate.py` that are ours: `flagai.generate`, with the lean loop and with the general writer."""

from __future__ import annotations

from functools import partial

from generate_peer_case import Case
from generate_peer_hf import build

from flagai.generate.generate import write
from flagai.generate.lean import LeanWriter
from flagai.generate.options import GenerationOptions
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.make import make_writer
from flagai.models.glm.commands import Commands


class Ours:
    """Everything that a call does is timed: making the writer, reading prompts, writing.

    Args:
        fast: the lean loop, or the model's own forward.
    """

    def __init__(self, case: Case, *, fast: bool) -> None:
        self.case, self.model, self.fast = case, build(case), fast
        self.notes: dict[str, float] = {}

    def generate(self) -> list[list[int]]:
        case, commands = self.case, None
        prompts = [Prompt(ids=tuple(ids)) for ids in case.prompts()]
        if case.model == "glm":
            names = ("cls", "eos", "pad", "sep", "unk", "mask", "sop", "eop", "gmask")
            commands = Commands(**{name: case.command(name) for name in names})
            prompts = [Prompt(ids=prompt.ids, blanks=(len(prompt.ids) - 1,)) for prompt in prompts]
        writer = make_writer(self.model, commands=commands, end_ids=(), fast=self.fast)
        options = GenerationOptions(max_new_tokens=case.answer, num_beams=case.beams)
        found = write(writer, prompts, options)
        if isinstance(writer, LeanWriter):
            self.notes = {"copies_mib": writer.nbytes["copies"] / 2**20}
        return [list(fillings[0][-1].tokens) for fillings in found]


ENGINES = {"flagai": partial(Ours, fast=True), "flagai general": partial(Ours, fast=False)}
