"""`iglens compare`: several lenses on one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iglens_tl.cli.messages import command_messages, tell_notes, tell_written
from iglens_tl.cli.options import (
    BackendOptions,
    Format,
    FormatOption,
    LensOptions,
    ModelOption,
    PromptOptions,
    ValueOption,
    check_outputs,
    grouped,
)

if TYPE_CHECKING:
    from iglens_tl import LensComparison

_DEFAULT = "logit_lens,direct_logit_attribution,ig_lens"


@grouped
def compare(
    asked: PromptOptions,
    lenses: LensOptions,
    backend: BackendOptions,
    model: ModelOption = "demo",
    value: ValueOption = "prob",
    format: FormatOption = Format.table,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the comparison to a .json file, or its tidy table to .csv."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the token × layer figures to an HTML file.")
    ] = None,
) -> None:
    """Measure the same tokens with several lenses, side by side.

    Without --answer, --generate or --target, every next token of the text is measured.
    """
    with command_messages() as messages:
        check_outputs(out, (".csv", ".json"), html)
        text = asked.read()
        made = lenses.make(_DEFAULT, value)
        loaded = backend.load(model, messages)
        with messages.status("running the lenses"):
            from iglens_tl import compare as compare_lenses

            comparison = compare_lenses(loaded, text, lenses=made, **asked.choice)
        skipped = comparison.skipped.items()
        tell_notes(messages, [f"{name} left out: {reason}" for name, reason in skipped])
        tell_written(messages, _write_files(comparison, out, html))
    _print_comparison(comparison, format)


def _write_files(comparison: LensComparison, out: Path | None, html: Path | None) -> list[Path]:
    from iglens_tl.files import write_atomically

    written = []
    if out is not None and out.suffix.lower() == ".csv":
        tidy = comparison.to_frame(tidy=True)
        written.append(write_atomically(out, lambda path: tidy.to_csv(path, index=False)))
    elif out is not None:
        written.append(comparison.save(out))
    if html is not None:
        from iglens_tl.views.html import write_html

        written.append(write_html(comparison.figure(), html))
    return written


def _print_comparison(comparison: LensComparison, format: Format) -> None:
    if format is Format.json:
        typer.echo(comparison.to_json())
    elif format is Format.csv:
        typer.echo(comparison.to_frame(tidy=True).to_csv(index=False), nl=False)
    else:
        from iglens_tl.cli.table import print_comparison

        print_comparison(comparison)
