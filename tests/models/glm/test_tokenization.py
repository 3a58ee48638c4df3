"""The GLM tokenizers against the original's ids, with their hazards, and the original's methods."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from flagai.errors import CheckpointError, DataError, MissingFileError, ModelError, UnknownNameError
from flagai.models.glm.commands import Commands, check_layout, command_tokens, has_task_masks, padded_size
from flagai.models.glm.tokenization import GLMTokenizer
from flagai.models.tokenizers import character_tokenizer

FIXTURES = Path(__file__).parents[2] / "fixtures" / "glm"
ORIGINAL: dict[str, Any] = json.loads((FIXTURES / "tok.json").read_text("utf-8"))
FILES = {
    "bert": {"vocab.txt": "bert-base-uncased-vocab.txt"},
    "roberta": {"vocab.json": "roberta-vocab.json", "merges.txt": "gpt2-merges.txt"},
    "gpt2": {"vocab.json": "gpt2-vocab.json", "merges.txt": "gpt2-merges.txt"},
    "chinese-10b": {"cog-pretrain.model": "cog-pretrain.model"},
    "chinese-large": {"cog-pretrain.model": "cog-pretrain.model"},
}
Make = Callable[..., GLMTokenizer]


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`vocab(layout)`: a folder with the published files."""
    root = tmp_path_factory.mktemp("vocab")

    def folder(layout: str) -> Path:
        made = root / layout
        if not made.exists():
            made.mkdir()
            for name, stored in FILES[layout].items():
                packed = (FIXTURES / "vocab" / f"{stored}.gz").read_bytes()
                (made / name).write_bytes(gzip.decompress(packed))
        return made

    return folder


@pytest.fixture(scope="module")
def make(vocab: Callable[[str], Path]) -> Make:
    """`make(layout, **options)`, each once."""
    made: dict[tuple[Any, ...], GLMTokenizer] = {}

    def tokenizer(layout: Any, task_mask: bool | None = None, dblock: bool = False) -> GLMTokenizer:
        key = (layout, has_task_masks(layout) if task_mask is None else task_mask, dblock)
        if key not in made:
            made[key] = GLMTokenizer.from_vocabulary(vocab(layout), layout=layout, task_mask=task_mask, dblock=dblock)
        return made[key]

    return tokenizer


def variant(make: Make, name: str) -> GLMTokenizer:
    layout = name.replace("_task_mask", "").replace("_dblock", "").replace("_", "-")
    masks = "task_mask" in name or layout.startswith("chinese")
    return make(layout, task_mask=masks, dblock=name.endswith("dblock"))


# against the original


@pytest.mark.parametrize("name", ORIGINAL)
def test_ids_texts_and_commands_are_the_originals(make: Make, name: str) -> None:
    tokenizer, expected = variant(make, name), ORIGINAL[name]
    assert tokenizer.num_tokens == len(tokenizer) == expected["num_tokens"]
    assert tokenizer.padded_vocab_size == expected["padded_vocab"]
    found = {token.name: [token.token, token.Id, token.lstrip] for token in tokenizer.command_tokens}
    assert found == expected["command"]
    assert list(found) == list(expected["command"])  # the original splits texts in this order
    for text, ids, decoded in expected["texts"]:
        assert tokenizer.EncodeAsIds(text) == ids
        assert tokenizer.DecodeIds(ids) == decoded


@pytest.mark.parametrize("name", ["bert_task_mask", "roberta_task_mask", "chinese_10b_dblock"])
def test_a_saved_folder_comes_back_with_and_without_our_class(make: Make, tmp_path: Path, name: str) -> None:
    tokenizer, texts = variant(make, name), [row[0] for row in ORIGINAL[name]["texts"]]
    texts += ["a[SEP]b<|endoftext|> c", "x <|endofpiece|>[gMASK]y", "<n>\n ⁇ </s>"]
    tokenizer.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    ours = GLMTokenizer.from_pretrained(tmp_path)
    assert (ours.commands, ours.glm_layout, ours.num_tokens, len(ours)) == (
        tokenizer.commands,
        tokenizer.glm_layout,
        tokenizer.num_tokens,
        len(tokenizer),
    )
    plain = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ours(text)["input_ids"] == plain(text)["input_ids"] == ids
        assert ours.decode(ids) == plain.decode(ids) == tokenizer.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == plain.decode(ids, skip_special_tokens=True)
    assert plain.mask_token_id == tokenizer.mask_token_id == tokenizer.commands.mask


