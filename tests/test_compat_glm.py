"""The original's GLM classes and loader: the logits, losses, names of tensors and results it had."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.generate.poet import make_poet

from flagai.auto_model.auto_loader import AutoLoader
from flagai.errors import CheckpointError, ConfigError, DataError, LaterModuleError, ModelError
from flagai.model.glm_model import (
    GLMForMultiTokenCloze,
    GLMForSeq2Seq,
    GLMForSequenceClassification,
    GLMForSingleTokenCloze,
    GLMModel,
)
from flagai.model.predictor.predictor import Predictor
from flagai.models.glm.convert import convert
from flagai.models.tokenizers import build_tokenizer

FIXTURES = Path(__file__).parent / "fixtures" / "glm"
TRUTH = 5e-5


@pytest.fixture(scope="module")
def cases() -> tuple[Any, Any]:
    return dict(np.load(FIXTURES / "inputs.npz")), dict(np.load(FIXTURES / "logits_thudm.npz"))


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    with np.load(FIXTURES / "weights.npz") as weights:
        return {name: torch.from_numpy(weights[name]) for name in weights}


def made(kind: Any, state: dict[str, torch.Tensor], **options: Any) -> Any:
    model = kind(json.loads((FIXTURES / "config.json").read_text()), **options)
    model.load_state_dict({"module": state})
    return model.eval()


def given(inputs: dict[str, np.ndarray], case: str) -> dict[str, torch.Tensor]:
    names = ("input_ids", "position_ids", "attention_mask")
    return {name: torch.from_numpy(inputs[f"{case}/{name}"]) for name in names}


@pytest.mark.parametrize("case", ["A_scalar_sep", "B_vector_sep", "C_mask4d", "E_causal", "F_bidir"])
def test_the_originals_logits(cases: Any, published: Any, case: str) -> None:
    inputs, logits = cases
    with torch.no_grad():
        found = made(GLMModel, published)(**given(inputs, case))
    assert found["hidden_states"] is None and "loss" not in found
    assert np.abs(found["logits"].numpy() - logits[case]).max() < TRUTH


def test_memory_goes_from_call_to_call(cases: Any, published: Any) -> None:
    inputs, logits = cases
    model, place = made(GLMModel, published), int(inputs["D_mems/step_pos"])
    with torch.no_grad():
        found = model(**given(inputs, "D_mems"), mems=[], return_memory=True)
        kept = found["hidden_states"]
        for _ in range(2):  # the memory of a call is not used up
            found = {"hidden_states": kept}
            for i, token in enumerate(inputs["D_mems/steps"][0].tolist()):
                positions = torch.tensor([[[place], [i + 1]]])
                mask = torch.zeros(1, dtype=torch.long)
                found = model(torch.tensor([[token]]), positions, mask, mems=found["hidden_states"])
                assert np.abs(found["logits"].numpy() - logits[f"D_mems/step{i}"]).max() < TRUTH


def test_names_and_bytes_of_the_tensors(published: Any, tmp_path: Path) -> None:
    model = made(GLMModel, published)
    state = model.state_dict()
    assert state.keys() == published.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())
    model.save_weights(str(tmp_path / "pytorch_model.bin"))
    model.save_config(str(tmp_path / "config.json"))
    again = GLMModel.from_pretrain(str(tmp_path.parent), tmp_path.name)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in published.items())
    fresh = GLMModel.init_from_json(str(tmp_path / "config.json"))
    fresh.load_weights(str(tmp_path / "pytorch_model.bin"))
    assert torch.equal(fresh.state_dict()["word_embeddings.weight"], published["word_embeddings.weight"])
    shown = {name: tensor for name, tensor in published.items() if "final_layernorm" not in name}
    with pytest.raises(CheckpointError, match=r"2 tensors are missing: glm\.transformer\.final_layernorm.weight"):
        model.load_state_dict(shown)
    with pytest.raises(CheckpointError, match=r"have another shape: glm\.word_embeddings.weight"):
        model.load_state_dict({**published, "word_embeddings.weight": torch.zeros(3, 64)})


def test_a_classifier_is_saved_as_the_original_does(published: Any, tmp_path: Path) -> None:
    config = json.loads((FIXTURES / "config.json").read_text())
    model = GLMForSequenceClassification({**config, "class_num": 3}).eval()
    heads = {"pool_layer.weight", "pool_layer.bias", "multichoice_head.weight", "multichoice_head.bias"}
    assert model.state_dict().keys() == {f"model.{name}" for name in published} | heads
    model.save_weights(str(tmp_path / "pytorch_model.bin"))
    model.save_config(str(tmp_path / "config.json"))
    again = GLMForSequenceClassification.from_pretrain(str(tmp_path.parent), tmp_path.name, class_num=3)
    ids = torch.randint(0, 900, (2, 6), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.tensor([6, 6])}
    with torch.no_grad():
        first, second = model(**inputs, labels=torch.tensor([1, 2])), again(**inputs)
    assert first["logits"].shape == (2, 3) and torch.equal(first["logits"], second["logits"])
    expected = torch.nn.functional.cross_entropy(first["logits"], torch.tensor([1, 2]))
    assert first["loss"] == pytest.approx(float(expected))
    one = GLMForSequenceClassification(config, class_num=1).eval()
    with torch.no_grad():
        scores = one(input_ids=ids[None], attention_mask=torch.tensor([[6, 6]]))["logits"]
    assert scores.shape == (1, 2)
    with pytest.raises(ConfigError, match="class_num is 0"):
        GLMForSequenceClassification(config, class_num=0)


def test_losses(cases: Any, published: Any) -> None:
    inputs = given(cases[0], "B_vector_sep")
    targets = torch.randint(1, 900, inputs["input_ids"].shape, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros_like(targets)
    mask[:, 12:] = 1
    targets[0, 13] = 0
    with torch.no_grad():
        full = made(GLMModel, published)(**inputs)["logits"].log_softmax(-1)
        found = made(GLMForSeq2Seq, published)(**inputs, target_ids=targets, loss_mask=mask)
        labelled = made(GLMModel, published)(**inputs, labels=targets.masked_fill(mask == 0, -100))
    rows = [(i, j) for i in range(3) for j in range(12, 20)]
    assert found["logits"].shape == (60, 1000)
    counted = [-full[i, j, targets[i, j]] for i, j in rows if (i, j) != (0, 13)]
    assert found["loss"] == pytest.approx(float(torch.stack(counted).mean()), abs=1e-5)
    everything = [-full[i, j, targets[i, j]] for i, j in rows]
    assert labelled["loss"] == pytest.approx(float(torch.stack(everything).mean()), abs=1e-5)


def test_cloze_of_one_token(cases: Any, published: Any) -> None:
    inputs = given(cases[0], "B_vector_sep")
    targets = torch.tensor([[5, 6], [7, 8], [9, 1]])
    with torch.no_grad():
        full = made(GLMModel, published)(**inputs)["logits"]
        for softmax in (False, True):
            model = made(GLMForSingleTokenCloze, published, take_softmax=softmax)
            found = model(**inputs, target_ids=targets, labels=torch.tensor([0, 1, 1]))
            scores = full.log_softmax(-1) if softmax else full
            expected = [[float(scores[i, n, t]) for t in targets[i]] for i, n in enumerate(inputs["attention_mask"])]
            assert np.allclose(found["logits"].numpy(), expected, atol=1e-5) and found["loss"] > 0
    with pytest.raises(DataError, match="outside the text"):
        model(**{**inputs, "attention_mask": torch.tensor([8, 12, 20])}, target_ids=targets)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_cloze_of_several_tokens(cases: Any, published: Any, penalty: float) -> None:
    inputs = given(cases[0], "B_vector_sep")
    packed = {name: value[None].expand(2, *value.shape) for name, value in inputs.items()}  # 2 texts, 3 candidates
    targets = torch.randint(1, 900, packed["input_ids"].shape, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros_like(targets)
    for candidate, length in enumerate((1, 3, 2)):
        mask[:, candidate, 12 : 12 + length] = 1
    model = made(GLMForMultiTokenCloze, published, length_penalty=penalty)
    with torch.no_grad():
        full = made(GLMModel, published)(**inputs)["logits"].log_softmax(-1)
        found = model(**packed, target_ids=targets, logit_mask=mask)
    for text in range(2):
        for candidate, length in enumerate((1, 3, 2)):
            places = range(12, 12 + length)
            total = sum(float(full[candidate, j, targets[text, candidate, j]]) for j in places)
            assert float(found["logits"][text, candidate]) == pytest.approx(total / length**penalty, abs=1e-4)


def test_what_a_later_release_brings() -> None:
    with pytest.raises(LaterModuleError, match="GLMForMultiTokenClozeFast is not part of this release"):
        from flagai.model.glm_model import GLMForMultiTokenClozeFast  # noqa: F401
    with pytest.raises(LaterModuleError, match=r"SuperGlueDataset(.|\n)*that brings prompt learning"):
        from flagai.data.dataset import SuperGlueDataset  # noqa: F401
    for name in ("BlockDataset", "ConstructBlockStrategy"):
        with pytest.raises(
            LaterModuleError, match=f"{name} is not part of flagai 2(.|\n)*task blank-infilling"
        ) as told:
            getattr(importlib.import_module("flagai.data.dataset"), name)
        assert "wait" not in str(told.value)
    with pytest.raises(AttributeError, match="Blocks"):
        _ = importlib.import_module("flagai.data.dataset").Blocks
    with pytest.raises(ConfigError, match="prompt_pos"):
        GLMModel(json.loads((FIXTURES / "config.json").read_text()))(prompt_pos=torch.zeros(1))


# -- by the loader ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model as flagai, the original, THUDM and the hub store it."""
    root = tmp_path_factory.mktemp("layouts")
    ours = make_poet(root / "flagai")
    found = {"flagai": ours}
    for layout in ("flagai-original", "thudm", "huggingface"):
        found[layout] = root / layout
        convert(ours, found[layout], layout=layout)
    return found


