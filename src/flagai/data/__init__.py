"""Files → records → batches. It knows no model; the original's `flagai.data.*` modules are joined to it below."""

__path__ = [*__path__, *(f"{folder}/../_compat/data" for folder in __path__)]
