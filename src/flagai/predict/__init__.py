"""Encode → batches → model → decode: the one loop for prediction, evaluation and serving. Knows no trainer."""
