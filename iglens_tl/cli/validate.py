"""`iglens validate`: whether lenses say the same as interventions, on a file of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from iglens_tl.cli.messages import command_messages, tell_notes, tell_written
from iglens_tl.cli.options import (
    BackendOptions,
    Format,
    FormatOption,
    LensOptions,
    ModelOption,
    ValueOption,
    check_outputs,
    grouped,
    split_names,
)

if TYPE_CHECKING:
    import pandas as pd

    from iglens_tl import Validation
    from iglens_tl.evaluation.runs import Report

_DEFAULT = "ig_lens,direct_logit_attribution"
_TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
_SHOWN = ("spearman", "top_3_overlap", "routing_gap")
_SHOWN_OF_CURVES = ("share_of_oracle", "comprehensiveness", "sufficiency")


@grouped
def validate(
    prompts: Annotated[
        Path,
        typer.Argument(
            metavar="PROMPTS",
            help="A text file with one prompt in each line, after a tab perhaps its answer; or a "
            "table that ends in .jsonl, .csv, .tsv or .parquet.",
        ),
    ],
    lenses: LensOptions,
    backend: BackendOptions,
    model: ModelOption = "demo",
    interventions: Annotated[
        str, typer.Option(help="Of skip, mean, resample and early_exit.")
    ] = "skip,mean,resample,early_exit",
    scope: Annotated[
        str, typer.Option(help="Intervene at all positions, or only at the last: all or last.")
    ] = "all",
    value: ValueOption = "prob",
    column: Annotated[
        str | None, typer.Option(help="The table's column of prompts, where it has several.")
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="The table's column of answers; none without it.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Texts for mean and resample, in a file like that of the prompts."),
    ] = None,
    n_draws: Annotated[int, typer.Option(help="Draws of reference texts.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    nulls: Annotated[
        bool, typer.Option("--nulls/--no-nulls", help="Also measure what chance gives.")
    ] = True,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps finished parts; the same call goes on from there."),
    ] = None,
    format: FormatOption = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Write the table to a .csv, .parquet or .json file.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with tables and figures.")] = None,
) -> None:
    """Compare what lenses credit layers with to what happens when the layers are taken out.

    Of every prompt the tokens of its answer are measured, which is written exactly as it continues
    the prompt, mostly with a blank first. Without answers it is the model's own next token.
    """
    with command_messages() as messages:
        check_outputs(out, (".csv", ".parquet", ".json"), html)
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ValueError(f"--folder {str(folder)!r} is a file; give a folder")
        lines = read_lines(prompts, column=column, answer_column=answer_column)
        texts = None if reference is None else [line.prompt for line in _lines(reference, column)]
        made = lenses.make(_DEFAULT, value)
        loaded = backend.load(model, messages)
        with _progress(messages) as report:
            from iglens_tl import validate as validate_lenses

            found = validate_lenses(
                loaded,
                [line.prompt for line in lines],
                lenses=made,
                interventions=split_names(interventions),
                scope=scope,
                value=value,
                answer=[line.answer for line in lines if line.answer is not None] or None,
                nulls=nulls,
                reference=texts,
                n_draws=n_draws,
                seed=seed,
                folder=folder,
                names=[f"{str(prompts)!r}, {line.place}" for line in lines],
                report=report,
            )
        tell_notes(messages, (*missing_blanks(lines), *found.notes))
        tell_written(messages, _write_files(found, out, html))
    _print_validation(found, format)


@dataclass(frozen=True)
class PromptLine:
    """A prompt of a file.

    Attributes:
        place: Where it stands: a line of a text, counted from 1, or an entry of a table.
        prompt: The text, chat messages or token ids.
        answer: Its answer, if it has one.
    """

    place: str
    prompt: Any
    answer: Any


def read_lines(
    path: Path, *, column: str | None = None, answer_column: str | None = None
) -> list[PromptLine]:
    """Return the prompts of a file with their answers.

    Raises:
        ValueError: For a file that cannot be read, holds no prompt, or has answers in only some of
            its lines.
    """
    lines = _lines(path, column, answer_column)
    if not lines:
        raise ValueError(f"{str(path)!r} holds no prompt; write one in each line")
    first = lines[0]
    for line in lines:
        where = f"{str(path)!r}, {line.place}"
        if (line.answer is None) != (first.answer is None):
            has, has_not = (line, first) if first.answer is None else (first, line)
            raise ValueError(
                f"{str(path)!r}: {has.place} has an answer after a tab, but "
                f"{has_not.place} has none; give every prompt one, or none"
            )
        if isinstance(line.prompt, str) and not line.prompt.strip():
            raise ValueError(f"{where} has no prompt before the tab")
        if isinstance(line.answer, str) and (not line.answer.strip() or "\t" in line.answer):
            raise ValueError(f"{where} must be a prompt, one tab and an answer")
    return lines


def _lines(
    path: Path, column: str | None = None, answer_column: str | None = None
) -> list[PromptLine]:
    if path.suffix.lower() in _TABLES:
        return _entries(path, column, answer_column)
    for option, name in (("--column", column), ("--answer-column", answer_column)):
        if name is not None:
            raise ValueError(
                f"{str(path)!r} is read as plain text, which has no columns; leave {option} out, "
                f"or give a file that ends with {', '.join(_TABLES)}"
            )
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not valid UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror}") from error
    lines = []
    for number, text in enumerate(content.split("\n"), start=1):
        if text.strip():
            prompt, tab, answer = text.removesuffix("\r").partition("\t")
            lines.append(PromptLine(f"line {number}", prompt, answer if tab else None))
    return lines


def _entries(path: Path, column: str | None, answer_column: str | None) -> list[PromptLine]:
    """Return the rows of a table."""
    from iglens_tl.prompts import read_prompts

    prompts = read_prompts(path, column=column)
    answers = [None] * len(prompts)
    if answer_column is not None:
        answers = read_prompts(path, column=answer_column)
    pairs = enumerate(zip(prompts, answers, strict=True), start=1)
    return [PromptLine(f"entry {number}", *pair) for number, pair in pairs]


def missing_blanks(lines: list[PromptLine]) -> list[str]:
    """Point out answers that continue the last word of their prompts."""
    joined = []
    for line in lines:
        if isinstance(line.prompt, str) and isinstance(line.answer, str):
            ends = line.prompt[-1] + line.answer[0]
            if ends.isalnum() and ends.isascii():
                joined.append((line.place, f"{line.prompt[-20:]}{line.answer}"))
    if not joined:
        return []
    place, text = joined[0]
    return [
        f"{len(joined)} answers follow their prompts without a blank, first in {place}: "
        f"{text!r}; begin the answer with the blank if one belongs there"
    ]


@contextmanager
def _progress(messages: Console) -> Iterator[Report]:
    """Show a bar in a terminal and yield what moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    disable = not messages.is_terminal
    with Progress(*columns, console=messages, transient=True, disable=disable) as bar:
        task = bar.add_task("reading prompts", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report


def _write_files(found: Validation, out: Path | None, html: Path | None) -> list[Path]:
    from iglens_tl.files import write_atomically

    written = []
    if out is not None:
        writers: dict[str, Any] = {
            ".csv": lambda path: found.table.to_csv(path, index=False),
            ".parquet": found.table.to_parquet,
            ".json": lambda path: path.write_text(_json(found) + "\n", encoding="utf-8"),
        }
        written.append(write_atomically(out, writers[out.suffix.lower()]))
    if html is not None:
        written.append(found.write_html(html))
    return written


def _json(found: Validation) -> str:
    """Return all tables, and where they come from, as one JSON object."""
    from dataclasses import asdict

    tables = {
        "table": found.table,
        "by_item": found.by_item,
        "curves": found.curves.to_frame(),
    }
    rows = {
        name: json.loads(table.to_json(orient="records") or "[]") for name, table in tables.items()
    }
    content = {"format": "iglens_tl.Validation", "version": 1, **rows}
    content["provenance"] = asdict(found.provenance)
    return json.dumps(content, ensure_ascii=False, indent=1, default=str)


def _print_validation(found: Validation, format: Format) -> None:
    if format is Format.json:
        typer.echo(_json(found))
    elif format is Format.csv:
        typer.echo(found.table.to_csv(index=False), nl=False)
    else:
        _print_table(found.table)


def _print_table(table: pd.DataFrame) -> None:
    """Print a block of rows for every intervention, nulls below their credits."""
    from rich.table import Table
    from rich.text import Text

    from iglens_tl.evaluation.agreement import SKIP_CURVES
    from iglens_tl.results.validation import NULLS
    from iglens_tl.views.validation import metric_cell, undefined_notes

    console = Console()
    console = console if console.is_terminal else Console(file=console.file, width=1000)
    shown = []
    for effects in dict.fromkeys(table["effects"]):
        rows = table.loc[table["effects"] == effects]
        metrics = _SHOWN_OF_CURVES if effects == SKIP_CURVES else _SHOWN
        shown.append(rows[rows["metric"].isin(metrics)])
        block = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        block.add_column(Text(effects), no_wrap=True, min_width=25)
        for metric in metrics:
            block.add_column(metric, no_wrap=True, min_width=20)
        for credits in dict.fromkeys(rows["credits"]):
            ending = next((null for null in NULLS if credits.endswith(null)), None)
            name = credits if ending is None else ending.replace(", ", "  ")
            of_credits = rows.loc[rows["credits"] == credits].to_dict("records")
            cells = {row["metric"]: " ".join(metric_cell(row)).strip() for row in of_credits}
            style = "" if ending is None else "dim"
            block.add_row(Text(name), *(Text(cells[metric]) for metric in metrics), style=style)
        console.print(block)
        console.print()
    for note in undefined_notes(_concat(shown), NULLS):
        console.print(Text(note, style="dim"))
    n_items = int(table["items"].max())
    console.print(Text(f"means over {n_items} targets [95 % intervals over prompts]", style="dim"))


def _concat(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables)
