"""glm-tiny-poetry-ch → a GLM that knows the characters of papers too, and pairs that teach it to copy.

Writes `model/` (weights, vocabulary, configuration) and `pairs/{train,dev}.jsonl` beside itself: of every abstract some
clauses, each as if it were the title. It reads the training part of the papers alone.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from flagai import AutoLoader
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.text import is_cjk

HERE = Path(__file__).parent
DATA = HERE.parent / "data/csl_title"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MIN_COUNT = 2  # a new character seen once cannot be learned; those of the poems are known however rare they are
POSITIONS = 256
CLAUSE = re.compile(r"[^,，。;；:：!！?？、()（）]+")
SHORTEST, LONGEST, CLAUSES = 6, 26, 6
HELD_OUT = 60  # abstracts whose clauses tell when the first part has learned enough


def papers() -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / "train.jsonl").read_text("utf-8").splitlines()]


def characters(known: list[str], texts: list[str]) -> list[str]:
    """The characters of the poems, then those of the papers; letters and digits also as the inside of a word."""
    counts = Counter(character for text in texts for character in text if not character.isspace())
    new = sorted((c for c, n in counts.items() if n >= MIN_COUNT and c not in known), key=lambda c: (-counts[c], c))
    inside = [f"##{c}" for c in new if c.isalnum() and not is_cjk(c)]
    return [*known, *new, *inside]


def make_tokenizer(known: list[str], texts: list[str]) -> GLMTokenizer:
    vocab = HERE / "model/vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, *characters(known, texts)]) + "\n", encoding="utf-8")
    tokenizer = GLMTokenizer.from_vocabulary(vocab, task_mask=True, lower_case=False, model_max_length=POSITIONS)
    vocab.unlink()
    return tokenizer


def make_model(old: GLMForConditionalGeneration, names: dict[str, int], tokenizer: GLMTokenizer) -> torch.nn.Module:
    """The weights of the poems' model; rows of tokens and places that it has not are drawn anew."""
    torch.manual_seed(42)
    changed = {"vocab_size": tokenizer.padded_vocab_size, "max_sequence_length": POSITIONS}
    changed |= {"embedding_dropout_prob": 0.1, "output_dropout_prob": 0.1}  # 620 titles are soon learned by heart
    model = GLMForConditionalGeneration(GLMConfig.from_dict(old.config.to_dict() | changed))
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eop_token_id
    weights, target = old.float().state_dict(), model.state_dict()
    shared = [(at, names[token]) for token, at in tokenizer.get_vocab().items() if token in names]
    for name, tensor in target.items():
        if name.endswith("word_embeddings.weight"):
            tensor[[new for new, _ in shared]] = weights[name][[at for _, at in shared]]
        else:
            tensor[: len(weights[name])] = weights[name]
    model.load_state_dict(target)
    return model


def clauses(abstract: str, draw: random.Random) -> Iterator[str]:
    found = [clause.strip(" .．") for clause in CLAUSE.findall(abstract[:200])]
    fitting = [clause for clause in found if SHORTEST <= len(clause) <= LONGEST]
    yield from draw.sample(fitting, min(CLAUSES, len(fitting)))


def write_pairs(rows: list[dict[str, str]]) -> None:
    draw = random.Random(42)
    for split, part in (("train", rows[HELD_OUT:]), ("dev", rows[:HELD_OUT])):
        pairs = [(row["abstract"], clause) for row in part for clause in clauses(row["abstract"], draw)]
        lines = (json.dumps({"abstract": a, "title": c}, ensure_ascii=False) + "\n" for a, c in pairs)
        (HERE / "pairs" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{split}: {len(pairs)} pairs")


def main() -> None:
    rows = papers()
    for folder in ("model", "pairs"):
        (HERE / folder).mkdir(exist_ok=True)
    write_pairs(rows)
    loader = AutoLoader("lm", "glm-tiny-poetry-ch")
    names = loader.get_tokenizer().get_vocab()
    known = [token for token, _ in sorted(names.items(), key=lambda item: item[1]) if len(token) == 1]
    tokenizer = make_tokenizer(known, [row["abstract"] + row["title"] for row in rows])
    make_model(loader.get_model(), names, tokenizer).save_pretrained(HERE / "model")
    tokenizer.save_pretrained(HERE / "model")
    print(f"{len(tokenizer)} tokens, {len(known)} of them known from the poems")


if __name__ == "__main__":
    main()
