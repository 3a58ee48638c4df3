"""Checkpoints by idea: their files, writing them, reading them, keeping some. `train.checkpoint` is the door."""