def test_texts_are_framed_as_cls_and_eos(make: Make) -> None:
    gpt2 = make("gpt2")
    inner = ORIGINAL["gpt2_task_mask"]["texts"][0]
    assert gpt2(inner[0])["input_ids"] == [50259, *inner[1], 50256]
    assert gpt2.encode_context(inner[0]) == [50259, *inner[1], 50256]
    assert gpt2("No", " Yes")["input_ids"] == [50259, 2949, 50261, 3363, 50256]
    # A text that ends in [gMASK] goes on behind it.
    assert gpt2.encode_context("No [gMASK]") == [50259, 2949, 50263]
    assert gpt2.encode_context("[gMASK] No") == [50259, 50263, 1400, 50256]
    assert make("bert")("no")["input_ids"] == [101, 2053, 0]
    assert make("bert").encode_context("") == [101, 0]
    assert set(gpt2("No")) == {"input_ids", "attention_mask"}


def test_attributes_name_the_ids(make: Make) -> None:
    large = make("chinese-large", dblock=True)
    assert (large.cls_token_id, large.eos_token_id, large.pad_token_id, large.sep_token_id) == (
        50002,
        50000,
        50000,
        50001,
    )
    assert (large.sop_token_id, large.eop_token_id, large.dblock_token_id) == (50006, 50007, 50010)
    assert (large.mask_token_id, large.smask_token_id, large.gmask_token_id) == (50003, 50008, 50009)
    assert large.mask_token_ids == (50003, 50008, 50009)
    bert = make("bert")
    assert (bert.smask_token_id, bert.gmask_token_id, bert.dblock_token_id) == (None, None, None)
    assert bert.mask_token_ids == (103,)
    assert (bert.eos_token_id, bert.pad_token_id, bert.sep_token_id) == (0, 0, 102)
    assert make("roberta").eos_token_id == make("roberta").sep_token_id == make("roberta").pad_token_id == 2
    assert large.mask_positions([50002, 50008, 5, 50003, 50009]) == [1, 3, 4]
    assert isinstance(large.commands, Commands)


# hazards


def test_white_space_goes_in_front_of_a_mask_only(make: Make) -> None:
    gpt2 = make("gpt2")
    assert gpt2.EncodeAsIds("at \n [MASK] (") == [265, 50260, 357]
    assert gpt2.EncodeAsIds("at [CLS] (") == [265, 220, 50259, 357]  # other commands leave it
    assert gpt2.EncodeAsIds("[MASK] [MASK]") == [50260, 50260]


def test_a_blank_text_has_no_tokens(make: Make) -> None:
    for layout in ("bert", "gpt2", "chinese-large"):
        assert make(layout).EncodeAsIds(" \n\u3000") == []
    assert make("chinese-large").EncodeAsIds("[MASK] \n [sMASK]") == [50003, 50008]


def test_gmask_and_eop_share_an_id_in_the_10b_layout(make: Make) -> None:
    tokenizer = make("chinese-10b")
    assert tokenizer.gmask_token_id == tokenizer.eop_token_id == 50007
    assert tokenizer.EncodeAsIds("北京<|endofpiece|>") == tokenizer.EncodeAsIds("北京 [gMASK]") == [2531, 50007]
    assert tokenizer.DecodeIds([50007]) == "[gMASK]"
    assert tokenizer.get_command_id("eop") == 50007
    assert tokenizer.mask_token_ids == (50003, 50008, 50007)


