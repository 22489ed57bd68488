"""Show the results of lenses and interventions in notebooks; `figure()` draws them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results.contributors import sum_by_layer
from iglens_tl.results.data import LensData, Provenance
from iglens_tl.results.folders import hide_folders
from iglens_tl.results.frames import summary_columns, wide_frame
from iglens_tl.results.patching import PatchingResult
from iglens_tl.results.segments import layer_label
from iglens_tl.views.notebook.cells import (
    Cell,
    Row,
    Table,
    level_tint,
    numbered,
    render_tables,
    signed_tint,
)
from iglens_tl.views.text import show_blanks
from iglens_tl.views.validation import table_blocks

_MAX_ROWS = 60
_MAX_ROWS_OF_EACH = 12
_MAX_SEGMENTS = 80
_MAX_NUMBERED = 40
_MAX_TARGETS_OF_PATHS = 4
_MAX_TOKEN = 24
_SPARK_WIDTH, _SPARK_HEIGHT, _SPARK_MARGIN = 120, 30, 3


def lens_table(data: LensData) -> str:
    """Return a result as HTML: a row for every target, its values coloured red to blue."""
    shown, notes = _few_segments(data)
    caption = f"{data.name} in {data.unit}, {data.provenance.model_name}"
    more = len(data.targets) - _MAX_ROWS
    if more > 0:
        caption += f" (first {_MAX_ROWS} rows; {more} more in to_frame())"
    frame = wide_frame(shown).iloc[:_MAX_ROWS]
    summary = summary_columns(shown)
    tables = [_lens_rows(shown, _MAX_ROWS, frame[list(summary)])]
    return render_tables(caption, tables, notes)


def comparison_table(results: Sequence[LensData], skipped: Mapping[str, str]) -> str:
    """Return the results of several lenses as HTML: a table for each."""
    first = results[0]
    tables, notes = [], []
    for data in results:
        shown, missing = _few_segments(data)
        tables.append(
            _lens_rows(shown, _MAX_ROWS_OF_EACH, name=f"{data.name}: {data.kind}, {data.unit}")
        )
        notes += [f"{data.name}: {note}" for note in missing]
    if len(first.targets) > _MAX_ROWS_OF_EACH:
        notes.append(
            f"first {_MAX_ROWS_OF_EACH} of {len(first.targets)} targets; all are in to_frame()"
        )
    notes += [f"{lens} is left out: {hide_folders(why)}" for lens, why in skipped.items()]
    return render_tables(f"{len(results)} lenses, {first.provenance.model_name}", tables, notes)


def patching_table(data: PatchingResult) -> str:
    """Return activation patching as HTML: layers downwards, what a patch recovers as tint."""
    what = "recovered" if data.direction == "denoising" else "lost"
    limit = max(1.0, float(np.abs(data.recovered).max()))
    tokens = [
        _short(clean) if same else f"{_short(clean)} | {_short(corrupted)}"
        for clean, corrupted, same in zip(
            data.clean.tokens,
            data.corrupted.tokens,
            [*map(int.__eq__, data.clean.ids, data.corrupted.ids)],
            strict=True,
        )
    ]
    rows = [
        Row(
            layer_label(layer),
            [
                Cell(
                    text=f"{part:+.2f}",
                    tint=signed_tint(part, limit),
                    title=f"{layer_label(layer)}, {token}: {value:.6g} {data.unit}",
                )
                for token, part, value in zip(tokens, recovered, values, strict=True)
            ],
        )
        for layer, (recovered, values) in enumerate(
            zip(data.recovered.tolist(), data.values.tolist(), strict=True)
        )
    ]
    caption = (
        f"{data.direction} at {data.site}, part of {show_blanks(data.target.token)} that is "
        f"{what}; {data.unit} {data.clean_value:.3g} clean, {data.corrupted_value:.3g} corrupted, "
        f"{data.provenance.model_name}"
    )
    return render_tables(caption, [Table("", ["layer", *tokens], rows)], [])


def skip_curves_table(
    curves: Mapping[str, Mapping[str, Float[np.ndarray, "target step"]]],
    areas: pd.DataFrame,
    unit: str,
) -> str:
    """Return skip curves as HTML: mean curves and areas of every order.

    Args:
        curves: By kind of curve and by order.
        areas: What `SkipCurves.areas` returns.
        unit: The unit of the values.
    """
    means = {
        kind: {order: values.mean(0) for order, values in of_kind.items()}
        for kind, of_kind in curves.items()
    }
    every = np.concatenate([values for of_kind in means.values() for values in of_kind.values()])
    low, high = float(every.min()), float(every.max())
    columns = [name for name in areas.columns if pd.api.types.is_float_dtype(areas[name].dtype)]
    rows = []
    for order in next(iter(curves.values())):
        lines = [
            Cell(
                line=_spark(of_kind[order], low, high),
                title=f"{kind}, {order}: from {low:.4g} (below) to {high:.4g} (above)",
            )
            for kind, of_kind in means.items()
        ]
        of_order = areas.loc[areas["order"] == order, columns].mean().tolist()
        rows.append(Row(order, [*lines, *(Cell(_number(number)) for number in of_order)]))
    n_targets = len(next(iter(next(iter(curves.values())).values())))
    caption = (
        f"layers skipped in the order of their credits, in {unit}, mean over {n_targets} targets"
    )
    return render_tables(caption, [Table("", ["order", *means, *columns], rows)], [])


def validation_table(table: pd.DataFrame, provenance: Provenance, nulls: tuple[str, ...]) -> str:
    """Return the agreement of credits and interventions as HTML: a table for each intervention.

    Args:
        table: What `validate` returns as `table`.
        provenance: Where it comes from.
        nulls: Endings of the names of credits that stand for chance.
    """
    tables = []
    for block in table_blocks(table, nulls):
        for effects, of_effects in block["rows"].items():
            rows = [
                Row(
                    f"· {row['name']}" if row["is_null"] else row["name"],
                    [
                        Cell(f"{cell['mean']} {cell['interval']}".strip(), title=cell["note"])
                        for cell in row["cells"]
                    ],
                )
                for row in of_effects
            ]
            tables.append(Table(str(effects), ["credits", *block["metrics"]], rows))
    items = int(table["items"].max())
    caption = f"agreement with interventions, {items} targets, {provenance.model_name}"
    return render_tables(
        caption, tables, ["means with 95 % intervals over prompts; · is what chance gives"]
    )


def path_sensitivity_table(frame: pd.DataFrame, unit: str, provenance: Provenance) -> str:
    """Return credits under several orders as HTML: a table for each of the first targets.

    Args:
        frame: What `PathSensitivity.to_frame` returns.
        unit: The unit of the credits.
        provenance: Where they come from.
    """
    orders = [name for name in frame.columns if name not in ("min", "max", "range")]
    limit = max(float(np.nanmax(np.abs(frame[orders].to_numpy()))), 1e-12)
    index = frame.index.to_frame(index=False)
    # One token may be measured at several positions.
    groups = index.groupby(list(index.columns[:-1]), sort=False).indices
    tables = []
    for places in list(groups.values())[:_MAX_TARGETS_OF_PATHS]:
        of_target, named = frame.iloc[places], index.iloc[places]
        rows = [Row(order, numbered(of_target[order].to_numpy(), limit)) for order in orders]
        ranges = [Cell(f"{number:.4f}") for number in of_target["range"].tolist()]
        token, segments = str(named["token"].iloc[0]), named["segment"].tolist()
        tables.append(
            Table(show_blanks(token), ["order", *segments], [*rows, Row("range", ranges)])
        )
    more = len(groups) - len(tables)
    notes = [f"{more} more targets are in to_frame()"] if more else []
    caption = f"credits under {len(orders)} orders in {unit}, {provenance.model_name}"
    return render_tables(caption, tables, notes)


def _few_segments(data: LensData) -> tuple[LensData, list[str]]:
    """Return a result with as many columns as a table can show, and what it leaves out."""
    if len(data.segments) <= _MAX_SEGMENTS or not data.additive:
        return data, []
    note = f"{len(data.segments)} segments, summed by layer; contributors() names the largest"
    return sum_by_layer(data), [note]


def _lens_rows(
    data: LensData, n_rows: int, summary: pd.DataFrame | None = None, *, name: str = ""
) -> Table:
    """Return a row for each of the first targets: its values, then columns of a summary."""
    values = data.values[:n_rows, :_MAX_SEGMENTS]
    segments = data.segments[:_MAX_SEGMENTS]
    if data.kind == "level":
        low, high = (0.0, 1.0) if data.unit == "probability" else (values.min(), values.max())
        tints = [[level_tint(value, low, high) for value in row] for row in values.tolist()]
    else:
        limit = max(float(np.abs(data.values).max()), 1e-12)
        tints = [[signed_tint(value, limit) for value in row] for row in values.tolist()]
    is_numbered = len(segments) <= _MAX_NUMBERED
    form = ".4f" if data.kind == "level" else "+.4f"
    rows = []
    for index, (target, row) in enumerate(
        zip(data.targets[:n_rows], values.tolist(), strict=False)
    ):
        cells = [
            Cell(
                text=f"{value:{form}}" if is_numbered else " ",
                tint=tint,
                title="" if is_numbered else f"{segment}: {value:{form}}",
            )
            for segment, value, tint in zip(segments, row, tints[index], strict=True)
        ]
        if summary is not None:
            cells += [
                Cell(entry if isinstance(entry, str) else f"{entry:.4g}")
                for entry in summary.iloc[index].tolist()
            ]
        title = f"id {target.token_id}, read at position {target.position}"
        rows.append(Row(show_blanks(target.token), cells, title))
    more = [f"+ {len(data.segments) - len(segments)}"] * (len(segments) < len(data.segments))
    labels = list(segments) if is_numbered else _sparse(segments)
    columns = [] if summary is None else list(summary.columns)
    return Table(name, ["token", *labels, *columns, *more], rows)


def _sparse(segments: Sequence[str]) -> list[str]:
    """Return the first label and every tenth; the cells below are too narrow for all."""
    return [label if not place % 10 else "" for place, label in enumerate(segments)]


def _number(number: float) -> str:
    """Return a mean; what cancels exactly is 0 but for rounding."""
    return "–" if np.isnan(number) else f"{round(number, 9) + 0.0:.4g}"


def _short(token: str) -> str:
    return show_blanks(token if len(token) <= _MAX_TOKEN else token[: _MAX_TOKEN - 1] + "…")


def _spark(values: Float[np.ndarray, " step"], low: float, high: float) -> str:
    """Return a curve as the points of a line in a small picture."""
    x = np.linspace(_SPARK_MARGIN, _SPARK_WIDTH - _SPARK_MARGIN, len(values))
    share = (values - low) / (high - low or 1)
    y = _SPARK_HEIGHT - _SPARK_MARGIN - share * (_SPARK_HEIGHT - 2 * _SPARK_MARGIN)
    return " ".join(f"{left:.1f},{down:.1f}" for left, down in zip(x, y, strict=True))
