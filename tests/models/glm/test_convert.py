"""Writing: every layout and number of shards and back, byte for byte; nothing half-written; little memory."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.models.glm.conftest import GLM
from tests.models.glm.test_layouts import cut_slowly, weights

from flagai.errors import CheckpointError, ConfigError, FlagaiError, OutputError, UnknownNameError
from flagai.models import pickles
from flagai.models.glm import convert as converting
from flagai.models.glm import layouts
from flagai.models.glm.convert import convert, describe
from flagai.models.glm.heads import GLMForSequenceClassification
from flagai.models.glm.modeling import GLMForConditionalGeneration
from flagai.models.glm.reading import load_glm
from flagai.models.glm.sources import Source, open_glm


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The two shards of the original, with a config.json."""
    folder = Path(shutil.copytree(GLM / "ds_MP2", tmp_path / "published"))
    shutil.copyfile(GLM / "config.json", folder / "config.json")
    return folder


def same_bytes(folder: Path, dtype: torch.dtype = torch.float32) -> bool:
    source = open_glm(folder)
    expected = {name: tensor.to(dtype) for name, tensor in weights().items()}
    return set(source.names) == set(expected) and all(
        torch.equal(source.read(name).view(torch.uint8), expected[name].view(torch.uint8)) for name in expected
    )


CHAINS: list[list[tuple[str, int | None]]] = [
    [("thudm", 1), ("thudm", 2), ("thudm", 4), ("thudm", 1)],
    [("flagai-original", 1), ("flagai-original", 2), ("flagai-original", 4), ("flagai-original", 1)],
    [("flagai", None), ("huggingface", None), ("flagai-original", None), ("thudm", None), ("flagai", None)],
    [("flagai", 5), ("thudm", 4), ("huggingface", 53), ("flagai-original", 4), ("flagai", 2), ("huggingface", 1)],
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: " ".join(f"{layout}:{n}" for layout, n in chain))
def test_round_trips_are_equal_to_the_byte(
    tmp_path: Path, published: Path, chain: list[tuple[str, int | None]]
) -> None:
    folder = published
    for number, (layout, shards) in enumerate(chain):
        target = tmp_path / str(number)
        done = convert(folder, target, layout=layout, shards=shards)
        assert (done.target, done.num_tensors, done.num_parameters) == (layout, 53, 272_384)
        assert done.dtypes == ("float32",) and done.left_out == ()
        assert sorted(done.files) == sorted(str(f.relative_to(target)) for f in target.rglob("*") if f.is_file())
        weight_files = [name for name in done.files if name.endswith((".pt", ".bin", ".safetensors"))]
        assert len(weight_files) == (shards or 1)
        assert find_layout(target) == layout and same_bytes(target)
        folder = target
    assert load_glm(folder).config.num_attention_heads == 4


def find_layout(folder: Path) -> str:
    return open_glm(folder).found.layout


def test_two_shards_are_those_that_the_original_writes(tmp_path: Path, published: Path) -> None:
    convert(published, tmp_path / "whole", layout="thudm", shards=1)
    convert(tmp_path / "whole", tmp_path / "two", layout="thudm", shards=2)
    for rank in range(2):
        name = f"100/mp_rank_{rank:02d}_model_states.pt"
        theirs, mine = (torch.load(folder / name, weights_only=True) for folder in (GLM / "ds_MP2", tmp_path / "two"))
        assert theirs.keys() <= mine.keys()
        assert {key: value for key, value in theirs.items() if key != "module"} == {
            k: mine[k] for k in theirs if k != "module"
        }
        assert list(theirs["module"]) == list(mine["module"])
        assert all(torch.equal(theirs["module"][key], mine["module"][key]) for key in theirs["module"])
        assert all(t.untyped_storage().nbytes() == t.nbytes for t in mine["module"].values()), "no file is too large"
    assert (tmp_path / "two" / "latest_checkpointed_iteration.txt").read_text() == "100"


