"""Show what a corpus answers in notebooks."""

from __future__ import annotations

import pandas as pd

from iglens_tl.results.corpus import ALL, CorpusSummary, Examples
from iglens_tl.views.corpus import NUMBERS, SIGNED, number_text, numbers_of
from iglens_tl.views.notebook.cells import (
    Cell,
    Row,
    Table,
    numbered,
    render_tables,
    signed_tint,
)
from iglens_tl.views.text import show_blanks


def corpus_table(summary: CorpusSummary) -> str:
    """Return a corpus's summary as HTML: a row for each segment, and a table for each grouping."""
    found = {number: numbers_of(summary, number, ALL) for number in NUMBERS}
    segments = found["mean"]["segment"].tolist()
    cells = {number: _sized(rows["value"], number in SIGNED) for number, rows in found.items()}
    rows = [
        Row(segment, [cells[number][place] for number in NUMBERS])
        for place, segment in enumerate(segments)
    ]
    tables = [Table("", ["segment", *(label for label, _ in NUMBERS.values())], rows)]
    for by, label in summary.groupings.items():
        if by == ALL:
            continue
        means = numbers_of(summary, "mean", by)
        limit = float(means["value"].abs().max()) or 1.0
        of_groups = [
            Row(str(group), numbered(of["value"].to_numpy(), limit))
            for group, of in means.groupby("group", sort=False)
        ]
        tables.append(Table(f"mean credit by {label}", ["", *segments], of_groups))
    facts = summary.facts
    caption = f"{facts['targets']:,} targets of {facts['texts']:,} texts, {facts['model']['name']}"
    return render_tables(
        caption, tables, ["intervals are in credits and onsets; write_html() shows all"]
    )


def examples_table(examples: Examples) -> str:
    """Return targets in their texts as HTML, every token tinted by its own credit."""
    limit = max((abs(item.credit) for item in examples), default=0.0) or 1.0
    width = max((item.place for item in examples), default=0)
    tables = []
    for item in examples:
        cells = [
            Cell(
                show_blanks(token).join("[]") if place == item.place else show_blanks(token),
                signed_tint(credit, limit),
                f"{credit:+.4g}",
            )
            for place, (token, credit) in enumerate(item.context)
        ]
        # Targets stand below one another.
        missing = [Cell()] * (width - item.place)
        title = f"text {item.text}, position {item.position}"
        tables.append(Row(f"{item.credit:+.4f}", [*missing, *cells], title))
    caption = f"{examples.by} credits of {examples.segment} in {examples.unit}"
    return render_tables(caption, [Table("", [], tables)], [])


def _sized(values: pd.Series, signed: bool) -> list[Cell]:
    """Return cells with as many digits as the largest of their numbers needs."""
    limit = float(values.abs().max()) or 1.0
    return [
        Cell(number_text(value, limit, signed=signed), signed_tint(value, limit))
        for value in values.tolist()
    ]
