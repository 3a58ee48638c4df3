"""Names of the original project, and of the packaged model, to where the weights are found today.

It downloads nothing and knows no class; `runs` says what this version can do with a model, and `note` why not.
An id is None where no public copy is known to be the same weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """One model. `name` is written as the original wrote it; look-up ignores case."""

    name: str
    family: str
    huggingface: str | None = None
    modelscope: str | None = None
    runs: bool = False
    """whether this version trains and predicts with it"""
    note: str = ""


_WORDS: Final = 'cuts Chinese into words first: pip install "flagai[cpm]"'
_NO_COPY: Final = "no public copy of these weights is known; a folder with them loads by its path"
_VISION: Final = "pictures are not part of this version"
_CODE: Final = "needs program code from the hub, which is never run"


def _rows() -> list[ZooEntry]:
    return [*_encoders(), *_language_models(), *_glm(), *_opt(), *_galactica(), *_aquila(), *_vision(), *_image_text()]


def _encoders() -> list[ZooEntry]:
    same = (
        "the original's copy was made from a public model it does not name; this one has the same shape and vocabulary"
    )
    return [
        ZooEntry(
            name="all-MiniLM-L6-v2",
            family="bert",
            huggingface="sentence-transformers/all-MiniLM-L6-v2",
            modelscope="sentence-transformers/all-MiniLM-L6-v2",
            runs=True,
            note="English sentence encoder, 22.7 M parameters; flagai[quickstart] brings it along, no network needed",
        ),
        ZooEntry(
            name="BERT-base-en",
            family="bert",
            huggingface="google-bert/bert-base-uncased",
            modelscope="AI-ModelScope/bert-base-uncased",
            runs=True,
            note=same,
        ),
        ZooEntry(
            name="RoBERTa-base-ch",
            family="bert",
            huggingface="hfl/chinese-roberta-wwm-ext",
            modelscope="dienstag/chinese-roberta-wwm-ext",
            runs=True,
            note=f"a BERT in spite of its name; {same}",
        ),
    ]


def _language_models() -> list[ZooEntry]:
    pegasus = "imxly/t5-pegasus"
    cpm = "TsinghuaAI/CPM-Generate"
    large = f"2.6 B parameters; {_WORDS}"
    return [
        ZooEntry(name="T5-base-en", family="t5", huggingface="google-t5/t5-base", runs=True, note="English, 223 M"),
        ZooEntry(
            name="T5-base-ch",
            family="t5",
            huggingface=pegasus,
            runs=True,
            note=f"the public copy of T5-PEGASUS, whose tokenizer the original used; {_WORDS}",
        ),
        ZooEntry(name="GPT2-base-ch", family="gpt2", note=_NO_COPY),
        ZooEntry(name="GPT2-base-en", family="gpt2", huggingface="openai-community/gpt2", runs=True, note="English"),
        ZooEntry(name="CPM-large-ch", family="cpm", huggingface=cpm, runs=True, note=large),
        ZooEntry(name="CPM-large-ch-generation", family="cpm", huggingface=cpm, runs=True, note=large),
        ZooEntry(name="CPM3", family="cpm3", note="an architecture that transformers does not have"),
        ZooEntry(name="CPM3-train", family="cpm3", note="an architecture that transformers does not have"),
        ZooEntry(name="ALM-1.0", family="alm", note=f"Arabic; {_NO_COPY}"),
    ]


def _glm() -> list[ZooEntry]:
    rows = {
        "GLM-large-ch": ("glm-large-chinese", "Chinese, 24 layers of 1024, 356 M parameters, 1,024 tokens"),
        "GLM-large-en": ("glm-large", "English, 24 layers of 1024, 335 M parameters, 512 tokens, [MASK] alone"),
        "GLM-10b-ch": ("glm-10b-chinese", "Chinese, 48 layers of 4096, 9.9 B parameters, 1,024 tokens"),
        "GLM-10b-en": ("glm-10b", "English, 48 layers of 4096, 9.9 B parameters, 1,024 tokens"),
        "GLM-2b": ("glm-2b", "English, 36 layers of 2048, 1.9 B parameters, 1,024 tokens"),
        "GLM-515m": ("glm-515m", "English, 30 layers of 1152, 515 M parameters, 512 tokens, [MASK] alone"),
        "GLM-roberta-large": (
            "glm-roberta-large",
            "English, 24 layers of 1024, 355 M parameters, 512 tokens, [MASK] alone",
        ),
    }
    scope = {"GLM-large-ch": "ZhipuAI/glm-large-chinese"}
    found = [
        ZooEntry(
            name=name, family="glm", huggingface=f"THUDM/{hub_id}", modelscope=scope.get(name), runs=True, note=note
        )
        for name, (hub_id, note) in rows.items()
    ]
    poems = "Chinese poems, by flagai itself: title, first line or gaps; comes with flagai, no network needed"
    return [
        ZooEntry(name="glm-tiny-poetry-ch", family="glm", runs=True, note=poems),
        *found,
        ZooEntry(name="GLM-large-en-generation", family="glm", note=_NO_COPY),
    ]


def _opt() -> list[ZooEntry]:
    return [
        ZooEntry(name=f"opt-{size}-en", family="opt", huggingface=f"facebook/opt-{size}", runs=True, note="English")
        for size in ("125m", "350m", "1.3b", "2.7b", "6.7b", "13b", "30b", "66b")
    ]


def _galactica() -> list[ZooEntry]:
    return [
        ZooEntry(
            name=f"galactica-{size}-en",
            family="galactica",
            huggingface=f"facebook/galactica-{size}",
            runs=True,
            note="English, of science; an OPT",
        )
        for size in ("1.3b", "6.7b", "30b", "120b")
    ]


def _aquila() -> list[ZooEntry]:
    ids = {
        "aquila-7b": "BAAI/Aquila-7B",
        "aquila-33b": None,
        "aquilachat-7b": "BAAI/AquilaChat-7B",
        "aquilachat-33b": None,
        "aquilacode-7b-nv": "BAAI/AquilaCode-7B-NV",
        "aquilacode-7b-ts": None,
        "aquilacode-multi": "BAAI/AquilaCode-multi",
        "aquilacode-python": None,
    }
    return [ZooEntry(name=name, family="aquila", huggingface=hub_id, note=_CODE) for name, hub_id in ids.items()]


def _vision() -> list[ZooEntry]:
    other = f"{_VISION}; the original's weights may be another training of the same architecture"
    vit = {
        f"vit-{size}-p{patch}-{side}": f"google/vit-{size}-patch{patch}-{side}"
        for size, patch, side in (
            ("base", 16, 224),
            ("base", 16, 384),
            ("base", 32, 384),
            ("large", 16, 224),
            ("large", 16, 384),
            ("large", 32, 384),
        )
    }
    vit |= {"vit-base-p32-224": None, "vit-large-p32-224": None}  # type: ignore[dict-item]
    swin = {
        "swinv1-base-patch4-window7-224": "microsoft/swin-base-patch4-window7-224",
        "swinv2-base-patch4-window8-256": "microsoft/swinv2-base-patch4-window8-256",
        "swinv2-base-patch4-window16-256": "microsoft/swinv2-base-patch4-window16-256",
        "swinv2-small-patch4-window16-256": "microsoft/swinv2-small-patch4-window16-256",
    }
    return [
        *(ZooEntry(name=name, family="vit", huggingface=hub_id, note=other) for name, hub_id in vit.items()),
        *(ZooEntry(name=name, family="swin", huggingface=hub_id, note=other) for name, hub_id in swin.items()),
    ]


def _image_text() -> list[ZooEntry]:
    ids = {
        "clip-base-p32-224": ("clip", "openai/clip-vit-base-patch32"),
        "clip-base-p16-224": ("clip", "openai/clip-vit-base-patch16"),
        "clip-large-p14-224": ("clip", "openai/clip-vit-large-patch14"),
        "clip-large-p14-336": ("clip", "openai/clip-vit-large-patch14-336"),
        "altclip-xlmr-l": ("altclip", "BAAI/AltCLIP"),
        "altclip-xlmr-l-m9": ("altclip", "BAAI/AltCLIP-m9"),
        "altclip-xlmr-l-m18": ("altclip", "BAAI/AltCLIP-m18"),
        "altclip-bert-b": ("altclip", None),
        "eva-clip": ("evaclip", None),
        "altdiffusion": ("diffusion", "BAAI/AltDiffusion"),
        "altdiffusion-m9": ("diffusion", "BAAI/AltDiffusion-m9"),
        "altdiffusion-m18": ("diffusion", "BAAI/AltDiffusion-m18"),
    }
    return [
        ZooEntry(name=name, family=family, huggingface=hub_id, note=_VISION) for name, (family, hub_id) in ids.items()
    ]


ZOO: Final[tuple[ZooEntry, ...]] = tuple(_rows())
_BY_NAME: Final = {entry.name.lower(): entry for entry in ZOO}


def find(name: str) -> ZooEntry | None:
    """The entry of a name in any case, None for a name that is not in the table."""
    return _BY_NAME.get(name.strip().lower())


def names() -> list[str]:
    """All names, as the original wrote them; those this version runs first."""
    return [entry.name for entry in sorted(ZOO, key=lambda entry: (not entry.runs, entry.name.lower()))]
