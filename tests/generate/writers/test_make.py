"""Which writer a model gets, what ends an answer, what is in none, how long it may be; and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tests.generate.writers.tiny import COMMANDS, VOCAB, build

from flagai.errors import ConfigError, DataError, ModelError
from flagai.generate import lean
from flagai.generate.writers.base import Prompt
from flagai.generate.writers.causal import CausalWriter
from flagai.generate.writers.glm import GLMWriter
from flagai.generate.writers.make import make_writer
from flagai.generate.writers.seq2seq import Seq2SeqWriter
from flagai.generate.writers.unilm import UniLMWriter


class Tokenizer:
    """What is asked of one: its tokens, two fewer than the model has rows, and some special ones."""

    def __init__(self, size: int = VOCAB - 2, **ids: int) -> None:
        self._vocab = {f"t{i}": i for i in range(size)}
        for name, number in ids.items():
            setattr(self, f"{name}_token_id", number)

    def __len__(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return self._vocab


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, CausalWriter) for name in ("gpt2", "opt", "llama", "mistral", "bloom")),
        *((name, Seq2SeqWriter) for name in ("t5", "mt5", "bart", "pegasus")),
        *((name, UniLMWriter) for name in ("bert", "roberta")),
        ("glm", GLMWriter),
    ],
)
def test_each_family_has_its_writer(name: str, kind: type) -> None:
    writer = make_writer(build(name), commands=COMMANDS, fast=False)
    assert type(writer) is kind
    assert writer.vocab_size == VOCAB and writer.device == torch.device("cpu")
    assert writer.forbidden_ids == (() if name != "glm" else (30, 34, 36, 37, 38))


@pytest.mark.parametrize("name", ["gpt2", "mistral", "t5", "bert", "glm"])
def test_the_lean_one_is_taken_where_it_knows_the_model(name: str) -> None:
    model = build(name)
    assert isinstance(make_writer(model, commands=COMMANDS), lean.LeanWriter) == lean.supports(model)
    assert lean.supports(model) == (name != "mistral")  # a sliding window


# -- ends and tokens without a text ----------------------------------------------------------------------------


def test_ends_are_the_models_then_the_tokenizers() -> None:
    model: Any = copy.deepcopy(build("gpt2"))
    assert make_writer(model).end_ids == ()  # 50256 is not in so small a vocabulary
    assert make_writer(model, tokenizer=Tokenizer(eos=5)).end_ids == ()
    model.generation_config.eos_token_id = [9, 7]
    assert make_writer(model, tokenizer=Tokenizer(eos=5)).end_ids == (7, 9)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    assert make_writer(model, tokenizer=Tokenizer(eos=5)).end_ids == (5,)
    assert make_writer(model, end_ids=[3, 3, 2]).end_ids == (2, 3)
    assert make_writer(model, end_ids=[]).end_ids == ()
    assert make_writer(build("glm"), commands=COMMANDS).end_ids == (COMMANDS.eos, COMMANDS.eop)
    assert make_writer(build("bert"), tokenizer=Tokenizer(sep=4, eos=5)).end_ids == (4,)


def test_an_end_that_is_asked_for_must_be_there() -> None:
    with pytest.raises(ConfigError, match=f"end token {VOCAB}"):
        make_writer(build("gpt2"), end_ids=[1, VOCAB])


def test_rows_without_a_token_are_in_no_answer() -> None:
    beyond = (VOCAB - 2, VOCAB - 1)
    assert make_writer(build("gpt2"), tokenizer=Tokenizer()).forbidden_ids == beyond
    assert make_writer(build("t5"), tokenizer=Tokenizer(pad=0, bos=3)).forbidden_ids == (0, *beyond)
    assert make_writer(build("t5"), tokenizer=Tokenizer(VOCAB + 1)).forbidden_ids == ()
    ended = make_writer(build("gpt2"), tokenizer=Tokenizer(pad=6), end_ids=[6])  # an end that also fills up
    assert ended.forbidden_ids == beyond
    structure = make_writer(build("bert"), tokenizer=Tokenizer(pad=0, cls=2, sep=3, mask=4))
    assert structure.forbidden_ids == (0, 2, 4, *beyond)


def test_a_gap_in_a_vocabulary_is_no_end_of_it() -> None:
    tokenizer = Tokenizer()
    del tokenizer.get_vocab()["t5"]
    assert make_writer(build("gpt2"), tokenizer=tokenizer).forbidden_ids == (VOCAB - 2, VOCAB - 1)
    tokenizer.get_vocab()["new"] = VOCAB - 1  # a token that was added later
    assert make_writer(build("gpt2"), tokenizer=tokenizer).forbidden_ids == ()


# -- room ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "length", "room"),
    [
        *((name, 3, 30) for name in ("gpt2", "opt", "llama", "bert", "roberta")),
        *((name, 32, 1) for name in ("gpt2", "opt", "bert", "roberta")),
        *((name, 32, 32) for name in ("bart", "pegasus")),
        *((name, 100, None) for name in ("t5", "mt5", "bloom")),
    ],
)
@torch.inference_mode()
def test_room_is_what_the_position_tables_have(name: str, length: int, room: int | None) -> None:
    writer = make_writer(build(name), fast=False)
    prompt = Prompt(ids=(5,) * length)
    assert writer.room(prompt) == room
    if room is None:
        return
    with pytest.raises(DataError, match="33 tokens"):
        writer.room(Prompt(ids=(5,) * 33))
    writer.begin([prompt])
    for _ in range(room - 1):  # the last token of an answer is not read
        found = writer.feed(torch.tensor([7]))
    assert room == 1 or bool(found.isfinite().all())
    if name != "llama":  # rotary positions have no table
        with pytest.raises(IndexError):
            writer.feed(torch.tensor([7]))


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart", "bert"])
def test_an_empty_prompt_is_none(name: str) -> None:
    with pytest.raises(DataError, match="empty"):
        make_writer(build(name)).room(Prompt(ids=()))


# -- what is refused -------------------------------------------------------------------------------------------

_SMALL = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("kind", "fields", "fix"),
    [
        ("GPT2Model", {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": VOCAB}, "AutoModelForCausalLM"),
        (
            "GPT2ForSequenceClassification",
            {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": VOCAB},
            "AutoModelForCausalLM",
        ),
        ("BertModel", {**_SMALL, "intermediate_size": 16}, "AutoModelForMaskedLM"),
        ("RobertaForTokenClassification", {**_SMALL, "intermediate_size": 16}, "AutoModelForMaskedLM"),
        ("T5Model", {"vocab_size": VOCAB, "d_model": 16, "d_ff": 16, "num_layers": 1}, "AutoModelForSeq2SeqLM"),
    ],
)
def test_a_model_without_the_head_names_the_class_to_load(kind: str, fields: dict[str, Any], fix: str) -> None:
    cls = getattr(transformers, kind)
    with pytest.raises(ModelError, match=f"{kind} has no head") as caught:
        make_writer(cls(cls.config_class(**fields)))
    assert fix in caught.value.fix


def test_a_glm_needs_its_head_and_its_tokenizer() -> None:
    with pytest.raises(ModelError, match="GLMModel has no head") as caught:
        make_writer(build("glm").glm, commands=COMMANDS)
    assert "GLMForConditionalGeneration" in caught.value.fix
    with pytest.raises(ModelError, match="no tokenizer was given"):
        make_writer(build("glm"))
    with pytest.raises(ModelError, match="Tokenizer has no command tokens"):
        make_writer(build("glm"), tokenizer=Tokenizer())
    with pytest.raises(ModelError, match="SimpleNamespace has no head"):
        make_writer(SimpleNamespace(config=None))


def test_states_that_are_no_keys_and_values_are_refused() -> None:
    config = transformers.MambaConfig(vocab_size=VOCAB, hidden_size=8, state_size=4, num_hidden_layers=1)
    with pytest.raises(ModelError, match="no cache of keys and values"):
        make_writer(transformers.MambaForCausalLM(config))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("DistilBertForMaskedLM", {"dim": 16, "n_heads": 2, "hidden_dim": 16, "n_layers": 1}),
        (
            "ProphetNetForConditionalGeneration",
            {"hidden_size": 16, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_position_embeddings": 16},
        ),
    ],
)
def test_a_family_that_is_not_known_is_refused(kind: str, fields: dict[str, Any]) -> None:
    cls = getattr(transformers, kind)
    with pytest.raises(ModelError, match=f"{kind} is of a family that cannot write"):
        make_writer(cls(cls.config_class(vocab_size=VOCAB, **fields)))


def test_a_start_token_must_be_known() -> None:
    model: Any = copy.deepcopy(build("t5"))
    for source in (model.config, model.generation_config):
        source.decoder_start_token_id = source.bos_token_id = None
    assert make_writer(model).vocab_size == VOCAB  # T5 starts with its pad
    model.config.pad_token_id = None
    with pytest.raises(ModelError, match="no token that an answer starts with"):
        make_writer(model)


# -- starts, adapters ------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("fast", [False, True])
def test_a_forced_first_token_is_read_before_the_answer(fast: bool) -> None:
    """As mBART has it for the language; it is in no answer, as a start is not."""
    model: Any = copy.deepcopy(build("bart"))
    plain = make_writer(model, fast=fast)
    plain.begin([Prompt(ids=(5, 6))])
    expected = plain.feed(torch.tensor([9]))
    model.generation_config.forced_bos_token_id = 9
    forced = make_writer(model, fast=fast)
    torch.testing.assert_close(forced.begin([Prompt(ids=(5, 6))]), expected, atol=5e-5, rtol=5e-5)
    assert forced.room(Prompt(ids=(5, 6))) == 31


@torch.inference_mode()
def test_a_model_in_pefts_wrapper_writes_with_its_adapters() -> None:
    peft = pytest.importorskip("peft")
    base: Any = copy.deepcopy(build("llama"))
    wrapped: Any = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    prompts = [Prompt(ids=(5, 6, 7)), Prompt(ids=(8,))]
    found = make_writer(wrapped.eval()).begin(prompts)
    for scores, prompt in zip(found, prompts, strict=True):
        expected = wrapped(torch.tensor([prompt.ids])).logits[0, -1]
        torch.testing.assert_close(scores, expected, atol=5e-5, rtol=5e-5)
        plain = build("llama")(torch.tensor([prompt.ids])).logits[0, -1]
        assert not torch.allclose(scores, plain, atol=1e-2)


def test_soft_prompts_of_peft_are_refused() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ModelError, match="soft prompts"):
        make_writer(peft.get_peft_model(copy.deepcopy(build("gpt2")), config))


# -- bidirectional models --------------------------------------------------------------------------------------


@torch.inference_mode()
def test_a_bert_made_for_two_tasks_writes_with_its_language_head() -> None:
    fields = {**_SMALL, "intermediate_size": 16, "max_position_embeddings": 16, "initializer_range": 0.5}
    model = transformers.BertForPreTraining(transformers.BertConfig(**fields)).eval()
    found = make_writer(model).begin([Prompt(ids=(2, 6, 3)), Prompt(ids=(2, 3))])
    expected = model(torch.tensor([[2, 6, 3]])).prediction_logits[0, -1]  # type: ignore[operator]
    torch.testing.assert_close(found[0], expected, atol=5e-5, rtol=5e-5)


@torch.inference_mode()
def test_a_roberta_that_was_made_a_decoder_counts_positions_from_its_pad() -> None:
    fields = {**_SMALL, "intermediate_size": 16, "max_position_embeddings": 18, "initializer_range": 0.5}
    model = transformers.RobertaForCausalLM(transformers.RobertaConfig(**fields, is_decoder=True, pad_token_id=1))
    writer = make_writer(model.eval())
    assert isinstance(writer, CausalWriter) and writer.room(Prompt(ids=(5, 6))) == 15
    found = writer.begin([Prompt(ids=(5, 6, 7)), Prompt(ids=(8,))])
    found = writer.feed(torch.tensor([9, 9]))
    for scores, ids in zip(found, ([5, 6, 7, 9], [8, 9]), strict=True):
        expected = model(torch.tensor([ids])).logits[0, -1]  # type: ignore[operator]
        torch.testing.assert_close(scores, expected, atol=5e-5, rtol=5e-5)


@torch.inference_mode()
@pytest.mark.parametrize("fast", [False, True])
def test_a_bert_writes_up_to_its_sep(tiny_bert: Path, fast: bool) -> None:
    """A folder's model and tokenizer as they are; what is written has no token of structure in it."""
    model: Any = transformers.AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    writer = make_writer(model, tokenizer=tokenizer, fast=fast)
    assert writer.end_ids == (tokenizer.sep_token_id,)
    texts = ("a good film", "the hotel was very bad")
    prompts = [Prompt(ids=tuple(tokenizer(text)["input_ids"])) for text in texts]
    scores = writer.begin(prompts)
    structure = {tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.mask_token_id}
    assert structure <= set(writer.forbidden_ids) and tokenizer.sep_token_id not in writer.forbidden_ids
    for scored, prompt in zip(scores, prompts, strict=True):
        expected = model(torch.tensor([prompt.ids])).logits[0, -1]
        torch.testing.assert_close(scored, expected, atol=5e-5, rtol=5e-5)
