"""The table that a notebook shows for a result."""

from __future__ import annotations

import html

import numpy as np

from iglens_tl.results.data import LensData
from iglens_tl.results.frames import summary_columns, wide_frame
from iglens_tl.views.figures.text import show_token

_MAX_ROWS = 60
_CELL = "padding:2px 6px;text-align:right;white-space:pre"


def notebook_table(data: LensData) -> str:
    """Return the wide table as HTML, with values coloured red to blue."""
    frame = wide_frame(data).iloc[:_MAX_ROWS]
    limit = max(float(np.abs(data.values).max()), 1e-12)
    header = ["token", *data.segments, *summary_columns(data)]
    rows = [_row([f"<th style='{_CELL}'>{html.escape(label)}</th>" for label in header])]
    for (_, position, token_id, token), values in frame.iterrows():
        title = f"id {token_id}, read at position {position}"
        cells = [f"<th style='{_CELL}' title='{title}'>{show_token(token)}</th>"]
        cells += [_value_cell(float(values[segment]), limit) for segment in data.segments]
        cells += [_cell(values[column]) for column in summary_columns(data)]
        rows.append(_row(cells))
    caption = f"{data.lens} in {data.unit}, {data.provenance.model.get('name', 'unnamed model')}"
    more = len(data.targets) - _MAX_ROWS
    if more > 0:
        caption += f" (first {_MAX_ROWS} rows; {more} more in to_frame())"
    return (
        f"<div><p>{html.escape(caption)}</p><table style='font-family:monospace;font-size:12px;"
        f"border-collapse:collapse'>{''.join(rows)}</table></div>"
    )


def _row(cells: list[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else f"{value:.4g}"
    return f"<td style='{_CELL}'>{html.escape(text)}</td>"


def _value_cell(value: float, limit: float) -> str:
    red, blue = "178,24,43", "33,102,172"
    tint = f"rgba({blue if value > 0 else red},{min(abs(value) / limit, 1) * 0.7:.2f})"
    return f"<td style='{_CELL};background:{tint}'>{value:+.4f}</td>"
