"""The experiment's tables as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from experiments.causal_agreement import measures as m
from experiments.causal_agreement.comparison import WITHOUT_FIRST
from experiments.causal_agreement.study import (
    CONDITIONS,
    LAYERS,
    NULL_CREDITS,
    NULL_EFFECTS,
    RANDOM_CREDITS,
    RANDOM_MODEL,
    RANDOM_TOKEN,
    TRAINED,
)
from experiments.causal_agreement.summary import ALL, select
from experiments.common.items import Item
from experiments.common.markdown import markdown_table
from iglens_tl.evaluation.agreement import SKIP_CURVES
from iglens_tl.results.agreement import SHUFFLED

SHOWN = (
    m.IG_LENS,
    "IG-Lens, log p",
    "IG-Lens, logit",
    "reverse order, p",
    "straight line, p",
    "Shapley, frozen, p",
    "Shapley, skip, p",
    "tuned lens differences, p",
    m.DLA,
    "layer conductance, last position",
    "layer conductance, what layers write",
    "layer integrated gradients",
    "update norm",
)
"""The credits of the tables that cannot show all."""

EFFECTS = tuple(measure.name for measure in m.EFFECTS)
_MAIN_EFFECTS = (m.SKIP, m.SKIP_LAST, m.RESAMPLE)
_SAME_UNIT = ("spearman", "pearson", "sign_agreement", "routing_gap", "calibration_slope")
_METRICS = (
    "spearman",
    "kendall",
    "pearson",
    "sign_agreement",
    "top_1_overlap",
    "top_3_overlap",
    "top_5_overlap",
    "ndcg",
    "routing_gap",
    "calibration_slope",
)
_AREAS = (
    "share_of_oracle",
    "area_between",
    "deletion_area",
    "insertion_area",
    "comprehensiveness",
    "sufficiency",
)
_PROFILES = (m.IG_LENS, m.DLA, m.SKIP, m.SKIP_LAST, m.MEAN, m.RESAMPLE, m.DENOISING)
_LAYERS = (LAYERS, LAYERS + WITHOUT_FIRST)

_HEADER = """# Credits of layers against what happens without the layers

