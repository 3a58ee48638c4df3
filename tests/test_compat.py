"""The original's surface: its import paths and signatures, frozen, and a script of 2022 that runs."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import flagai
from flagai.auto_model.auto_loader import AutoLoader
from flagai.data.collate_utils import (
    bert_cls_collate_fn,
    bert_sequence_label_collate_fn,
    bert_sequence_label_gp_collate_fn,
)
from flagai.env_args import EnvArgs
from flagai.env_trainer import EnvTrainer
from flagai.errors import CheckpointError, ConfigError, DataError, LaterModuleError, LaterReleaseError, ModelError
from flagai.metrics import accuracy_metric, f1_macro_metric, f1_metric
from flagai.model import bert_model
from flagai.model.predictor.predictor import Predictor
from flagai.models import legacy, legacy_bert
from flagai.models.checkpoints import read_state_dict
from flagai.parallel.memory import bound_kernel_caches
from flagai.trainer import Trainer, save_best

ROOT = Path(__file__).parent.parent

PAIRS = (
    ("flagai.auto_model.auto_loader", "AutoLoader"),
    ("flagai.model.predictor.predictor", "Predictor"),
    ("flagai.trainer", "Trainer"),
    ("flagai.env_args", "EnvArgs"),
    ("flagai.env_trainer", "EnvTrainer"),
    ("flagai.launch", "launch_dist"),
    ("flagai.metrics", "accuracy_metric"),
    ("flagai.metrics", "f1_metric"),
    ("flagai.metrics", "f1_macro_metric"),
    ("flagai.data.collate_utils", "bert_cls_collate_fn"),
    ("flagai.data.collate_utils", "bert_sequence_label_collate_fn"),
    ("flagai.data.collate_utils", "bert_sequence_label_gp_collate_fn"),
    ("flagai.data.collate_utils", "seq2seq_collate_fn"),
    ("flagai.data.tokenizer", "Tokenizer"),
    ("flagai.data.tokenizer", "BertWordPieceTokenizer"),
    ("flagai.data.tokenizer.bert.bert_tokenizer", "BertTokenizer"),
    ("flagai.data.tokenizer", "GLMLargeChTokenizer"),
    ("flagai.data.tokenizer", "GLMLargeEnWordPieceTokenizer"),
    ("flagai.data.tokenizer", "GLM10bENBPETokenizer"),
    ("flagai.data.tokenizer.glm_large_ch.glm_large_ch_tokenizer", "GLMLargeChTokenizer"),
    ("flagai.data.tokenizer.tokenizer", "CommandToken"),
    ("flagai.model.bert_model", "BertModel"),
    ("flagai.model.bert_model", "BertForClsClassifier"),
    ("flagai.model.bert_model", "BertForSequenceLabeling"),
    ("flagai.model.bert_model", "BertForSequenceLabelingCRF"),
    ("flagai.model.bert_model", "BertForSequenceLabelingGP"),
    ("flagai.model.bert_model", "BertForEmbedding"),
    ("flagai.model.bert_model", "BertForMaskLM"),
    ("flagai.model.bert_model", "BertForSeq2seq"),
    ("flagai.model.gpt2_model", "GPT2Model"),
    ("flagai.model.opt_model", "OPTModel"),
    ("flagai.model.t5_model", "T5Model"),
    ("flagai.model.t5_model", "T5ForConditionalGeneration"),
    ("flagai.data.tokenizer", "CPMTokenizer"),
    ("flagai.data.tokenizer", "OPTTokenizer"),
    ("flagai.data.tokenizer", "ROBERTATokenizer"),
    ("flagai.data.tokenizer", "T5BPETokenizer"),
    ("flagai.data.tokenizer.cpm_1.cpm1_tokenizer", "CPMTokenizer"),
    ("flagai.data.tokenizer.t5.t5_pegasus_tokenizer", "T5PegasusTokenizer"),
    ("flagai.metrics", "bleu_metric"),
    ("flagai.metrics", "rouge_metric"),
    ("flagai.data.dataset", "Seq2SeqDataset"),
    ("flagai.data.dataset", "ConstructSeq2seqStrategy"),
    ("flagai.test_utils", "Seq2SeqCollateArguments"),
    ("flagai.model.glm_model", "GLMModel"),
    ("flagai.model.glm_model", "GLMForSeq2Seq"),
    ("flagai.model.glm_model", "GLMForSingleTokenCloze"),
    ("flagai.model.glm_model", "GLMForMultiTokenCloze"),
    ("flagai.model.glm_model", "GLMForSequenceClassification"),
)
LATER = (
    ("flagai.model.glm_model", "GLMForMultiTokenClozeFast"),
    ("flagai.model.t5_model", "T5UERModel"),
    ("flagai.data.dataset", "SuperGlueDataset"),
    ("flagai.metrics", "qa_f1"),
    ("flagai.test_utils", "CollateArguments"),
)
NO_DEFAULT = "—"
TRAINER = {
    "timers": None,
    "env_type": "pytorch",
    "pytorch_device": "cpu",
    "experiment_name": "glm_large",
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.1,
    "lr": 1e-3,
    "warm_up": 0.1,
    "epochs": 0,
    "save_interval": 1000,
    "eval_interval": 100,
    "log_interval": 100,
    "seed": 1234,
    "fp16": False,
    "clip_grad": 1.0,
    "checkpoint_activations": False,
    "save_dir": "checkpoints",
    "save_best": save_best,
    "save_optim": False,
    "save_rng": False,
    "load_dir": None,
    "load_type": "latest",
    "load_optim": False,
    "load_rng": False,
    "tensorboard_dir": "tensorboard_summary",
    "deepspeed_activation_checkpointing": False,
    "num_checkpoints": 1,
    "master_ip": "localhost",
    "master_port": 17750,
    "num_nodes": 1,
    "num_gpus": 1,
    "hostfile": None,
    "deepspeed_config": None,
    "model_parallel_size": 1,
    "training_script": "train.py",
    # of later versions
    "tokenizer": None,
    "optimizer_type": "adam",
    "extra_args": None,
}
SIGNATURES: dict[Any, dict[str, Any]] = {
    AutoLoader.__init__: {
        "task_name": "lm",
        "model_name": "RoBERTa-base-ch",
        "model_dir": "./checkpoints/",
        "only_download_config": False,
        "device": "cpu",
        "kwargs": NO_DEFAULT,
    },
    AutoLoader.load_pretrain_params: {"model_path": NO_DEFAULT},
    AutoLoader.get_task_name: {"brief_model_name": NO_DEFAULT},
    AutoLoader.get_model: {},
    AutoLoader.get_tokenizer: {},
    Predictor.predict_embedding: {"text": NO_DEFAULT, "maxlen": 256},
    Predictor.predict_cls_classifier: {"text": NO_DEFAULT, "maxlen": 512},
    Predictor.predict_masklm: {"text": NO_DEFAULT, "maxlen": 512},
    Predictor.predict_generate_beamsearch: {
        "text": NO_DEFAULT,
        "input_max_length": 256,
        "out_max_length": 100,
        "beam_size": 1,
    },
    Predictor.predict_generate_contrastive_search: {
        "text": NO_DEFAULT,
        "input_max_length": 256,
        "out_max_length": 100,
        "beam_size": 1,
    },
    Predictor.predict_generate_randomsample: {
        "text": NO_DEFAULT,
        "input_max_length": 256,
        "out_max_length": 200,
        "top_k": 30,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
    },
    Predictor.predict_ner: {"text": NO_DEFAULT, "target": NO_DEFAULT, "maxlen": 256},
    Trainer.__init__: TRAINER,
    Trainer.forward_step: {"data": NO_DEFAULT, "model": NO_DEFAULT, "mems": NO_DEFAULT},
    Trainer.train: {
        "model": None,
        "optimizer": None,
        "lr_scheduler": None,
        "train_dataset": None,
        "valid_dataset": None,
        "metric_methods": [],
        "collate_fn": None,
        "find_unused_parameters": True,
    },
    Trainer.evaluate: {"data_loader": None, "model": None, "forward_step_func": None, "verbose": False},
    Trainer.evaluate_and_print_results: {
        "prefix": None,
        "forward_step_func": None,
        "data_loader": None,
        "model": None,
        "verbose": False,
    },
    EnvTrainer.__init__: {"env_args": NO_DEFAULT},
    EnvArgs.add_arg: {"arg_name": NO_DEFAULT, "default": None, "type": str, "help": "", "store_true": False},
    bert_model.BertForClsClassifier.init_from_json: {"config_file": "./config.json", "kwargs": NO_DEFAULT},
    bert_model.BertForClsClassifier.from_pretrain: {
        "download_path": "./checkpoints/",
        "model_name": "RoBERTa-base-ch",
        "only_download_config": False,
        "device": "cpu",
        "kwargs": NO_DEFAULT,
    },
}


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_import_pair(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize(("module", "name"), LATER)
def test_a_name_of_a_later_release_says_so(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=rf"{name} is not part of this release(.|\n)*release of flagai 2"):
        exec(f"from {module} import {name}")
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(module).no_such_name  # noqa: B018


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signature(function: Any) -> None:
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}
    found = {n: NO_DEFAULT if p.default is inspect.Parameter.empty else p.default for n, p in parameters.items()}
    assert list(found.items()) == list(SIGNATURES[function].items())
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    assert kinds.pop("kwargs", inspect.Parameter.VAR_KEYWORD) is inspect.Parameter.VAR_KEYWORD
    assert set(kinds.values()) <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_old_and_new_names_stay_apart() -> None:
    assert flagai.Trainer is not Trainer and flagai.Trainer.__module__ == "flagai.train.trainer"
    assert flagai.AutoLoader is not AutoLoader and flagai.AutoLoader.__module__ == "flagai.auto"
    assert flagai.Predictor is Predictor
    for name, folder in (("models", "models"), ("train", "train"), ("data", "data")):
        file = importlib.import_module(f"flagai.{name}").__file__
        assert file is not None and Path(file).parent == ROOT / "src" / "flagai" / folder


def test_both_paths_give_the_same_class() -> None:
    assert importlib.import_module("flagai._compat.trainer").Trainer is Trainer


# -- a tiny model in the original's layout ---------------------------------------------------------------------------

ADJECTIVES, NOUNS = ("good", "fine", "great", "bad", "awful", "poor"), ("film", "book", "meal", "hotel")
WORDS = (*ADJECTIVES, *NOUNS, "the", "a", "was", "is", "very", "not", *"王小明在北京好")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoints/tiny` as the original lays a pretrained BERT out: config.json, pytorch_model.bin, vocab.txt."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("checkpoints")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=128,
                max_position_embeddings=48,
                initializer_range=0.2,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.1,
            )
        )
    legacy.save_legacy(model, folder / "tiny")
    (folder / "tiny" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


def load(checkpoints: Path, task: str, **kwargs: Any) -> tuple[Any, Any]:
    with torch.random.fork_rng():
        loader = AutoLoader(task, model_name="tiny", model_dir=str(checkpoints), **kwargs)
    return loader.get_model(), loader.get_tokenizer()


SENTENCES = [
    (f"the {thing} was {word}", label)
    for label, words in enumerate((ADJECTIVES[3:], ADJECTIVES[:3]))
    for word in words
    for thing in NOUNS
]


class Sentences(torch.utils.data.Dataset):
    def __init__(self, tokenizer: Any, rows: Any = SENTENCES) -> None:
        self.tokenizer, self.rows = tokenizer, list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        text, label = self.rows[index]
        data = self.tokenizer.encode_plus(text, max_length=16, truncation=True)
        return {"input_ids": data["input_ids"], "segment_ids": data["token_type_ids"], "labels": label}


def trainer(folder: Path, **options: Any) -> Trainer:
    usual = {"epochs": 4, "batch_size": 8, "lr": 3e-3, "weight_decay": 0.0, "eval_interval": 6, "log_interval": 5}
    return Trainer(**{**usual, "save_dir": str(folder), **options})


# -- the script ------------------------------------------------------------------------------------------------------


def test_a_script_of_2022_trains_and_predicts(checkpoints, tmp_path, capfd, caplog) -> None:
    bound_kernel_caches()  # what every process of ours sets once, whichever test came first
    before = dict(os.environ)
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    assert isinstance(model, bert_model.BertForClsClassifier)
    data = Sentences(tokenizer)
    run = trainer(tmp_path / "save", epochs=8)
    with caplog.at_level(logging.INFO, logger="flagai.trainer"):
        run.train(
            model,
            train_dataset=data,
            valid_dataset=data,
            collate_fn=bert_cls_collate_fn,
            metric_methods=[["accuracy", accuracy_metric]],
        )
    values = run.evaluate(data, model)
    assert set(values) == {"accuracy", "loss"} and values["accuracy"] == 100.0
    assert any("accuracy 100" in line for line in caplog.messages)
    predictor = Predictor(model, tokenizer)
    assert [predictor.predict_cls_classifier(text, maxlen=32) for text, _ in SENTENCES] == [y for _, y in SENTENCES]
    assert type(predictor.predict_cls_classifier(SENTENCES[0][0])) is int
    assert [result.label for result in predictor.predict([text for text, _ in SENTENCES])] == [
        str(label) for _, label in SENTENCES
    ]
    assert capfd.readouterr().out == "" and dict(os.environ) == before
    # the next script loads the checkpoint into a new model
    iteration, best = (tmp_path / "save" / "latest_iteration.txt").read_text().split("\t")
    assert int(iteration) == run.iteration == 24 and (tmp_path / "save" / best).is_dir()
    folder = tmp_path / "save" / iteration
    assert json.loads((folder / "config.json").read_text())["class_num"] == 2
    content = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert content.keys() >= {"module", "iteration"} and content["iteration"] == 24
    assert "model.encoder.layer.0.attention.self.query_key_value.weight" in content["module"]
    again, _ = load(checkpoints, "classification", class_num=2)
    again.load_state_dict(content["module"])
    texts = ["the film was good", "the meal was awful"]
    assert [Predictor(again, tokenizer).predict_cls_classifier(text) for text in texts] == [1, 0]


def tag_rows(tokenizer: Any) -> list[dict[str, Any]]:
    rows = []
    for text, tags in (("王小明在北京好", [4, 5, 5, 0, 2, 3, 0]), ("北京好", [2, 3, 0]), ("在王小明", [0, 4, 5, 5])):
        tokens = tokenizer.tokenize(text, maxlen=16, add_spatial_tokens=True)
        ids = tokenizer.convert_tokens_to_ids(tokens)
        assert [len(covered) for covered in tokenizer.rematch(text, tokens)] == [0, *[1] * len(text), 0]
        rows.append({"input_ids": ids, "segment_ids": [0] * len(ids), "labels": [0, *tags, 0]})
    return rows


TAGS = ["O", "B-ORG", "B-LOC", "I-LOC", "B-PER", "I-PER"]
EXPECTED = [(0, 2, "PER"), (4, 5, "LOC")]


@pytest.mark.parametrize("task", ["sequence-labeling", "ner-crf", "sequence_labeling_crf"])
def test_entities_by_tags(checkpoints, tmp_path, task) -> None:
    model, tokenizer = load(checkpoints, task, class_num=len(TAGS))
    run = trainer(tmp_path, epochs=60, batch_size=3, save_interval=1000)
    run.train(model, train_dataset=tag_rows(tokenizer), collate_fn=bert_sequence_label_collate_fn)
    predictor = Predictor(model, tokenizer)
    assert predictor.predict_ner("王小明在北京好", TAGS, maxlen=32) == EXPECTED
    assert predictor.predict_ner(["北京好", "在王小明"], TAGS) == [[(0, 1, "LOC")], [(1, 3, "PER")]]
    assert predictor.predict_ner("王小明在北京好", TAGS, maxlen=5) == [(0, 2, "PER")]
    with pytest.raises(ModelError, match="target names 2 labels, the model has 6 classes"):
        predictor.predict_ner("北京", ["O", "B-LOC"])
    if "crf" in task:
        assert isinstance(model, bert_model.BertForSequenceLabelingCRF)
        state = model.state_dict()
        assert state["crf_layer.trans"].abs().max() > 0 and not any("start" in name for name in state)


def test_entities_by_global_pointer(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "ner-gp", class_num=2, inner_dim=16)
    rows = []
    for row in tag_rows(tokenizer):
        grid = torch.zeros(2, len(row["labels"]), len(row["labels"]))
        for kind, begin, inside in ((0, 2, 3), (1, 4, 5)):
            for i in (i for i, tag in enumerate(row["labels"]) if tag == begin):
                end = i
                while row["labels"][end + 1] == inside:
                    end += 1
                grid[kind, i, end] = 1
        rows.append({**row, "labels": grid.numpy()})
    trainer(tmp_path, epochs=60, batch_size=3).train(
        model, train_dataset=rows, valid_dataset=rows, collate_fn=bert_sequence_label_gp_collate_fn
    )
    assert sorted(Predictor(model, tokenizer).predict_ner("王小明在北京好", ["LOC", "PER"])) == EXPECTED
    fresh = bert_model.BertForSequenceLabelingGP.of_folder(tmp_path / "60")
    assert sorted(Predictor(fresh, tokenizer).predict_ner("王小明在北京好", ["LOC", "PER"])) == EXPECTED


# -- Predictor -------------------------------------------------------------------------------------------------------


def test_predict_embedding_is_the_mean_over_all_tokens(checkpoints) -> None:
    model, tokenizer = load(checkpoints, "embedding")
    vector = Predictor(model, tokenizer).predict_embedding("the film was good", maxlen=256)
    assert vector.shape == (32,) and vector.dtype == torch.float32 and vector.device.type == "cpu"
    ids = torch.tensor([tokenizer.encode_plus("the film was good")["input_ids"]])
    with torch.no_grad():
        hidden = model(input_ids=ids)["logits"][0]
    torch.testing.assert_close(vector, hidden.mean(dim=0), atol=1e-5, rtol=1e-5)
    texts = ["good", "the film was very very good", "北京"]
    one_by_one = [Predictor(model, tokenizer).predict_embedding(text) for text in texts]
    for alone, together in zip(one_by_one, Predictor(model, tokenizer).predict_embedding(texts), strict=True):
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    cut = Predictor(model, tokenizer).predict_embedding("the film was very good", maxlen=5)
    torch.testing.assert_close(cut, Predictor(model, tokenizer).predict_embedding("the film was"), atol=1e-5, rtol=1e-5)
    plain, _ = load(checkpoints, "lm")
    torch.testing.assert_close(
        Predictor(plain, tokenizer).predict_embedding("good"), one_by_one[0], atol=1e-5, rtol=1e-5
    )


def test_predict_cls_classifier_of_a_pair(checkpoints) -> None:
    model, tokenizer = load(checkpoints, "semantic-matching", class_num=3)
    predictor = Predictor(model, tokenizer)
    data = tokenizer.encode_plus("the film", "was good")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([data["input_ids"]]), segment_ids=torch.tensor([data["token_type_ids"]]))
    assert predictor.predict_cls_classifier(["the film", "was good"]) == int(logits["logits"].argmax())
    with pytest.raises(DataError, match="3 texts in a list"):
        predictor.predict_cls_classifier(["a", "b", "c"])


def test_predict_masklm_fills_the_masks(tiny_bert) -> None:
    loader = AutoLoader("masklm", model_name=str(tiny_bert))
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    text = "The [MASK] was [MASK]!"
    filled = predictor.predict_masklm(text)
    ids = torch.tensor([loader.get_tokenizer().encode_plus(text)["input_ids"]])
    with torch.no_grad():
        best = loader.get_model()(input_ids=ids)["logits"][0].argmax(dim=-1)
    words = [
        loader.get_tokenizer().convert_ids_to_tokens(int(best[i])).removeprefix("##")
        for i in (ids[0] == loader.get_tokenizer().get_command_id("MASK")).nonzero()[:, 0]
    ]
    assert filled == f"The {words[0]} was {words[1]}!"
    assert predictor.predict_masklm([text, "a [MASK]"])[0] == filled
    with pytest.raises(DataError, match="0 masks"):
        predictor.predict_masklm("no mask")
    with pytest.raises(ModelError, match="carries no task"):
        predictor.predict("good")


def test_methods_that_do_not_fit_the_model_say_so(checkpoints) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    predictor = Predictor(model, tokenizer)
    with pytest.raises(ModelError, match="does not predict masked words"):
        predictor.predict_masklm("[MASK]")
    with pytest.raises(ModelError, match="finds no entities"):
        predictor.predict_ner("good", ["O"])
    model, tokenizer = load(checkpoints, "ner", class_num=3)
    with pytest.raises(ModelError, match="not answer with one class"):
        Predictor(model, tokenizer).predict_cls_classifier("good")


def test_a_classifier_writes_nothing_and_pictures_are_not_planned(checkpoints) -> None:
    predictor = Predictor(*load(checkpoints, "classification", class_num=2))
    for kind in ("beamsearch", "randomsample", "contrastive_search"):
        with pytest.raises(ModelError, match=f"predict_generate_{kind}: BertForSequenceClassification does not write"):
            getattr(predictor, f"predict_generate_{kind}")("text")
    assert not hasattr(predictor, "predict_generate_images")
    with pytest.raises(LaterReleaseError, match="predict_generate_images is not part of this release"):
        predictor.predict_generate_images("text")
    with pytest.raises(AttributeError, match="no attribute 'predict_nothing'"):
        predictor.predict_nothing("text")


def test_the_predictor_leaves_the_tokenizer_alone(checkpoints) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    inner = tokenizer.flagai_tokenizer
    before = (vars(tokenizer).copy(), set(vars(inner)), inner("the film was very good")["input_ids"])
    Predictor(model, tokenizer).predict_cls_classifier("the film was very very very good", maxlen=8)
    assert (vars(tokenizer), set(vars(inner)), inner("the film was very good")["input_ids"]) == before


# -- AutoLoader and checkpoints --------------------------------------------------------------------------------------


def test_tasks_that_are_none_of_a_model() -> None:
    with pytest.raises(ModelError, match="'text2img' is not part of this release"):
        AutoLoader("text2img", "RoBERTa-base-ch")
    with pytest.raises(ModelError, match=r"'poetry' is none of this model(.|\n)*title-generation"):
        AutoLoader("poetry", "RoBERTa-base-ch")
    with pytest.raises(ModelError, match="'llama3' is a family and no task"):
        AutoLoader("llama3", "RoBERTa-base-ch")


def test_unknown_names_raise(checkpoints) -> None:
    with pytest.raises(LookupError, match="did you mean 'classification'"):
        AutoLoader("clasification", "RoBERTa-base-ch")
    with pytest.raises(LookupError, match="unknown model"):
        AutoLoader("classification", "RoBERTa-base-cn", class_num=2)
    with pytest.raises(LookupError, match="unknown argument 'class_numm'"):
        AutoLoader("classification", "tiny", str(checkpoints), class_numm=2)
    with pytest.raises(ConfigError, match="needs the number of classes"):
        AutoLoader("classification", "tiny", str(checkpoints))
    with pytest.warns(UserWarning, match="target_size has no effect"):
        AutoLoader("classification", "tiny", str(checkpoints), class_num=2, target_size=3)


@pytest.mark.parametrize(
    "task", ["lm", "embedding", "masklm", "classification", "sequence-labeling", "ner-crf", "ner-gp"]
)
def test_a_checkpoint_of_the_original_comes_and_goes_without_a_changed_bit(checkpoints, tmp_path, task) -> None:
    kinds = {"lm": "encoder"}
    shapes = {
        "classification": {"out_layer.weight": (5, 32), "out_layer.bias": (5,)},
        "sequence-labeling": {"final_dense.weight": (5, 32), "final_dense.bias": (5,)},
        "ner-crf": {"final_dense.weight": (5, 32), "final_dense.bias": (5,), "crf_layer.trans": (5, 5)},
        "ner-gp": {"gp.dense.weight": (5 * 2 * 8, 32), "gp.dense.bias": (5 * 2 * 8,)},
    }
    body = read_state_dict(checkpoints / "tiny")
    state = body if task == "lm" else {f"model.{name}": tensor for name, tensor in body.items()}
    state |= {name: torch.randn(shape) for name, shape in shapes.get(task, {}).items()}
    if task == "masklm":
        words = body["embeddings.word_embeddings.weight"]
        state |= {
            "cls.predictions.transform.dense.weight": torch.randn(32, 32),
            "cls.predictions.transform.dense.bias": torch.randn(32),
            "cls.predictions.transform.LayerNorm.weight": torch.randn(32),
            "cls.predictions.transform.LayerNorm.bias": torch.randn(32),
            "cls.predictions.decoder.weight": words,
            "cls.predictions.decoder.bias": torch.randn(len(words)),
        }
    assert legacy_bert.kind_of(state) == kinds.get(task, task)
    folder = tmp_path / "mine"
    folder.mkdir()
    config = json.loads((checkpoints / "tiny" / "config.json").read_text())
    config |= {"class_num": 5} if task in shapes else {}
    config |= {"inner_dim": 8} if task == "ner-gp" else {}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text((checkpoints / "tiny" / "vocab.txt").read_text())
    torch.save({"module": state, "iteration": 9}, folder / "pytorch_model.bin")
    loader = AutoLoader(task, "mine", str(tmp_path))
    assert loader.get_task_name("bert") == f"bert_{task}"
    out = loader.save_pretrain_params(str(tmp_path / "out"))
    written = torch.load(out / "pytorch_model.bin", weights_only=True)["module"]
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    assert json.loads((out / "config.json").read_text()) == config
    assert (out / "vocab.txt").read_text() == (folder / "vocab.txt").read_text()
    # as a state dict, too, into a model of other weights
    other = AutoLoader(task, "mine", str(tmp_path), only_download_config=True).get_model()
    assert not all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), state.values(), strict=False))
    other.load_state_dict(torch.load(out / "pytorch_model.bin", weights_only=True))
    assert all(torch.equal(other.state_dict()[name], state[name]) for name in state)


def test_a_pooler_that_nothing_read_is_not_written_twice(checkpoints) -> None:
    model, _ = load(checkpoints, "classification", class_num=4)
    assert sorted(name for name in model.state_dict() if "pooler" in name) == [
        "model.pooler.dense.bias",
        "model.pooler.dense.weight",
    ]


def test_a_folder_that_flagai_trained_comes_as_it_is(tiny_bert, tmp_path) -> None:
    from flagai import AutoLoader as Today
    from flagai.auto import Loaded, save_folder

    today = Today("classification", str(tiny_bert), labels=["no", "yes"])
    save_folder(tmp_path / "final", Loaded(today.get_model(), today.get_tokenizer(), today.get_task()))
    loader = AutoLoader("classification", "final", str(tmp_path))
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    result = predictor.predict("the film was good")
    assert ["no", "yes"][predictor.predict_cls_classifier("the film was good")] == result.label
    with pytest.raises(ConfigError, match="class_num: a trained folder brings its own"):
        AutoLoader("classification", "final", str(tmp_path), class_num=2)


def test_both_layouts_compute_the_same(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=4)
    model.flagai_model.save_pretrained(tmp_path / "hf")
    tokenizer.save_pretrained(tmp_path / "hf")
    AutoLoader("classification", "tiny", str(checkpoints), class_num=4).save_pretrain_params(str(tmp_path / "old"))
    ids = torch.tensor([[2, 9, 6, 13, 3, 0, 0]])
    with torch.no_grad():
        logits = [
            AutoLoader("classification", name, str(tmp_path), class_num=4).get_model()(input_ids=ids)["logits"]
            for name in ("hf", "old")
        ]
        # one bit is allowed: tensors of a mapped file lie elsewhere in memory, and products are summed in another order
        torch.testing.assert_close(logits[0], logits[1], atol=1e-6, rtol=1e-6)
        assert torch.equal(logits[1], model(input_ids=ids)["logits"])
        short = model(input_ids=ids[:, :5])["logits"]
    torch.testing.assert_close(short, logits[0], atol=1e-5, rtol=1e-5)


def test_load_pretrain_params_keeps_the_head(checkpoints, tmp_path) -> None:
    loader = AutoLoader("classification", "tiny", str(checkpoints), class_num=4, only_download_config=True)
    head = loader.get_model().state_dict()["out_layer.weight"].clone()
    body = read_state_dict(checkpoints / "tiny")
    assert not torch.equal(loader.get_model().state_dict()["model.pooler.dense.weight"], body["pooler.dense.weight"])
    loader.load_pretrain_params(str(checkpoints / "tiny" / "pytorch_model.bin"))
    state = loader.get_model().state_dict()
    assert torch.equal(state["model.pooler.dense.weight"], body["pooler.dense.weight"])
    assert torch.equal(state["out_layer.weight"], head)
    part = {name: tensor for name, tensor in body.items() if "layer.1" not in name}
    torch.save(part, tmp_path / "part.bin")
    with pytest.raises(CheckpointError, match=r"tensors are missing .*encoder\.layer\.1"):
        loader.load_pretrain_params(str(tmp_path / "part.bin"))


# -- Trainer ---------------------------------------------------------------------------------------------------------


def test_training_goes_on_from_a_checkpoint_to_the_bit(checkpoints, tmp_path) -> None:
    states = []
    for name, stop in (("whole", None), ("parts", 3)):
        model, tokenizer = load(checkpoints, "classification", class_num=2)
        options = {"save_optim": True, "save_rng": True, "save_interval": 3, "epochs": 2}
        data = Sentences(tokenizer)
        if stop is None:
            trainer(tmp_path / name, **options).train(model, train_dataset=data, collate_fn=bert_cls_collate_fn)
            assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["3", "6", "latest_iteration.txt"]
        else:
            run = trainer(
                tmp_path / name, **options, load_dir=str(tmp_path / "whole" / "3"), load_optim=True, load_rng=True
            )
            run.train(model, train_dataset=data, collate_fn=bert_cls_collate_fn)
            assert run.iteration == 6
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    finished = trainer(tmp_path / "again", load_dir=str(tmp_path / "whole"), epochs=2)
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    finished.train(model, train_dataset=Sentences(tokenizer), collate_fn=bert_cls_collate_fn)
    assert finished.iteration == 6 and not (tmp_path / "again").exists()


def test_the_best_iteration_is_the_one_with_the_lowest_loss(checkpoints, tmp_path) -> None:
    losses: list[float] = []

    class Watched(Trainer):
        pass

    def rule(best: float, values: dict[str, float]) -> float:
        losses.append(values["loss"])
        return save_best(best, values)

    model, tokenizer = load(checkpoints, "classification", class_num=2)
    flipped = [(text, 1 - label) for text, label in SENTENCES]
    Watched(
        epochs=2, batch_size=8, lr=3e-3, save_dir=str(tmp_path), save_best=rule, eval_interval=1, save_interval=100
    ).train(
        model,
        train_dataset=Sentences(tokenizer),
        valid_dataset=Sentences(tokenizer, flipped),
        collate_fn=bert_cls_collate_fn,
    )
    latest, best = (tmp_path / "latest_iteration.txt").read_text().split("\t")
    assert int(latest) == 6 and int(best) == losses.index(min(losses)) + 1
    model, _ = load(checkpoints, "classification", class_num=2)
    loaded = Trainer(load_dir=str(tmp_path), load_type="best", save_dir=None)
    loaded.train(model, valid_dataset=Sentences(tokenizer, flipped), collate_fn=bert_cls_collate_fn)
    assert loaded.iteration == int(best)
    value = loaded.evaluate(model=model)["loss"]
    assert value == pytest.approx(min(losses), rel=1e-5)


def test_accumulation_is_one_larger_batch(checkpoints, tmp_path) -> None:
    states = []
    for size, parts in ((8, 1), (2, 4)):
        model, tokenizer = load(checkpoints, "classification", class_num=2)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        options = {"batch_size": size, "gradient_accumulation_steps": parts, "epochs": 1, "save_dir": None}
        descent = torch.optim.SGD(model.parameters(), lr=0.05)  # Adam would magnify the last bits of tiny gradients
        trainer(tmp_path, **options).train(
            model, descent, train_dataset=Sentences(tokenizer), collate_fn=bert_cls_collate_fn
        )
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-6, rtol=1e-5)


def test_a_loader_an_optimizer_and_a_scheduler_of_ones_own(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    seen: list[Any] = []

    def collate(samples: Any) -> Any:
        seen.append([sample["labels"] for sample in samples])
        return bert_cls_collate_fn(samples)

    loader = torch.utils.data.DataLoader(Sentences(tokenizer), batch_size=6, collate_fn=collate)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer(tmp_path, epochs=1, save_dir=None).train(model, optimizer, scheduler, train_dataset=loader)
    assert seen == [[0] * 6, [0] * 6, [1] * 6, [1] * 6], "a DataLoader without shuffle keeps its order"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**4)
    assert not torch.equal(model.state_dict()["out_layer.weight"], before["out_layer.weight"])


def test_a_shuffled_loader_gives_every_example_once_and_the_same_order_twice(checkpoints, tmp_path) -> None:
    orders: list[list[Any]] = []
    for _ in range(2):
        model, tokenizer = load(checkpoints, "classification", class_num=2)
        rows = [{**Sentences(tokenizer)[i], "number": i} for i in range(len(SENTENCES))]
        order: list[int] = []

        def collate(samples: Any, order: list[int] = order) -> Any:
            order.extend(sample["number"] for sample in samples)
            return bert_cls_collate_fn(samples)

        loader = torch.utils.data.DataLoader(rows, batch_size=5, shuffle=True, collate_fn=collate)
        trainer(tmp_path, epochs=2, save_dir=None, gradient_accumulation_steps=2).train(model, train_dataset=loader)
        orders.append(order)
    assert orders[0] == orders[1]
    first, second = orders[0][: len(SENTENCES)], orders[0][len(SENTENCES) :]
    assert sorted(first) == sorted(second) == list(range(len(SENTENCES))) and first != second
    assert first != sorted(first)


def test_token_metrics_do_not_depend_on_the_batch(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "ner", class_num=len(TAGS))
    rows = tag_rows(tokenizer)
    values = []
    for size in (1, 2, 3):
        run = trainer(tmp_path, epochs=0, batch_size=size)
        metrics = [["accuracy", accuracy_metric]]
        run.train(model, valid_dataset=rows, collate_fn=bert_sequence_label_collate_fn, metric_methods=metrics)
        values.append(run.evaluate(model=model))
    with torch.no_grad():
        right = [
            model(input_ids=torch.tensor([row["input_ids"]]))["logits"][0].argmax(dim=-1) == torch.tensor(row["labels"])
            for row in rows
        ]
    expected = 100.0 * float(torch.cat(right).double().mean())
    assert [value["accuracy"] for value in values] == pytest.approx([expected] * 3)


def test_half_precision_learns_too(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    data = Sentences(tokenizer)
    run = trainer(tmp_path, fp16=True, epochs=8, save_dir=None)
    run.train(model, train_dataset=data, collate_fn=bert_cls_collate_fn, metric_methods=[["accuracy", accuracy_metric]])
    assert run.evaluate(data, model)["accuracy"] == 100.0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_checkpoint_without_what_is_asked_for(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    data = Sentences(tokenizer)
    trainer(tmp_path / "a", epochs=1).train(model, train_dataset=data, collate_fn=bert_cls_collate_fn)
    for option, name in (("load_optim", "optimizer"), ("load_rng", "torch_rng_state")):
        run = trainer(tmp_path / "b", load_dir=str(tmp_path / "a"), **{option: True})
        with pytest.raises(CheckpointError, match=f"holds no {name}"):
            run.train(model, train_dataset=data, collate_fn=bert_cls_collate_fn)
    wrong, _ = load(checkpoints, "classification", class_num=3)
    with pytest.raises(CheckpointError, match="another shape"):
        Trainer(load_dir=str(tmp_path / "a"), save_dir=None).train(wrong)
    assert not (tmp_path / "b").exists()


def test_a_trained_folder_is_enough_for_the_loader(checkpoints, tmp_path) -> None:
    model, tokenizer = load(checkpoints, "classification", class_num=2)
    run = trainer(tmp_path / "save", epochs=1, tokenizer=tokenizer)
    run.train(model, train_dataset=Sentences(tokenizer), collate_fn=bert_cls_collate_fn)
    loader = AutoLoader("classification", "save", str(tmp_path))
    text = "the film was very good"
    vectors = [
        Predictor(one, two).predict(text).score
        for one, two in ((model, tokenizer), (loader.get_model(), loader.get_tokenizer()))
    ]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)


def test_another_family_keeps_todays_names(tmp_path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=special
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", cls_token="<s>",
        sep_token="</s>", model_max_length=62, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(tmp_path / "base")  # fmt: skip
    config = RobertaConfig(
        vocab_size=len(names), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, type_vocab_size=1, initializer_range=0.2,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "base")
    loader = AutoLoader("classification", "base", str(tmp_path), class_num=2)
    model, tokenizer = loader.get_model(), loader.get_tokenizer()
    run = trainer(tmp_path / "save", epochs=1, tokenizer=tokenizer)
    run.train(model, train_dataset=Sentences(tokenizer), collate_fn=pad_with_one)
    assert not (tmp_path / "save" / "3" / "vocab.txt").exists()
    assert all(name.startswith(("roberta.", "classifier.")) for name in model.state_dict())
    again = AutoLoader("classification", "save", str(tmp_path), class_num=2)
    text = "the film was good"
    scores = [Predictor(one.get_model(), one.get_tokenizer()).predict(text).score for one in (loader, again)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    masked = AutoLoader("masklm", "base", str(tmp_path))
    filled = Predictor(masked.get_model(), masked.get_tokenizer()).predict_masklm("a <mask> b")
    assert filled.startswith("a ") and filled.endswith(" b") and "<mask>" not in filled
    plain = AutoLoader("lm", "base", str(tmp_path))
    assert Predictor(plain.get_model(), plain.get_tokenizer()).predict_embedding("good").shape == (16,)


def pad_with_one(samples: Any) -> Any:
    width = max(len(sample["input_ids"]) for sample in samples)
    rows = [sample["input_ids"] + [1] * (width - len(sample["input_ids"])) for sample in samples]
    return {"input_ids": torch.tensor(rows), "labels": torch.tensor([sample["labels"] for sample in samples])}


def test_forward_step_may_run_any_model(tmp_path) -> None:
    class Slope(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

    class Mine(Trainer):
        def forward_step(self, data, model, mems):
            assert mems is None and set(data) == {"x", "y"}
            found = model.weight * data["x"]
            return {"loss": ((found - data["y"]) ** 2).mean(), "logits": found, "hidden_states": None}

    model = Slope()
    rows = [{"x": float(i), "y": 2.0 * i} for i in range(1, 9)]
    Mine(epochs=200, batch_size=4, lr=0.05, weight_decay=0.0, save_dir=str(tmp_path), save_interval=1000).train(
        model, train_dataset=rows
    )
    assert model.weight.item() == pytest.approx(2.0, abs=0.02)
    fresh = Slope()
    Mine(load_dir=str(tmp_path), save_dir=None).train(fresh)
    assert fresh.weight.item() == model.weight.item()


def test_a_hugging_face_model_needs_no_forward_step(tiny_bert, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    tokenizer = AutoLoader("lm", str(tiny_bert)).get_tokenizer()
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    run = trainer(tmp_path, epochs=1)
    run.train(model, train_dataset=Sentences(tokenizer), collate_fn=bert_cls_collate_fn)
    again = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    Trainer(load_dir=str(tmp_path), save_dir=None).train(again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"env_type": "pytorchDDP", "num_gpus": 2, "training_script": "nowhere.py"}, "no script 'nowhere.py'"),
        ({"env_type": "pytorchDDP", "model_parallel_size": 2}, "model_parallel_size is 2"),
        ({"env_type": "pytorhc"}, "did you mean 'pytorch'"),
        ({"optimizer_type": "lamb"}, "train\\(optimizer=…\\)"),
        ({"load_type": "last"}, "unknown load_type"),
    ],
)
def test_what_this_release_has_not_is_refused(options, text) -> None:
    with pytest.raises(ConfigError, match=text):
        Trainer(**options)


def test_a_hook_that_nothing_calls_is_refused() -> None:
    with pytest.raises(ConfigError, match="overrides get_dataloader"):
        type("Mine", (Trainer,), {"get_dataloader": lambda self: None})


def test_a_batch_without_labels_is_named(checkpoints, tmp_path) -> None:
    model, _ = load(checkpoints, "classification", class_num=2)
    rows = [{"input_ids": [2, 5, 3]}]
    with pytest.raises(ModelError, match="forward_step gave no loss"):
        trainer(tmp_path).train(
            model, train_dataset=rows, collate_fn=lambda samples: {"input_ids": torch.tensor([samples[0]["input_ids"]])}
        )
    with pytest.raises(DataError, match="has no 'labels'"):
        trainer(tmp_path).train(model, train_dataset=rows, collate_fn=bert_cls_collate_fn)


def test_env_args_and_env_trainer(tmp_path) -> None:
    arguments = EnvArgs(epochs=3, save_dir=str(tmp_path))
    arguments.add_arg("note", default="", type=str)
    found = arguments.parse_args(["--lr", "0.01", "--fp16", "False", "--note", "hello"])
    assert (found.epochs, found.lr, found.fp16, found.note, found.eval_interval) == (3, 0.01, False, "hello", 1000)
    made = EnvTrainer(found)
    assert (made.epochs, made.lr, made.save_dir, made.warm_up) == (3, 0.01, str(tmp_path), 0.1)
    assert isinstance(made, Trainer)
    with pytest.raises(ConfigError, match="EnvArgs has no 'epoch'"):
        EnvArgs(epoch=3)


def test_metrics_are_percent() -> None:
    logits, labels = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]), torch.tensor([1, 0, 0, 1])
    assert accuracy_metric(logits, labels) == 50.0
    assert f1_metric(logits, labels, meta=None) == 50.0
    assert f1_macro_metric(logits, labels) == pytest.approx(50.0)
    tags = torch.tensor([[1, -100], [0, 1]])
    assert accuracy_metric(torch.stack([logits[:2], logits[2:]]), tags) == pytest.approx(100 / 3)
    single = torch.tensor([[2.0], [-1.0], [3.0]])
    assert accuracy_metric(single, torch.tensor([1, 1, 1])) == pytest.approx(200 / 3)


def test_tokenizer_has_the_originals_methods(checkpoints) -> None:
    from flagai.data.tokenizer.bert.bert_tokenizer import BertTokenizer

    tokenizer = BertTokenizer(str(checkpoints / "tiny" / "vocab.txt"))
    assert tokenizer.tokenize("The film", add_spatial_tokens=True) == ["[CLS]", "the", "film", "[SEP]"]
    assert tokenizer.tokenize("the film was good", maxlen=4, add_spatial_tokens=True)[-2:] == ["film", "[SEP]"]
    assert tokenizer.rematch("The 北 film", ["[CLS]", "the", "北", "film", "[SEP]"]) == [
        [], [0, 1, 2], [4], [6, 7, 8, 9], [],
    ]  # fmt: skip
    with pytest.raises(DataError, match="token 0 is 'film'"):
        tokenizer.rematch("the film", ["film"])
    pair = tokenizer.encode_plus("the film", "was good", max_length=6)
    assert len(pair["input_ids"]) == 6 and pair["token_type_ids"][-1] == 1
    assert tokenizer.DecodeIds(tokenizer.EncodeAsIds("the film")) == "the film"
    assert (tokenizer.token_start_id, tokenizer.token_end_id, tokenizer.get_command_id("ENC")) == (2, 3, 2)
    assert len(tokenizer) == len(tokenizer.vocab) == 5 + len(WORDS)
    assert tokenizer("the")["input_ids"] == tokenizer.encode_plus("the")["input_ids"]


def test_later_errors_are_standard_errors_too() -> None:
    assert issubclass(LaterModuleError, ImportError) and issubclass(LaterReleaseError, AttributeError)
    from flagai.launch import launch_dist

    with pytest.raises(ConfigError, match=r"no script 'train\.py'"):
        launch_dist("distributed_torch")


# -- the wheel -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_installed_wheel_has_the_import_pairs(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(tmp_path / "wheel")]
    done = subprocess.run(wheel, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "wheel").glob("flagai-*.whl")
    target = tmp_path / "site"
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(file)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script = (
        "import importlib, sys, flagai\n"
        f"assert flagai.__file__.startswith({str(target)!r}), flagai.__file__\n"
        "assert 'torch' not in sys.modules\n"
        f"for module, name in {PAIRS!r}:\n"
        "    assert callable(getattr(importlib.import_module(module), name)), (module, name)\n"
        "from flagai import AutoLoader, Predictor, Trainer\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
