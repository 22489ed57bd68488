"""Reading prompts from files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    FilePath: TypeAlias = str | Path
else:  # anything may arrive here; it is answered with a readable error
    FilePath = Any

Row: TypeAlias = tuple[str, Any]
"""A place in a file, for errors, and the entry that stands there."""


def read_prompts(path: FilePath, *, column: str | None = None) -> list[Any]:
    r"""Read the prompts of a file, or another column of it, such as the answers.

    What is returned can be passed on as `prompt=`, `answer=` or `targets=`.

    Args:
        path: A file in UTF-8 whose name ends with one of

            - `.txt`: one text in each line; blank lines are skipped;
            - `.jsonl`: one JSON value in each line, which is a text, chat messages or token ids, or
              an object that holds one of these; blank lines are skipped;
            - `.csv` or `.tsv`: a table with a header, whose texts may hold line breaks in quotes;
            - `.parquet`: a table, which may hold lists of messages or token ids.
        column: The name of the column, or of the objects' entry. Not needed where there is only
            one, and not for text.

    Returns:
        The entries, in order.

    Raises:
        TypeError: If `path` is no path.
        ValueError: For a file that cannot be read, holds no prompt or another column, and for an
            entry that is empty or no prompt. The message names its line, counted from 1.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from iglens_tl.prompts import read_prompts
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "capitals.csv"
        ...     _ = path.write_text("prompt,answer\nThe capital of Vietnam is, Hanoi\n")
        ...     read_prompts(path, column="prompt"), read_prompts(path, column="answer")
        (['The capital of Vietnam is'], [' Hanoi'])
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"path must be a string or a path, got {type(path).__name__}")
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"{str(path)!r} is of no known kind; give a file that ends with {', '.join(_READERS)}"
        )
    try:
        entries = [_checked(path, *row) for row in read(path, column)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not valid UTF-8: {error}") from error
    except OSError as error:
        raise ValueError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if not entries:
        raise ValueError(f"{str(path)!r} holds no prompt")
    return entries


def _text_rows(path: Path, column: str | None) -> Iterator[Row]:
    if column is not None:
        raise ValueError(f"{str(path)!r} is plain text, which has no column {column!r}")
    for number, line in _lines(path):
        yield f"line {number}", line


def _json_rows(path: Path, column: str | None) -> Iterator[Row]:
    for number, line in _lines(path):
        where = f"line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{str(path)!r}, {where} is not valid JSON: {error}") from error
        if isinstance(value, Mapping):
            value = value[_chosen(f"{str(path)!r}, {where}", list(value), column)]
        elif column is not None:
            raise ValueError(
                f"{str(path)!r}, {where} holds no object with an entry {column!r}, but "
                f"{line.strip():.40}"
            )
        yield where, value


def _table_rows(path: Path, column: str | None) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, "excel-tab" if path.suffix.lower() == ".tsv" else "excel")
        try:
            header = next(rows, [])
            place = header.index(_chosen(repr(str(path)), header, column))
            first = rows.line_num + 1
            for row in rows:
                where, first = f"line {first}", rows.line_num + 1
                if row:
                    yield where, row[place] if place < len(row) else None
        except csv.Error as error:
            raise ValueError(f"{str(path)!r}, line {rows.line_num}: {error}") from error


def _parquet_rows(path: Path, column: str | None) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            name = _chosen(repr(str(path)), names, column)
            values = file.read(columns=[name]).column(name).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{str(path)!r} is no Parquet file: {error}") from error
    yield from ((f"row {number}", value) for number, value in enumerate(values, start=1))


_READERS: Mapping[str, Callable[[Path, str | None], Iterator[Row]]] = {
    ".txt": _text_rows,
    ".jsonl": _json_rows,
    ".csv": _table_rows,
    ".tsv": _table_rows,
    ".parquet": _parquet_rows,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, and their numbers from 1."""
    # `splitlines` would also end a line at characters that a text may hold.
    content = path.read_bytes().decode("utf-8-sig")
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def _chosen(where: str, names: list[str], column: str | None) -> str:
    """Return the wanted column, or the only one."""
    if column is None and len(names) == 1:
        return names[0]
    if column in names:
        return str(column)
    listed = ", ".join(repr(name) for name in names) or "none"
    if column is None:
        raise ValueError(f"{where} has no one column; choose one with column=: {listed}")
    raise ValueError(f"{where} has no column {column!r}; it has {listed}")


def _checked(path: Path, where: str, entry: Any) -> Any:
    """Return an entry that may be a prompt."""
    if entry is None or entry == "" or entry == []:
        raise ValueError(f"{str(path)!r}, {where} is empty; give every prompt a text")
    # Whether a list is a chat or token ids of the model is checked where it is tokenised.
    if not isinstance(entry, (str, list)):
        raise ValueError(
            f"{str(path)!r}, {where} must be a text, chat messages or token ids, got "
            f"{type(entry).__name__} {entry!r:.40}"
        )
    return entry
