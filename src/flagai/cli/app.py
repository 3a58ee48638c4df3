"""The verbs of `flagai` and their options. Imports no verb until it is called; how a call ends is `ending`'s."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flagai import __version__

OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    name="flagai",
    help="A pretrained model and a file of examples in; a trained, measured and explained model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at files of examples.", no_args_is_help=True)
app.add_typer(data_app, name="data")
ckpt_app = typer.Typer(help="Look at checkpoints, and write them in another layout.", no_args_is_help=True)
app.add_typer(ckpt_app, name="ckpt")
verify_app = typer.Typer(help="Proofs on your own configuration.", no_args_is_help=True)
app.add_typer(verify_app, name="verify")

Offline = Annotated[bool, typer.Option("--offline", help="Open no network connection.")]
Config = Annotated[Path, typer.Argument(help="A run.yaml; see `flagai init`.", metavar="RUN.YAML")]
Folder = Annotated[Path, typer.Argument(help="A trained folder: <output>/final, or the run's own folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")]
Encoding = Annotated[str | None, typer.Option(help="Of the input, for instance gb18030; default: UTF-8.")]
BatchTokens = Annotated[int | None, typer.Option(min=1, help="Token slots of a batch; speed and memory only.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"flagai {__version__}")
        raise typer.Exit


@app.command(context_settings=OVERRIDES)
def quickstart(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew if there is a run already.")] = False,
) -> None:
    """Fine-tune the packaged model on packaged data, offline, in a few minutes. Takes key=value settings."""
    from flagai.cli.quickstart import quickstart as run

    run(output, fresh, context.args)


@app.command()
def init(
    file: Annotated[
        Path | None, typer.Argument(help="Your examples: a file, or a folder with train, dev and test files.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The run.yaml to write.")] = Path("run.yaml"),
    task: Annotated[str | None, typer.Option(help="A name of `flagai tasks`; default: guessed.")] = None,
    model: Annotated[str | None, typer.Option(help="A name of `flagai models`, a folder or a hub id.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a run.yaml, write nothing.")
    ] = False,
) -> None:
    """Look at your file and write a commented run.yaml for it."""
    from flagai.cli.init import init as run
    from flagai.cli.tables import schema as print_schema

    if schema:
        return print_schema()
    if file is None:
        raise typer.BadParameter("name a file of examples, or ask for --schema", param_hint="FILE")
    written = run(file, output, task, model, force)
    for line in written.summary:
        typer.echo(line)
    typer.echo(f"wrote {written.config} and {written.schema}\nnext: flagai train {written.config}")


@data_app.command("check", context_settings=OVERRIDES)
def data_check(
    context: typer.Context,
    config: Config,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole audit as JSON.")] = False,
) -> None:
    """Audit the data of a run without training: what is cut, empty, double, leaked, mislabelled."""
    from flagai.cli.data import check

    check(config, context.args, offline=offline, as_json=as_json)


@data_app.command("corpus")
def data_corpus(
    files: Annotated[
        list[Path], typer.Argument(help="Documents: jsonl, txt (one a line), json, csv, tsv, parquet; also .gz.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
    tokenizer: Annotated[str, typer.Option(help="Folder, name or hub id to take the tokenizer from.")],
    text: Annotated[str, typer.Option(help="Field of the text.")] = "text",
    prompt: Annotated[str, typer.Option(help="Field of what is read before it, not learned.")] = "prompt",
    encoding: Encoding = None,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Leave out rows without text.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: by size. Speed only.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a corpus that is there.")] = False,
    offline: Offline = False,
) -> None:
    """Turn documents into a token corpus for pre-training (`blank-infilling`), read from disk as it is needed."""
    from flagai.cli.corpus import corpus as run

    options = {"text": text, "prompt": prompt, "encoding": encoding, "skip_empty": skip_empty}
    run(files, out, tokenizer, workers=workers, force=force, offline=offline, **options)


@app.command(context_settings=OVERRIDES)
def train(
    context: typer.Context,
    config: Config,
    resume: Annotated[bool, typer.Option("--resume", help="Continue though settings have changed.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; an older run in the folder is deleted.")] = False,
    offline: Offline = False,
    nnodes: Annotated[int | None, typer.Option(min=1, help="Machines; default: one, or all of the hostfile.")] = None,
    node_rank: Annotated[int | None, typer.Option(min=0, help="0 on the machine of the meeting point.")] = None,
    endpoint: Annotated[
        str, typer.Option("--rdzv-endpoint", "--rdzv", help="host:port where machines meet; the same on all of them.")
    ] = "",
    hostfile: Annotated[
        Path | None, typer.Option(help="Lines `host slots=N`: starts the run on all of them, over ssh.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often processes are started again when one of them ends with an error.")
    ] = 0,
    ssh: Annotated[str, typer.Option(help="With --hostfile: words that run a command on {host}; default: ssh.")] = "",
) -> None:
    """Train, evaluate, save and report; continues an unfinished run. Takes key=value settings.

    For example: flagai train run.yaml train.learning_rate=3e-5 output=runs/second

    Starts several processes where the section parallel asks for them.
    """
    from flagai.cli.launching import Machines
    from flagai.cli.train import train as run

    machines = Machines(
        nnodes=nnodes, node_rank=node_rank, endpoint=endpoint, hostfile=hostfile, restarts=max_restarts, ssh=ssh
    )
    run(config, context.args, resume=resume, fresh=fresh, offline=offline, machines=machines)


@app.command(context_settings=OVERRIDES)
def plan(
    context: typer.Context,
    config: Config,
    memory: Annotated[
        str | None, typer.Option(help="Of one device, for instance 24GiB; default: what is here.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="To compare layouts for; default: as set, or the GPUs here.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, where it will run; default: as here.")] = None,
    no_measure: Annotated[bool, typer.Option("--no-measure", help="Make no real steps here.")] = False,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will need: memory in every layout, time, disk, and the smallest change that fits.

    For example: flagai plan run.yaml --memory 24GiB --processes 2
    """
    from flagai.cli.plan import plan as run

    options = {"memory": memory, "processes": processes, "device": device, "measure": not no_measure}
    run(config, context.args, offline=offline, as_json=as_json, **options)


