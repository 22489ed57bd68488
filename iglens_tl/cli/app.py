"""The `iglens` command: options in, results on stdout, everything else on stderr.

Torch and TransformerLens are imported only when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from iglens_tl import __version__
from iglens_tl.cli.compare import compare
from iglens_tl.cli.components import components
from iglens_tl.cli.corpus import app as corpus
from iglens_tl.cli.lenses import lenses
from iglens_tl.cli.report import report
from iglens_tl.cli.run import run
from iglens_tl.cli.tuned_lens import app as tuned_lens
from iglens_tl.cli.validate import validate

app = typer.Typer(
    name="iglens",
    help="IG-Lens for TransformerLens: between which two layers was a token's probability made?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(components)
app.command()(compare)
app.command()(lenses)
app.command()(report)
app.command()(validate)
app.add_typer(corpus)
app.add_typer(tuned_lens)


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
