"""Summarises scores as a table of accuracies, and writes it."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from experiments.common.markdown import markdown_table
from experiments.demo_model.examples import Example
from experiments.demo_model.scoring import Score


class Row(NamedTuple):
    """Holds one line of the table; the group "all" sums up a family."""

    family: str
    group: str
    accuracy: float
    probability: float
    prompts: int


def accuracy_rows(examples: Sequence[Example], scores: Sequence[Score]) -> list[Row]:
    """Average the scores over every family and every group."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for example, score in zip(examples, scores, strict=True):
        for group in ("all", example.group):
            groups.setdefault((example.family, group), []).append(score)
    return [
        Row(
            family,
            group,
            mean(score.correct for score in found),
            mean(score.probability for score in found),
            len(found),
        )
        for (family, group), found in groups.items()
    ]


def family_rows(rows: Sequence[Row]) -> list[Row]:
    """Shorten the table: the groups of facts, one per relation, are summed up."""
    return [row for row in rows if row.family != "facts" or row.group == "all"]


def as_cells(row: Row) -> tuple[str, ...]:
    """Write a row's values as text."""
    family, group, accuracy, probability, prompts = row
    return family, group, f"{accuracy:.1%}", f"{probability:.3f}", str(prompts)


def accuracy_table(rows: Sequence[Row]) -> str:
    """Write rows as a Markdown table."""
    return markdown_table(Row._fields, [as_cells(row) for row in rows], n_texts=2)


def write_accuracy(rows: Sequence[Row], folder: Path) -> None:
    """Write ACCURACY.md and accuracy.json."""
    text = (
        "# Accuracy of the demo model\n\n"
        "Held-out prompts only; written by `python -m experiments.demo_model.evaluate`.\n"
        "Accuracy: share of prompts for which greedy decoding gives the answer. Probability: mean\n"
        "probability of the answer (greater-than: of all later years together).\n\n"
        f"## Families\n\n{accuracy_table(family_rows(rows))}\n"
        f"## Facts\n\n{accuracy_table([row for row in rows if row.family == 'facts'])}"
    )
    (folder / "ACCURACY.md").write_text(text, encoding="utf-8")
    records = [row._asdict() for row in rows]
    (folder / "accuracy.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
