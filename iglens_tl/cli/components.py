"""`iglens components`: who inside the layers a token's probability comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iglens_tl.cli.messages import command_messages, tell_notes, tell_written
from iglens_tl.cli.options import (
    BackendOptions,
    BaselineOption,
    Format,
    FormatOption,
    ModelOption,
    PromptOptions,
    ValueOption,
    check_outputs,
    grouped,
)

if TYPE_CHECKING:
    from iglens_tl import LensResult
    from iglens_tl.views.figures import Figure


@grouped
def components(
    asked: PromptOptions,
    backend: BackendOptions,
    model: ModelOption = "demo",
    by: Annotated[
        str,
        typer.Option(help="layer, sublayer, head, head_source (its reads) or neuron."),
    ] = "head",
    top: Annotated[int, typer.Option(help="Components to name, those of largest |credit|.")] = 20,
    baseline: BaselineOption = "mean",
    value: ValueOption = "prob",
    format: FormatOption = Format.table,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the whole result to a .json or .parquet file, or its table to .csv."
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write figures of the first token to an HTML file.")
    ] = None,
) -> None:
    """Credit attention heads, MLPs or neurons with their parts of each token's probability.

    Without --answer, --generate or --target, every next token of the text is attributed. The table
    and --format csv name the --top components of each token; --format json prints the whole result.
    """
    with command_messages() as messages:
        check_outputs(out, (".csv", ".json", ".parquet"), html)
        if top < 1:
            raise ValueError(f"--top must be at least 1, got {top}")
        text = asked.read()
        loaded = backend.load(model, messages)
        with messages.status("attributing components"):
            from iglens_tl import components as attribute_components

            result = attribute_components(
                loaded, text, by=by, keep=top, baseline=baseline, value=value, **asked.choice
            )
        tell_notes(messages, result.provenance.notes)
        tell_written(messages, _write_files(result, top, out, html))
    _print_result(result, top, format)


def _write_files(result: LensResult, top: int, out: Path | None, html: Path | None) -> list[Path]:
    from iglens_tl.files import write_atomically

    written = []
    if out is not None and out.suffix.lower() == ".csv":
        frame = result.contributors(top=top)
        written.append(write_atomically(out, lambda path: frame.to_csv(path, index=False)))
    elif out is not None:
        written.append(result.save(out))
    if html is not None:
        from iglens_tl.views.html import write_html

        written.append(write_html(_figures(result, top), html))
    return written


def _figures(result: LensResult, top: int) -> list[Figure]:
    """Return the figures of the first target that its components allow."""
    from iglens_tl.results.segments import parse_segment

    parts = {parse_segment(label).part for label in result.segments}
    figures = []
    if parts & {"head", "source"}:
        figures.append(result.head_heatmap(0))
    if "source" in parts:
        figures.append(result.source_heatmap(0))
    return [*figures, result.waterfall(0, top=top), result.sankey(0, top=top)]


def _print_result(result: LensResult, top: int, format: Format) -> None:
    if format is Format.json:
        typer.echo(result.to_json())
    elif format is Format.csv:
        typer.echo(result.contributors(top=top).to_csv(index=False), nl=False)
    else:
        from iglens_tl.cli.table import print_contributors

        print_contributors(result, top)
