"""Time: the training loop, its optimizer, its callbacks and its state on disk. Evaluates through `predict/`."""
