"""The import paths of the original FlagAI, joined to it: re-exports and thin adapters, no behaviour of its own.

A file here is found as `flagai.<path>` by the `__path__` line of `flagai/__init__.py`, and those below `data/` by
that of `flagai/data/__init__.py`. Classes live in `_adapters`, so that they are the same under both names.
"""