@pytest.mark.parametrize("layout", ["flagai", "flagai-original", "huggingface", "thudm"])
def test_the_script_of_2022_runs_on_a_folder(layouts: dict[str, Path], layout: str, capsys: Any) -> None:
    loader = AutoLoader(task_name="lm", model_name=str(layouts[layout]))
    model = loader.get_model()
    tokenizer = loader.get_tokenizer()
    model.to(torch.device("cpu"))
    predictor = Predictor(model, tokenizer)
    text = "床前: 明月光? 霜: [gMASK]"
    torch.manual_seed(0)
    output = predictor.predict_generate_randomsample(text, top_k=50, repetition_penalty=4.0, top_p=1.0)
    assert isinstance(model, GLMModel)
    assert output.replace(" ", "").startswith(
        "[CLS]床前:明月光?霜:[gMASK]<|startofpiece|>".replace(":", "[UNK]").replace("?", "[UNK]")
    )
    torch.manual_seed(0)
    ours = AutoLoader("lm", str(layouts["flagai"]))
    assert (
        Predictor(ours.get_model(), ours.get_tokenizer()).predict_generate_randomsample(text, 256, 200, 50, 1.0, 4.0)
        == output
    )
    assert tokenizer.get_command("gMASK").Id == tokenizer.get_command_id("gmask")


