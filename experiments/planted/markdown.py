"""The scores as a Markdown page."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from experiments.common.markdown import markdown_table
from experiments.planted.models import KINDS
from experiments.planted.study import summarise

TABLES = (
    (
        "writers",
        "mass",
        "Mass on the segments that write the answer",
        "Σ|change| of the true segments / Σ|change| of all blocks; 1 is best.",
    ),
    (
        "necessary",
        "mass",
        "Mass on the segments without which the answer is gone",
        "The same for the other truth; `backup` has no such segment.",
    ),
    (
        "necessary",
        "evenness",
        "Whether all necessary segments are found",
        "The smallest of their masses, times their number: 0 where one of two is missed, 1 where "
        "both have half. With one necessary segment it is the mass.",
    ),
)
"""Question, score, title and meaning of each table."""

_HEADER = """# Where the lenses find what was planted

Written by `python -m experiments.planted.show`; explained in [README.md](README.md). Every cell is
the mean over all models of a kind (every layer or pair of layers, see the README), with the lowest
and highest in brackets where they differ. "silent" is a lens whose changes sum to less than a
twentieth of what there is to explain; its scores would be noise and are left out.
"""


def tables_page(scores: pd.DataFrame) -> str:
    """Return all tables as one page."""
    parts = [_HEADER, "## The models\n", _models(scores)]
    for question, score, title, meaning in TABLES:
        summary = summarise(scores, question, score)
        parts += [f"## {title}\n", f"{meaning}\n", _table(summary, score_cell)]
    parts += [
        "## How often the first segment writes the answer\n",
        "In how many models the segment of largest |change| is one that writes the answer.\n",
        _table(summarise(scores, "writers", "top_is_true"), count_cell),
    ]
    return "\n".join(parts)


def score_cell(mean: float, low: float, high: float, n: int, silent: int) -> str:
    """Return a score with its range in few characters."""
    if silent == n:
        return "silent"
    text = f"{mean:.2f}"
    if f"{low:.2f}" != f"{high:.2f}":
        text += f" [{low:.2f}, {high:.2f}]"
    return f"{text} (silent {silent} of {n})" if silent else text


def count_cell(mean: float, low: float, high: float, n: int, silent: int) -> str:
    """Return of how many models something is true; it is not where the lens is silent."""
    del low, high
    true = 0 if silent == n else round(mean * (n - silent))
    return f"{true} of {n}"


def _models(scores: pd.DataFrame) -> str:
    first = scores.drop_duplicates(["kind", "place", "seed"])
    rows = []
    for kind, p in first.groupby("kind", sort=False)["p"]:
        meaning = KINDS[str(kind)].meaning
        rows.append([str(kind), meaning, str(len(p)), f"{p.min():.3f} to {p.max():.3f}"])
    return markdown_table(["kind", "what is planted", "models", "p of the answer"], rows)


def _table(summary: pd.DataFrame, cell: Callable[..., str]) -> str:
    kinds = [kind for kind in KINDS if kind in set(summary["kind"])]
    rows = []
    for lens in summary["lens"].unique():
        of_lens = summary[summary["lens"] == lens].set_index("kind").loc[kinds]
        numbers = of_lens[["mean", "low", "high", "n", "silent"]]
        rows.append([lens, *(cell(*row) for row in numbers.itertuples(index=False))])
    return markdown_table(["lens", *kinds], rows)
