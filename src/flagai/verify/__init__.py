"""Proof that a user can run: a killed run equals an undisturbed one, and every layout trains as one process does."""
