"""Reading texts from files of several kinds, from any place on.

A reader knows two things of its kind of file: where each record begins, found once when a run is
planned, and how to read some records from such a place on, which the parts of a run do.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

Record: TypeAlias = Mapping[str, Any]
"""The entries of a text by column. Plain text has one, `TEXT`."""

TEXT = "text"


@dataclass(frozen=True)
class Place:
    """Where a record begins.

    Attributes:
        start: For text the byte, for tables the row, from 0.
        line: For messages, from 1: the line, or for tables in binary the row.
    """

    start: int
    line: int


class Reader(ABC):
    """One file, or one folder that holds one table.

    Attributes:
        path: Where it is.
    """

    line_word = "line"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...] | None:
        """The columns; None where they are not known before the places are."""

    @abstractmethod
    def places(self) -> Iterator[Place]:
        """Yield where each record begins.

        Raises:
            ValueError: For content that is not of this kind; the message names the line.
        """

    @abstractmethod
    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield some records from a place on, and where each stands, such as "line 7"."""

    def files(self) -> list[Path]:
        """Return the files whose content this is."""
        return [self.path]

    def where(self, line: int) -> str:
        """Name a record for messages."""
        return f"{self.line_word} {line}"

    def fail(self, line: int, problem: str) -> ValueError:
        """Return the error of a record."""
        return ValueError(f"{str(self.path)!r}, {self.where(line)} {problem}")


class TextReader(Reader):
    """Plain text: a text in each line; blank lines are none."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The texts alone."""
        return (TEXT,)

    def places(self) -> Iterator[Place]:
        """Yield where each line begins that is not blank."""
        for place, _ in self._lines(Place(0, 1)):
            yield place

    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield lines."""
        for at, line in islice(self._lines(place), number):
            yield {TEXT: line}, self.where(at.line)

    def _lines(self, place: Place) -> Iterator[tuple[Place, str]]:
        with self.path.open("rb") as file:
            file.seek(place.start)
            start, number = place.start, place.line
            for raw in file:
                try:
                    line = _decoded(raw, is_first=start == 0)
                except UnicodeDecodeError as error:
                    raise self.fail(number, f"is not valid UTF-8: {error}") from error
                if line.strip():
                    yield Place(start, number), line
                start, number = start + len(raw), number + 1


class DocumentReader(Reader):
    """A file that is one text."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The text alone."""
        return (TEXT,)

    def places(self) -> Iterator[Place]:
        """Yield the beginning, unless the file is blank."""
        if self._text().strip():
            yield Place(0, 1)

    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield the text."""
        del number
        yield {TEXT: self._text()}, self.where(place.line)

    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{str(self.path)!r} is not valid UTF-8: {error}") from error


class JSONLinesReader(TextReader):
    """An object in each line; a line may also be a text, a chat or token ids alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._seen: dict[str, None] = {}

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The names of all entries, once the places are known."""
        return tuple(self._seen) or None

    def places(self) -> Iterator[Place]:
        """Yield where each line begins that is not blank, having parsed it."""
        for place, line in self._lines(Place(0, 1)):
            self._seen.update(dict.fromkeys(self._parsed(line, place.line)))
            yield place

    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield objects."""
        for at, line in islice(self._lines(place), number):
            yield self._parsed(line, at.line), self.where(at.line)

    def _parsed(self, line: str, number: int) -> Record:
        try:
            parsed = json.loads(line)
        except json.JSONDecodeError as error:
            raise self.fail(number, f"is not valid JSON: {error}") from error
        return parsed if isinstance(parsed, dict) else {TEXT: parsed}


