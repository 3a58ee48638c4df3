"""A script of the user's own under torchrun: what changes for several processes is a few lines."""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from torch import nn
from torch.nn import functional

from flagai.models.plan import Columns, Plan, Rows
from flagai.parallel.axes import Sizes
from flagai.parallel.spread import Spread

class Net(nn.Module):
    flagai_plan = Plan(tensor={"up": Columns(), "down": Rows()}, divides=(("inner size", 64),))

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 3)

    def forward(self, input_ids):
        return {"logits": self.down(torch.relu(self.up(input_ids)))}

torch.manual_seed(0)
strategy = Spread(Sizes(tensor=2), device="cpu")
model = strategy.place(Net())
optimizer = strategy.optimizer(lambda model: torch.optim.AdamW(model.parameters(), lr=0.01))

def loss(outputs, batch):
    return functional.cross_entropy(outputs["logits"], batch["labels"], reduction="sum"), torch.tensor(16.0)

x, y = torch.randn(16, 8), torch.randint(3, (16,))
losses = []
for _ in range(20):
    total, count = strategy.accumulate([{"input_ids": x, "labels": y}], loss)
    strategy.clip(1.0)
    strategy.step([0.01 for _ in optimizer.param_groups])
    losses.append(total / count)
whole = dict(strategy.weights())
if strategy.axes.index("tensor") == 0:
    assert losses[-1] < losses[0] / 1.5 and whole["up.weight"].shape == (64, 8), losses
    print("divided", model.up.weight.to_local().shape)
"""


@pytest.mark.slow
def test_a_script_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "divided torch.Size([32, 8])" in done.stdout


EXAMPLE = Path(__file__).parents[2] / "examples/own_module_in_parts"


def test_the_example_changes_fewer_than_ten_lines_of_training() -> None:
    one, parts = ((EXAMPLE / name).read_text(encoding="utf-8").splitlines() for name in ("one.py", "parts.py"))
    new = [line for line in difflib.unified_diff(one, parts, n=0, lineterm="") if re.match(r"\+\s*[^\s+\"]", line)]
    assert len([line for line in new if "here =" not in line]) < 10, new


@pytest.mark.proof
def test_the_example_divided_learns_as_the_example_whole() -> None:
    losses = []
    for command in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        script = EXAMPLE / ("parts.py" if command else "one.py")
        words = [sys.executable, *command, str(script), str(EXAMPLE / "README.md")]
        done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=True)
        losses.append([float(found) for found in re.findall(r"loss ([\d.]+)", done.stdout)])
    one, parts = losses
    assert len(one) == 4 and len(parts) == 8
    assert all(abs(a - parts[2 * i]) < 1e-3 and parts[2 * i] == parts[2 * i + 1] for i, a in enumerate(one))
