"""Readers by format: a file becomes rows of plain values with line numbers. Knows no task and no model."""