class CSVReader(Reader):
    """A table with a header, whose entries may hold line breaks in quotes."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The header's entries."""
        return self._header

    @cached_property
    def _header(self) -> tuple[str, ...]:
        with self.path.open("rb") as file:
            return tuple(next(self._rows(_Lines(file, is_first=True)), ()))

    def places(self) -> Iterator[Place]:
        """Yield where each row begins, but for the header and blank ones."""
        with self.path.open("rb") as file:
            lines = _Lines(file, is_first=True)
            place = Place(0, 1)
            for number, row in enumerate(self._rows(lines)):
                if number and row:
                    yield place
                place = Place(lines.position, lines.number + 1)

    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield rows; entries that are missing at the end of a row are None."""
        with self.path.open("rb") as file:
            file.seek(place.start)
            lines = _Lines(file, position=place.start, number=place.line - 1)
            line = place.line
            for row in self._rows(lines):
                if row and number:
                    entries = [*row, *[None] * (len(self.columns) - len(row))]
                    yield dict(zip(self.columns, entries, strict=False)), self.where(line)
                    number -= 1
                line = lines.number + 1
                if not number:
                    return

    def _rows(self, lines: _Lines) -> Iterator[list[str]]:
        dialect = "excel-tab" if self.path.suffix.lower() == ".tsv" else "excel"
        try:
            yield from csv.reader(lines, dialect, strict=True)
        except (csv.Error, UnicodeDecodeError) as error:
            raise self.fail(lines.number, f"cannot be read: {error}") from error


class ParquetReader(Reader):
    """A Parquet file."""

    line_word = "row"

    @property
    def columns(self) -> tuple[str, ...]:
        """The schema's names."""
        return tuple(self._open().schema_arrow.names)

    def places(self) -> Iterator[Place]:
        """Yield every row."""
        for row in range(self._open().metadata.num_rows):
            yield Place(row, row + 1)

    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield rows, out of the row groups that hold them."""
        file, first = self._open(), 0
        for group in range(file.metadata.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            start, stop = max(place.start, first), min(place.start + number, first + n_rows)
            if start < stop:
                table = file.read_row_group(group).slice(start - first, stop - start)
                for row, record in enumerate(table.to_pylist(), start=start + 1):
                    yield record, self.where(row)
            first += n_rows

    def _open(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(self.path)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{str(self.path)!r} is no Parquet file: {error}") from error


class DatasetReader(Reader):
    """A folder that `datasets.Dataset.save_to_disk` wrote."""

    line_word = "row"

    @property
    def columns(self) -> tuple[str, ...]:
        """The dataset's columns."""
        return tuple(self._dataset.column_names)

    def places(self) -> Iterator[Place]:
        """Yield every row."""
        for row in range(len(self._dataset)):
            yield Place(row, row + 1)

    def read(self, place: Place, number: int) -> Iterator[tuple[Record, str]]:
        """Yield rows."""
        rows = range(place.start, place.start + number)
        for row, record in zip(rows, self._dataset.select(rows), strict=True):
            yield record, self.where(row + 1)

    def files(self) -> list[Path]:
        """Return the files in the folder."""
        return sorted(path for path in self.path.iterdir() if path.is_file())

    @cached_property
    def _dataset(self) -> Any:
        from datasets import Dataset

        try:
            return Dataset.load_from_disk(str(self.path))
        # A damaged folder fails in whatever file of it is read first.
        except Exception as error:
            raise ValueError(
                f"{str(self.path)!r} is no saved dataset that can be read: {error}"
            ) from error


READERS: Mapping[str, type[Reader]] = {
    ".txt": TextReader,
    ".jsonl": JSONLinesReader,
    ".csv": CSVReader,
    ".tsv": CSVReader,
    ".parquet": ParquetReader,
}
"""The reader of each ending."""


class _Lines:
    """The lines of a file as text, with how far they have been read."""

    def __init__(
        self, file: BinaryIO, *, position: int = 0, number: int = 0, is_first: bool = False
    ) -> None:
        self.file, self.position, self.number, self.is_first = file, position, number, is_first

    def __iter__(self) -> Iterator[str]:
        for raw in self.file:
            self.position += len(raw)
            self.number += 1
            yield raw.decode("utf-8-sig" if self.is_first else "utf-8")
            self.is_first = False


def _decoded(raw: bytes, *, is_first: bool) -> str:
    line = raw.decode("utf-8-sig" if is_first else "utf-8")
    return line.removesuffix("\n").removesuffix("\r")