def test_roberta_takes_its_commands_from_its_own_vocabulary(
    make: Make, vocab: Callable[[str], Path], tmp_path: Path
) -> None:
    roberta = make("roberta")
    assert roberta.EncodeAsIds("<|endoftext|>[SEP][CLS][UNK][MASK]") == [2, 2, 0, 3, 50264]
    assert 2 not in roberta.EncodeAsIds("</s>") and 50264 not in roberta.EncodeAsIds(
        "<mask>"
    )  # text, as in the original
    words = json.loads((vocab("roberta") / "vocab.json").read_text("utf-8"))
    words["[MASK]"] = words.pop("<mask>") + 3
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_bytes((vocab("roberta") / "merges.txt").read_bytes())
    edited = GLMTokenizer.from_vocabulary(tmp_path)
    assert (edited.glm_layout, edited.mask_token_id, edited.sop_token_id) == ("roberta", 50267, 50268)


def test_a_mask_that_the_vocabulary_lacks_is_refused_in_contexts(make: Make) -> None:
    with pytest.raises(DataError, match=r"the vocabulary has no \[gMASK\]"):
        make("bert").encode_context("Rome is [gMASK]")
    assert make("bert", task_mask=True).encode_context("Rome is [gMASK]") == [101, 4199, 2003, 30524]


def test_texts_are_never_cut_or_padded_by_an_earlier_call(make: Make) -> None:
    gpt2 = make("gpt2")
    gpt2(["a b c d", "a"], padding=True, truncation=True, max_length=3)
    assert len(gpt2.EncodeAsIds("a b c d")) == 4


# other vocabularies


def test_commands_stand_behind_a_vocabulary_of_characters(tmp_path: Path) -> None:
    poems = ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"]
    base = character_tokenizer(poems, tmp_path / "characters")
    size = len(base)
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(base.convert_ids_to_tokens(range(size))), "utf-8")
    tokenizer = GLMTokenizer.from_vocabulary(file, task_mask=True, dblock=True, model_max_length=64)
    assert tokenizer.commands == Commands(
        pad=0,
        eos=0,
        unk=1,
        cls=2,
        sep=3,
        mask=4,
        sop=size,
        eop=size + 1,
        gmask=size + 2,
        smask=size + 3,
        dblock=size + 4,
    )
    assert tokenizer.num_tokens == len(tokenizer) == size + 5
    tokenizer.save_pretrained(tmp_path / "glm")
    again = GLMTokenizer.from_pretrained(tmp_path / "glm")
    ids = again.encode_context("床前明月，[sMASK] low tide[gMASK]")
    assert ids == tokenizer.encode_context("床前明月，[sMASK] low tide[gMASK]")
    assert ids[1:6] == base("床前明月，", add_special_tokens=False)["input_ids"]
    assert (ids[0], ids[6], ids[-1]) == (2, size + 3, size + 2)
    assert again.decode(ids[1:6]) == "床 前 明 月 ，"
    assert again.decode(ids[7:-1]) == "low tide"
    assert again.model_max_length == 64


@pytest.mark.parametrize(("words", "lower"), [(["he", "she", "it"], True), (["he", "He", "She"], False)])
def test_case_follows_the_vocabulary_unless_told(tmp_path: Path, words: list[str], lower: bool) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    he = 5 if lower else 6
    assert GLMTokenizer.from_vocabulary(tmp_path).EncodeAsIds("He") == [he]
    assert GLMTokenizer.from_vocabulary(tmp_path, lower_case=True).EncodeAsIds("He") == [5]


def test_published_file_names_may_have_a_prefix(vocab: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / f"gpt2-{name}").write_bytes((vocab("gpt2") / name).read_bytes())
    assert GLMTokenizer.from_vocabulary(tmp_path / "gpt2-vocab.json").EncodeAsIds(" Yes") == [3363]


# bad input


