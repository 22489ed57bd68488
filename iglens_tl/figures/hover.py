"""The one block of text that every figure shows for a cell."""

from __future__ import annotations

from iglens_tl.figures.text import show_token
from iglens_tl.results.data import LensData


def hover_text(data: LensData, target: int, segment: int) -> str:
    """Describe one target at one segment: where, what, how much, and what else was likely."""
    named = data.targets[target]
    change = f"{data.changes[target, segment]:+.6f} {data.unit}"
    lines = [
        f"<b>{show_token(named.token)}</b>  (id {named.token_id})",
        f"read at position {named.position}",
        f"segment <b>{data.segments[segment]}</b> · {data.lens}",
        f"{'credit' if data.additive else 'change'} {change}",
        f"level after it {data.levels[target, segment]:.6f}",
    ]
    lines += [f"{name} {numbers[target, segment]:.4f}" for name, numbers in data.statistics.items()]
    if data.ranks is not None:
        lines.append(f"rank after it {data.ranks[target, segment]}")
    if data.top is not None:
        lines.append("most probable after it:")
        pairs = zip(data.top.ids[target, segment], data.top.probs[target, segment], strict=True)
        lines += [f"  {prob:.4f}  {show_token(data.top.tokens[int(i)])}" for i, prob in pairs]
    return "<br>".join(lines)
