"""`iglens run`: IG-Lens on one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from iglens_tl.cli.messages import (
    kept_warnings,
    new_messages,
    quiet_stdout,
    readable_errors,
    tell_notes,
    tell_written,
)
from iglens_tl.cli.options import (
    AnswerOption,
    BackendOption,
    ChatOption,
    DeviceOption,
    DtypeOption,
    Format,
    FormatOption,
    GenerateOption,
    HtmlOption,
    ModelOption,
    PromptArgument,
    TargetOption,
    ValueOption,
    check_outputs,
    read_prompt,
)

if TYPE_CHECKING:
    from iglens_tl import LensResult


def run(
    prompt: PromptArgument,
    model: ModelOption = "demo",
    answer: AnswerOption = None,
    generate: GenerateOption = None,
    target: TargetOption = None,
    chat: ChatOption = False,
    layers: Annotated[
        str | None, typer.Option(help="Only these blocks, for example 0,3,6-8.")
    ] = None,
    sublayers: Annotated[
        bool, typer.Option("--sublayers", help="Split blocks into attention and MLP.")
    ] = False,
    baseline: Annotated[str, typer.Option(help="mean, mean_causal, zero or embed.")] = "mean",
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
    backend: BackendOption = "auto",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    format: FormatOption = Format.table,
    out: Annotated[
        Path | None, typer.Option(help="Write the result to a .csv, .json or .parquet file.")
    ] = None,
    html: HtmlOption = None,
) -> None:
    """Credit every layer with its part of each token's probability.

    Without --answer, --generate or --target, every next token of the text is attributed.
    """
    messages = new_messages()
    with readable_errors(messages):
        check_outputs(out, (".csv", ".json", ".parquet"), html)
        text = read_prompt(prompt, chat)
        chosen = None if layers is None else parse_layers(layers)
        with kept_warnings() as caught, quiet_stdout():
            with messages.status(f"loading {model}"):
                from iglens_tl import ig_lens, load_model

                loaded = load_model(model, backend=backend, device=device, dtype=dtype)
            with messages.status("running IG-Lens"):
                result = ig_lens(
                    loaded,
                    text,
                    answer=answer,
                    generate=generate,
                    targets=target or None,
                    layers=chosen,
                    sublayers=sublayers,
                    path=path,
                    baseline=baseline,
                    value=value,
                    estimator=estimator,
                    n_steps=n_steps,
                    reference_compat=reference_compat,
                )
        tell_notes(messages, result.provenance.notes, caught)
        _write_files(result, out, html, messages)
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


def _write_files(
    result: LensResult, out: Path | None, html: Path | None, messages: Console
) -> None:
    from iglens_tl.files import write_atomically
    from iglens_tl.views.html import write_html

    written = []
    if out is not None and out.suffix.lower() == ".csv":
        written.append(write_atomically(out, lambda path: result.to_frame().to_csv(path)))
    elif out is not None:
        written.append(result.save(out))
    if html is not None:
        written.append(write_html(result.heatmap(), html))
    tell_written(messages, written)


def _print_result(result: LensResult, format: Format) -> None:
    if format is Format.json:
        typer.echo(result.to_json())
    elif format is Format.csv:
        typer.echo(result.to_frame().to_csv(), nl=False)
    else:
        from iglens_tl.cli.table import print_table

        print_table(result)
