"""`python -m flagai`, the same as the command `flagai`: how a launcher starts it with its own interpreter."""

from __future__ import annotations

from flagai.cli import main

if __name__ == "__main__":
    main()
