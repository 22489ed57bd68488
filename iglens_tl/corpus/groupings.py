"""Ways to divide the targets of a corpus into groups, as SQL computes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iglens_tl.corpus.kinds import KINDS
from iglens_tl.corpus.sql import literal, quoted

if TYPE_CHECKING:
    from iglens_tl.corpus.corpus import Corpus

GROUPINGS = {
    "kind": "kind of token",
    "frequency": "occurrences of the token per million targets of this corpus",
    "position": "position that predicts the token",
    "probability": "final probability of the token",
    "surprise": "surprise of the model at the token, in bits",
}
"""What the groups are of; a user's column is a grouping, too."""

_FREQUENCIES = (10, 100, 1_000, 10_000)
_PROBABILITIES = (0.01, 0.1, 0.5, 0.9, 0.99)
_BITS = (0.1, 1, 3, 6, 10)
_MOST_VALUES = 20


@dataclass(frozen=True)
class Grouping:
    """Groups of targets.

    Attributes:
        name: Under what name the grouping is asked for.
        label: What the groups are of.
        groups: The names of the groups, in order.
        expression: SQL for the number of a target's group, from 0, over `targets` joined with
            `frequencies` (`token_id`, `per_million`).
    """

    name: str
    label: str
    groups: tuple[str, ...]
    expression: str


def make_groupings(corpus: Corpus, names: Sequence[str] | None) -> list[Grouping]:
    """Prepare groupings for a corpus, and the table `frequencies` that they may need.

    Args:
        corpus: The corpus.
        names: Names of groupings or of the user's columns; None for all of them.

    Raises:
        ValueError: For a name that is neither.
    """
    known = (*GROUPINGS, *(name for name in corpus.kept if name not in GROUPINGS))
    chosen = known if names is None else tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise ValueError(f"the corpus cannot be divided by {name!r}; choose {', '.join(known)}")
    corpus.connection.execute(
        "CREATE OR REPLACE TEMP TABLE frequencies AS SELECT token_id, "
        "1e6 * count(*) / sum(count(*)) OVER () AS per_million FROM targets GROUP BY token_id"
    )
    return [_grouping(corpus, name) for name in chosen]


def _grouping(corpus: Corpus, name: str) -> Grouping:
    if name == "kind":
        return _by_value(name, GROUPINGS[name], "kind", list(KINDS))
    if name == "frequency":
        ends = [f"{edge:,}" for edge in _FREQUENCIES]
        return _by_range(name, "per_million", _FREQUENCIES, _names_of_ranges(ends))
    if name == "position":
        (last,) = corpus.connection.sql("SELECT max(position) FROM targets").fetchall()[0]
        edges = [2**power for power in range(last.bit_length())]
        ranges = [f"{low} to {2 * low - 1}" if low > 1 else "1" for low in edges]
        return _by_range(name, "position", edges, ["0", *ranges])
    if name == "probability":
        ends = [f"{edge:g}" for edge in _PROBABILITIES]
        return _by_range(name, "exp(logprob)", _PROBABILITIES, _names_of_ranges(ends))
    if name == "surprise":
        ends = [f"{edge:g}" for edge in _BITS]
        return _by_range(name, f"-logprob / {math.log(2)!r}", _BITS, _names_of_ranges(ends))
    return _by_user_column(corpus, name)


def _by_user_column(corpus: Corpus, name: str) -> Grouping:
    column = quoted(name)
    found = corpus.connection.sql(
        f"SELECT {column} FROM targets WHERE {column} IS NOT NULL GROUP BY 1 "
        f"ORDER BY count(*) DESC, 1 LIMIT {_MOST_VALUES}"
    ).fetchall()
    return _by_value(name, name, column, [value for (value,) in found], others="other")


def _by_value(
    name: str, label: str, column: str, values: Sequence[str], others: str | None = None
) -> Grouping:
    cases = " ".join(f"WHEN {literal(value)} THEN {place}" for place, value in enumerate(values))
    groups = (*values, *([] if others is None else [others]))
    return Grouping(name, label, groups, f"CASE {column} {cases} ELSE {len(groups) - 1} END")


def _by_range(
    name: str, quantity: str, edges: Sequence[int | float], groups: Sequence[str]
) -> Grouping:
    cases = " ".join(f"WHEN {quantity} < {edge!r} THEN {place}" for place, edge in enumerate(edges))
    return Grouping(name, GROUPINGS[name], tuple(groups), f"CASE {cases} ELSE {len(edges)} END")


def _names_of_ranges(ends: Sequence[str]) -> list[str]:
    between = [f"{low} to {high}" for low, high in itertools.pairwise(ends)]
    return [f"below {ends[0]}", *between, f"{ends[-1]} and more"]
