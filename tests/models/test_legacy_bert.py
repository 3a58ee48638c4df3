"""The original's BERT checkpoints: names, fused rows, heads, and both ways without a changed bit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flagai.errors import CheckpointError, ModelError
from flagai.models import legacy, legacy_bert
from flagai.models.build import build_from_config, build_model, build_tokenizer, read_config
from flagai.models.checkpoints import inspect, read_json, read_state_dict
from flagai.models.tokenizers import character_tokenizer

H, V, LAYERS = 16, 40, 2
CONFIG = {
    "vocab_size": V,
    "hidden_size": H,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
    "initializer_range": 0.02,
    "layernorm_epsilon": 1e-12,
    "checkpoint_activations": False,
}
HEADS: dict[str, dict[str, tuple[int, ...]]] = {
    "encoder": {},
    "embedding": {},
    "classification": {"out_layer.weight": (3, H), "out_layer.bias": (3,)},
    "sequence-labeling": {"final_dense.weight": (3, H), "final_dense.bias": (3,)},
    "ner-crf": {"final_dense.weight": (3, H), "final_dense.bias": (3,), "crf_layer.trans": (3, 3)},
    "ner-gp": {"gp.dense.weight": (3 * 2 * 4, H), "gp.dense.bias": (3 * 2 * 4,)},
    "masklm": {
        "cls.predictions.transform.dense.weight": (H, H),
        "cls.predictions.transform.dense.bias": (H,),
        "cls.predictions.transform.LayerNorm.weight": (H,),
        "cls.predictions.transform.LayerNorm.bias": (H,),
        "cls.predictions.decoder.weight": (V, H),
        "cls.predictions.decoder.bias": (V,),
    },
}


def legacy_state(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random state dict with the names of the original (specification, section 4.1), written out by hand."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (V, H),
        "embeddings.position_embeddings.weight": (24, H),
        "embeddings.token_type_embeddings.weight": (2, H),
        "embeddings.LayerNorm.weight": (H,),
        "embeddings.LayerNorm.bias": (H,),
        "pooler.dense.weight": (H, H),
        "pooler.dense.bias": (H,),
    }
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        shapes |= {
            f"{layer}.attention.self.query_key_value.weight": (3 * H, H),
            f"{layer}.attention.self.query_key_value.bias": (3 * H,),
            f"{layer}.attention.output.dense.weight": (H, H),
            f"{layer}.attention.output.dense.bias": (H,),
            f"{layer}.attention.output.LayerNorm.weight": (H,),
            f"{layer}.attention.output.LayerNorm.bias": (H,),
            f"{layer}.intermediate.dense.weight": (4 * H, H),
            f"{layer}.intermediate.dense.bias": (4 * H,),
            f"{layer}.output.dense.weight": (H, 4 * H),
            f"{layer}.output.dense.bias": (H,),
            f"{layer}.output.LayerNorm.weight": (H,),
            f"{layer}.output.LayerNorm.bias": (H,),
        }
    if kind != "encoder":
        shapes = {f"model.{name}": shape for name, shape in shapes.items()}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in (shapes | HEADS[kind]).items()}


def write(folder: Path, state: dict[str, torch.Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"module": state, "iteration": 3}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def spec(body: str, num_labels: int, module: str = "", **options: Any) -> Any:
    return SimpleNamespace(body=body, num_labels=num_labels, module=module, options=options)


@pytest.mark.parametrize("kind", list(HEADS))
def test_round_trip_is_exact_in_names_and_bits(kind: str) -> None:
    state = legacy_state(kind)
    there = legacy_bert.to_huggingface(state, CONFIG)
    assert there.kind == kind and there.dropped == ()
    assert not any("query_key_value" in name or name.startswith("model.") for name in there.body)
    back = legacy_bert.to_legacy(there.body, there.head, kind=there.kind)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("kind", ["encoder", "classification", "ner-gp"])
def test_configuration_round_trip(kind: Any) -> None:
    config = CONFIG | ({} if kind == "encoder" else {"class_num": 3}) | ({"inner_dim": 4} if kind == "ner-gp" else {})
    there = legacy_bert.to_huggingface(legacy_state(kind), config).config
    assert there["model_type"] == "bert" and there["layer_norm_eps"] == 1e-12 and there["intermediate_size"] == 4 * H
    assert legacy_bert.config_to_legacy(there, kind=kind, inner_dim=config.get("inner_dim")) == config


def test_epsilon_has_two_names_and_a_default() -> None:
    body = legacy_bert.to_huggingface(legacy_state("encoder"), CONFIG).body
    plain = {name: value for name, value in CONFIG.items() if name != "layernorm_epsilon"}
    assert legacy_bert.config_to_huggingface(plain, body)["layer_norm_eps"] == 1e-6
    assert legacy_bert.config_to_huggingface(plain | {"layer_norm_eps": 1e-5}, body)["layer_norm_eps"] == 1e-5


def test_rows_are_query_then_key_then_value() -> None:
    state = legacy_state("encoder")
    fused = state["encoder.layer.1.attention.self.query_key_value.weight"]
    body = legacy_bert.to_huggingface(state, CONFIG).body
    for i, part in enumerate(("query", "key", "value")):
        rows = body[f"bert.encoder.layer.1.attention.self.{part}.weight"]
        assert torch.equal(rows, fused[i * H : (i + 1) * H])


def reference(state: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    """The original's forward pass, step by step, for one layer's worth of formulas: last hidden states [L, H]."""
    w = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    norm = torch.nn.functional.layer_norm

    def after(x: torch.Tensor, name: str) -> torch.Tensor:
        return norm(x, (H,), w[f"{name}.LayerNorm.weight"], w[f"{name}.LayerNorm.bias"], 1e-12)

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = after(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings")
    mask = torch.where(ids > 0, 0.0, -10000.0)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        fused = x @ w[f"{at}.attention.self.query_key_value.weight"].T + w[f"{at}.attention.self.query_key_value.bias"]
        q, k, v = (part.reshape(len(ids), 2, H // 2).transpose(0, 1) for part in fused.split(H, dim=-1))
        scores = q @ k.transpose(1, 2) / (H // 2) ** 0.5 + mask
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), H)
        dense = mixed @ w[f"{at}.attention.output.dense.weight"].T + w[f"{at}.attention.output.dense.bias"]
        x = after(x + dense, f"{at}.attention.output")
        inner = x @ w[f"{at}.intermediate.dense.weight"].T + w[f"{at}.intermediate.dense.bias"]
        outer = torch.nn.functional.gelu(inner) @ w[f"{at}.output.dense.weight"].T + w[f"{at}.output.dense.bias"]
        x = after(x + outer, f"{at}.output")
    return x


@pytest.mark.parametrize("kind", ["encoder", "embedding", "classification"])
def test_a_converted_model_computes_what_the_original_does(kind: str, tmp_path: Path) -> None:
    state = legacy_state(kind)
    folder = write(tmp_path, state, CONFIG | {"class_num": 3})
    assert inspect(folder).layout == "unknown"  # a pickle is not opened to look
    ids = torch.tensor([5, 9, 3, 31, 0, 0])
    want = reference(state, ids)
    model = build_model(folder, spec("encoder", 0))
    with torch.no_grad():
        got = model(input_ids=ids[None], attention_mask=(ids > 0).long()[None]).last_hidden_state[0]
    torch.testing.assert_close(got[:4], want[:4], atol=2e-5, rtol=1e-5)


def test_the_configuration_of_a_folder_is_read_in_todays_words(tmp_path: Path) -> None:
    write(tmp_path / "20", legacy_state("classification"), CONFIG | {"class_num": 3})
    (tmp_path / "latest_iteration.txt").write_text("20\t20")
    config = read_config(tmp_path)
    assert (config.model_type, config.vocab_size, config.num_labels, config.layer_norm_eps) == ("bert", V, 3, 1e-12)
    (tmp_path / "20" / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no model_type"):
        read_config(tmp_path)


def test_heads_arrive_in_the_model(tmp_path: Path) -> None:
    state = legacy_state("classification")
    folder = write(tmp_path / "c", state, CONFIG | {"class_num": 3})
    model = build_model(folder, spec("sequence-classification", 3), fresh_head=False)
    assert torch.equal(model.classifier.weight, state["out_layer.weight"]) and model.fresh_parameters == ()
    state = legacy_state("ner-crf")
    folder = write(tmp_path / "crf", state, CONFIG | {"class_num": 3})
    head = spec("token-classification", 3, "flagai.models.heads:CRF", transition_scale=1.0)
    model = build_model(folder, head, fresh_head=False)
    assert torch.equal(model.head.transitions, state["crf_layer.trans"]) and not model.head.start_transitions.any()
    assert torch.equal(model.body.classifier.bias, state["final_dense.bias"]) and model.fresh_parameters == ()
    state = legacy_state("ner-gp")
    folder = write(tmp_path / "gp", state, CONFIG | {"class_num": 3, "inner_dim": 4})
    model = build_model(folder, spec("encoder", 3, "flagai.models.heads:GlobalPointer", inner_dim=4), fresh_head=False)
    assert torch.equal(model.head.dense.weight, state["gp.dense.weight"])


@pytest.mark.parametrize("kind", ["encoder", "classification", "sequence-labeling", "ner-crf", "ner-gp"])
def test_load_and_save_back_keep_every_bit(kind: Any, tmp_path: Path) -> None:
    heads = {
        "encoder": spec("encoder", 0),
        "classification": spec("sequence-classification", 3),
        "sequence-labeling": spec("token-classification", 3),
        "ner-crf": spec("token-classification", 3, "flagai.models.heads:CRF", transition_scale=1.0),
        "ner-gp": spec("encoder", 3, "flagai.models.heads:GlobalPointer", inner_dim=4),
    }
    state = legacy_state(kind)
    if kind in ("sequence-labeling", "ner-crf"):  # Hugging Face's labelling model has no pooler to keep
        state = {name: tensor for name, tensor in state.items() if "pooler" not in name}
    config = CONFIG | ({} if kind == "encoder" else {"class_num": 3}) | ({"inner_dim": 4} if kind == "ner-gp" else {})
    model = build_model(write(tmp_path / "in", state, config), heads[kind], fresh_head=False)
    out = legacy.save_legacy(model, tmp_path / "out", iteration=7)
    assert out == tmp_path / "out" / "7" and (tmp_path / "out" / "latest_iteration.txt").read_text() == "7\t7"
    content = torch.load(out / "pytorch_model.bin", weights_only=True)
    assert content["iteration"] == 7 and content["module"].keys() == state.keys()
    assert all(torch.equal(content["module"][name], state[name]) for name in state)
    assert read_json(out / "config.json") == config
    again = read_state_dict(tmp_path / "out")  # by way of latest_iteration.txt
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_a_masked_language_model_is_written_back() -> None:
    from transformers import BertConfig, BertForMaskedLM

    there = legacy_bert.to_huggingface(legacy_state("masklm"), CONFIG)
    small = {name: value for name, value in there.config.items() if name not in ("architectures", "model_type")}
    model = BertForMaskedLM(BertConfig(**small))
    back = legacy_bert.to_legacy(model.state_dict(), kind="masklm")
    missing = legacy_state("masklm").keys() - back.keys()
    assert missing == {"model.pooler.dense.weight", "model.pooler.dense.bias"}
    assert not back.keys() - legacy_state("masklm").keys()


def test_old_names_of_layer_norm_are_understood() -> None:
    state = legacy_state("encoder")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in state.items()
    }
    assert legacy_bert.to_huggingface(old, CONFIG).body.keys() == legacy_bert.to_huggingface(state, CONFIG).body.keys()


def test_what_the_original_cannot_express_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "bert", "vocab_size": V, "hidden_size": H, "num_hidden_layers": 1, "num_attention_heads": 2}
    narrow = build_from_config(config | {"intermediate_size": 2 * H}, spec("encoder", 0))
    with pytest.raises(ModelError, match="four times hidden_size"):
        legacy.save_legacy(narrow, tmp_path)
    other = build_from_config(config | {"model_type": "roberta", "intermediate_size": 4 * H}, spec("encoder", 0))
    with pytest.raises(ModelError, match="the original has no RobertaModel"):
        legacy.save_legacy(other, tmp_path)
    head = spec("token-classification", 3, "flagai.models.heads:CRF")
    crf = build_from_config(config | {"intermediate_size": 4 * H}, head)
    torch.nn.init.ones_(crf.head.start_transitions)
    with pytest.raises(ModelError, match="learned start_transitions"):
        legacy.save_legacy(crf, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_configuration_and_weights_of_two_models(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hidden_size 99"):
        build_model(write(tmp_path, legacy_state("encoder"), CONFIG | {"hidden_size": 99}), spec("encoder", 0))


def test_a_lost_tensor_is_noticed(tmp_path: Path) -> None:
    state = legacy_state("classification")
    del state["model.encoder.layer.1.output.dense.weight"]
    with pytest.raises(CheckpointError, match=r"bert\.encoder\.layer\.1\.output\.dense\.weight"):
        build_model(write(tmp_path, state, CONFIG), spec("sequence-classification", 3))


def test_the_vocabulary_is_written_and_read_back(tmp_path: Path) -> None:
    tokenizer = character_tokenizer(["今天天气很好, good day"], tmp_path / "tokenizer")
    config = CONFIG | {"model_type": "bert", "vocab_size": len(tokenizer), "intermediate_size": 4 * H}
    model = build_from_config(config, spec("encoder", 0))
    folder = legacy.save_legacy(model, tmp_path / "out", tokenizer=tokenizer)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "pytorch_model.bin", "vocab.txt"]
    again = build_tokenizer(folder)
    text = "今天 good day，很好"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
