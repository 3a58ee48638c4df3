"""Metrics, their intervals and paired tests, on plain lists and NumPy arrays. It knows no task, model or file."""