@app.command("eval")
def evaluate(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="Examples with labels.")],
    split: Annotated[str, typer.Option(help="Which split, if FILE is a folder.")] = "test",
    encoding: Encoding = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_tokens: BatchTokens = None,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a trained model on a file, with 95 % intervals."""
    from flagai.cli.evaluate import evaluate as run

    options = {"device": device, "precision": precision, "batch_tokens": batch_tokens, "offline": offline}
    run(folder, file, split=split, encoding=encoding, as_json=as_json, **options)


@app.command()
def predict(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="A trained folder (not with --model), then a text or the two of a pair; "
            "without a text, --file or lines of standard input.",
            metavar="[FOLDER] [TEXT] [TEXT_PAIR]",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name of `flagai models`, a folder or a hub id.")] = None,
    task: Annotated[str | None, typer.Option(help="With --model: a name of `flagai tasks`.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="For tasks that write: seed=3, temperature=0.7, num_beams=4, …; may be repeated."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="For tasks that write: plain text while it grows instead of JSON.")
    ] = False,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Texts: jsonl, csv, tsv, parquet, or txt.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of standard output.")
    ] = None,
    encoding: Encoding = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    batch_tokens: BatchTokens = None,
    offline: Offline = False,
) -> None:
    """Answer texts with a model: one JSON line each, in order.

    For example: flagai predict runs/first "a text", or flagai predict --task poetry --model glm-tiny-poetry-ch 静夜

    A line of standard input is a text, `text<TAB>second text`, or a JSON object.
    """
    from flagai.cli.predict import predict as run

    options = {"device": device, "precision": precision, "batch_tokens": batch_tokens, "offline": offline}
    run(
        words or [],
        file,
        output,
        model=model,
        task=task,
        settings=settings or [],
        stream=stream,
        encoding=encoding,
        **options,
    )


@app.command()
def merge(
    folder: Folder, output: Annotated[Path, typer.Argument(help="The new folder.")], offline: Offline = False
) -> None:
    """Merge the adapters of a LoRA model into its weights."""
    from flagai.cli.merge import merge as run

    run(folder, output, offline=offline)


@ckpt_app.command("convert")
def ckpt_convert(
    source: Annotated[Path, typer.Argument(help="A folder with a model, in any layout.")],
    target: Annotated[Path, typer.Argument(help="The new folder.")],
    layout: Annotated[
        str, typer.Option(help="flagai, huggingface, flagai-original, torch-dcp; GLM: thudm; others: flagai-trainer.")
    ] = "flagai",
    shards: Annotated[
        int | None,
        typer.Option(help="Files of weights; model-parallel parts for the layouts thudm and flagai-original."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="keep, fp32, fp16 or bf16.")] = "keep",
) -> None:
    """Write a model in another layout; a GLM or a checkpoint of ours in any number of files, one tensor at a time."""
    from flagai.cli.ckpt import convert

    convert(source, target, layout=layout, shards=shards, dtype=dtype)


@ckpt_app.command("inspect")
def ckpt_inspect(
    folder: Annotated[Path, typer.Argument(help="A folder with a model, in any layout.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a checkpoint and show its layout, sizes, parameters and dtype."""
    from flagai.cli.ckpt import inspect

    inspect(folder, as_json=as_json)


