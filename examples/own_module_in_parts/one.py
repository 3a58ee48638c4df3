"""A network of one's own on one process, in plain PyTorch: the letter in a gap from the letters around it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


class Reader(nn.Module):
    """Three letters before a gap and three behind it → scores of the letter in it."""

    def __init__(self, letters: int, width: int = 64, inner: int = 256) -> None:
        super().__init__()
        self.table = nn.Embedding(letters, width)
        self.up, self.down = nn.Linear(6 * width, inner), nn.Linear(inner, width)
        self.out = nn.Linear(width, letters)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[rows, 6] → [rows, letters]."""
        return self.out(self.down(functional.gelu(self.up(self.table(input_ids).flatten(1)))))


def score(scores: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and their number."""
    return functional.cross_entropy(scores, batch["targets"], reduction="sum"), torch.tensor(len(scores))


def main(path: str, steps: int = 200) -> None:
    """Train on a text, and tell the loss from time to time."""
    text = Path(path).read_text(encoding="utf-8")
    letters = sorted(set(text))
    windows = torch.tensor([letters.index(letter) for letter in text]).unfold(0, 7, 1)
    torch.manual_seed(0)
    model = Reader(len(letters))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    here = sum(p.numel() for p in model.parameters())
    for step in range(1, steps + 1):
        rows = windows[torch.randint(len(windows), (256,), generator=torch.Generator().manual_seed(step))]
        batch = {"input_ids": rows[:, [0, 1, 2, 4, 5, 6]], "targets": rows[:, 3]}
        total, count = score(model(batch["input_ids"]), batch)
        (total / count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}: loss {total / count:.5f}, {here} numbers")


if __name__ == "__main__":
    main(sys.argv[1])
