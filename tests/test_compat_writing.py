"""The original's classes and scripts that write: GPT-2, OPT, T5, BERT-seq2seq, their tokenizers, data and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.generate.poet import make_poet

from flagai.auto_model.auto_loader import AutoLoader
from flagai.data.collate_utils import seq2seq_collate_fn
from flagai.data.dataset import ConstructSeq2seqStrategy, Seq2SeqDataset
from flagai.data.tokenizer import CPMTokenizer, OPTTokenizer, T5PegasusTokenizer
from flagai.errors import CheckpointError, ConfigError, DataError, MissingFileError, ModelError
from flagai.metrics import bleu_metric, rouge_metric
from flagai.model.bert_model import BertForSeq2seq
from flagai.model.gpt2_model import GPT2Model
from flagai.model.opt_model import OPTModel
from flagai.model.predictor.predictor import Predictor
from flagai.model.t5_model import T5Model
from flagai.models.checkpoints import read_state_dict
from flagai.models.tokenizers import build_tokenizer, character_tokenizer
from flagai.test_utils import Seq2SeqCollateArguments
from flagai.trainer import Trainer

LEGACY = Path(__file__).parent / "fixtures" / "legacy"
CLASSES: dict[str, Any] = {
    "gpt2": GPT2Model,
    "opt": OPTModel,
    "opt_post": OPTModel,
    "t5": T5Model,
    "bert_seq2seq": BertForSeq2seq,
}
LOSSES = {"gpt2": 4.0262, "t5": 3.8376, "bert_seq2seq": 4.2533}
"""what flagai 1.8.4 gave for its own checkpoints and the batches below"""
IDS = torch.tensor([[5, 9, 3, 14, 22, 31, 7], [4, 4, 8, 40, 11, 2, 45]])
SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]])
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def batch(name: str) -> dict[str, torch.Tensor]:
    if name == "t5":
        return {"input_ids": IDS, "decoder_input_ids": IDS[:, :5].flip(1), "labels": IDS[:, :5]}
    if name == "bert_seq2seq":
        return {"input_ids": IDS, "segment_ids": SEGMENTS, "labels": IDS[:, 1:]}
    return {"input_ids": IDS, "labels": IDS}


def built(name: str, how: str) -> Any:
    kind, folder = CLASSES[name], LEGACY / name
    if how == "folder":
        return kind.from_pretrain(str(LEGACY), name).eval()
    model = kind.init_from_json(str(folder / "config.json")).eval()
    if how == "state dict":
        model.load_state_dict(torch.load(folder / "pytorch_model.bin", weights_only=True))
    else:
        model.load_weights(str(folder / "pytorch_model.bin"))
    return model


@pytest.mark.parametrize("how", ["folder", "state dict", "weights"])
@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_original_gives_its_scores_losses_and_state(name: str, how: str) -> None:
    model = built(name, how)
    with torch.no_grad():
        found = model(**batch(name))
    np.testing.assert_allclose(found["logits"].numpy(), np.load(LEGACY / name / "logits.npy"), atol=1e-6)
    if name in LOSSES:
        assert float(found["loss"]) == pytest.approx(LOSSES[name], abs=1e-4)
    state, theirs = model.state_dict(), read_state_dict(LEGACY / name)
    assert state.keys() == theirs.keys()
    unread = set() if name in ("t5", "bert_seq2seq") else {"lm_head.weight"}
    if how != "folder" or name != "bert_seq2seq":
        assert all(torch.equal(state[key], theirs[key]) for key in theirs if key not in unread)


@pytest.mark.parametrize("name", CLASSES)
def test_what_it_saves_is_what_the_original_reads(name: str, tmp_path: Path) -> None:
    model = built(name, "folder")
    model.save_config(str(tmp_path / "config.json"))
    model.save_weights(str(tmp_path / "pytorch_model.bin"))
    again = CLASSES[name].from_pretrain(str(tmp_path.parent), tmp_path.name).eval()
    with torch.no_grad():
        assert torch.equal(again(**batch(name))["logits"], model(**batch(name))["logits"])
    assert "model_type" not in json.loads((tmp_path / "config.json").read_text())


def test_weights_of_another_size_are_refused() -> None:
    model = built("gpt2", "folder")
    state = model.state_dict()
    del state["transformer.h.0.ln_1.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing \(transformer.h.0.ln_1.weight\)"):
        model.load_state_dict(state)
    with pytest.raises(ModelError, match="holds a t5"):
        GPT2Model.from_pretrain(str(LEGACY), "t5")


def test_padding_of_gpt2_is_not_attended_and_counts_in_no_loss() -> None:
    model = built("gpt2", "folder")
    padded = torch.cat([IDS, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    with torch.no_grad():
        short, long = model(input_ids=IDS, labels=IDS), model(input_ids=padded, labels=padded)
    assert torch.allclose(short["logits"], long["logits"][:, :7], atol=1e-6)
    assert float(short["loss"]) == pytest.approx(float(long["loss"]), abs=1e-6)


def test_a_target_is_hidden_from_the_source_and_pads_from_all() -> None:
    model = built("bert_seq2seq", "folder")
    other = IDS.clone()
    other[0, 5], other[1, 6] = 12, 13
    padded = torch.cat([IDS, torch.zeros(2, 2, dtype=torch.long)], dim=1)
    segments = torch.cat([SEGMENTS, torch.zeros(2, 2, dtype=torch.long)], dim=1)
    with torch.no_grad():
        right = model(input_ids=IDS, segment_ids=SEGMENTS)["logits"]
        changed = model(input_ids=other, segment_ids=SEGMENTS)["logits"]
        longer = model(input_ids=padded, segment_ids=segments)["logits"]
    assert torch.allclose(right[0, :5], changed[0, :5], atol=1e-6) and not torch.allclose(right[0, 5], changed[0, 5])
    assert torch.allclose(right, longer[:, :7], atol=1e-6)


# -- loader, trainer, predictor -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models as the original keeps them: config.json, pytorch_model.bin, vocab.txt."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name in ("gpt2", "opt", "t5", "bert_seq2seq"):
        folder = root / name
        folder.mkdir()
        tokenizer = character_tokenizer([LETTERS], root / "characters", model_max_length=48)
        config = json.loads((LEGACY / name / "config.json").read_text()) | {"vocab_size": len(tokenizer)}
        config |= {key: 48 for key in ("n_positions", "max_position_embeddings") if key in config}
        model = CLASSES[name](config)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.3
        model.save_config(str(folder / "config.json"))
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "vocab.txt").write_text(
            "".join(f"{token}\n" for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
        )
    return root


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("gpt2", "lm"),
        ("gpt2", "seq2seq"),
        ("opt", "lm"),
        ("t5", "seq2seq"),
        ("t5", "title-generation"),
        ("bert_seq2seq", "seq2seq"),
        ("bert_seq2seq", "title_generation"),
    ],
)
def test_a_script_of_2022_loads_and_writes(checkpoints: Path, name: str, task: str) -> None:
    loader = AutoLoader(task_name=task, model_name=name, model_dir=str(checkpoints))
    model, tokenizer = loader.get_model(), loader.get_tokenizer()
    assert type(model) is CLASSES[name]
    predictor = Predictor(model, tokenizer)
    found = predictor.predict_generate_beamsearch("abc def", input_max_length=20, out_max_length=6, beam_size=3)
    assert isinstance(found, str)
    torch.manual_seed(0)
    drawn = predictor.predict_generate_randomsample("abc def", out_max_length=6, top_k=5, top_p=0.9)
    torch.manual_seed(0)
    assert drawn == predictor.predict_generate_randomsample("abc def", out_max_length=6, top_k=5, top_p=0.9)
    assert isinstance(predictor.predict_generate_contrastive_search("abc", out_max_length=4, beam_size=3), str)


def test_today_loads_the_same_folders(checkpoints: Path) -> None:
    from flagai import AutoLoader as Today
    from flagai import Predictor as TodaysPredictor

    for name, task in (("gpt2", "lm"), ("opt", "lm"), ("t5", "seq2seq"), ("bert_seq2seq", "seq2seq")):
        loader = Today(task, checkpoints / name)
        found = TodaysPredictor(loader.get_model(), loader.get_tokenizer()).generate("abc", max_new_tokens=5)
        theirs = AutoLoader(task, name, str(checkpoints))
        right = Predictor(theirs.get_model(), theirs.get_tokenizer()).generate("abc", max_new_tokens=5)
        assert found.text == right.text


def test_a_task_that_is_none_of_a_family(checkpoints: Path) -> None:
    with pytest.raises(ModelError, match=r"'classification' is none of a gpt2(.|\n)*lm, seq2seq"):
        AutoLoader("classification", "gpt2", str(checkpoints))
    made = AutoLoader("lm", "opt", str(checkpoints), only_download_config=True).get_model()
    assert type(made) is OPTModel


PAIRS = (("abc", "cba"), ("hello", "olleh"), ("xyz", "zyx"))


@pytest.mark.parametrize("name", ["gpt2", "opt", "t5", "bert_seq2seq"])
def test_what_the_loader_saves_is_what_the_originals_loader_reads(checkpoints: Path, name: str, tmp_path: Path) -> None:
    loader = AutoLoader("seq2seq", name, str(checkpoints))
    folder = loader.save_pretrain_params(str(tmp_path / "saved"))
    state = read_state_dict(folder)
    if name == "gpt2":  # Hugging Face's orientation: the original's AutoLoader turns it
        assert state["transformer.h.0.attn.c_attn.weight"].shape == (16, 48)
    if name == "opt":
        assert "decoder.layers.0.self_attn.q_proj.weight" in state
    assert (folder / "vocab.txt").read_text() == (checkpoints / name / "vocab.txt").read_text()
    again = AutoLoader("seq2seq", "saved", str(tmp_path)).get_model()
    with torch.no_grad():
        assert torch.equal(again(**batch(name))["logits"], loader.get_model()(**batch(name))["logits"])


class Titles(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Three sources with their targets, as the original's examples encode them."""

    def __init__(self, tokenizer: Any) -> None:
        self.rows = []
        for source, target in PAIRS:
            first, second = tokenizer.encode_plus(source)["input_ids"], tokenizer.encode_plus(target)["input_ids"][1:]
            self.rows.append({"input_ids": first + second, "segment_ids": [0] * len(first) + [1] * len(second)})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def test_bert_learns_titles_by_a_script_of_2022(checkpoints: Path, tmp_path: Path) -> None:
    tokenizer = AutoLoader("title-generation", "bert_seq2seq", str(checkpoints)).get_tokenizer()
    config = json.loads((checkpoints / "bert_seq2seq" / "config.json").read_text())
    calm = {"hidden_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    model, data = BertForSeq2seq(config | calm), Titles(tokenizer)
    trainer = Trainer(
        env_type="pytorch", epochs=80, batch_size=3, lr=4e-3, save_dir=str(tmp_path / "run"), eval_interval=1000
    )
    trainer.train(model, train_dataset=data, collate_fn=seq2seq_collate_fn)
    model.eval()
    predictor = Predictor(model, tokenizer)
    for source, target in PAIRS:
        found = predictor.predict_generate_beamsearch(source, out_max_length=8, beam_size=2)
        assert found.replace(" ", "").replace("##", "") == target


def test_gpt2_learns_and_goes_on_from_what_the_trainer_wrote(checkpoints: Path, tmp_path: Path) -> None:
    loader = AutoLoader("seq2seq", "gpt2", str(checkpoints))
    model, tokenizer = loader.get_model(), loader.get_tokenizer()
    rows = [{"input_ids": tokenizer.encode_plus(text)["input_ids"]} for text in ("abcabcabc", "xyzxyzxyz")]

    def collate(samples: list[Any]) -> dict[str, torch.Tensor]:
        ids = torch.tensor([sample["input_ids"] for sample in samples])
        return {"input_ids": ids, "labels": ids}

    first = float(model(**collate(rows))["loss"].detach())
    trainer = Trainer(env_type="pytorch", epochs=60, batch_size=2, lr=1e-2, save_dir=str(tmp_path), save_interval=60)
    trainer.train(model, train_dataset=rows, collate_fn=collate)
    model.eval()
    after = float(model(**collate(rows))["loss"].detach())
    assert after < first / 2
    folder = tmp_path / "60"
    assert read_state_dict(folder)["transformer.h.0.attn.c_attn.weight"].shape == (48, 16)
    again = GPT2Model.from_pretrain(str(tmp_path), "60").eval()
    assert float(again(**collate(rows))["loss"].detach()) == pytest.approx(after, abs=1e-5)


# -- tokenizers, data, metrics --------------------------------------------------------------------------------------


def test_tokenizers_of_the_original_by_their_arguments(tmp_path: Path) -> None:
    from tests.models.test_tokenization_words import cpm_folder, pegasus_folder

    folder = cpm_folder(tmp_path / "cpm")
    cpm = CPMTokenizer(str(folder / "vocab.json"), str(folder / "chinese_vocab.model"))
    ids = build_tokenizer(folder)("地区经济发展")["input_ids"]
    assert (
        cpm.encode("地区经济发展")
        == cpm.encode_plus("地区经济发展")["input_ids"]
        == cpm.EncodeAsIds("地区经济发展")
        == ids
    )
    assert cpm.encode_plus("地区经济发展", max_length=1)["input_ids"] == ids[:1]
    assert cpm.decode(ids) == "地区经济发展" and cpm.eod == cpm.eod_id == cpm.token_end_id == 8
    pegasus = T5PegasusTokenizer(str(pegasus_folder(tmp_path / "t5") / "vocab.txt"))
    assert pegasus.tokenize("今天吃饭") == ["今天", "吃", "饭"]
    assert pegasus.encode_plus("今天吃饭", max_length=4)["input_ids"][0] == pegasus.token_start_id
    with pytest.raises(LookupError):
        OPTTokenizer("no-such-model-anywhere")


def pairs(folder: Path, task: str = "gigaword") -> Path:
    (folder / task).mkdir(parents=True)
    (folder / task / "train.source").write_text("“明月” -lrb- 夜 -rrb-\n静夜明月光\n", "utf-8")
    (folder / task / "train.target").write_text("月\n明月光夜静\n", "utf-8")
    return folder


def test_seq2seq_data_becomes_what_glm_learns(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(make_poet(tmp_path / "model"))
    data = Seq2SeqDataset("gigaword", str(pairs(tmp_path / "data")) + "/", "train", tokenizer)
    assert len(data) == 2 and data[0].text_a == '"明月" ( 夜 )' and data[1].text_b == "明月光夜静"
    args = Seq2SeqCollateArguments()
    args.max_src_length, args.max_tgt_length = 12, 4
    made = ConstructSeq2seqStrategy(args, tokenizer, "gigaword")([data[0], data[1]])
    commands, lengths = tokenizer.commands, made["attention_mask"].tolist()
    for row, length in enumerate(lengths):
        ids, learned = made["input_ids"][row].tolist(), int(made["loss_mask"][row].sum())
        assert ids[:2] == [commands.cls, commands.smask] and ids[length] == commands.sop and length <= 12
        assert commands.pad not in ids[:length]
        targets = made["target_ids"][row][length : length + learned].tolist()
        assert targets[-1] == commands.eop and ids[length + 1 : length + learned] == targets[:-1]
        assert made["position_ids"][row, 0, length : length + learned].tolist() == [1] * learned
        assert made["position_ids"][row, 1, length : length + learned].tolist() == [1] * learned
    assert int(made["loss_mask"][1].sum()) == 4  # cut, with its end
    args.no_block_position = False
    counted = ConstructSeq2seqStrategy(args, tokenizer, "gigaword")([data[1]])
    assert counted["position_ids"][0, 1, lengths[1] : lengths[1] + 4].tolist() == [1, 2, 3, 4]
    from flagai.model.glm_model import GLMForSeq2Seq

    model = GLMForSeq2Seq.from_pretrain(str(tmp_path), "model")
    inputs = {name: value for name, value in made.items() if name != "uid"}
    alone = ConstructSeq2seqStrategy(
        Seq2SeqCollateArguments(max_src_length=12, max_tgt_length=4), tokenizer, "gigaword"
    )
    one = model(**{name: value for name, value in alone([data[0]]).items() if name != "uid"})["loss"].detach()
    rows = [model(**{k: v[i : i + 1] for k, v in inputs.items()})["loss"].detach() for i in range(2)]
    assert float(one) == pytest.approx(float(rows[0]), abs=1e-5)  # pads change nothing


def test_questions_of_cmrc(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(make_poet(tmp_path / "model"))
    asked = {"question": "月？", "answers": [{"text": "明月"}, {"text": "明月"}, {"text": "光"}]}
    content = {"data": [{"paragraphs": [{"context": "静夜明月光", "qas": [asked]}]}]}
    (tmp_path / "train.json").write_text(json.dumps(content), "utf-8")
    data = Seq2SeqDataset("cmrc", str(tmp_path), "train", tokenizer)
    assert [one.meta["answer"] for one in data.example_list] == ["明月", "光"]
    made = ConstructSeq2seqStrategy(Seq2SeqCollateArguments(), tokenizer, "cmrc")([data[0]])
    place = made["input_ids"][0].tolist().index(tokenizer.commands.mask)
    assert made["position_ids"][0, 0, int(made["attention_mask"][0])] == place


def test_broken_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="unknown task 'gigawords'"):
        Seq2SeqDataset("gigawords")
    with pytest.raises(MissingFileError, match=r"train\.source"):
        Seq2SeqDataset("gigaword", str(tmp_path))
    folder = pairs(tmp_path / "data")
    (folder / "gigaword" / "train.target").write_text("月\n")
    with pytest.raises(DataError, match="2 sources and 1 targets"):
        Seq2SeqDataset("gigaword", str(folder))
    plain = character_tokenizer([LETTERS], tmp_path / "characters")
    with pytest.raises(ConfigError, match="has no masks"):
        ConstructSeq2seqStrategy(Seq2SeqCollateArguments(), plain, "gigaword")


def test_bleu_and_rouge_of_ids() -> None:
    class Decoder:
        def DecodeIds(self, ids: list[int]) -> str:
            return "".join(chr(0x4E00 + number) for number in ids if number)

    right, wrong = (
        torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]),
        torch.tensor([[1, 2, 3, 4, 5], [16, 17, 18, 19, 0]]),
    )
    assert bleu_metric(right, right, tokenizer=Decoder()) == pytest.approx(100.0)
    for name in ("rouge-1", "rouge-2", "rouge-l"):
        assert rouge_metric(right, right, tokenizer=Decoder(), metric=name) == pytest.approx(100.0)
        assert rouge_metric(wrong, right, tokenizer=Decoder(), metric=name) == pytest.approx(50.0)
    with pytest.raises(LookupError, match="rouge-3"):
        rouge_metric(right, right, tokenizer=Decoder(), metric="rouge-3")
