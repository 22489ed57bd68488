"""The study's tables as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from experiments.common.markdown import markdown_table
from iglens_tl.corpus import CorpusSummary
from iglens_tl.results.corpus import ALL
from iglens_tl.results.segments import parse_segment

_HEADER = """# What layers do over a corpus

Written by `python -m experiments.corpus_study.show`; explained in [README.md](README.md).
Credits are of the probability p; brackets are 95 % bootstrap intervals over texts.
"""
_HEADS = 8


def tables_page(found: Mapping[str, CorpusSummary]) -> str:
    """Return all tables as one page."""
    return "\n".join([_HEADER, *(part for item in found.items() for part in _model(*item))])


def _model(name: str, summary: CorpusSummary) -> list[str]:
    facts = summary.facts
    largest = summary.errors.set_index("lens")["largest"]
    parts = [
        f"## {name}\n",
        f"{facts['targets']:,} targets of {facts['texts'] - facts['rejected']:,} texts. Largest "
        f"completeness error {largest['ig_lens']:.0e}, with heads {largest['heads']:.0e}.\n",
        "### Every layer\n",
        _layers(summary),
    ]
    for by, label in summary.groupings.items():
        if by == ALL:
            continue
        parts += [
            f"### By {label}\n",
            "Mean credit:\n",
            _grid(summary, "mean", by, "+.3f"),
            "Share of |credit|:\n",
            _grid(summary, "share", by, ".3f"),
            "Share of onsets:\n",
            _grid(summary, "onset", by, ".3f"),
        ]
    return [*parts, "### Heads and MLPs\n", _heads(summary)]


def _layers(summary: CorpusSummary) -> str:
    rows = summary.credits.query("lens == 'ig_lens' and grouping == 'all'")
    onsets = summary.onsets.query("grouping == 'all'").set_index("segment")
    names = ["segment", "mean credit", "median", "share of |credit|", "lowers p for"]
    cells = [
        [
            row["segment"],
            _with_ends(row, "mean", "+.4f"),
            _with_ends(row, "median", "+.1e"),
            _with_ends(row, "share", ".3f"),
            _with_ends(row, "negative", ".3f"),
            f"{row['destroyed']:.4f}",
            _with_ends(onsets.loc[row["segment"]].to_dict(), "share", ".3f"),
        ]
        for row in rows.to_dict("records")
    ]
    return markdown_table([*names, "takes away", "onsets"], cells, n_texts=1)


def _grid(summary: CorpusSummary, number: str, by: str, form: str) -> str:
    frame, column = (
        (summary.onsets, "share")
        if number == "onset"
        else (summary.credits.query("lens == 'ig_lens'"), number)
    )
    rows = frame.loc[frame["grouping"] == by]
    segments = list(dict.fromkeys(rows["segment"]))
    cells = []
    for group, of_group in rows.groupby("group", sort=False):
        targets = f"{of_group['targets'].iloc[0]:,}"
        numbers = [_with_ends(row, column, form) for row in of_group.to_dict("records")]
        cells.append([str(group), targets, *numbers])
    return markdown_table(["", "targets", *segments], cells, n_texts=1)


def _heads(summary: CorpusSummary) -> str:
    rows = summary.credits.query("lens == 'heads'")
    is_head = rows["segment"].map(lambda label: parse_segment(label).part == "head")
    heads = rows.loc[is_head]
    together = heads["share"].sum()
    chosen = pd.concat(
        [heads.nlargest(_HEADS, "mean"), heads.nsmallest(_HEADS, "mean")]
    ).drop_duplicates("segment")
    names = ["head", "mean credit", "share of |credit|", "lowers p for"]
    cells = [
        [
            row["segment"],
            _with_ends(row, "mean", "+.4f"),
            _with_ends(row, "share", ".4f"),
            _with_ends(row, "negative", ".3f"),
        ]
        for row in chosen.to_dict("records")
    ]
    mlps = sum(
        row["share"] for row in rows.to_dict("records") if str(row["segment"]).endswith(".mlp")
    )
    return (
        f"Heads have {together:.3f} of all |credit|, MLPs {mlps:.3f}. The heads with the largest "
        f"and the smallest mean credit:\n\n{markdown_table(names, cells, n_texts=1)}"
    )


def _with_ends(row: Mapping[str, float], name: str, form: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = f"{row[name]:{form}}"
    return value if pd.isna(low) else f"{value} [{low:{form}}, {high:{form}}]"