@ckpt_app.command("ls")
def ckpt_ls(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, or one with a model in any layout.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (of a run).")] = False,
) -> None:
    """The checkpoints of a run; of a single model its tensors, under the names they have there."""
    from flagai.cli import ckpt, ckpt_runs

    if ckpt_runs.is_run(folder):
        ckpt_runs.ls(folder, as_json=as_json)
    else:
        ckpt.ls(folder)


@ckpt_app.command("verify")
def ckpt_verify(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, single checkpoints or models.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Read every byte and compare it with the manifest; exit code 1 if something is damaged."""
    from flagai.cli.ckpt_runs import verify

    verify(folders, as_json=as_json)


@ckpt_app.command("merge")
def ckpt_merge(
    sources: Annotated[list[Path], typer.Argument(help="A checkpoint, or several of one model; a run: its newest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
    offline: Offline = False,
) -> None:
    """One plain model folder: adapters merged into their base, several checkpoints averaged, no state of a run."""
    from flagai.cli.ckpt_runs import merge

    merge(sources, output, offline=offline)


@verify_app.command("resume", context_settings=OVERRIDES)
def verify_resume(
    context: typer.Context,
    config: Config,
    kills: Annotated[int, typer.Option(min=1, help="How often the run is killed.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    during: Annotated[str, typer.Option(help="anywhere, or saves: only while something is written.")] = "anywhere",
    steps: Annotated[int | None, typer.Option(min=4, help="Train so many steps instead of all.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: <output of the run>-verify.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the two runs where they are.")] = False,
    offline: Offline = False,
) -> None:
    """Run once undisturbed and once killed (SIGKILL) at random moments and continued; compare bit for bit.

    Takes key=value settings. Exit code 1 where anything differs.
    """
    from flagai.cli.verify import resume as run

    options = {"kills": kills, "seed": seed, "during": during, "steps": steps, "keep": keep, "offline": offline}
    run(config, context.args, output=output, **options)


@verify_app.command("parallel", context_settings=OVERRIDES)
def verify_parallel(
    context: typer.Context,
    config: Config,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of each training.")] = 20,
    layers: Annotated[int, typer.Option(min=2, help="Layers of the small model.")] = 4,
    width: Annotated[int, typer.Option(min=16, help="Its width, a multiple of 8.")] = 64,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: <output of the run>-verify.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave model and runs where they are.")] = False,
    offline: Offline = False,
) -> None:
    """Train a small model of the run's family under every strategy, on CPU processes here; compare with one process.

    Takes key=value settings. Exit code 1 where one of them differs by more than rounding.
    """
    from flagai.cli.verify import parallel as run

    run(config, context.args, output=output, steps=steps, layers=layers, width=width, keep=keep, offline=offline)


@app.command()
def models() -> None:
    """List the models that have a name here; folders and hub ids work as well."""
    from flagai.cli.tables import models as run

    run()


@app.command()
def tasks() -> None:
    """List the tasks."""
    from flagai.cli.tables import tasks as run

    run()


@app.command()
def doctor() -> None:
    """Show what this machine has, what is missing, and what to type for it."""
    from flagai.cli.doctor import doctor as run

    run()
