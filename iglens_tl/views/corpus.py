"""Report a corpus as a page: what its layers do, by groups of targets, and examples in their texts.

All of it is text, tables and tints, which the style sheet draws in light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from iglens_tl.results.corpus import ALL, CorpusSummary, Example, Examples
from iglens_tl.results.segments import parse_segment
from iglens_tl.views.html import make_page, write_page
from iglens_tl.views.text import show_blanks

NUMBERS = {
    "mean": ("mean credit", "What a layer adds to a target on average."),
    "median": ("median credit", "What it adds to the target in the middle."),
    "share": ("share of |credit|", "Its part of all that layers add and take away."),
    "negative": ("lowers", "In which share of targets it lowers the value."),
    "destroyed": ("takes away", "What it takes from a target on average, where it lowers it."),
    "onset": ("onset", "In which share of targets half of all |credit| is reached there."),
}
"""The numbers of a layer: their names, and what each tells."""

SIGNED = ("mean", "median")
"""Those that may be below 0."""

# A wider table has tints alone, and its numbers on hover.
_MAX_NUMBERED = 26
_STRONGEST = 62
_BAR_WIDTH = 90


def write_corpus_page(
    summary: CorpusSummary, path: str | Path, *, examples: Sequence[Examples] = ()
) -> Path:
    """Write a corpus's summary as one self-contained page.

    Args:
        summary: What `Corpus.summary` returns.
        path: Where the page goes.
        examples: What `Corpus.examples` found; those of one segment stand together.

    Raises:
        ValueError: If the path cannot be written.
    """
    facts, lens = summary.facts, str(summary.credits["lens"].iloc[0])
    unit = facts["lenses"][lens].rpartition(", ")[2]
    page = make_page(
        "corpus.html.jinja",
        styles=["page", "corpus"],
        scripts=[],
        data={},
        title=f"{facts['model']['name']}: a corpus by layers",
        model=facts["model"]["name"],
        facts=facts,
        unit=unit,
        numbers=NUMBERS,
        layers=_layers(summary),
        groupings=[
            {"name": name, "label": label, "tables": _grids(summary, name, label)}
            for name, label in summary.groupings.items()
            if name != ALL
        ],
        maps=[_map(summary, name) for name in _lenses(summary) if _has_heads(summary, name)],
        levels=_levels(summary),
        errors=summary.errors.to_dict("records"),
        median_targets=summary.median_targets,
        examples=_examples(examples),
    )
    return write_page(page, path)


def number_text(value: float, size: float, *, signed: bool = False) -> str:
    """Return a number with three digits of the size of those beside it, or of its own."""
    if math.isnan(value):
        return "–"
    if size < 1e-3:
        return f"{value:+.1e}" if signed else f"{value:.1e}"
    decimals = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"


def numbers_of(summary: CorpusSummary, number: str, by: str, lens: str | None = None) -> Any:
    """Return the rows of one number: group, segment, targets, value, low and high."""
    if number == "onset":
        frame, column = summary.onsets, "share"
    else:
        named = lens or summary.credits["lens"].iloc[0]
        frame, column = summary.credits.loc[summary.credits["lens"] == named], number
    rows = frame.loc[frame["grouping"] == by]
    chosen = ["group", "segment", "targets", column, f"{column}_low", f"{column}_high"]
    names = ["group", "segment", "targets", "value", "low", "high"]
    return rows[chosen].set_axis(names, axis=1)


def _layers(summary: CorpusSummary) -> list[dict[str, Any]]:
    """Return a row for each segment, with a bar for each number."""
    found = {number: numbers_of(summary, number, ALL) for number in NUMBERS}
    cells = {number: _bars(rows, number in SIGNED) for number, rows in found.items()}
    return [
        {"segment": segment, "cells": {number: cells[number][place] for number in NUMBERS}}
        for place, segment in enumerate(found["mean"]["segment"])
    ]


def _bars(rows: pd.DataFrame, signed: bool) -> list[dict[str, Any]]:
    """Return bars from 0 to each value, with the ends of intervals, on one scale."""
    ends = rows[["value", "low", "high"]].to_numpy()
    size = float(pd.Series(abs(ends).reshape(-1)).max()) or 1.0
    low = min(0.0, float(pd.Series(ends.reshape(-1)).min()))
    high = max(0.0, float(pd.Series(ends.reshape(-1)).max()))
    scale = _BAR_WIDTH / ((high - low) or 1.0)

    def at(value: float) -> float:
        return round((value - low) * scale, 1)

    return [
        {
            "text": number_text(value, size, signed=signed),
            "title": _interval(value, start, end),
            "sign": "negative" if value < 0 else "positive",
            "x": at(min(value, 0.0)),
            "width": max(0.5, round(abs(value) * scale, 1)),
            "zero": at(0.0),
            "whisker": None if math.isnan(start) else (at(start), at(end)),
        }
        for value, start, end in ends.tolist()
    ]


def _grids(summary: CorpusSummary, by: str, label: str) -> dict[str, dict[str, Any]]:
    """Return a table for each number: a row for each group, a tinted cell for each segment."""
    grids = {}
    for number in NUMBERS:
        rows = numbers_of(summary, number, by)
        targets = rows.groupby("group", sort=False)["targets"].first()
        lines = [
            (group, f"{n:,}", rows.loc[rows["group"] == group]) for group, n in targets.items()
        ]
        grids[number] = _grid(label, list(dict.fromkeys(rows["segment"])), lines, number)
    return grids


def _grid(
    label: str,
    columns: Sequence[str],
    lines: Sequence[tuple[Any, str, pd.DataFrame]],
    number: str,
) -> dict[str, Any]:
    signed = number in SIGNED
    everything = pd.concat([rows["value"] for _, _, rows in lines]).abs()
    size = float(everything.max()) or 1.0
    is_numbered = len(columns) <= _MAX_NUMBERED
    return {
        "label": label,
        "columns": columns,
        "outside": "",
        "rows": [
            {
                "name": group,
                "targets": targets,
                "cells": [
                    {
                        "text": number_text(value, size, signed=signed) if is_numbered else "",
                        "title": f"{group}, {segment}: {_interval(value, low, high)}",
                        "tint": _tint(value, size),
                        "sign": "negative" if value < 0 else "positive",
                    }
                    for segment, value, low, high in rows[
                        ["segment", "value", "low", "high"]
                    ].itertuples(index=False)
                ],
            }
            for group, targets, rows in lines
        ],
    }


def _map(summary: CorpusSummary, lens: str) -> dict[str, Any]:
    """Return a table for each number of a lens by heads: a row for each layer."""
    tables = {}
    for number in NUMBERS:
        if number == "onset":
            continue
        rows = numbers_of(summary, number, ALL, lens)
        segments = [parse_segment(label) for label in rows["segment"]]
        parts = rows.assign(
            row=[segment.layer_label for segment in segments],
            part=[segment.label.partition(".")[2] or segment.label for segment in segments],
        )
        columns = list(dict.fromkeys(parts["part"]))
        # The segments outside the layers stand below, each with its own name.
        inside = [column for column in columns if column not in set(parts["row"])]
        outside = parts.loc[~parts["part"].isin(inside)]
        blocks = parts.loc[parts["part"].isin(inside)]
        lines = [(name, "", of) for name, of in blocks.groupby("row", sort=False)]
        grid = _grid(lens, inside, lines, number)
        _fill(grid, lines)
        tables[number] = {**grid, "outside": _named(outside, number)}
    return {"lens": lens, "tables": tables}


def _fill(grid: dict[str, Any], lines: Sequence[tuple[Any, str, pd.DataFrame]]) -> None:
    """Leave a place for each part that a layer does not have."""
    for row, (_, _, of) in zip(grid["rows"], lines, strict=True):
        cells = dict(zip(of["part"], row["cells"], strict=True))
        row["cells"] = [cells.get(column) for column in grid["columns"]]


def _named(rows: pd.DataFrame, number: str) -> str:
    size = float(rows["value"].abs().max()) if len(rows) else 1.0
    signed = number in SIGNED
    return ", ".join(
        f"{segment} {number_text(value, size, signed=signed)}"
        for segment, value in rows[["segment", "value"]].itertuples(index=False)
    )


def _levels(summary: CorpusSummary) -> dict[str, Any] | None:
    """Return the mean levels of the lenses that have no credits."""
    kinds = {name: told.partition(", ")[0] for name, told in summary.facts["lenses"].items()}
    lenses = [name for name in _lenses(summary) if kinds[name] != "credit"]
    if not lenses:
        return None
    found = {name: numbers_of(summary, "mean", ALL, name) for name in lenses}
    columns = list(dict.fromkeys(label for rows in found.values() for label in rows["segment"]))
    lines = [(name, "", rows.assign(part=rows["segment"])) for name, rows in found.items()]
    grid = _grid("lens", columns, lines, "level")
    _fill(grid, lines)
    return grid


def _examples(examples: Sequence[Examples]) -> list[dict[str, Any]]:
    """Return the examples of each segment, largest and smallest beside one another."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for found in examples:
        size = max((abs(item.credit) for item in found), default=1.0) or 1.0
        groups.setdefault(found.segment, []).append(
            {"by": found.by, "targets": [_example(item, size) for item in found]}
        )
    return [{"segment": segment, "lists": lists} for segment, lists in groups.items()]


def _example(item: Example, size: float) -> dict[str, Any]:
    row = item.row
    return {
        "credit": number_text(item.credit, size, signed=True),
        "where": f"text {item.text}, position {item.position}",
        "facts": f"p {math.exp(row['logprob']):.3f}, rank {row['rank']}, {row['kind']}",
        "tokens": [
            {
                "text": show_blanks(token).replace("␣", " "),
                "title": f"{credit:+.3g}",
                "tint": _tint(credit, size),
                "sign": "negative" if credit < 0 else "positive",
                "is_target": place == item.place,
            }
            for place, (token, credit) in enumerate(item.context)
        ],
    }


def _lenses(summary: CorpusSummary) -> list[str]:
    return list(dict.fromkeys(summary.credits["lens"]))


def _has_heads(summary: CorpusSummary, lens: str) -> bool:
    labels = summary.credits.loc[summary.credits["lens"] == lens, "segment"]
    return any(parse_segment(label).part in ("head", "attn") for label in labels)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.4g}" if math.isnan(low) else f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _tint(value: float, size: float) -> int:
    """Return how strong the tint of a value is, in percent."""
    return 0 if math.isnan(value) else round(_STRONGEST * min(1.0, abs(value) / size))