def test_ours_is_what_transformers_writes_and_reads(tmp_path: Path, published: Path) -> None:
    convert(published, tmp_path / "ours", layout="flagai", shards=3)
    model, told = GLMForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    model.save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    mine: dict[str, Any] = {}
    for file in sorted((tmp_path / "ours").glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        mine |= load_file(file)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    index = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 272_384 and set(index["weight_map"]) == set(mine)
    written, saved = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "theirs"))
    assert written == saved
    sizes = [file.stat().st_size for file in (tmp_path / "ours").glob("*.safetensors")]
    assert max(sizes) < 2 * min(sizes), "files of about equal size"


def test_the_layout_of_the_hub_has_published_fields_and_names(tmp_path: Path, published: Path) -> None:
    done = convert(published, tmp_path / "hub", layout="huggingface", dtype="fp16")
    raw = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert raw["model_type"] == "glm" and raw["architectures"] == ["GLMModel"] and raw["torch_dtype"] == "float16"
    theirs = json.loads((GLM / "hf" / "config.json").read_text())
    assert {name: raw[name] for name in theirs} == theirs and "auto_map" not in raw
    names = set(load_file(tmp_path / "hub" / "model.safetensors"))
    assert names == {f"glm.{name}" for name in weights()}
    assert any("remote code is not written" in note for note in done.notes)
    assert done.dtypes == ("float16",) and same_bytes(tmp_path / "hub", torch.float16)