def test_missing_and_wrong_vocabularies_are_errors(vocab: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no vocabulary here"):
        GLMTokenizer.from_vocabulary(tmp_path)
    with pytest.raises(MissingFileError, match="no such file or folder"):
        GLMTokenizer.from_vocabulary(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"vocab\.txt is no vocabulary of the layout 'chinese-10b'"):
        GLMTokenizer.from_vocabulary(vocab("bert"), layout="chinese-10b")
    with pytest.raises(ModelError, match="the vocabulary has no </s>, <mask>, <s>"):
        GLMTokenizer.from_vocabulary(vocab("gpt2"), layout="roberta")
    with pytest.raises(UnknownNameError, match="did you mean 'gpt2'"):
        GLMTokenizer.from_vocabulary(vocab("gpt2"), layout="gpt-2")  # pyright: ignore[reportArgumentType]
    (tmp_path / "vocab.json").write_text('{"<|endoftext|>": 0, "a": 1}')
    with pytest.raises(MissingFileError, match=r"vocab\.json without merges\.txt"):
        GLMTokenizer.from_vocabulary(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(ModelError, match="the merges do not belong to the vocabulary"):
        GLMTokenizer.from_vocabulary(tmp_path)


def test_damaged_vocabularies_are_errors(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="no UTF-8 text"):
        GLMTokenizer.from_vocabulary(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n")
    with pytest.raises(CheckpointError, match="'a' stands twice"):
        GLMTokenizer.from_vocabulary(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    with pytest.raises(ModelError, match=r"the vocabulary has no \[MASK\]"):
        GLMTokenizer.from_vocabulary(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    for text, message in (("{", "no JSON"), ('{"a": "b"}', "no vocabulary"), ("[]", "no vocabulary")):
        (tmp_path / "vocab.json").write_text(text)
        (tmp_path / "merges.txt").write_text("a b c\n")
        with pytest.raises(CheckpointError, match=message):
            GLMTokenizer.from_vocabulary(tmp_path, layout="gpt2")
    (tmp_path / "vocab.json").write_text('{"<|endoftext|>": 0, "a": 1}')
    with pytest.raises(CheckpointError, match="expected: two parts of a word a line"):
        GLMTokenizer.from_vocabulary(tmp_path)


def test_a_tokenizer_json_of_others_is_refused(tmp_path: Path) -> None:
    character_tokenizer(["abc"], tmp_path)
    with pytest.raises(CheckpointError, match="does not say which are the command tokens"):
        GLMTokenizer.from_pretrained(tmp_path)


def test_layout_tables_stand_alone() -> None:
    assert [token.Id for token in command_tokens("chinese-large") if token.name == "gMASK"] == [50009]
    assert [token.Id for token in command_tokens("chinese-10b", dblock=True) if token.name == "dBLOCK"] == [50009]
    assert [padded_size(size) for size in (30524, 30592, 30593)] == [30592, 30592, 30720]
    with pytest.raises(UnknownNameError):
        check_layout("chinese")


# the original's methods


def test_the_originals_golden_values(make: Make) -> None:
    chinese = make("chinese-large")
    assert chinese.EncodeAsIds("今天吃饭吃了肯德基") == [3378, 1567, 2613, 20282]
    assert chinese.TokenToId("人") == 43371 and chinese.IdToToken(43371) == "人"
    assert chinese.encode_plus("今天吃饭吃了肯德基")["input_ids"] == [50006, 3378, 1567, 2613, 20282, 50001]
    assert make("gpt2").EncodeAsIds("fried chicken makes me happy") == [25520, 9015, 1838, 502, 3772]
    assert make("bert").EncodeAsIds("fried chicken makes me happy") == [13017, 7975, 3084, 2033, 3407]


def test_commands_by_both_spellings(make: Make) -> None:
    gpt2 = make("gpt2")
    for old, new, number in (
        ("ENC", "cls", 50259),
        ("MASK", "mask", 50260),
        ("gMASK", "gmask", 50263),
        ("sop", "sop", 50257),
    ):
        assert gpt2.get_command(old).Id == gpt2.get_command_id(new) == gpt2.command_name_map[old].Id == number
    assert gpt2.get_command("ENC").token == "[CLS]"
    assert gpt2.command_id_map[50256].name == "eos" and gpt2.command_token_map["[MASK]"].Id == 50260
    assert gpt2.CommandTokenIds(["eop", "gMASK"]) == [50256, 50256, 50257, 50259, 50260, 50261, 50262, 50264]
    assert (gpt2.num_text_tokens, gpt2.num_command_tokens, gpt2.num_type_tokens) == (50256, 10, 2)
    assert gpt2.get_type("str1").Id == 1
    with pytest.raises(ModelError, match="this vocabulary has no gMASK"):
        make("bert").get_command("gMASK")
    for ask in (gpt2.get_command, gpt2.get_type):
        with pytest.raises(UnknownNameError):
            ask("bos")


def test_tokens_and_ids_one_by_one(make: Make) -> None:
    bert, gpt2, chinese = make("bert"), make("gpt2"), make("chinese-large")
    assert bert.EncodeAsTokens("Unbelievable [MASK]") == ["unbelievable", "[MASK]"]
    assert bert.TokenToId(" Yes") == bert.TokenToId("yes") == 2748
    assert gpt2.TokenToId("ĠYes") == gpt2.TokenToId(" Yes") == 3363
    assert gpt2.TokenToId(gpt2.get_command("sop")) == gpt2.TokenToId("<|startofpiece|>") == 50257
    assert gpt2.IdToToken(gpt2.get_command("MASK")) == "[MASK]"
    assert gpt2.IdToToken(1, type_token=True) == "<str1>" and gpt2.TokenToId("<str1>", type_token=True) == 1
    with pytest.raises(ModelError, match="is no token"):
        gpt2.TokenToId("Unbelievable nonsense")
    assert chinese.EncodeAsTokens("今天<n>") == ["▁今天", "<n>"]
    assert (chinese.TokenToId("<n>"), chinese.IdToToken(3), chinese.TokenToId("\n")) == (3, "<n>", 0)
    assert chinese.TokenToId("不是") != chinese.TokenToId("▁不是") == 2350
    assert chinese.TokenToId("no such piece") == 0
    assert bert.DecodeTokens(["un", "##til"]) == "un ##til"
    assert gpt2.DecodeTokens(["No", "ĠYes"]) == "No Yes"
    assert gpt2.DecodeIds([1, 0], type_token=True) == "<str1> <str0>"
    assert 43371 not in chinese.MultiWordId() and max(chinese.MultiWordId()) < 50000
    assert bert.EncodeAsIds("x", process_fn=lambda text: "no") == [2053]


def test_encode_plus_is_the_originals_training_example(make: Make) -> None:
    gpt2 = make("gpt2")
    source = {"input_ids": [50257, 2949, 50261], "attention_mask": 0, "loss_mask": [0, 0, 0]}
    assert gpt2.encode_plus("No") == source | {"position_ids": [[0, 1, 2], [0, 0, 0]]}
    both = gpt2.encode_plus("No", " Yes")
    assert both == gpt2.encode_plus("No", target_text=" Yes")
    assert both["input_ids"] == [50257, 2949, 50261, 3363] and both["target_ids"] == [2949, 50261, 3363, 50258]
    assert both["loss_mask"] == [0, 0, 0, 1] and both["position_ids"] == [[0, 1, 2, 3], [0] * 4]
    cut = gpt2.encode_plus("No No No No", " Yes Yes Yes", max_length=5)
    assert cut["input_ids"] == [50257, 2949, 1400, 1400, 50261] and cut["target_ids"][-1] == 50258


def test_errors_are_standard_ones_too(make: Make) -> None:
    assert issubclass(ModelError, ValueError) and issubclass(DataError, ValueError)
    with pytest.raises(ValueError):
        make("bert").encode_context("[sMASK]")