def test_the_loader_gives_each_task_its_class(layouts: dict[str, Path]) -> None:
    folder = layouts["flagai-original"]
    for task, kind in (("seq2seq", GLMForSeq2Seq), ("title_generation", GLMForSeq2Seq), ("poetry", GLMForSeq2Seq)):
        assert type(AutoLoader(task, str(folder)).get_model()) is kind
    loader = AutoLoader("classification", folder.name, model_dir=str(folder.parent), class_num=2)
    assert type(loader.get_model()) is GLMForSequenceClassification
    assert Predictor(loader.get_model(), loader.get_tokenizer()).predict_cls_classifier("明月") in (0, 1)
    with pytest.raises(ModelError, match=r"'ner' is none of a GLM(.|\n)*seq2seq"):
        AutoLoader("ner", str(folder))
    bare = AutoLoader("lm", str(folder), only_download_config=True).get_model()
    assert isinstance(bare, GLMModel)


def test_a_loaded_model_is_written_for_the_original(layouts: dict[str, Path], tmp_path: Path) -> None:
    loader = AutoLoader("lm", str(layouts["flagai"]))
    folder = loader.save_pretrain_params(str(tmp_path / "old"))
    assert {"config.json", "pytorch_model.bin", "vocab.txt"} <= {file.name for file in folder.iterdir()}
    again = AutoLoader("lm", str(folder)).get_model().state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in loader.get_model().state_dict().items())


def test_a_folder_without_its_vocabulary(layouts: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(layouts["flagai-original"], tmp_path / "bare")
    for file in (tmp_path / "bare").iterdir():
        if file.name not in {"config.json", "pytorch_model.bin"}:
            file.unlink()
    with pytest.raises(FileNotFoundError):
        build_tokenizer(tmp_path / "bare")