Written by `python -m experiments.causal_agreement.show`; explained in [README.md](README.md). A
cell is the mean over items with its 95 % bootstrap interval over prompts. "all" are all families
but the control of wrong answers. "–" is a pair that is not measured, or a number that is undefined
for all items.
"""


def tables_page(
    items: Sequence[Item], notes: Sequence[str], table: pd.DataFrame, means: pd.DataFrame
) -> str:
    """Return all tables as one page.

    Args:
        items: The items.
        notes: What is missing.
        table: What `summarise` returned.
        means: What `mean_changes` returned.
    """
    of_all = select(table, family=ALL, condition=TRAINED)
    return "\n".join(
        [
            _HEADER,
            "## The items\n",
            _items(items),
            *(f"- {note}\n" for note in notes),
            *_rank_correlations(of_all),
            *_other_metrics(of_all),
            *_other_units(of_all),
            *_families(table),
            *_curves(of_all),
            *_nulls(table),
            *_finer_segments(of_all),
            *_profiles(means),
        ]
    )


def cell(mean: Any, low: Any, high: Any) -> str:
    """Return a mean with its interval in few characters."""
    if pd.isna(mean):
        return "–"
    if pd.isna(low):
        return f"{mean:.2f}"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def grid(
    table: pd.DataFrame,
    rows: str,
    columns: str,
    *,
    corner: str = "",
    form: Callable[..., str] = cell,
) -> str:
    """Return a table of means by the values of two columns, in the order in which they occur.

    Args:
        table: One row for each cell at most.
        rows: The column that names the rows.
        columns: The column that names the columns.
        corner: What stands above the names of the rows.
        form: Writes mean, low and high.
    """
    names = list(dict.fromkeys(table[columns]))
    cells = {
        (row, column): form(mean, low, high)
        for row, column, mean, low, high in table[
            [rows, columns, "mean", "low", "high"]
        ].itertuples(index=False)
    }
    lines = [
        [row, *(cells.get((row, name), "–") for name in names)]
        for row in dict.fromkeys(table[rows])
    ]
    return markdown_table([corner, *names], lines)


def _items(items: Sequence[Item]) -> str:
    rows = []
    for family in dict.fromkeys(item.family for item in items):
        own = [item for item in items if item.family == family]
        mean = sum(item.p for item in own) / len(own)
        example = f"{own[0].prompt} →{own[0].answer}"
        rows.append([family, str(len(own)), f"{mean:.3f}", example])
    return markdown_table(["family", "items", "mean p of the answer", "for example"], rows)


def _rank_correlations(of_all: pd.DataFrame) -> list[str]:
    parts = ["## Spearman's rank correlation of credits and effects\n"]
    for segments in _LAYERS:
        rows = select(of_all, segments=segments, effects=EFFECTS, metric="spearman")
        counts = rows.drop_duplicates("effects").set_index("effects")["items"]
        of = ", ".join(f"{name} {count}" for name, count in counts.items())
        parts += [
            f"### {segments}\n",
            f"Items: {of}.\n",
            grid(rows, "credits", "effects", corner="credits"),
        ]
    return parts


def _other_metrics(of_all: pd.DataFrame) -> list[str]:
    parts = ["## All metrics, against effects on p\n", "Perfect is 1, for the routing gap 0.\n"]
    for effect in _MAIN_EFFECTS:
        for segments in _LAYERS:
            names = (*SHOWN, m.IG_LENS + SHUFFLED)
            rows = select(of_all, segments=segments, effects=effect, credits=names, metric=_METRICS)
            parts += [f"### {effect}: {segments}\n", grid(rows, "credits", "metric")]
    return parts


def _other_units(of_all: pd.DataFrame) -> list[str]:
    parts = ["## Credits of log p and of the logit against effects in the same unit\n"]
    for value in ("logprob", "logit"):
        effects = [
            e.name for e in m.EFFECTS_OF_OTHER_VALUES if e.name.endswith(f"({m.VALUES[value]})")
        ]
        for effect in effects:
            for segments in _LAYERS:
                rows = select(of_all, segments=segments, effects=effect, metric=_SAME_UNIT)
                if len(rows):
                    parts += [f"### {effect}: {segments}\n", grid(rows, "credits", "metric")]
    return parts


def _families(table: pd.DataFrame) -> list[str]:
    parts = ["## Spearman's rank correlation by family\n", "`wrong` is the control.\n"]
    for effect in (*_MAIN_EFFECTS, m.DENOISING, m.NOISING):
        segments = LAYERS + WITHOUT_FIRST
        rows = select(
            table,
            condition=TRAINED,
            segments=segments,
            effects=effect,
            credits=SHOWN,
            metric="spearman",
        )
        if len(rows):
            parts += [f"### {effect}: {segments}\n", grid(rows, "credits", "family")]
    return parts


def _curves(of_all: pd.DataFrame) -> list[str]:
    rows = select(of_all, effects=SKIP_CURVES, metric=_AREAS)
    rows = rows.sort_values("metric", key=lambda names: names.map(_AREAS.index), kind="stable")
    return [
        "## Skipping layers in the order of their credits\n",
        "Good orders have a small deletion area and a large insertion area, hence a large area "
        "between them, of which the share of the oracle is what the order of single skip effects "
        "has. All read p.\n",
        grid(rows, "credits", "metric", corner="order"),
    ]


def _nulls(table: pd.DataFrame) -> list[str]:
    parts = [
        "## Nulls\n",
        "Spearman's rank correlation, all families. "
        + " ".join(f"*{name}*: {meaning}." for name, meaning in CONDITIONS.items())
        + f" *{SHUFFLED.strip(', ')}*: the layers of {m.IG_LENS} permuted.\n",
    ]
    of_all = select(table, family=ALL, metric="spearman")
    for effect in NULL_EFFECTS:
        for segments in _LAYERS:
            rows = select(
                of_all,
                segments=segments,
                effects=effect,
                credits=(*NULL_CREDITS, m.IG_LENS + SHUFFLED),
                condition=(TRAINED, RANDOM_TOKEN, RANDOM_MODEL, RANDOM_CREDITS),
            )
            parts += [f"### {effect}: {segments}\n", grid(rows, "credits", "condition")]
    return parts


def _finer_segments(of_all: pd.DataFrame) -> list[str]:
    parts = ["## Sublayers and heads\n", "Spearman's rank correlation.\n"]
    for kind in ("sublayers", "heads"):
        for segments in (kind, kind + WITHOUT_FIRST):
            rows = select(of_all, segments=segments, metric="spearman")
            if len(rows):
                parts += [f"### {segments}\n", grid(rows, "credits", "effects")]
    return parts


def _profiles(means: pd.DataFrame) -> list[str]:
    parts = ["## Means by layer\n"]
    shown = select(means, condition=TRAINED, kind=LAYERS, measure=_PROFILES)
    for family in dict.fromkeys(shown["family"]):
        rows = select(shown, family=family)
        text = grid(rows, "measure", "segment", form=_mean_alone)
        parts += [f"### {family}\n", text]
    return parts


def _mean_alone(mean: float, low: float, high: float) -> str:
    del low, high
    return f"{mean:.3f}"
