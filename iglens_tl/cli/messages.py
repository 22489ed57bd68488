"""What the commands say beside their results, all of it on stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import typer
from rich.console import Console


def new_messages() -> Console:
    """Return the console for everything that is no result: stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def readable_errors(messages: Console) -> Iterator[None]:
    """Turn bad input into one sentence and exit code 2."""
    try:
        yield
    except (ValueError, TypeError) as error:
        messages.print("error:", str(error), markup=False, style="red")
        raise typer.Exit(code=2) from error


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what libraries print to stderr, so that stdout holds results alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def kept_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Keep all warnings for `tell_notes` instead of showing them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def tell_notes(
    messages: Console, notes: Iterable[str], caught: Iterable[warnings.WarningMessage] = ()
) -> None:
    """Print a result's notes, then the kept warnings about credits that do not add up."""
    from iglens_tl import CompletenessWarning

    ours = [entry for entry in caught if issubclass(entry.category, CompletenessWarning)]
    for note in (*notes, *(str(entry.message) for entry in ours)):
        messages.print("note:", note, markup=False)


def tell_written(messages: Console, paths: Iterable[Path]) -> None:
    """Print the path of every file that was written."""
    for path in paths:
        messages.print("wrote", str(path), markup=False)
