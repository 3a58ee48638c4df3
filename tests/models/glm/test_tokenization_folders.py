"""Folders of all published forms are known by their files, others are left alone; and the original's names for them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flagai.errors import ConfigError, MissingFileError, ModelError
from flagai.models.glm.tokenization import GLMTokenizer, glm_tokenizer_of
from flagai.models.tokenizers import character_tokenizer

VOCAB = Path(__file__).parents[2] / "fixtures" / "glm" / "vocab"
GLM_10B = {"num_layers": 48, "hidden_size": 4096, "num_attention_heads": 64, "max_sequence_length": 1024}
GLM_LARGE = {"num_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "max_sequence_length": 1024}
REMOTE = {"model_type": "glm", "block_position_encoding": True, "auto_map": {"AutoModel": "modeling_glm.GLMModel"}}
CHINESE, BERT = "cog-pretrain.model", "bert-base-uncased-vocab.txt"
GPT2 = {"vocab.json": "gpt2-vocab.json", "merges.txt": "gpt2-merges.txt"}
ROBERTA = {"vocab.json": "roberta-vocab.json", "merges.txt": "gpt2-merges.txt"}
Lay = Callable[..., Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """`lay({name: stored vocabulary}, {name: content of a JSON file})`: a folder with these."""

    def folder(vocabularies: dict[str, str], jsons: dict[str, Any] | None = None) -> Path:
        for name, stored in vocabularies.items():
            (tmp_path / name).write_bytes(gzip.decompress((VOCAB / f"{stored}.gz").read_bytes()))
        for name, content in (jsons or {}).items():
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return folder


def known(folder: Path) -> GLMTokenizer:
    tokenizer = glm_tokenizer_of(folder)
    assert tokenizer is not None
    return tokenizer


def test_the_remote_codes_folders(lay: Lay) -> None:
    added = {"[sMASK]": 50008, "[gMASK]": 50009, "<|startofpiece|>": 50006, "<|endofpiece|>": 50007, "[UNUSED1]": 50004}
    config = {"config.json": REMOTE | GLM_10B | {"vocab_size": 50048}, "added_tokens.json": added}
    told = {
        "tokenizer_config.json": {"tokenizer_class": "GLMChineseTokenizer", "auto_map": {"AutoTokenizer": ["x", None]}}
    }
    chinese = known(lay({CHINESE: CHINESE}, config | told))
    # Its 10B model has the ids of the large one, the embedding was changed to fit.
    assert (chinese.glm_layout, chinese.gmask_token_id, chinese.model_max_length) == ("chinese-large", 50009, 1024)
    chinese_folder = lay({})
    assert GLMTokenizer.from_pretrained(chinese_folder).gmask_token_id == 50009
    (chinese_folder / "added_tokens.json").write_text(json.dumps(added | {"[sMASK]": 50010}))
    with pytest.raises(ModelError, match=r"added_tokens\.json gives \[sMASK\] the id 50010"):
        glm_tokenizer_of(chinese_folder)


def test_robertas_renumbered_mask_is_the_one_that_was_trained(lay: Lay) -> None:
    added = {"<|startofpiece|>": 50265, "<|endofpiece|>": 50266, "[MASK]": 50267}
    told = {"tokenizer_class": "GLMRobertaTokenizer", "mask_token": "[MASK]"}
    config = REMOTE | GLM_LARGE | {"vocab_size": 50304, "max_sequence_length": 512}
    folder = lay(ROBERTA, {"config.json": config, "tokenizer_config.json": told, "added_tokens.json": added})
    roberta = known(folder)
    assert (roberta.glm_layout, roberta.mask_token_id, roberta.eop_token_id) == ("roberta", 50264, 50266)
    assert roberta.EncodeAsIds("in [MASK].") == [179, 50264, 4]


def test_bert_and_gpt2_folders(lay: Lay) -> None:
    config = REMOTE | GLM_LARGE | {"vocab_size": 30592}
    told = {"tokenizer_class": "GLMBertTokenizer", "do_lower_case": True}
    bert = known(lay({"vocab.txt": BERT}, {"config.json": config, "tokenizer_config.json": told}))
    assert (bert.glm_layout, bert.gmask_token_id, bert.EncodeAsIds("No")) == ("bert", None, [2053])


def test_flagais_folders(lay: Lay) -> None:
    config = GLM_LARGE | {"vocab_size": 50048, "max_memory_length": 0}
    large = known(lay({CHINESE: CHINESE}, {"config.json": config}))
    assert (large.glm_layout, large.gmask_token_id) == ("chinese-large", 50009)
    folder = lay({}, {"config.json": GLM_10B | {"vocab_size": 50048}})
    assert (known(folder).glm_layout, known(folder).gmask_token_id) == ("chinese-10b", 50007)


def test_flagais_english_10b_folder(lay: Lay) -> None:
    gpt2 = known(lay(GPT2, {"config.json": GLM_10B | {"vocab_size": 50304}}))
    assert (gpt2.glm_layout, gpt2.gmask_token_id, gpt2.smask_token_id) == ("gpt2", 50263, 50264)


def test_our_own_folder_and_thudms_vocabulary(lay: Lay, tmp_path: Path) -> None:
    thudm = known(lay({CHINESE: CHINESE}))
    assert thudm.glm_layout == "chinese-large"
    made = GLMTokenizer.from_vocabulary(tmp_path, layout="chinese-10b", dblock=True, model_max_length=77)
    made.save_pretrained(tmp_path / "ours")
    ours = known(tmp_path / "ours")
    assert (ours.commands, ours.model_max_length, ours.glm_layout) == (made.commands, 77, "chinese-10b")


def test_other_folders_are_left_alone(lay: Lay, tmp_path: Path) -> None:
    assert glm_tokenizer_of(tmp_path) is None
    assert glm_tokenizer_of(lay({"vocab.txt": BERT}, {"config.json": {"model_type": "bert"}})) is None
    glm4 = {"model_type": "glm", "num_hidden_layers": 40, "hidden_size": 4096}
    assert glm_tokenizer_of(lay({}, {"config.json": glm4, "tokenizer_config.json": {"tokenizer_class": "X"}})) is None
    character_tokenizer(["abc"], tmp_path / "characters")
    assert glm_tokenizer_of(tmp_path / "characters") is None


def test_a_glm_without_vocabulary_or_with_another_models(lay: Lay) -> None:
    with pytest.raises(MissingFileError, match="no vocabulary here"):
        glm_tokenizer_of(lay({}, {"config.json": REMOTE | GLM_LARGE | {"vocab_size": 50048}}))
    for rows in (30592, 30000):
        folder = lay({"vocab.txt": BERT}, {"config.json": REMOTE | GLM_LARGE | {"vocab_size": rows}})
        if rows == 30592:
            assert known(folder).num_tokens == 30524
    with pytest.raises(ModelError, match=r"30524 tokens \(bert\), the weights have 30000 rows"):
        glm_tokenizer_of(folder)
    with pytest.raises(ModelError, match=r"30524 tokens \(bert\), the weights have 50048 rows"):
        glm_tokenizer_of(lay({}, {"config.json": REMOTE | GLM_LARGE | {"vocab_size": 50048}}))


# the original's names


def test_the_originals_classes_build_todays_tokenizer(lay: Lay) -> None:
    from flagai.data.tokenizer import GLMLargeChTokenizer, GLMLargeEnWordPieceTokenizer, Tokenizer
    from flagai.data.tokenizer.glm_large_ch.glm_large_ch_tokenizer import GLMLargeChTokenizer as Deep
    from flagai.data.tokenizer.glm_large_en.glm_large_en_tokenizer import GLMLargeEnWordPieceTokenizer as DeepToo

    assert Deep is GLMLargeChTokenizer and DeepToo is GLMLargeEnWordPieceTokenizer
    folder = lay({CHINESE: CHINESE, "vocab.txt": BERT}, {"config.json": GLM_LARGE | {"vocab_size": 50048}})
    large = GLMLargeChTokenizer(vocab_path=str(folder / CHINESE))
    assert isinstance(large, GLMTokenizer) and large.get_command("gMASK").Id == 50009
    broken = GLMLargeChTokenizer(str(folder), fix_command_token=False, add_decoder_mask=True)
    assert broken.get_command_id("gMASK") == broken.get_command_id("eop") == 50007
    assert broken.get_command_id("dBLOCK") == 50009
    english = GLMLargeEnWordPieceTokenizer(cache_dir=str(folder / "vocab.txt"))
    assert english.get_command("gMASK").Id == 30524 and english.TokenToId("Yes") == 2748
    with pytest.raises(ConfigError, match="add_sentinel_token=3"):
        GLMLargeEnWordPieceTokenizer(add_sentinel_token=3)
    unified = Tokenizer.from_pretrained("GLM-large-ch", cache_dir=str(folder))
    assert unified.get_command_id("gMASK") == 50009 and unified.EncodeAsIds("人") == [593]


def test_the_originals_10b_class(lay: Lay) -> None:
    from flagai.data.tokenizer import GLM10bENBPETokenizer
    from flagai.data.tokenizer.glm_10b_en.glm_10b_en_bpe_tokenizer import GLM10bENBPETokenizer as Deep
    from flagai.data.tokenizer.tokenizer import CommandToken

    assert Deep is GLM10bENBPETokenizer
    tokenizer = GLM10bENBPETokenizer(str(lay(GPT2)), add_block_symbols=True, add_task_mask=True)
    assert tokenizer.get_command("ENC") == CommandToken("ENC", "[CLS]", 50259)
    assert [tokenizer.get_command(name).Id for name in ("sop", "eop", "gMASK", "sMASK")] == [50257, 50258, 50263, 50264]
