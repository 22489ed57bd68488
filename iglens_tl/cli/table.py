"""The result as a table for terminals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iglens_tl.results.comparison import LensComparison
from iglens_tl.results.contributors import OTHERS, count_others
from iglens_tl.results.corpus import ALL, CorpusSummary
from iglens_tl.results.frames import summary_columns
from iglens_tl.results.lens import LensResult
from iglens_tl.views.corpus import NUMBERS, SIGNED, number_text, numbers_of
from iglens_tl.views.text import show_blanks

_CELL_WIDTH = 9
_NAME_WIDTH = 28


def print_table(result: LensResult, console: Console | None = None) -> None:
    """Print one row per target: its credits by segment, then the summary.

    A terminal that is too narrow gets the segments in several blocks; a pipe gets long lines.
    """
    console = _wide(console or Console())
    fitting = max(1, (min(console.width, 100_000) - _NAME_WIDTH) // _CELL_WIDTH)
    columns = [*result.segments, *summary_columns(result)]
    for first in range(0, len(columns), fitting):
        console.print(_block(result, columns[first : first + fitting]))


def print_comparison(comparison: LensComparison, console: Console | None = None) -> None:
    """Print the table of every lens, then what the lenses cost and how they agree."""
    console = _wide(console or Console())
    for result in comparison.results:
        console.print(Text(f"{result.name}: {result.kind}s in {result.unit}", style="bold"))
        print_table(result, console)
        console.print()
    costs = comparison.cost_frame().reset_index()
    console.print(Text("costs of each lens alone", style="bold"))
    console.print(_plain_table(costs))
    agreement = comparison.summary().agreement
    if len(agreement):
        console.print()
        console.print(Text("agreement on what changes in each layer", style="bold"))
        console.print(_plain_table(agreement))


def print_contributors(result: LensResult, top: int, console: Console | None = None) -> None:
    """Print for every target its components of largest |credit|, all others and their sum."""
    console = _wide(console or Console())
    for row, target in enumerate(result.targets):
        if row:
            console.print()
        way = f"{result.baseline[row]:.4f} → {result.final[row]:.4f} {result.unit}"
        heading = Text(show_blanks(target.token), style="bold")
        console.print(
            heading.append(f" read at position {target.position}: {way}", style="not bold")
        )
        console.print(_contributors_table(result, row, top))
        delta = f"{result.final[row] - result.baseline[row]:+.4f}"
        error = f"{result.completeness_error[row]:+.0e}"
        console.print(Text(f"final − baseline {delta}, error {error}", style="dim"))


def _wide(console: Console) -> Console:
    """Return a console that breaks no line, unless it is a terminal."""
    return console if console.is_terminal else Console(file=console.file, width=100_000)


def _contributors_table(result: LensResult, row: int, top: int) -> Table:
    frame = result.contributors(top=top, target=row)
    limit = max(float(np.abs(result.values[row]).max()), 1e-12)
    has_sources = bool(frame["source"].notna().any())
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("component", no_wrap=True)
    if has_sources:
        table.add_column("read", no_wrap=True, max_width=_NAME_WIDTH)
    table.add_column("credit", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)

    def add(rank: str, name: str, read: object, credit: Text, share: float) -> None:
        reads = [Text(show_blanks(read) if isinstance(read, str) else "")] * has_sources
        table.add_row(rank, Text(name), *reads, credit, f"{share:.1%}")

    for line in frame.to_dict(orient="records"):
        if line["segment"] == OTHERS:
            credit = Text(f"{line['credit']:+.4f}")
            add("", count_others(line["count"]), None, credit, line["share"])
        else:
            credit = _cell("credit", line["credit"], limit, True)
            add(str(line["rank"]), line["segment"], line["source_token"], credit, line["share"])
    add("", "sum", None, Text(f"{result.sums[row]:+.4f}"), frame["share"].sum())
    return table


def _plain_table(frame: pd.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in frame.columns:
        is_text = frame[column].dtype == object
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for row in frame.itertuples(index=False):
        table.add_row(*(_plain(cell) for cell in row))
    return table


def _plain(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return "–" if np.isnan(cell) else f"{cell:.3g}"


def print_corpus(
    summary: CorpusSummary, tables: Mapping[str, pd.DataFrame], console: Console | None = None
) -> None:
    """Print what every layer does over a corpus, mean credits by groups, and errors.

    Args:
        summary: What `Corpus.summary` returns.
        tables: Mean credits by grouping, as `to_frame` returns them.
        console: Where it is printed; None for stdout.
    """
    console = _wide(console or Console())
    facts = summary.facts
    heading = f"{facts['model']['name']}: {facts['targets']:,} targets of {facts['texts']:,} texts"
    console.print(Text(f"{heading}, {facts['rejected']:,} rejected", style="bold"))
    columns = {name: numbers_of(summary, name, ALL) for name in NUMBERS}
    table = _bare_table("segment", *(label for label, _ in NUMBERS.values()))
    for place, segment in enumerate(columns["mean"]["segment"]):
        cells = [_corpus_cell(rows, place, number) for number, rows in columns.items()]
        table.add_row(Text(segment), *cells)
    console.print(table)
    for name, frame in tables.items():
        size = float(frame.abs().max().max()) or 1.0
        console.print(Text(f"mean credit by {summary.groupings[name]}", style="bold"))
        table = _bare_table("", *frame.columns)
        for group, row in frame.iterrows():
            cells = [number_text(value, size, signed=True) for value in row]
            table.add_row(Text(show_blanks(str(group))), *cells)
        console.print(table)
    for row in summary.errors.to_dict("records"):
        errors = f"at most {row['largest']:.1e}, 99 % below {row['0.99']:.1e}"
        console.print(Text(f"{row['lens']}: completeness error {errors}"))


def _bare_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in columns:
        table.add_column(column, justify="right" if table.columns else "left", no_wrap=True)
    return table


def _corpus_cell(rows: pd.DataFrame, place: int, number: str) -> Text:
    """Return a number, with its interval where it is one of the two that most is said of."""
    with_ends = number in ("mean", "share")
    shown = ["value", "low", "high"] if with_ends else ["value"]
    size = float(rows[shown].abs().max().max()) or 1.0
    value, *ends = (
        number_text(end, size, signed=number in SIGNED) for end in rows[shown].iloc[place].tolist()
    )
    return Text(f"{value} [{', '.join(ends)}]" if with_ends else value)


def _block(result: LensResult, columns: list[str]) -> Table:
    frame = result.to_frame()
    limit = max(float(np.abs(result.values).max()), 1e-12)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("pos", justify="right", no_wrap=True)
    table.add_column("token", no_wrap=True, max_width=_NAME_WIDTH - 8)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for index, (_, row) in enumerate(frame.iterrows()):
        target = result.targets[index]
        values = row.to_dict()
        cells = [
            _cell(column, values[column], limit, column in result.segments) for column in columns
        ]
        table.add_row(str(target.position), Text(show_blanks(target.token)), *cells)
    return table


def _cell(column: str, value: float | str, limit: float, is_segment: bool) -> Text:
    if isinstance(value, str):
        return Text(value)
    if column == "error":
        return Text(f"{value:.0e}", style="dim")
    if not is_segment:
        return Text(f"{value:.4f}")
    strength = abs(value) / limit
    style = ("blue" if value > 0 else "red") if strength > 0.05 else "dim"
    return Text(f"{value:+.4f}", style=f"bold {style}" if strength > 0.5 else style)
