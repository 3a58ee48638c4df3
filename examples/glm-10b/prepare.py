"""The tokenizer of `glm-tiny-poetry-ch` for texts of 1024 tokens, in `model/` beside this file."""

from __future__ import annotations

from pathlib import Path

from flagai import AutoLoader

LENGTH = 1024


def main() -> None:
    tokenizer = AutoLoader("poetry", "glm-tiny-poetry-ch").get_tokenizer()
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(Path(__file__).parent / "model")


if __name__ == "__main__":
    main()
