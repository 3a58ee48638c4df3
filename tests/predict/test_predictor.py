"""What may be asked, in which forms, and what is refused."""

from __future__ import annotations

import shutil

import pytest

from flagai import AutoLoader, Predictor
from flagai.errors import ConfigError, DataError, MissingFileError, ModelError
from flagai.tasks.results import Label, to_json


@pytest.fixture
def predictor(tiny_bert):
    loader = AutoLoader("classification", tiny_bert, labels=["good", "bad"])
    return Predictor(loader.get_model(), loader.get_tokenizer())


def test_one_gives_one_and_a_list_gives_a_list(predictor):
    one = predictor.predict("a good film")
    assert isinstance(one, Label)
    assert one.label in {"good", "bad"}
    assert predictor.predict(["a good film"]) == [one]
    assert predictor.predict([]) == []
    assert predictor.predict({"text": "a good film"}) == one
    assert to_json(one).keys() == {"label", "score", "scores"}


def test_an_unknown_label_in_the_input_is_not_looked_at(predictor):
    assert predictor.predict({"text": "a good film", "label": "nonsense"}) == predictor.predict("a good film")


def test_order_is_kept_across_lengths_and_batches(predictor):
    texts = ["good " * n for n in (9, 1, 30, 4, 17, 2)]
    together = predictor.predict(texts, batch_tokens=64)
    assert [r.label for r in together] == [predictor.predict(text).label for text in texts]


def test_a_text_beyond_the_model_is_an_error_unless_told_otherwise(predictor, tiny_bert):
    with pytest.raises(DataError, match="tokens more than the model reads"):
        predictor.predict("good " * 100)
    for options in ({"max_length": 32}, {"stride": 8}):
        loader = AutoLoader("classification", tiny_bert, labels=["good", "bad"], **options)
        told = Predictor(loader.get_model(), loader.get_tokenizer())
        assert told.predict("good " * 100).label in {"good", "bad"}


def test_windows_are_averaged(tiny_bert):
    loader = AutoLoader("classification", tiny_bert, labels=["good", "bad"], max_length=10, stride=0)
    predictor = Predictor(loader.get_model(), loader.get_tokenizer())
    halves = [predictor.predict("good " * 8), predictor.predict("bad " * 8)]
    whole = predictor.predict("good " * 8 + "bad " * 8)
    for label in ("good", "bad"):
        assert whole.scores[label] == pytest.approx(sum(half.scores[label] for half in halves) / 2, abs=1e-6)


@pytest.mark.parametrize("wrong", [3, ["a", "b", "c"], None])
def test_a_wrong_input_names_its_place(predictor, wrong):
    with pytest.raises(DataError, match="input 2"):
        predictor.predict(["fine", wrong])


def test_a_model_without_a_task_lists_the_tasks(tiny_bert):
    from transformers import AutoModel

    from flagai.models.tokenizers import build_tokenizer

    predictor = Predictor(AutoModel.from_pretrained(tiny_bert), build_tokenizer(tiny_bert))
    with pytest.raises(ModelError, match="classification, couplet, embedding"):
        predictor.predict("a film")


def test_a_hugging_face_classifier_brings_its_labels(tiny_bert):
    from transformers import AutoModelForSequenceClassification

    from flagai.models.tokenizers import build_tokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, id2label={0: "up", 1: "down"})
    assert Predictor(model, build_tokenizer(tiny_bert)).predict("a film").label in {"up", "down"}


def test_entity_types_cannot_be_told_by_a_number(tiny_bert):
    with pytest.raises(ConfigError, match="labels="):
        AutoLoader("ner", tiny_bert, class_num=3)


def test_unknown_names_list_the_nearest(tiny_bert):
    with pytest.raises(LookupError, match="classification"):
        AutoLoader("classifcation", tiny_bert)
    with pytest.raises(LookupError, match="all-MiniLM-L6-v2"):
        AutoLoader("classification", "all-MiniLM-L6-v3")
    with pytest.raises(LookupError, match="labels"):
        AutoLoader("classification", tiny_bert, label=["a"])


def test_the_folder_of_a_run_means_its_model(trained, monkeypatch):
    right = Predictor.from_folder(trained / "final", device="cpu").predict("good film")
    assert Predictor.from_folder(str(trained), device="cpu").predict("good film") == right
    for name, folder in ((trained, "./checkpoints/"), (trained.name, trained.parent)):
        loader = AutoLoader("classification", name, folder)
        assert Predictor(loader.get_model(), loader.get_tokenizer()).predict("good film") == right


def test_folders_without_a_model(trained, tmp_path):
    with pytest.raises(MissingFileError, match="there is no such folder"):
        Predictor.from_folder(tmp_path / "runs" / "a")
    shutil.rmtree(trained / "final")
    with pytest.raises(MissingFileError, match="no trained model is here"):
        Predictor.from_folder(trained)
    (trained / "status.json").write_text('{"version": 1, "status": "interrupted", "step": 2}', encoding="utf-8")
    for ask in (lambda: Predictor.from_folder(trained), lambda: AutoLoader("classification", trained)):
        with pytest.raises(MissingFileError, match=r"not finished(.|\n)*flagai train"):
            ask()


def test_a_device_that_is_not_there_is_not_a_setting_of_training(trained):
    with pytest.raises(ConfigError, match="device: the device 'cuda:77'") as caught:
        Predictor.from_folder(trained, device="cuda:77")
    assert caught.value.where == "device"
