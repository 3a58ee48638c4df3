"""Adapters: nothing changes at first, only they and the head train, saved = loaded = merged, no other base."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flagai.errors import CheckpointError, ConfigError, MissingExtraError, MissingFileError, ModelError
from flagai.models.build import build_from_config, build_model
from flagai.models.lora import (
    Base,
    adapter_base,
    add_lora,
    attention_layers,
    is_lora,
    load_lora,
    merge_lora,
    save_lora,
)

pytest.importorskip("peft")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": {**SMALL, "max_position_embeddings": 40},
    "roberta": {**SMALL, "max_position_embeddings": 40},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "modernbert": {**SMALL, "cls_token_id": 1, "sep_token_id": 2},
    "albert": {**SMALL, "embedding_size": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}
LAYERS = {
    "bert": ["attention.output.dense", "attention.self.key", "attention.self.query", "attention.self.value"],
    "roberta": ["attention.output.dense", "attention.self.key", "attention.self.query", "attention.self.value"],
    "distilbert": ["attention.k_lin", "attention.out_lin", "attention.q_lin", "attention.v_lin"],
    "modernbert": ["attn.Wo", "attn.Wqkv"],
    "albert": ["attention.dense", "attention.key", "attention.query", "attention.value"],
    "gpt2": ["attn.c_attn", "attn.c_proj"],
}
INPUTS = {
    "input_ids": torch.tensor([[2, 9, 8, 7, 3], [2, 5, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}


def spec(body: str, num_labels: int = 3, module: str = "", **options: Any) -> Any:
    return SimpleNamespace(body=body, num_labels=num_labels, module=module, options=options)


HEADS = {
    "stock": spec("sequence-classification"),
    "pooled": spec("encoder", 3, "flagai.models.heads:PooledLinear"),
    "crf": spec("token-classification", 3, "flagai.models.heads:CRF"),
}


def make_base(folder: Path, family: str = "bert", seed: int = 1) -> Path:
    config = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | FAMILIES[family]
    build_from_config(config | {"model_type": family}, spec("encoder", 0), seed=seed).save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def adapted(base: Path, head: str = "stock", **options: Any) -> Any:
    settings = {"r": 2, "alpha": 8.0, "base": Base.of(base)} | options
    return add_lora(build_model(base, HEADS[head]), **settings)


def disturb(model: Any) -> None:
    """As if trained: every trainable number moves."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(**INPUTS)["logits"]


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("head", list(HEADS))
def test_life_of_an_adapter(family: str, head: str, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", family)
    plain = logits(build_model(base, HEADS[head]))
    model = adapted(base, head)
    assert torch.equal(logits(model), plain)  # B starts at zero
    disturb(model)
    trained = logits(model)
    assert not torch.allclose(trained, plain)
    save_lora(model, tmp_path / "adapter")
    loaded = load_lora(tmp_path / "adapter", HEADS[head])
    assert torch.equal(logits(loaded), trained)
    merged = merge_lora(loaded)
    assert not is_lora(merged) and not [name for name, _ in merged.named_parameters() if "lora" in name]
    torch.testing.assert_close(logits(merged), trained, atol=1e-6, rtol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    (tmp_path / "merged" / "task.json").write_text("{}")
    assert torch.equal(logits(build_model(tmp_path / "merged", HEADS[head])), logits(merged))


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_linear_layer_of_the_attention_is_chosen(family: str, tmp_path: Path) -> None:
    body = build_model(make_base(tmp_path, family), spec("encoder", 0))
    assert attention_layers(body) == LAYERS[family]


@pytest.mark.parametrize("head", list(HEADS))
def test_only_adapters_and_the_head_train(head: str, base: Path) -> None:
    model = adapted(base, head)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    others = {name for name in trainable if ".lora_" not in name}
    assert len(trainable) - len(others) == 2 * 4 * 2  # A and B for four layers of two blocks
    assert (
        others
        == {
            "stock": {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"},
            "pooled": {"head.classifier.weight", "head.classifier.bias"},
            "crf": {
                "body.classifier.weight",
                "body.classifier.bias",
                "head.transitions",
                "head.start_transitions",
                "head.end_transitions",
            },
        }[head]
    )
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    loss = sum(value.float().square().sum() for value in model(**INPUTS).values() if value.requires_grad)
    loss.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if name in frozen)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_the_factor_is_alpha_over_r(base: Path) -> None:
    model = adapted(base, r=4, alpha=2.0, target_modules=["attention.self.query"])
    disturb(model)
    layer = model.bert.encoder.layer[0].attention.self.query
    x = torch.randn(3, 16)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    want = x @ layer.base_layer.weight.T + layer.base_layer.bias + 0.5 * (x @ a.T @ b.T)
    torch.testing.assert_close(layer(x), want)


def test_the_start_comes_from_the_seed(base: Path) -> None:
    before = torch.get_rng_state()
    one, two, other = adapted(base), adapted(base), adapted(base, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    name = "bert.encoder.layer.0.attention.self.query.lora_A.default.weight"
    assert torch.equal(one.get_parameter(name), two.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))


def test_training_goes_on_from_a_saved_adapter(base: Path, tmp_path: Path) -> None:
    model = adapted(base)
    disturb(model)
    save_lora(model, tmp_path / "a")
    loaded = load_lora(tmp_path / "a", HEADS["stock"], trainable=True)
    theirs = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == theirs
    assert not any(p.requires_grad for p in load_lora(tmp_path / "a", HEADS["stock"]).parameters())
    disturb(loaded)
    save_lora(loaded, tmp_path / "b")
    assert torch.equal(logits(load_lora(tmp_path / "b", HEADS["stock"])), logits(loaded))


def test_the_files_are_those_of_peft(base: Path, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification

    model = adapted(base)
    disturb(model)
    save_lora(model, tmp_path / "a")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    stock = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    theirs = peft.PeftModel.from_pretrained(stock, tmp_path / "a").eval()
    assert torch.equal(logits(theirs), logits(model))


def test_the_adapter_records_its_base(base: Path, tmp_path: Path) -> None:
    model = add_lora(
        build_model(base, HEADS["stock"]), r=2, alpha=2, base=Base.of(base, name="someone/bert", revision="v2")
    )
    save_lora(model, tmp_path / "a")
    found = adapter_base(tmp_path / "a")
    assert found == Base.of(base, name="someone/bert", revision="v2") and len(found.sha256) == 64
    load_lora(tmp_path / "a", HEADS["stock"], base_folder=base)


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    save_lora(adapted(base), tmp_path / "a")
    other = make_base(tmp_path / "other", seed=2)
    with pytest.raises(CheckpointError, match="trained on other weights"):
        load_lora(tmp_path / "a", HEADS["stock"], base_folder=other)


def test_a_base_that_is_gone_is_named(base: Path, tmp_path: Path) -> None:
    save_lora(adapted(base), tmp_path / "a")
    base.rename(tmp_path / "moved")
    with pytest.raises(MissingFileError, match=r"base model of the adapter(.|\n)*base_model_name_or_path"):
        load_lora(tmp_path / "a", HEADS["stock"], offline=True)
    load_lora(tmp_path / "a", HEADS["stock"], base_folder=tmp_path / "moved")


def test_adapters_that_do_not_fit(base: Path, tmp_path: Path) -> None:
    save_lora(adapted(base), tmp_path / "a")
    with pytest.raises(CheckpointError, match="of another shape"):
        load_lora(tmp_path / "a", spec("sequence-classification", 5))
    save_lora(adapted(base, "pooled"), tmp_path / "b")
    with pytest.raises(CheckpointError, match=r"has a head\.safetensors|left over"):
        load_lora(tmp_path / "b", spec("encoder", 0))
    config = tmp_path / "a" / "adapter_config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(raw | {"auto_mapping": None}))
    with pytest.raises(CheckpointError, match="does not say which weights"):
        load_lora(tmp_path / "a", HEADS["stock"])


def test_an_adapter_folder_is_not_taken_for_a_model(base: Path, tmp_path: Path) -> None:
    save_lora(adapted(base), tmp_path / "a")
    with pytest.raises(ModelError, match="holds an adapter"):
        build_model(tmp_path / "a", HEADS["stock"])


def test_layers_that_do_not_exist(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"nonsense(.|\n)*attention\.self\.query(.|\n)*leave target_modules out"):
        adapted(base, target_modules=["nonsense"])


def test_adapters_are_added_once_and_only_to_pretrained_weights(base: Path) -> None:
    model = adapted(base)
    with pytest.raises(ModelError, match="adapters already"):
        add_lora(model, r=2, alpha=2, base=Base.of(base))
    scratch = build_from_config({"model_type": "bert", "vocab_size": 50, **FAMILIES["bert"]}, HEADS["stock"])
    with pytest.raises(ModelError, match="random weights"):
        add_lora(scratch, r=2, alpha=2, base=Base.of(base))
    plain = build_model(base, HEADS["stock"])
    for refused in (merge_lora, lambda m: save_lora(m, base / "x")):
        with pytest.raises(ModelError, match="no adapters"):
            refused(plain)


def test_without_peft_the_extra_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"flagai\[lora\]"):
        adapted(base)


def test_the_module_itself_does_not_import_peft() -> None:
    import subprocess

    program = "import sys, flagai.models.lora; assert 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_adapters_on_half_precision_weights_stay_in_single(base: Path) -> None:
    model = add_lora(build_model(base, HEADS["stock"], dtype=torch.bfloat16), r=2, alpha=2, base=Base.of(base))
    kinds = {p.dtype for name, p in model.named_parameters() if ".lora_" in name}
    assert kinds == {torch.float32} and logits(model).isfinite().all()
