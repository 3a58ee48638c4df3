"""Scripts of the original on several processes: each `env_type` trains what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flagai.errors import ConfigError
from flagai.trainer import Trainer

SCRIPT = """
import sys

import torch
from transformers import BertConfig, BertForSequenceClassification

from flagai.trainer import Trainer

env, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
parts = 2 if env == "deepspeed+mpu" else 1
trainer = Trainer(
    env_type=env, num_gpus=count, model_parallel_size=parts, batch_size=4 * parts // count, epochs=2, lr=1e-3,
    save_dir=out, eval_interval=4, save_interval=100, training_script=__file__,
)

def collate(samples):
    return {key: torch.tensor([sample[key] for sample in samples]) for key in samples[0]}

draw = torch.Generator().manual_seed(0)
rows = [{"input_ids": torch.randint(5, 60, (8,), generator=draw).tolist(), "labels": i % 2} for i in range(30)]
torch.manual_seed(0)
sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 2}
model = BertForSequenceClassification(
    BertConfig(vocab_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
)
trainer.train(model, train_dataset=rows, valid_dataset=rows[:8], collate_fn=collate)
print("loss", trainer.evaluate(model=model)["loss"])
"""


def run(folder: Path, env: str, count: int) -> tuple[float, dict[str, torch.Tensor]]:
    script, out = folder / "train.py", folder / env
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(script), env, str(out), str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    newest = (out / "latest_iteration.txt").read_text().split()[0]
    loss = next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("loss"))
    return loss, torch.load(out / newest / "pytorch_model.bin", weights_only=True)["module"]


@pytest.mark.proof
def test_every_environment_of_the_original_trains_as_one_process(tmp_path: Path) -> None:
    loss, weights = run(tmp_path, "pytorch", 1)
    for env in ("pytorchDDP", "deepspeed", "deepspeed+mpu"):
        found, there = run(tmp_path, env, 2)
        assert found == pytest.approx(loss, abs=1e-5), env
        assert there.keys() == weights.keys()
        assert max(float((there[name] - value).abs().max()) for name, value in weights.items()) < 1e-4, env


def test_one_process_is_a_plain_run_whatever_its_environment(tmp_path: Path) -> None:
    for env in ("pytorchDDP", "deepspeed", "bmtrain"):
        assert Trainer(env_type=env, save_dir=str(tmp_path)).parallel.strategy == "single"


def test_what_cannot_be_meant_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training_script=__file__"):
        Trainer(env_type="deepspeed", num_gpus=2, training_script=str(tmp_path / "nowhere.py"))
    with pytest.raises(ConfigError, match="deepspeed\\+mpu"):
        Trainer(env_type="deepspeed", num_gpus=2, model_parallel_size=2)
