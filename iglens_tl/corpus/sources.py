"""The source of a corpus: which files, which columns, which texts make a part."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from glob import has_magic
from pathlib import Path
from typing import Any

from iglens_tl.corpus.readers import (
    READERS,
    DatasetReader,
    DocumentReader,
    Place,
    Reader,
)

_CHUNK = 2**20
_COLUMNS_OF_TEXTS = ("text", "messages", "input_ids")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a source.

    Attributes:
        text: The column of the texts, chats or token ids. None for one that is called "text",
            "messages" or "input_ids", or the only one.
        keep: Further columns, which are carried along.
    """

    text: str | None = None
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slice:
    """Consecutive records of one file.

    Attributes:
        file: The number of the file.
        place: Where the first record begins.
        number: How many records there are.
        first_text: The number of the first text in the whole source.
    """

    file: int
    place: Place
    number: int
    first_text: int


@dataclass(frozen=True)
class Part:
    """The texts that are measured and written together.

    Attributes:
        number: The part's number, from 0.
        slices: Where its texts are.
    """

    number: int
    slices: tuple[Slice, ...]

    @property
    def n_texts(self) -> int:
        """The number of texts."""
        return sum(piece.number for piece in self.slices)


@dataclass(frozen=True)
class Entry:
    """A text of the source.

    Attributes:
        text: Its number.
        content: The text, chat or token ids, as they stand there.
        where: Where they stand, for messages.
        kept: The entries that are carried along.
    """

    text: int
    content: Any
    where: str
    kept: tuple[Any, ...]


