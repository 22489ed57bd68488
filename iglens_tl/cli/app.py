"""The `iglens` command: options in, results on stdout, everything else on stderr.

Torch and TransformerLens are imported only when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from iglens_tl import __version__

if TYPE_CHECKING:
    from iglens_tl import LensResult

app = typer.Typer(
    name="iglens",
    help="IG-Lens for TransformerLens: between which two layers was a token's probability made?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"iglens_tl {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    del version


@app.command()
def run(
    prompt: Annotated[str, typer.Argument(help="The text, or - to read it from stdin.")],
    model: Annotated[
        str, typer.Option(help="demo, a Hugging Face folder, or a hub name.")
    ] = "demo",
    answer: Annotated[
        str | None, typer.Option(help="Attribute the tokens of this continuation.")
    ] = None,
    generate: Annotated[
        int | None, typer.Option(help="Attribute up to this many greedy tokens.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Attribute this candidate for the next token; may be repeated."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send the prompt as a user's chat message.")
    ] = False,
    layers: Annotated[
        str | None, typer.Option(help="Only these blocks, for example 0,3,6-8.")
    ] = None,
    sublayers: Annotated[
        bool, typer.Option("--sublayers", help="Split blocks into attention and MLP.")
    ] = False,
    baseline: Annotated[str, typer.Option(help="mean, mean_causal, zero or embed.")] = "mean",
    value: Annotated[str, typer.Option(help="prob, logprob or logit.")] = "prob",
    estimator: Annotated[str, typer.Option(help="delta, gradient or riemann.")] = "delta",
    n_steps: Annotated[
        int | None, typer.Option(help="Steps of riemann, or nodes of gradient.")
    ] = None,
    reference_compat: Annotated[
        bool,
        typer.Option(
            "--reference-compat", help="Reproduce the numbers of the paper's public code."
        ),
    ] = False,
    backend: Annotated[str, typer.Option(help="auto, hooked or bridge.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="For example cpu or cuda.")] = "cpu",
    format: Annotated[Format, typer.Option(help="What to print on stdout.")] = Format.table,
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
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        _check_outputs(out, html)
        text = _read_prompt(prompt)
        chosen = None if layers is None else _parse_layers(layers)
        with warnings.catch_warnings(record=True) as caught, redirect_stdout(sys.stderr):
            warnings.simplefilter("always")
            with messages.status(f"loading {model}"):
                from iglens_tl import ig_lens, load_model

                loaded = load_model(model, backend=backend, device=device, dtype=dtype)
            with messages.status("running IG-Lens"):
                result = ig_lens(
                    loaded,
                    [{"role": "user", "content": text}] if chat else text,
                    answer=answer,
                    generate=generate,
                    targets=target or None,
                    layers=chosen,
                    sublayers=sublayers,
                    baseline=baseline,
                    value=value,
                    estimator=estimator,
                    n_steps=n_steps,
                    reference_compat=reference_compat,
                )
        notes = [str(entry.message) for entry in caught if _is_ours(entry)]
        for note in (*result.provenance.notes, *notes):
            messages.print("note:", note, markup=False)
        _write_files(result, out, html, messages)
    except (ValueError, TypeError) as error:
        _fail(messages, str(error))
    _print_result(result, format)


def _read_prompt(prompt: str) -> str:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the text on stdin is not valid UTF-8: {error}") from error


def _parse_layers(text: str) -> list[int]:
    layers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(
                f"--layers takes block numbers from 0 such as 0,3,6-8, got {part.strip()!r}"
            )
        layers += range(int(first), int(last or first) + 1)
    return layers


def _check_outputs(out: Path | None, html: Path | None) -> None:
    """Refuse a path that cannot be written before the model is loaded."""
    if out is not None and out.suffix.lower() not in (".csv", ".json", ".parquet"):
        raise ValueError(f"--out {str(out)!r} must end in .csv, .json or .parquet")
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {str(html)!r} must end in .html")
    for path in (out, html):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"the folder of {str(path)!r} does not exist; create it first")
        if path is not None and path.is_dir():
            raise ValueError(f"{str(path)!r} is a folder; give the name of a file")


def _write_files(
    result: LensResult, out: Path | None, html: Path | None, messages: Console
) -> None:
    from iglens_tl.figures import write_html
    from iglens_tl.files import write_atomically

    written = []
    if out is not None and out.suffix.lower() == ".csv":
        written.append(write_atomically(out, lambda path: result.to_frame().to_csv(path)))
    elif out is not None:
        written.append(result.save(out))
    if html is not None:
        written.append(write_html(result.heatmap(), html))
    for path in written:
        messages.print("wrote", str(path), markup=False)


def _print_result(result: LensResult, format: Format) -> None:
    if format is Format.json:
        typer.echo(result.to_json())
    elif format is Format.csv:
        typer.echo(result.to_frame().to_csv(), nl=False)
    else:
        from iglens_tl.cli.table import print_table

        print_table(result)


def _is_ours(entry: warnings.WarningMessage) -> bool:
    from iglens_tl import CompletenessWarning

    return issubclass(entry.category, CompletenessWarning)


def _fail(messages: Console, message: str) -> NoReturn:
    messages.print("error:", message, markup=False, style="red")
    raise typer.Exit(code=2)
