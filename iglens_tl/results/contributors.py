"""Rank the components that a target's value comes from, and sum credits up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from iglens_tl.results.data import LensData, TopTokens
from iglens_tl.results.frames import TARGET_COLUMNS
from iglens_tl.results.segments import Segment, head_label, parse_segment
from iglens_tl.results.targets import find_target

OTHERS = "others"
"""The name of the segment in the row that sums up all further components."""

Data = TypeVar("Data", bound=LensData)


def contributors_frame(
    data: LensData, *, top: int = 20, target: int | str | None = None
) -> pd.DataFrame:
    """Return the components with the largest |credit|, and all others in one row.

    Args:
        data: A result of an additive lens.
        top: How many components each target has; of equal credits the lower one comes first.
        target: Which target, by row number or token; by default all of them.

    Returns:
        For every target one row per component, largest |credit| first: what names the target,
        `rank` from 1, `segment`, and of what the segment is: `layer`, `part`, `head`, `neuron`,
        `direction`, `source` (the position that a head read) and `source_token`. Then `credit`, in
        the result's unit, `share`, its part of Σ|credit|, and `count`, the number of components in
        the row. The last row, "others", has the rest of the credit and of the shares, so that both
        columns add up to those of all components.

    Raises:
        ValueError: For a lens that is not additive, `top` below 1, an unknown or ambiguous target,
            or a segment whose label is unknown.
    """
    check_additive(data)
    check_top(top)
    rows = range(len(data.targets)) if target is None else [find_target(data, target)]
    segments = [parse_segment(label) for label in data.segments]
    records = [record for row in rows for record in _records(data, segments, row, top)]
    whole = dict.fromkeys(("rank", "layer", "head", "neuron", "direction", "source"), "Int64")
    columns = [*TARGET_COLUMNS, "rank", "segment", "layer", "part", "head", "neuron", "direction"]
    columns += ["source", "source_token", "credit", "share", "count"]
    return pd.DataFrame(records, columns=columns).astype(whole)


def largest(
    credits: Float[np.ndarray, " segment"], top: int | None
) -> tuple[Int[np.ndarray, " largest"], Int[np.ndarray, " others"]]:
    """Return the segments of largest |credit|, largest first, and the others in model order."""
    order = np.argsort(-np.abs(credits), kind="stable")
    return order[:top], np.sort(order[len(order) if top is None else top :])


def count_others(number: int) -> str:
    """Return what the sum of all other components is called, "7 others"."""
    return f"{number} other{'s' if number > 1 else ''}"


def source_token(data: LensData, target: int, segment: Segment) -> str | None:
    """Return the token that a segment of a head's reading was read from; None for any other."""
    tokens = data.texts[data.targets[target].prompt].tokens
    if segment.source is None or segment.source >= len(tokens):
        return None
    return tokens[segment.source]


def sum_by_layer(data: Data) -> Data:
    """Return the result with the credits of each layer's components summed.

    Token and positional embedding become one segment, "embed". What is known of the end of a
    segment, as levels and ranks, is that of the layer's end.

    Raises:
        ValueError: For a lens that is not additive, or a segment whose label is unknown.
    """
    return _coarsen(data, lambda segment: segment.layer_label)


def sum_by_head(data: Data) -> Data:
    """Return the result with the credits of each head's sources summed.

    Raises:
        ValueError: For a result without sources, or a segment whose label is unknown.
    """
    check_has(data, "source", 'components(…, by="head_source")')
    return _coarsen(data, _head_of)


def check_additive(data: LensData) -> None:
    """Raise ValueError for a lens whose values do not add up."""
    if not data.additive:
        raise ValueError(f"{data.lens} is not additive, so its values do not add up to a total")


def check_top(top: int | None) -> None:
    """Raise ValueError for a number of components below 1."""
    if top is not None and top < 1:
        raise ValueError(f"top is the number of components to name, at least 1, got {top}")


def check_has(data: LensData, part: str, remedy: str) -> None:
    """Raise ValueError for a result without segments of a kind, saying what gives some."""
    if not any(parse_segment(label).part == part for label in data.segments):
        raise ValueError(f"this result of {data.lens} has no {part} segments; use {remedy}")


def _records(
    data: LensData, segments: list[Segment], row: int, top: int
) -> list[dict[str, object]]:
    credits = data.values[row]
    named, others = largest(credits, top)
    total = max(float(np.abs(credits).sum()), np.finfo(float).tiny)
    target = {name: getattr(data.targets[row], name) for name in TARGET_COLUMNS}
    records: list[dict[str, object]] = [
        {
            **target,
            "rank": rank,
            "segment": segments[place].label,
            "layer": segments[place].layer,
            "part": segments[place].part,
            "head": segments[place].head,
            "neuron": segments[place].neuron,
            "direction": segments[place].direction,
            "source": segments[place].source,
            "source_token": source_token(data, row, segments[place]),
            "credit": credits[place],
            "share": abs(credits[place]) / total,
            "count": 1,
        }
        for rank, place in enumerate(named, start=1)
    ]
    if len(others):
        sums = {"credit": credits[others].sum(), "share": np.abs(credits[others]).sum() / total}
        records.append({**target, "segment": OTHERS, **sums, "count": len(others)})
    return records


def _head_of(segment: Segment) -> str:
    if segment.part != "source":
        return segment.label
    assert segment.layer is not None and segment.head is not None
    return head_label(segment.layer, segment.head)


def _coarsen(data: Data, label_of: Callable[[Segment], str]) -> Data:
    """Sum the credits of neighbouring segments that have one coarser label."""
    check_additive(data)
    coarse = [label_of(parse_segment(label)) for label in data.segments]
    groups = [(label, len(list(members))) for label, members in groupby(coarse)]
    labels = [label for label, _ in groups]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"the segments of {twice} do not stand side by side")
    ends = np.cumsum([size for _, size in groups])
    starts, last = np.concatenate([[0], ends[:-1]]), ends - 1
    top = data.top
    return replace(
        data,
        segments=tuple(labels),
        values=np.add.reduceat(data.values, starts, axis=1),
        levels=data.levels[:, last],
        ranks=None if data.ranks is None else data.ranks[:, last],
        top=top and TopTokens(top.ids[:, last], top.probs[:, last], top.tokens),
        statistics={name: numbers[:, last] for name, numbers in data.statistics.items()},
    )