class Source:
    """The files of a corpus, in a fixed order.

    Attributes:
        readers: One for each file.
        columns: The columns that are read.
    """

    def __init__(self, readers: Sequence[Reader], columns: Columns) -> None:
        self.readers, self.columns = tuple(readers), columns
        self._stamps = [_stamp(reader) for reader in readers]
        self._names: dict[int, str] = {}

    def plan(self, texts_per_part: int, *, limit: int | None = None) -> list[Part]:
        """Divide the texts into parts.

        Args:
            texts_per_part: How many texts a part has; the last one has what is left.
            limit: Take only so many texts.

        Raises:
            ValueError: For a file that cannot be read, lacks a column, or if there is no text.
        """
        parts: list[Part] = []
        slices: list[Slice] = []
        n_texts = 0
        for file, reader in enumerate(self.readers):
            self._choose_column(file)
            first: Place | None = None
            number = 0
            for place in reader.places():
                if limit is not None and n_texts == limit:
                    break
                first = first or place
                number, n_texts = number + 1, n_texts + 1
                if n_texts % texts_per_part == 0:
                    slices.append(Slice(file, first, number, n_texts - number))
                    parts.append(Part(len(parts), tuple(slices)))
                    slices, first, number = [], None, 0
            if first is not None:
                slices.append(Slice(file, first, number, n_texts - number))
            self._choose_column(file)
        if slices:
            parts.append(Part(len(parts), tuple(slices)))
        if not parts:
            raise ValueError(f"the source holds no text: {self._listed()}")
        return parts

    def read(self, part: Part) -> Iterator[Entry]:
        """Yield the texts of a part.

        Raises:
            ValueError: If a file has changed since the source was opened.
        """
        for piece in part.slices:
            reader = self.readers[piece.file]
            self._require_unchanged(piece.file)
            records = reader.read(piece.place, piece.number)
            for number, (record, where) in enumerate(records, start=piece.first_text):
                content = record.get(self._names[piece.file])
                kept = tuple(record.get(name) for name in self.columns.keep)
                yield Entry(number, content, f"{reader.path.name}, {where}", kept)
            self._require_unchanged(piece.file)

    def fingerprint(self) -> dict[str, Any]:
        """Return what identifies the source: its columns, and the name and content of each file."""
        files = [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": _sha256(path)}
            for reader in self.readers
            for path in reader.files()
        ]
        kinds = sorted({type(reader).__name__ for reader in self.readers})
        return {"kinds": kinds, "columns": asdict(self.columns), "files": files}

    def _choose_column(self, file: int) -> None:
        """Choose the column of a file's texts, as soon as its columns are known."""
        reader = self.readers[file]
        if reader.columns is None:
            return
        where = str(reader.path)
        self._names[file] = _chosen(reader.columns, self.columns.text, where)
        for name in self.columns.keep:
            if name not in reader.columns:
                raise ValueError(_without(where, name, reader.columns))

    def _require_unchanged(self, file: int) -> None:
        reader = self.readers[file]
        if _stamp(reader) != self._stamps[file]:
            raise ValueError(
                f"{str(reader.path)!r} has changed since the run began; what was measured before "
                "is kept: bring the file back and give the same command again, or give another "
                "folder for a run over the new one"
            )

    def _listed(self) -> str:
        names = [str(reader.path) for reader in self.readers]
        return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def open_source(source: str | Path, *, columns: Columns, document: bool = False) -> Source:
    """Find the files of a source.

    Args:
        source: A file (.txt with one text a line, .jsonl, .csv, .tsv or .parquet), a folder or a
            glob of these, or a folder that `datasets` saved.
        columns: The columns to read.
        document: Whether each .txt file is one text.

    Raises:
        ValueError: If there is no such file, or one of another kind.
    """
    path = Path(source).expanduser()
    if has_magic(str(source)) and not path.exists():
        anchor = Path(path.anchor)
        found = sorted(anchor.glob(str(path.relative_to(anchor))))
        paths = [child for child in found if child.is_file()]
        if not paths:
            raise ValueError(f"no file matches {str(source)!r}")
    elif path.is_dir():
        if (path / "dataset_dict.json").exists():
            splits = sorted(child.name for child in path.iterdir() if child.is_dir())
            raise ValueError(
                f"{str(path)!r} holds several splits; give the folder of one: {', '.join(splits)}"
            )
        if (path / "dataset_info.json").exists() and (path / "state.json").exists():
            return Source([DatasetReader(path)], columns)
        paths = sorted(child for child in path.rglob("*") if child.suffix.lower() in READERS)
        if not paths:
            raise ValueError(f"{str(path)!r} holds no file that ends with {', '.join(READERS)}")
    elif path.exists():
        paths = [path]
    else:
        raise ValueError(f"there is no file or folder {str(source)!r}")
    return Source([_reader(name, document) for name in paths], columns)


def _reader(path: Path, document: bool) -> Reader:
    kind = READERS.get(path.suffix.lower())
    if document and path.suffix.lower() == ".txt":
        return DocumentReader(path)
    if kind is None:
        raise ValueError(
            f"{str(path)!r} is of no known kind; give files that end with {', '.join(READERS)}"
        )
    if document:
        raise ValueError(f"{str(path)!r} is a table; only .txt files are documents")
    return kind(path)


def _chosen(names: Sequence[str], wanted: str | None, where: str) -> str:
    """Return the column of the texts."""
    if wanted is not None:
        if wanted not in names:
            raise ValueError(_without(where, wanted, names))
        return wanted
    for usual in _COLUMNS_OF_TEXTS:
        if usual in names:
            return usual
    if len(names) == 1:
        return names[0]
    listed = ", ".join(map(repr, names)) or "none"
    raise ValueError(f"{where!r} has no one column of texts; choose one of {listed}")


def _without(where: str, name: str, names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names)) or "none"
    return f"{where!r} has no column {name!r}; it has {listed}"


def _stamp(reader: Reader) -> list[tuple[int, int]]:
    try:
        found = [path.stat() for path in reader.files()]
    except OSError as error:
        raise ValueError(f"cannot read {str(reader.path)!r}: {error.strerror}") from error
    return [(stat.st_size, stat.st_mtime_ns) for stat in found]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
