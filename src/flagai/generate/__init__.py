"""Decoding over any model with a cache. Knows models and tokens: no task, no text and no trainer."""
