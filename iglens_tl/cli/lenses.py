"""`iglens lenses`: what each lens measures."""

from __future__ import annotations

import typer

from iglens_tl.cli.options import Format, FormatOption

_COLUMNS = ("name", "label", "measures", "units", "sums_to", "cost")


def lenses(format: FormatOption = Format.table) -> None:
    """Tell what each lens measures, what its numbers sum to and what it costs."""
    from iglens_tl.lenses import LENSES

    rows = [{column: getattr(lens, column) for column in _COLUMNS} for lens in LENSES.values()]
    if format is Format.table:
        for row in rows:
            typer.echo(f"{row['name']}: {row['label']}")
            typer.echo(f"  {row['measures']}")
            typer.echo(f"  unit: {row['units']}; sums to {row['sums_to']}; costs {row['cost']}")
        return
    import pandas as pd

    frame = pd.DataFrame(rows)
    text = frame.to_csv(index=False) if format is Format.csv else frame.to_json(orient="records")
    typer.echo(text, nl=format is not Format.csv)
