"""How families of models write: one class a family behind the three verbs of `Writer`. Knows no search."""