def test_the_row_of_gmask_is_written_for_the_hub_alone(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for GLM-10B-Chinese, with the sizes and the ids of a small model in the place of its own."""
    monkeypatch.setattr(
        layouts, "_TEN_B_CHINESE", layouts.Sizes(num_layers=4, hidden_size=64, vocab_size=1000, max_sequence_length=64)
    )
    monkeypatch.setattr(layouts, "_EOP", 7)
    monkeypatch.setattr(layouts, "_GMASK", 9)
    words = weights()["word_embeddings.weight"]
    assert not torch.equal(words[7], words[9])
    done = convert(published, tmp_path / "hub", layout="huggingface")
    written = load_file(tmp_path / "hub" / "model.safetensors")["glm.word_embeddings.weight"]
    assert torch.equal(written[9], words[7]) and (written != words).any(1).nonzero().flatten().tolist() == [9]
    assert any("row 50009" in note for note in done.notes)
    for layout in ("flagai", "flagai-original", "thudm"):
        convert(published, tmp_path / layout, layout=layout)
        assert same_bytes(tmp_path / layout)
    convert(tmp_path / "hub", tmp_path / "again", layout="huggingface")
    assert torch.equal(load_file(tmp_path / "again" / "model.safetensors")["glm.word_embeddings.weight"], written)


@pytest.mark.parametrize("layout", ["flagai", "huggingface", "thudm", "flagai-original"])
def test_dtypes(tmp_path: Path, published: Path, layout: str) -> None:
    convert(published, tmp_path / "half", layout=layout, dtype="bf16")
    assert same_bytes(tmp_path / "half", torch.bfloat16)


def test_classifiers_travel_under_the_names_of_each_layout(tmp_path: Path, published: Path) -> None:
    model = load_glm(published, GLMForSequenceClassification)
    model.config.id2label, model.config.label2id = {0: "no", 1: "yes"}, {"no": 0, "yes": 1}
    model.save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "old", layout="flagai-original", shards=2)
    old = torch.load(tmp_path / "old" / "pytorch_model_00.bin", weights_only=True)["module"]
    assert {"pool_layer.weight", "multichoice_head.bias", "model.word_embeddings.weight"} <= old.keys()
    convert(tmp_path / "old", tmp_path / "hub", layout="huggingface")
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["architectures"] == [
        "GLMForSequenceClassification"
    ]
    back = load_glm(tmp_path / "hub", GLMForSequenceClassification)
    assert back.fresh_parameters == ()
    assert torch.equal(back.dense.weight, model.dense.weight) and torch.equal(back.out_proj.bias, model.out_proj.bias)
    convert(tmp_path / "ours", tmp_path / "again", layout="flagai")
    assert load_glm(tmp_path / "again", "sequence-classification").config.id2label == {0: "no", 1: "yes"}


def test_layers_of_no_use_are_left_out_and_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GLM / "hf", tmp_path / "hub"))
    state = pickles.load(folder / "pytorch_model.bin")
    pickles.save(
        {name: t.clone() for name, t in state.items()} | {"dense.weight": torch.ones(64, 64)}, folder / "x.bin"
    )
    (folder / "x.bin").replace(folder / "pytorch_model.bin")
    done = convert(folder, tmp_path / "ours", layout="flagai")
    assert done.left_out == ("dense.weight",) and done.num_tensors == 53


def test_what_belongs_to_a_model_goes_along(tmp_path: Path, published: Path) -> None:
    told = {"tokenizer_class": "GLMChineseTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_glm.T", None]}}
    (published / "tokenizer_config.json").write_text(json.dumps(told))
    (published / "cog-pretrain.model").write_bytes(b"pieces")
    (published / "modeling_glm.py").write_text("raise SystemExit")
    (published / "task.json").write_text("{}")
    done = convert(published, tmp_path / "ours", layout="flagai")
    assert {"cog-pretrain.model", "task.json", "tokenizer_config.json"} <= set(done.files)
    assert "modeling_glm.py" not in done.files
    assert json.loads((tmp_path / "ours" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "GLMChineseTokenizer"
    }
    assert convert(published, tmp_path / "old", layout="thudm").left_out == ("task.json",)


def test_thudms_layout_needs_no_configuration_and_the_others_do(tmp_path: Path) -> None:
    convert(GLM / "ds_MP2", tmp_path / "one", layout="thudm", shards=1)
    assert not (tmp_path / "one" / "config.json").exists() and same_bytes(tmp_path / "one")
    with pytest.raises(FlagaiError, match="number of attention heads is not known"):
        convert(tmp_path / "one", tmp_path / "ours", layout="flagai")


def test_describe(published: Path) -> None:
    told = describe(published)
    assert told["layout"] == "thudm" and told["model-parallel parts"] == 2 and told["step"] == 100
    assert told["tensors"] == 53 and told["parameters"] == 272_384 and told["bytes"] == 4 * 272_384
    assert told["attention heads"] == 4 and told["dtype"] == ["float32"]


# what cannot be done


def test_wishes_that_cannot_be_met(tmp_path: Path, published: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(UnknownNameError, match="unknown layout 'megatron'"):
        convert(published, target, layout="megatron")
    with pytest.raises(UnknownNameError, match="unknown dtype 'int8'"):
        convert(published, target, layout="flagai", dtype="int8")
    with pytest.raises(ConfigError, match="3 shards do not divide 1000 rows of the vocabulary and 4 attention heads"):
        convert(published, target, layout="thudm", shards=3)
    with pytest.raises(ConfigError, match="8 shards do not divide 4 attention heads"):
        convert(published, target, layout="flagai-original", shards=8)
    with pytest.raises(ConfigError, match="0 shards"):
        convert(published, target, layout="flagai", shards=0)
    with pytest.raises(ConfigError, match="54 shards"):
        convert(published, target, layout="flagai", shards=54)
    with pytest.raises(ConfigError, match="lies in the source"):
        convert(published, published / "inside", layout="flagai")
    with pytest.raises(OutputError, match="exists already"):
        convert(published, tmp_path, layout="flagai")
    assert not target.exists()


def test_a_disk_that_is_too_small_is_seen_before(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="are free"):
        convert(published, tmp_path / "target", layout="flagai")
    assert not list(tmp_path.glob("*target*"))


def test_a_full_disk_gives_advice_that_fits(tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, folder: Path, progress: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(converting.Writer, "write", full)
    with pytest.raises(OutputError, match="the disk is full") as caught:
        convert(published, tmp_path / "target", layout="flagai")
    assert "another disk" in str(caught.value.fix)
    assert not any(word in str(caught.value) for word in ("train", "keep_last", "continues"))


@pytest.mark.parametrize("layout", ["flagai", "thudm"])
def test_a_conversion_that_breaks_off_leaves_nothing(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    read, calls = Source.read_parts, iter(range(1000))

    def failing(self: Source, *arguments: Any) -> Any:
        if next(calls) > 30:
            raise CheckpointError("the cable was pulled")
        return read(self, *arguments)

    monkeypatch.setattr(Source, "read_parts", failing)
    with pytest.raises(CheckpointError, match="cable"):
        convert(published, tmp_path / "target", layout=layout)
    assert [entry.name for entry in tmp_path.iterdir()] == ["published"]


def test_progress_adds_up(tmp_path: Path, published: Path) -> None:
    for layout, shards in (("flagai", 2), ("thudm", 4)):
        told: list[int] = []
        convert(published, tmp_path / layout, layout=layout, shards=shards, start=told.append, progress=told.append)
        assert told[0] == sum(told[1:]) == 4 * 272_384


# memory

MEASURE = """
import json, sys
from pathlib import Path
from flagai.models.glm.convert import convert
from flagai.models.glm.reading import load_glm
import torch

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

root, peaks = Path(sys.argv[1]), {}
convert(root / "small", root / "small-4", layout="flagai-original", shards=4)
before = status("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")
convert(root / "big", root / "big-4", layout="flagai-original", shards=4)
peaks["convert"] = status("VmHWM:") - before
load_glm(root / "small", dtype=torch.float16)
before = status("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")
model = load_glm(root / "big", dtype=torch.float16)
peaks["model"] = sum(p.nbytes for p in model.parameters())
peaks["load"] = status("VmHWM:") - before
print(json.dumps(peaks))
"""


def shards_of_zeros(folder: Path, *, layers: int, hidden: int, rows: int, ranks: int = 4) -> int:
    """A half-precision model in four shards; the bytes of one shard."""
    from flagai.models.glm.layouts import Sizes, expected_shapes

    sizes = Sizes(num_layers=layers, hidden_size=hidden, vocab_size=rows, max_sequence_length=128)
    (folder / "7").mkdir(parents=True)
    for rank in range(ranks):
        state = {
            name: cut_slowly(name, torch.zeros(shape, dtype=torch.float16), ranks)[rank].clone()
            for name, shape in expected_shapes(sizes).items()
        }
        pickles.save({"module": state, "iteration": 7}, folder / "7" / f"mp_rank_{rank:02d}_model_states.pt")
    fields = {"num_layers": layers, "hidden_size": hidden, "vocab_size": rows, "max_sequence_length": 128}
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "glm", "num_attention_heads": 4}))
    (folder / "latest").write_text("7")
    return (folder / "7" / "mp_rank_00_model_states.pt").stat().st_size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of memory from Linux")
def test_one_shard_and_one_tensor_are_all_the_memory(tmp_path: Path) -> None:
    """110 MB in four shards; a reader that keeps what it has read is far beyond both bounds."""
    shard = shards_of_zeros(tmp_path / "big", layers=4, hidden=1024, rows=4096)
    shards_of_zeros(tmp_path / "small", layers=1, hidden=64, rows=128)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    peaks = json.loads(done.stdout.splitlines()[-1])
    tensor, slack = 2 * 4 * 1024 * 1024, 40_000_000  # the largest tensor; mapped pages and three copies in passing
    assert 4 * shard > shard + tensor + slack + 30_000_000, "the bound means something"
    assert peaks["convert"] < shard + tensor + slack
    assert peaks["load"] < peaks["model"] + tensor + slack


@pytest.fixture(autouse=True)
def clean(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_a_stream_of_safetensors_is_a_valid_file(tmp_path: Path) -> None:
    from flagai.models.safetensors_file import write_safetensors

    generator = torch.Generator().manual_seed(0)
    tensors = {
        "名": torch.randn(3, 5, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(4, 2, generator=generator).T,
        "int": torch.arange(7),
    }
    write_safetensors(tmp_path / "x", {k: (tuple(t.shape), t.dtype) for k, t in tensors.items()}, tensors.values())
    read = load_file(tmp_path / "x")
    assert read.keys() == tensors.keys() and all(torch.equal(read[key], tensors[key]) for key in tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "y", metadata={"format": "pt"})
    assert (tmp_path / "x").stat().st_size == (tmp_path / "y").stat().st_size
    assert np.array_equal(read["int"].numpy(), np.arange(7))


def test_the_slow_splitter_agrees_with_the_files(tmp_path: Path, published: Path) -> None:
    convert(published, tmp_path / "four", layout="thudm", shards=4)
    for rank in range(4):
        state = torch.load(tmp_path / "four" / "100" / f"mp_rank_{rank:02d}_model_states.pt", weights_only=True)[
            "module"
        ]
        assert all(torch.equal(state[name], cut_slowly(name, tensor, 4)[rank]) for name, tensor in weights().items())
