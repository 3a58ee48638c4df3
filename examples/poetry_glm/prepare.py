"""Poems and couplets → texts with prompts, and a GLM tokenizer with a token for each of their characters.

Writes `poems/{train,dev,test}.jsonl` (fields prompt, text) and `model/` (vocabulary and configuration) beside itself.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flagai.models.glm.tokenization import GLMTokenizer

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
MIN_COUNT = 6  # a character seen less often than this is unknown: 0.3 % of the text
SIZES = {"num_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "max_sequence_length": 128}


def poems(name: str) -> Iterator[dict[str, str]]:
    """`静夜：五言绝句：` in front of the poem in one line."""
    path = DATA / "tang_song_shi" / name
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            title = "".join(row["title"].split())
            yield {"prompt": f"{title}：{row['form']}：", "text": "".join(row["paragraphs"])}


def couplets(split: str) -> Iterator[dict[str, str]]:
    """`对句：` in front of two lines that answer each other."""
    folder = DATA / "lvshi_couplets" / split
    first, second = ((folder / name).read_text("utf-8").splitlines() for name in ("in.txt", "out.txt"))
    for one, other in zip(first, second, strict=True):
        yield {"prompt": "对句：", "text": f"{''.join(one.split())}，{''.join(other.split())}。"}


def main() -> None:
    splits = {"train": "train_corpus.jsonl.gz", "dev": "dev.jsonl", "test": "test.jsonl"}
    rows = {split: [*poems(name), *couplets(split)] for split, name in splits.items()}
    (HERE / "poems").mkdir(exist_ok=True)
    for split, found in rows.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (HERE / "poems" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    counts = Counter(character for row in rows["train"] for character in row["prompt"] + row["text"])
    known = sorted((c for c, n in counts.items() if n >= MIN_COUNT), key=lambda c: (-counts[c], c))
    folder = HERE / "model"
    folder.mkdir(exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known]) + "\n", encoding="utf-8")
    tokenizer = GLMTokenizer.from_vocabulary(
        vocabulary, task_mask=True, lower_case=False, model_max_length=SIZES["max_sequence_length"]
    )
    vocabulary.unlink()
    tokenizer.save_pretrained(folder)
    config = {"model_type": "flagai_glm", "vocab_size": tokenizer.padded_vocab_size, **SIZES}
    config |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eop_token_id}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    known_share = sum(counts[c] for c in known) / counts.total()
    print(f"{len(rows['train'])} texts, {len(tokenizer)} tokens, {known_share:.2%} of the characters known")


if __name__ == "__main__":
    main()
