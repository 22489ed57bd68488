"""What a corpus answers: a summary of what every layer does, and examples in their texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

ALL = "all"
"""The grouping that has all targets in one group."""


@dataclass(frozen=True, eq=False)
class CorpusSummary:
    """What every layer does over a corpus.

    Numbers come with the ends of a 95 % bootstrap interval over texts, `<number>_low` and
    `<number>_high`; they are missing where only one text has a part in a group.

    Attributes:
        facts: What the corpus is of, and how much of it there is.
        credits: A row for each lens, grouping, group and segment: `targets`; `mean` and `median` of
            the credits, or of the levels of a lens that has no credits; and for credits `share`,
            the segment's part of all |credit|, `negative`, the share of targets whose credit is
            below 0, and `destroyed`, the mean of what it takes away (of -credit where that is
            positive, else of 0). Only the first lens has groups.
        onsets: A row for each grouping, group and segment: `targets`, and the `share` of them
            whose onset is there.
        errors: A row for each additive lens: quantiles of its |completeness error|, and the
            largest one.
        median_targets: Of how many targets medians and quantiles of errors are: all, or those of a
            random choice of texts where there are too many.
        groupings: What the groups of each grouping are of, by name.
    """

    facts: Mapping[str, Any]
    credits: pd.DataFrame
    onsets: pd.DataFrame
    errors: pd.DataFrame
    median_targets: int
    groupings: Mapping[str, str]

    def to_frame(
        self, number: str = "mean", *, by: str = ALL, lens: str | None = None
    ) -> pd.DataFrame:
        """Return one number as a table: a row for each group, a column for each segment.

        Args:
            number: A column of `credits`, or "onset" for the shares of onsets.
            by: A grouping.
            lens: A lens; None for the first.

        Raises:
            ValueError: For a number, grouping or lens that the summary does not have.
        """
        frame, column = (self.onsets, "share") if number == "onset" else (self.credits, number)
        if column not in frame or column in ("lens", "grouping", "group", "segment"):
            known = [name for name in self.credits if name not in ("lens", "grouping", "group")]
            raise ValueError(f"there is no number {number!r}; choose onset, {', '.join(known[1:])}")
        lens = lens or next(iter(self.credits["lens"]))
        rows = frame.loc[frame["grouping"] == by]
        if number != "onset":
            rows = rows.loc[rows["lens"] == lens]
        if rows.empty:
            there = ", ".join(dict.fromkeys(frame["grouping"]))
            raise ValueError(f"lens {lens!r} is not divided by {by!r}; there is {there}")
        table = rows.pivot(index="group", columns="segment", values=column)
        order = dict.fromkeys(rows["group"]), dict.fromkeys(rows["segment"])
        return table.reindex(index=list(order[0]), columns=list(order[1]))

    def write_html(self, path: str | Path, *, examples: Sequence[Examples] = ()) -> Path:
        """Write the summary as one HTML page that needs no network.

        Args:
            path: Where the page goes.
            examples: What `Corpus.examples` found, to be shown with it.

        Raises:
            ValueError: If the path cannot be written.
        """
        from iglens_tl.views.corpus import write_corpus_page

        return write_corpus_page(self, path, examples=examples)

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import corpus_table

        return corpus_table(self)


@dataclass(frozen=True)
class Example:
    """A target in its text.

    Attributes:
        text: The text's number.
        position: The position that predicts the target.
        credit: What the part of the model gets of the target.
        row: Its other columns, without lists: final, rank, kind, the user's columns, …
        context: The tokens around it, each with its own credit.
        place: Where the target stands among them.
    """

    text: int
    position: int
    credit: float
    row: Mapping[str, Any]
    context: tuple[tuple[str, float], ...]
    place: int

    @property
    def token(self) -> str:
        """The target's token."""
        return self.context[self.place][0]


@dataclass(frozen=True)
class Examples:
    """Targets with the largest or the smallest credits of a part of the model.

    Attributes:
        segment: The part of the model.
        by: "largest" or "smallest".
        unit: The unit of credits.
        items: The targets, the most extreme first.
    """

    segment: str
    by: str
    unit: str
    items: tuple[Example, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.items)

    def __iter__(self) -> Iterator[Example]:
        """Yield them in order."""
        return iter(self.items)

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each target, with the text before and after it."""
        rows = []
        for item in self.items:
            tokens = [token for token, _ in item.context]
            rows.append(
                {
                    "before": "".join(tokens[: item.place]),
                    "token": item.token,
                    "after": "".join(tokens[item.place + 1 :]),
                    "credit": item.credit,
                    "text": item.text,
                    "position": item.position,
                    **item.row,
                }
            )
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import examples_table

        return examples_table(self)
