"""The one block of text that every figure shows for a cell."""

from __future__ import annotations

from collections.abc import Sequence

from iglens_tl.results.contributors import count_others, largest, source_token
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.views.figures.text import shorten, show_label, show_token

_MAX_PARTS = 5
_MAX_TOKEN = 14


def hover_text(data: LensData, target: int, segment: int) -> str:
    """Describe one target at one segment: where, what, how much, and what else was likely."""
    change = f"{data.changes[target, segment]:+.6f} {data.unit}"
    lines = [
        *_heading(data, target),
        f"segment <b>{show_segment(data, target, segment)}</b> · {data.lens}",
        f"{data.kind if data.kind in ('credit', 'effect') else 'change'} {change}",
        f"level{'' if data.kind == 'effect' else ' after it'} {data.levels[target, segment]:.6f}",
    ]
    lines += [f"{name} {numbers[target, segment]:.4f}" for name, numbers in data.statistics.items()]
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
        f"<b>{show_label(name)}</b> · {data.lens}",
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
        show_label(label) if token is None else f"{show_label(label)} {shorten(token, _MAX_TOKEN)}"
    )


def _heading(data: LensData, target: int) -> list[str]:
    named = data.targets[target]
    return [
        f"<b>{show_token(named.token)}</b>  (id {named.token_id})",
        f"read at position {named.position}",
    ]
