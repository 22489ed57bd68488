"""`iglens run`: IG-Lens on one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


@grouped
def run(
    asked: PromptOptions,
    backend: BackendOptions,
    model: ModelOption = "demo",
    layers: Annotated[
        str | None, typer.Option(help="Only these blocks, for example 0,3,6-8.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="layer, or sublayer to split blocks into attention and MLP.")
    ] = "layer",
    baseline: BaselineOption = "mean",
    value: ValueOption = "prob",
    path: Annotated[
        str, typer.Option(help="The order of credit, such as hidden_states, reverse or straight.")
    ] = "hidden_states",
    estimator: Annotated[
        str | None, typer.Option(help="delta, gradient, riemann, ps_ig or idgi.")
    ] = None,
    n_steps: Annotated[
        int | None, typer.Option(help="Steps of riemann, or nodes of gradient.")
    ] = None,
    reference_compat: Annotated[
        bool,
        typer.Option(
            "--reference-compat", help="Reproduce the numbers of the paper's public code."
        ),
    ] = False,
    format: FormatOption = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Write the result to a .csv, .json or .parquet file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the token × layer figure to an HTML file.")
    ] = None,
) -> None:
    """Credit every layer with its part of each token's probability.

    Without --answer, --generate or --target, every next token of the text is attributed.
    """
    with command_messages() as messages:
        check_outputs(out, (".csv", ".json", ".parquet"), html)
        text = asked.read()
        options: dict[str, Any] = {
            "layers": None if layers is None else parse_layers(layers),
            "baseline": baseline,
            "value": value,
            "n_steps": n_steps,
        }
        if estimator is not None:
            options["estimator"] = estimator
        if not reference_compat:
            options |= {"by": by, "path": path}
        elif (by, path) != ("layer", "hidden_states"):
            raise ValueError("--reference-compat has no --by and no --path; leave them out")
        loaded = backend.load(model, messages)
        with messages.status("running IG-Lens"):
            from iglens_tl import ig_lens, reference_ig_lens

            lens = reference_ig_lens if reference_compat else ig_lens
            result = lens(loaded, text, **asked.choice, **options)
        tell_notes(messages, result.provenance.notes)
        tell_written(messages, _write_files(result, out, html))
    _print_result(result, format)


def parse_layers(text: str) -> list[int]:
    """Return the block numbers of a list such as 0,3,6-8.

    Raises:
        ValueError: For anything else.
    """
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(
                f"--layers takes block numbers from 0 such as 0,3,6-8, got {part.strip()!r}"
            )
        layers += range(int(first), int(last or first) + 1)
    return layers


def _write_files(result: LensResult, out: Path | None, html: Path | None) -> list[Path]:
    from iglens_tl.files import write_atomically

    written = []
    if out is not None and out.suffix.lower() == ".csv":
        written.append(write_atomically(out, lambda path: result.to_frame().to_csv(path)))
    elif out is not None:
        written.append(result.save(out))
    if html is not None:
        from iglens_tl.views.html import write_html

        written.append(write_html(result.heatmap(), html))
    return written


def _print_result(result: LensResult, format: Format) -> None:
    if format is Format.json:
        typer.echo(result.to_json())
    elif format is Format.csv:
        typer.echo(result.to_frame().to_csv(), nl=False)
    else:
        from iglens_tl.cli.table import print_table

        print_table(result)
