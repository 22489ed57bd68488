"""Messages beside the results of the commands, all of them on stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import typer
from rich.console import Console

# Python's own defaults hide these as well: they speak to the authors of libraries.
_FOR_DEVELOPERS = (
    DeprecationWarning,
    PendingDeprecationWarning,
    ImportWarning,
    ResourceWarning,
)


@contextmanager
def command_messages() -> Iterator[Console]:
    """Yield the console for everything that is no result, stderr, while a command works.

    What libraries print goes there too, so that stdout holds results alone. Every warning is told
    in one line, once. Bad input ends the command with one sentence and exit code 2.
    """
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with _told_warnings(messages), redirect_stdout(sys.stderr):
            yield messages
    except (ValueError, TypeError) as error:
        messages.print("error:", str(error), markup=False, style="red")
        raise typer.Exit(code=2) from error


def tell_notes(messages: Console, notes: Iterable[str]) -> None:
    """Print a result's notes."""
    for note in notes:
        messages.print("note:", note, markup=False)


def tell_written(messages: Console, paths: Iterable[Path]) -> None:
    """Print the path of every file that was written."""
    for path in paths:
        messages.print("wrote", str(path), markup=False)


@contextmanager
def _told_warnings(messages: Console) -> Iterator[None]:
    """Print every warning that was given meanwhile, also where an error ends the command."""
    with warnings.catch_warnings(record=True) as caught:
        if not sys.warnoptions:
            warnings.resetwarnings()
            warnings.simplefilter("always")
            for category in _FOR_DEVELOPERS:
                warnings.simplefilter("ignore", category)
        try:
            yield
        finally:
            for text in dict.fromkeys(" ".join(str(entry.message).split()) for entry in caught):
                messages.print("warning:", text, markup=False)
