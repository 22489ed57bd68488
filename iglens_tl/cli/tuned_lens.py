"""`iglens tuned-lens`: training a tuned lens and evaluating one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from iglens_tl.cli.messages import command_messages, tell_written
from iglens_tl.cli.options import BackendOptions, Format, FormatOption, grouped

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    name="tuned-lens", help="Train a tuned lens, or evaluate one.", no_args_is_help=True
)

ModelArgument: TypeAlias = Annotated[
    str, typer.Argument(help="demo, a Hugging Face folder, or a hub name.")
]
TextArgument: TypeAlias = Annotated[
    Path, typer.Argument(help='A text file, or .jsonl with a "text" in every line.')
]
SeqLenOption: TypeAlias = Annotated[
    int | None, typer.Option(help="Tokens per sequence; by default 2048 or the model's longest.")
]
PackOption: TypeAlias = Annotated[
    bool,
    typer.Option("--pack/--no-pack", help="Join texts in sequences, or keep every text by itself."),
]


@app.command()
@grouped
def train(
    model: ModelArgument,
    text: TextArgument,
    backend: BackendOptions,
    out: Annotated[Path, typer.Option(help="Folder of the lens.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 250,
    tokens_per_step: Annotated[int, typer.Option(help="Tokens per step.")] = 2**18,
    seq_len: SeqLenOption = None,
    pack: PackOption = True,
    optimizer: Annotated[str, typer.Option(help="sgd or adam.")] = "sgd",
    lr_scale: Annotated[float, typer.Option(help="Factor of the learning rate.")] = 1.0,
    momentum: Annotated[float, typer.Option(help="Momentum, or Adam's first beta.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Pulls towards the logit lens.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Seed of the order of sequences.")] = 0,
    holdout: Annotated[float, typer.Option(help="Share of the text to evaluate on.")] = 0.1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 25,
    file_format: Annotated[
        str, typer.Option(help="safetensors, or pt for the published format.")
    ] = "safetensors",
    format: FormatOption = Format.table,
) -> None:
    """Train a tuned lens on a text and print its losses on the held-out part.

    The checkpoint stays in --out until training is done, so that --resume continues after a stop.
    """
    with command_messages() as messages:
        if not 0 < holdout < 1:
            raise ValueError(f"--holdout must lie between 0 and 1, got {holdout}")
        if file_format not in ("safetensors", "pt"):
            raise ValueError(f"--file-format must be safetensors or pt, got {file_format!r}")
        if not out.parent.is_dir() or (out.exists() and not out.is_dir()):
            raise ValueError(
                f"--out {str(out)!r} must be a folder, or a new one in an existing one"
            )
        texts = read_texts(text)
        loaded = backend.load(model, messages)
        from iglens_tl.models import adapt
        from iglens_tl.tuning import evaluate_tuned_lens, pack_texts, train_tuned_lens
        from iglens_tl.tuning.checkpoint import FILE

        adapter = adapt(loaded)
        sequences = pack_texts(adapter, texts, seq_len=seq_len, pack=pack)
        n_held_out = max(1, round(holdout * len(sequences)))
        if n_held_out >= len(sequences):
            raise ValueError(
                f"{str(text)!r} fills {len(sequences)} sequence, which leaves none to train on "
                "beside the held-out part; give more text or a smaller --seq-len"
            )
        translators = train_tuned_lens(
            adapter,
            sequences[:-n_held_out],
            steps=steps,
            tokens_per_step=tokens_per_step,
            optimizer=optimizer,
            lr_scale=lr_scale,
            momentum=momentum,
            weight_decay=weight_decay,
            seed=seed,
            checkpoint=out,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )
        tell_written(messages, [translators.save(out, format=file_format)])
        (out / FILE).unlink(missing_ok=True)
        with messages.status("evaluating"):
            frame = evaluate_tuned_lens(adapter, translators, sequences[-n_held_out:])
    _print_losses(frame, format)


@app.command("eval")
@grouped
def evaluate(
    model: ModelArgument,
    text: TextArgument,
    backend: BackendOptions,
    lens: Annotated[str, typer.Option(help="A folder, a published name, or auto.")] = "auto",
    seq_len: SeqLenOption = None,
    pack: PackOption = True,
    format: FormatOption = Format.table,
) -> None:
    """Print what a tuned lens loses on a text, beside the logit lens."""
    with command_messages() as messages:
        texts = read_texts(text)
        loaded = backend.load(model, messages)
        from iglens_tl.models import adapt
        from iglens_tl.tuning import evaluate_tuned_lens, resolve_translators

        adapter = adapt(loaded)
        translators = resolve_translators(adapter, lens)
        with messages.status("evaluating"):
            frame = evaluate_tuned_lens(adapter, translators, texts, seq_len=seq_len, pack=pack)
    _print_losses(frame, format)


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file: one, or one for each line of a .jsonl file.

    Raises:
        ValueError: For a file that cannot be read or holds no text.
    """
    try:
        content = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not valid UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if path.suffix.lower() != ".jsonl":
        texts = [content]
    else:
        texts = [
            _text_of_line(line, f"{str(path)!r}, line {number}")
            for number, line in enumerate(content.splitlines(), start=1)
            if line.strip()
        ]
    if not any(text.strip() for text in texts):
        raise ValueError(f"{str(path)!r} holds no text")
    return texts


def _text_of_line(line: str, where: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
        raise ValueError(f'{where} must be an object with a string "text"')
    return entry["text"]


def _print_losses(frame: pd.DataFrame, format: Format) -> None:
    if format is Format.json:
        typer.echo(frame.reset_index().to_json(orient="records"))
    elif format is Format.csv:
        typer.echo(frame.to_csv(), nl=False)
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="nats per token", box=None)
        table.add_column("segment")
        for column in frame.columns:
            table.add_column(str(column), justify="right")
        for segment, row in zip(frame.index, frame.to_numpy(), strict=True):
            table.add_row(str(segment), *(f"{value:.4f}" for value in row))
        Console().print(table)
