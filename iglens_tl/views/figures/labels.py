"""Say in every figure the same of a target, a segment and a cell."""

from __future__ import annotations

from collections.abc import Sequence

from iglens_tl.results.contributors import count_others, largest, source_token
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.views.text import shorten, show_label, show_token

_MAX_PARTS = 5
_MAX_LABEL = 14
_MAX_CELL = 8
_MAX_NAMED_COLUMNS = 60
_MAX_CONTEXT = 90


def hover_text(data: LensData, target: int, segment: int) -> str:
    """Describe one target at one segment: where, what, how much, and what else was likely."""
    change = f"{data.changes[target, segment]:+.6f} {data.unit}"
    lines = [
        *_heading(data, target),
        f"segment <b>{show_segment(data, target, segment)}</b> · {data.name}",
        f"{data.kind if data.kind in ('credit', 'effect') else 'change'} {change}",
        f"level{'' if data.kind == 'effect' else ' after it'} {data.levels[target, segment]:.6f}",
    ]
    # The estimated error is one number for all segments of a target, and stands in the tables.
    known = {name: n for name, n in data.statistics.items() if name != "credit_error"}
    lines += [f"{name} {numbers[target, segment]:.4f}" for name, numbers in known.items()]
    if data.ranks is not None:
        lines.append(f"rank after it {data.ranks[target, segment]}")
    if data.top is not None:
        lines.append("most probable after it:")
        pairs = zip(data.top.ids[target, segment], data.top.probs[target, segment], strict=True)
        lines += [f"  {prob:.4f}  {show_token(data.top.tokens[int(i)])}" for i, prob in pairs]
    return "<br>".join(lines)


def sum_hover_text(data: LensData, target: int, name: str, segments: Sequence[int]) -> str:
    """Describe the sum of one target's credits over several segments, and its largest parts."""
    credits = data.values[target, list(segments)]
    parts, others = largest(credits, _MAX_PARTS)
    lines = [
        *_heading(data, target),
        f"<b>{show_label(name)}</b> · {data.name}",
        f"credit {credits.sum():+.6f} {data.unit}, the sum of {len(segments)}:",
        *(f"  {credits[i]:+.6f}  {show_segment(data, target, segments[i])}" for i in parts),
    ]
    if len(others):
        lines.append(f"  {credits[others].sum():+.6f}  {count_others(len(others))}")
    return "<br>".join(lines)


def show_segment(data: LensData, target: int, segment: int) -> str:
    """Return a segment's label as plotly text, with the token that it was read from."""
    label = data.segments[segment]
    token = source_token(data, target, parse_segment(label))
    return (
        show_label(label) if token is None else f"{show_label(label)} {shorten(token, _MAX_LABEL)}"
    )


def column_labels(data: LensData, targets: list[int]) -> list[str]:
    """Return the targets as labels of an axis."""
    return [shorten(data.targets[target].token, _MAX_LABEL) for target in targets]


def top_labels(data: LensData, targets: list[int]) -> list[list[str]]:
    """Return for every segment and target the most probable token, where it is to be named."""
    if data.top is None or len(targets) > _MAX_NAMED_COLUMNS:
        return [[""] * len(targets) for _ in data.segments]
    return [
        [shorten(data.top.tokens[int(data.top.ids[t, s, 0])], _MAX_CELL) for t in targets]
        for s in range(len(data.segments))
    ]


def context_of(data: LensData, target: int) -> str:
    """Return the end of the text that a target continues."""
    named = data.targets[target]
    before = "".join(data.texts[named.prompt].tokens[: named.position + 1])
    return show_token(before if len(before) <= _MAX_CONTEXT else "…" + before[-_MAX_CONTEXT:])


def _heading(data: LensData, target: int) -> list[str]:
    named = data.targets[target]
    return [
        f"<b>{show_token(named.token)}</b>  (id {named.token_id})",
        f"read at position {named.position}",
    ]
