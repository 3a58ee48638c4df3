"""Model inputs: the published dense forms against their numbers, and the light form against the dense one."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generate.poet import make_poet

from flagai.errors import ConfigError, DataError, ModelError
from flagai.models.glm.configuration import GLMConfig
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.glm.tokenization import GLMTokenizer

VOCAB = Path(__file__).parents[2] / "fixtures" / "glm" / "vocab"
SOP, EOP, PAD, MASK = 50257, 50258, 50256, 50260
TSINGHUA = "Tsinghua University is located in [MASK]."
ONE = "One minus one equals zero, is it correct? Answer: [MASK]"
CONTEXT = [50259, 51, 12215, 33061, 2059, 318, 5140, 287, MASK, 13, 50256]
ANSWER = [50259, 3198, 20208, 530, 21767, 6632, 11, 318, 340, 3376, 30, 23998, 25, MASK, 50256]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> GLMTokenizer:
    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes(gzip.decompress((VOCAB / f"gpt2-{name}.gz").read_bytes()))
    return GLMTokenizer.from_vocabulary(folder)


# the published forms


def test_generation_inputs_are_the_published_ones(gpt2: GLMTokenizer) -> None:
    encoded = gpt2(TSINGHUA, return_tensors="pt")
    inputs = gpt2.build_inputs_for_generation(encoded, max_gen_length=4)
    assert set(inputs) == {"input_ids", "position_ids", "generation_attention_mask"}
    assert inputs["input_ids"].tolist() == [[*CONTEXT, SOP]]
    assert inputs["position_ids"].tolist() == [[[*range(11), 8, 8, 8, 8], [*[0] * 11, 1, 2, 3, 4]]]
    mask = inputs["generation_attention_mask"]
    assert mask.shape == (1, 1, 15, 15)
    expected = torch.zeros(15, 15, dtype=torch.long)
    expected[:, :11] = 1
    for step in range(4):
        expected[11 + step, 11 : 12 + step] = 1
    assert torch.equal(mask[0, 0], expected)
    again = gpt2.build_inputs_for_generation(TSINGHUA, max_gen_length=4)
    assert all(torch.equal(again[name], inputs[name]) for name in inputs)


def test_a_batch_is_padded_on_the_right_and_its_targets_behind(gpt2: GLMTokenizer) -> None:
    encoded = gpt2([TSINGHUA, ONE], return_tensors="pt", padding=True)
    inputs = gpt2.build_inputs_for_generation(encoded, targets=["Beijing", "No"], max_gen_length=8)
    first, second = [*CONTEXT, *[PAD] * 4], ANSWER
    assert inputs["input_ids"].tolist() == [[*first, SOP, 3856, 11030], [*second, SOP, 2949, EOP]]
    assert inputs["labels"].tolist() == [[-100] * 15 + [3856, 11030, EOP], [-100] * 15 + [2949, EOP, -100]]
    assert inputs["position_ids"][:, 0].tolist() == [[*range(15), 8, 8, 8], [*range(15), 13, 13, 13]]
    assert inputs["position_ids"][:, 1].tolist() == [[*[0] * 15, 1, 2, 3]] * 2
    mask = inputs["attention_mask"]
    assert mask.shape == (2, 1, 18, 18)
    assert mask[0, 0, 12].tolist() == [1] * 11 + [0] * 7  # rows of pads see the context too
    assert mask[0, 0, 16].tolist() == [1] * 11 + [0] * 4 + [1, 1, 0]
    padded = gpt2.build_inputs_for_generation(encoded, targets=["Beijing", "No"], max_gen_length=5, padding=True)
    assert padded["input_ids"].shape == (2, 20) and padded["labels"][1].tolist() == [-100] * 15 + [
        2949,
        EOP,
        *[-100] * 3,
    ]
    cut = gpt2.build_inputs_for_generation(encoded, targets=["Beijing", "No"], max_gen_length=2)
    assert cut["labels"][:, 15:].tolist() == [[3856, 11030], [2949, EOP]]


def test_the_first_mask_of_any_kind_is_filled(gpt2: GLMTokenizer) -> None:
    inputs = gpt2.build_inputs_for_generation("a [gMASK] b [MASK]", max_gen_length=2)
    assert inputs["position_ids"][0, 0].tolist() == [0, 1, 2, 3, 4, 5, 2, 2]


def test_choices_are_packed_as_published(gpt2: GLMTokenizer) -> None:
    encoded = gpt2([TSINGHUA, ONE], return_tensors="pt", padding=True)
    inputs = gpt2.build_inputs_for_multiple_choice(encoded, [["Beijing", "Shanghai"], ["Yes", "No"]])
    yes = gpt2.EncodeAsIds("Yes")
    assert inputs["input_ids"].tolist() == [
        [*CONTEXT, *[PAD] * 4, SOP, 3856, SOP, 2484, 272],
        [*ANSWER, SOP, SOP, *[0] * 3],
    ]
    assert inputs["position_ids"][0].tolist() == [[*range(15), 8, 8, 8, 8, 8], [*[0] * 15, 1, 2, 1, 2, 3]]
    assert inputs["position_ids"][1].tolist() == [[*range(15), *[13] * 5], [*[0] * 15, *[1] * 5]]
    assert [[row.tolist() for row in rows] for rows in inputs["choice_ids"]] == [
        [[3856, 11030], [2484, 272, 20380]],
        [yes, [2949]],
    ]
    assert [[row.tolist() for row in rows] for rows in inputs["choice_indices"]] == [
        [[15, 16], [17, 18, 19]],
        [[15], [16]],
    ]
    mask = inputs["attention_mask"]
    assert mask.shape == (2, 1, 20, 20)
    context = [1] * 11 + [0] * 4
    assert mask[0, 0, 0].tolist() == [*context, 0, 0, 0, 0, 0]
    assert mask[0, 0, 16].tolist() == [*context, 1, 1, 0, 0, 0]
    assert mask[0, 0, 18].tolist() == [*context, 0, 0, 1, 1, 0]
    assert mask[1, 0, 16].tolist() == [1] * 15 + [0, 1, 0, 0, 0]
    assert not mask[1, 0, 17:].any() and not mask[1, 0, :, 17:].any()


def test_choices_go_to_mask_first_and_to_other_masks_without_one(gpt2: GLMTokenizer) -> None:
    both = gpt2.build_inputs_for_multiple_choice("[sMASK] a [MASK]", [["No"]])
    assert both["position_ids"][0, 0, -1] == 3
    other = gpt2.build_inputs_for_multiple_choice("a [sMASK]", [["No"]])
    assert other["position_ids"][0, 0, -1] == 2


# our own form


def dense(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """[B, L, L] what each row may see: real tokens of the context, and what is not after it."""
    length = batch["input_ids"].shape[1]
    columns = torch.arange(length)
    prefix = columns < batch["context_length"][:, None, None]
    causal = columns <= columns[:, None]
    return (prefix | causal) & batch["attention_mask"][:, None].bool()


def test_light_inputs_pad_contexts_on_the_left(gpt2: GLMTokenizer) -> None:
    inputs = gpt2.build_inputs([TSINGHUA, ONE])
    assert set(inputs) == {"input_ids", "attention_mask", "position_ids", "context_length"}
    assert inputs["input_ids"].tolist() == [[*[PAD] * 4, *CONTEXT, SOP], [*ANSWER, SOP]]
    assert inputs["attention_mask"].tolist() == [[0] * 4 + [1] * 12, [1] * 16]
    assert inputs["context_length"].tolist() == [15, 15]
    assert inputs["position_ids"].tolist() == [
        [[0, 0, 0, 0, *range(11), 8], [*[0] * 15, 1]],
        [[*range(15), 13], [*[0] * 15, 1]],
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_light_inputs_say_the_same_as_the_dense_ones(gpt2: GLMTokenizer, side: str) -> None:
    texts, targets = [TSINGHUA, ONE], ["Beijing", "No"]
    light = gpt2.build_inputs(texts, targets=targets, padding_side=side)
    for i, (text, target) in enumerate(zip(texts, targets, strict=True)):
        alone = gpt2.build_inputs_for_generation(gpt2(text, return_tensors="pt"), targets=[target])
        real = light["attention_mask"][i].bool()
        for name in ("input_ids", "labels"):
            assert light[name][i, real].tolist() == alone[name][0].tolist()
            assert light["labels"][i, ~real].eq(-100).all()
        assert torch.equal(light["position_ids"][i][:, real], alone["position_ids"][0])
        assert torch.equal(dense(dict(light))[i][real][:, real], alone["attention_mask"][0, 0].bool())
    assert light["context_length"].tolist() == ([15, 15] if side == "left" else [11, 15])


def test_light_inputs_end_a_context_without_eos_behind_gmask(gpt2: GLMTokenizer) -> None:
    inputs = gpt2.build_inputs("No [gMASK]", targets=" Yes Yes", max_gen_length=2)
    assert inputs["input_ids"].tolist() == [[50259, 2949, 50263, SOP, 3363]]
    assert inputs["labels"].tolist() == [[-100, -100, -100, 3363, 3363]]  # cut: no eop
    assert inputs["position_ids"].tolist() == [[[0, 1, 2, 2, 2], [0, 0, 0, 1, 2]]]


def test_any_of_several_blanks_can_be_filled(gpt2: GLMTokenizer) -> None:
    for blank, place in enumerate((1, 3)):
        assert gpt2.build_inputs("[MASK] is [MASK]", blank=blank)["position_ids"][0, 0, -1] == place
    with pytest.raises(ModelError, match="the text has 2 masks"):
        gpt2.build_inputs("[MASK] is [MASK]", blank=2)


# bad input


def test_texts_without_a_mask_are_errors(gpt2: GLMTokenizer) -> None:
    for build in (
        lambda: gpt2.build_inputs([TSINGHUA, "no gap"]),
        lambda: gpt2.build_inputs_for_generation([TSINGHUA, "no gap"]),
        lambda: gpt2.build_inputs_for_multiple_choice([TSINGHUA, "no gap"], [["a"], ["b"]]),
    ):
        with pytest.raises(DataError, match="text 2: the text has no mask"):
            build()


def test_masks_that_the_vocabulary_lacks_are_errors(tmp_path: Path) -> None:
    plain = GLMTokenizer.from_pretrained(make_poet(tmp_path, task_mask=False))
    texts = ["明[MASK]", "明[gMASK]"]
    for build in (
        lambda: plain.build_inputs(texts),
        lambda: plain.build_inputs_for_generation(texts),
        lambda: plain.build_inputs_for_multiple_choice(texts, [["a"], ["b"]]),
    ):
        with pytest.raises(DataError, match=r"text 2: the vocabulary has no \[gMASK\](.|\n)*write \[MASK\]"):
            build()


@pytest.mark.parametrize("given", [None, 3, b"x", {"text": "x"}, ["[MASK]", None]], ids=repr)
def test_what_is_no_text_is_an_error(gpt2: GLMTokenizer, given: Any) -> None:
    with pytest.raises(DataError, match="is no text"):
        gpt2.build_inputs(given)
    with pytest.raises(DataError, match="is no target"):
        gpt2.build_inputs("[MASK]", targets=3 if given is None else given)
    if not isinstance(given, dict):  # a mapping is what a tokenizer returned
        with pytest.raises(DataError, match="is no text"):
            gpt2.build_inputs_for_generation(given)


def test_there_is_one_label_for_what_is_not_predicted() -> None:
    from flagai.models.glm import blank_layout, inputs, inputs_light
    from flagai.tasks import pretraining

    for module in (inputs, inputs_light, pretraining):
        assert module.IGNORED is blank_layout.IGNORED
        assert "IGNORED =" not in Path(module.__file__).read_text(encoding="utf-8")


def test_numbers_that_differ_and_empty_answers_are_errors(gpt2: GLMTokenizer) -> None:
    with pytest.raises(DataError, match="1 targets for 2 texts"):
        gpt2.build_inputs([TSINGHUA, ONE], targets=["Beijing"])
    with pytest.raises(DataError, match="3 targets for 1 texts"):
        gpt2.build_inputs_for_generation(TSINGHUA, targets=["a", "b", "c"])
    with pytest.raises(DataError, match="1 lists of choices for 2 texts"):
        gpt2.build_inputs_for_multiple_choice([TSINGHUA, ONE], [["a"]])
    with pytest.raises(DataError, match="the question has no choices"):
        gpt2.build_inputs_for_multiple_choice(TSINGHUA, [[]])
    with pytest.raises(DataError, match="text 2: the question has a choice without tokens"):
        gpt2.build_inputs_for_multiple_choice([ONE, TSINGHUA], [["a"], ["a", " "]])
    for build in (gpt2.build_inputs, gpt2.build_inputs_for_generation):
        with pytest.raises(DataError, match="no texts"):
            build([])
    with pytest.raises(DataError, match=r"input_ids of shape \(11,\)"):
        gpt2.build_inputs_for_generation(gpt2(TSINGHUA))


def test_too_long_and_unknown_options_are_errors(gpt2: GLMTokenizer) -> None:
    with pytest.raises(ModelError, match="the text has 11 tokens"):
        gpt2.build_inputs(TSINGHUA, max_context_length=10)
    with pytest.raises(ModelError, match="has 13 tokens"):
        gpt2.build_inputs_for_multiple_choice(TSINGHUA, [["Beijing"]], max_length=12)
    with pytest.raises(ConfigError, match="padding_side 'both'"):
        gpt2.build_inputs(TSINGHUA, padding_side="both")


# with the model


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_model_makes_the_same_of_both_forms(gpt2: GLMTokenizer, side: str) -> None:
    texts, targets = [TSINGHUA, ONE], ["Beijing", "No"]
    config = GLMConfig(num_layers=2, hidden_size=16, num_attention_heads=2, vocab_size=gpt2.padded_vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GLMForConditionalGeneration(config).eval()
    light = model(**gpt2.build_inputs(texts, targets=targets, padding_side=side))
    dense_form = gpt2.build_inputs_for_generation(gpt2(texts, return_tensors="pt", padding=True), targets=targets)
    published = model(**dense_form)
    torch.testing.assert_close(light.loss, published.loss, atol=1e-5, rtol=0)


def test_generation_goes_on_from_the_light_form(gpt2: GLMTokenizer) -> None:
    config = GLMConfig(num_layers=2, hidden_size=16, num_attention_heads=2, vocab_size=gpt2.padded_vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GLMForConditionalGeneration(config).eval()
        torch.nn.init.normal_(model.glm.word_embeddings.weight, std=1.0)
    options = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": gpt2.eop_token_id, "pad_token_id": PAD}
    together = model.generate(**gpt2.build_inputs([TSINGHUA, ONE]), **options)
    for i, text in enumerate([TSINGHUA, ONE]):
        alone = model.generate(**gpt2.build_inputs(text), **options)
        assert together[i, 16:].tolist() == alone[0, -together[:, 16:].shape[1] :].tolist()
