"""The original's GPT-2, OPT, T5 and BERT-seq2seq: what flagai 1.8.4 wrote and computed, and both ways.

`tests/fixtures/legacy` was written by flagai 1.8.4 itself: random weights of its own classes, saved as its Trainer
saves them, and the scores those classes gave.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from flagai.errors import CheckpointError, ConfigError, ModelError, OutputError, UnknownNameError
from flagai.models import legacy, legacy_opt
from flagai.models.build import build_model, read_config
from flagai.models.checkpoints import read_json, read_state_dict, verify_weights
from flagai.models.convert import convert, describe

LEGACY = Path(__file__).parent.parent / "fixtures" / "legacy"
FAMILIES = {"gpt2": "gpt2", "opt": "opt", "opt_post": "opt", "t5": "t5", "bert_seq2seq": "bert"}
IDS = torch.tensor([[5, 9, 3, 14, 22, 31, 7], [4, 4, 8, 40, 11, 2, 45]])
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]])
BODIES = {"gpt2": "causal-lm", "opt": "causal-lm", "t5": "conditional-generation", "bert": "masked-lm"}


def load(folder: Path, family: str) -> Any:
    head = SimpleNamespace(body=BODIES[family], num_labels=0, module="", options={})
    return build_model(folder, head)


def scores(model: Any, name: str) -> np.ndarray:
    with torch.inference_mode():
        if name == "t5":
            return model(input_ids=IDS, decoder_input_ids=IDS[:, :5].flip(1)).logits.numpy()
        if name != "bert_seq2seq":
            return model(input_ids=IDS).logits.numpy()
        sees = (SEGMENTS[:, None, :] == 0) | ((SEGMENTS[:, :, None] == 1) & torch.ones(7, 7).tril().bool())
        return model(input_ids=IDS, token_type_ids=SEGMENTS, attention_mask=sees[:, None]).logits.numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_of_the_original_gives_its_scores(name: str) -> None:
    folder = LEGACY / name
    assert verify_weights(folder).layout == "flagai"
    model = load(folder, FAMILIES[name])
    np.testing.assert_allclose(scores(model, name), np.load(folder / "logits.npy"), atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_written_back_it_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    model = load(LEGACY / name, FAMILIES[name])
    legacy.save_legacy(model, tmp_path / "run", iteration=5)
    assert (tmp_path / "run" / "latest_iteration.txt").read_text() == "5\t5"
    theirs, ours = read_state_dict(LEGACY / name), read_state_dict(tmp_path / "run")
    unread = {"lm_head.weight"} if name in ("gpt2", "opt", "opt_post") else set()
    unread |= {key for key in theirs if "pooler" in key}  # nothing reads these, see docs/en/compat.md
    assert theirs.keys() - unread == ours.keys() - unread
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs.keys() - unread)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", ["huggingface", "flagai-original", "flagai-trainer"])
def test_every_layout_loads_again_with_the_same_scores(name: str, layout: str, tmp_path: Path) -> None:
    done = convert(LEGACY / name, tmp_path / "out", layout=layout)
    assert done.source == "flagai-original" and (tmp_path / "out" / done.files[-1]).is_file()
    again = load(tmp_path / "out", FAMILIES[name])
    assert np.array_equal(scores(again, name), scores(load(LEGACY / name, FAMILIES[name]), name))


def test_the_autoloader_of_the_original_gets_conv1d_and_the_trainer_linear(tmp_path: Path) -> None:
    for layout, rows in (("flagai-original", 16), ("flagai-trainer", 48)):
        convert(LEGACY / "gpt2", tmp_path / layout, layout=layout)
        state = read_state_dict(tmp_path / layout)
        assert state["transformer.h.0.attn.c_attn.weight"].shape[0] == rows


def test_a_square_matrix_is_turned_like_its_neighbour() -> None:
    native = read_state_dict(LEGACY / "gpt2")["transformer.h.1.attn.c_proj.weight"]
    ours = load(LEGACY / "gpt2", "gpt2").transformer.h[1].attn.c_proj.weight
    assert torch.equal(ours, native.t()) and not torch.equal(ours, native)


def test_opt_for_the_autoloader_names_queries_last_in_each_layer() -> None:
    state, config = legacy.export(load(LEGACY / "opt", "opt"), form="autoloader")
    order = [key for key in state if "layers.1.self_attn" in key and "_proj.weight" in key]
    assert order[-1].endswith("q_proj.weight") and all(key.startswith("decoder.") for key in state)
    assert config["ffn_dim"] == 40 and "model_type" not in config


def test_a_tied_t5_is_written_with_its_scale_in_the_output_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    tied = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    legacy.save_legacy(tied, tmp_path / "out")
    state = read_state_dict(tmp_path / "out")
    assert torch.equal(state["lm_head.weight"], state["shared.weight"] / 4)
    assert np.allclose(scores(load(tmp_path / "out", "t5"), "t5"), scores(tied, "t5"), atol=1e-6)


def test_what_begins_and_ends_a_text_comes_from_the_vocabulary(tmp_path: Path) -> None:
    folder = shutil.copytree(LEGACY / "t5", tmp_path / "t5")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "a", "[UNK]", "[CLS]", "[SEP]"]), "utf-8")
    config = read_config(folder)
    assert (config.decoder_start_token_id, config.eos_token_id, config.pad_token_id) == (3, 4, 0)
    folder = shutil.copytree(LEGACY / "gpt2", tmp_path / "gpt2")
    assert read_config(folder).eos_token_id is None  # transformers' 50256 lies beyond the vocabulary
    (folder / "chinese_vocab.model").touch()
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 5, "<eod>": 7}), "utf-8")
    config = read_config(folder)
    assert (config.eos_token_id, config.pad_token_id) == (7, 5)


def test_a_folder_that_names_its_type_is_read_by_the_shape_of_its_matrices(tmp_path: Path) -> None:
    """A type in config.json must not hide that the matrices are turned: transformers would load the square ones."""
    folder = shutil.copytree(LEGACY / "gpt2", tmp_path / "gpt2")
    raw = read_json(folder / "config.json") | {"model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(raw))
    np.testing.assert_allclose(scores(load(folder, "gpt2"), "gpt2"), np.load(LEGACY / "gpt2" / "logits.npy"), atol=1e-6)


def test_a_hugging_face_folder_is_left_alone(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2, n_positions=24)
    model = transformers.GPT2LMHeadModel(config).eval()
    for safe in (True, False):
        folder = tmp_path / str(safe)
        if safe:
            model.save_pretrained(folder)
        else:
            folder.mkdir()
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
            (folder / "config.json").write_text(config.to_json_string())
        assert verify_weights(folder).layout == "huggingface"
        assert np.allclose(scores(load(folder, "gpt2"), "gpt2"), scores(model, "gpt2"))


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("gpt2", {"n_head": None}, "n_head"),
        ("gpt2", {"n_head": 3}, "3 heads"),
        ("gpt2", {"n_embd": 32}, "n_embd 32"),
        ("gpt2", {"do_layer_norm_before": False}, "do_layer_norm_before"),
        ("opt", {"n_head": None}, "heads"),
        ("opt", {"n_layer": 9}, "num_hidden_layers 9"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before"),
        ("t5", {"d_model": 32}, "d_model 32"),
    ],
)
def test_a_configuration_of_another_model_is_refused(
    name: str, changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(LEGACY / name, tmp_path / name)
    raw = read_json(folder / "config.json") | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))
    with pytest.raises(CheckpointError, match=found):
        load(folder, FAMILIES[name])


def test_what_the_original_cannot_express_is_refused() -> None:
    gpt2 = load(LEGACY / "gpt2", "gpt2")
    gpt2.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx"):
        legacy.export(gpt2)
    with pytest.raises(ModelError, match="enable_bias"):
        legacy_opt.to_legacy({}, {"enable_bias": False}, native=True)
    t5 = load(LEGACY / "t5", "t5")
    t5.config.relative_attention_max_distance = 64
    with pytest.raises(ModelError, match="64"):
        legacy.export(t5)
    bart = transformers.BartConfig(d_model=16, encoder_layers=1, decoder_layers=1, vocab_size=48)
    with pytest.raises(ModelError, match="BartModel"):
        legacy.export(transformers.BartModel(bart))


def test_converting_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="thudm"):
        convert(LEGACY / "gpt2", tmp_path / "out", layout="thudm")
    with pytest.raises(ConfigError, match="GLM alone"):
        convert(LEGACY / "gpt2", tmp_path / "out", layout="huggingface", shards=2)
    with pytest.raises(OutputError, match="exists"):
        convert(LEGACY / "gpt2", tmp_path, layout="huggingface")
    assert [*tmp_path.iterdir()] == []


def test_converting_changes_the_dtype_and_names_what_is_left_out(tmp_path: Path) -> None:
    done = convert(LEGACY / "bert_seq2seq", tmp_path / "out", layout="huggingface", dtype="bf16")
    assert done.dtypes == ("bfloat16",) and any("pooler" in name for name in done.left_out)
    assert describe(tmp_path / "out")["dtype"] == ["bfloat16"]
    assert describe(LEGACY / "opt_post")["family"] == "opt"


def test_the_command_line_looks_at_and_converts_other_families(tmp_path: Path, cli: Callable[..., Any]) -> None:
    told = json.loads(cli("ckpt", "inspect", LEGACY / "opt", "--json").out)
    assert told["layout"] == "flagai-original" and told["family"] == "opt" and told["tensors"] == 29
    assert "transformer.h.0.attn.c_attn.weight" in cli("ckpt", "ls", LEGACY / "gpt2").out
    done = cli("ckpt", "convert", LEGACY / "gpt2", tmp_path / "out")
    assert done.code == 0 and "flagai-original -> huggingface" in done.out and "left out" in done.out
    back = cli("ckpt", "convert", tmp_path / "out", tmp_path / "back", "--layout", "flagai-trainer")
    assert back.code == 0 and "huggingface -> flagai-trainer" in back.out
    theirs, ours = read_state_dict(LEGACY / "gpt2"), read_state_dict(tmp_path / "back")
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs if key != "lm_head.weight")
    wrong = cli("ckpt", "convert", LEGACY / "gpt2", tmp_path / "other", "--layout", "thudm")
    assert wrong.code != 0 and "unknown layout 'thudm'" in wrong.err and "Traceback" not in wrong.err


def test_a_cpm_writes_with_its_own_tokenizer(tmp_path: Path) -> None:
    from flagai import AutoLoader, Predictor

    folder = tmp_path / "cpm"
    folder.mkdir()
    words = gzip.decompress((LEGACY / "cpm" / "unigram.model.gz").read_bytes())
    (folder / "chinese_vocab.model").write_bytes(words)
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 5, "<eod>": 8}), "utf-8")
    config = {"n_head": 2, "n_embd": 16, "n_layer": 1, "n_positions": 24, "n_inner": None, "vocab_size": 1800}
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "gelu_new"}))
    torch.manual_seed(0)
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, bos_token_id=1, eos_token_id=8))
    state, _ = legacy.export(made, form="trainer")
    torch.save({"module": state}, folder / "pytorch_model.bin")
    loader = AutoLoader("lm", folder)
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    result = predictor.generate("地区经济发展", max_new_tokens=6)
    assert result.text.startswith("地区经济发展") and len(result.text) > len("地区经济发展")
    assert "<" not in result.text and "▁" not in result.text
    assert predictor.predict_generate_beamsearch("地区经济发展", out_max_length=6) == result.blanks[0]
