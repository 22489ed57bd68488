"""The folder of a corpus: whole parts, one run at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iglens_tl.corpus.measuring import REJECTED
from iglens_tl.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

PARTS = "parts"
REJECTED_FILE = "rejected.parquet"
_LOCK = ".lock"
_RUN = b"iglens_tl.run"
_COUNTS = b"iglens_tl.counts"


@dataclass(frozen=True)
class PartCounts:
    """What a finished part holds.

    Attributes:
        number: Its number.
        texts: How many texts it was made of.
        targets: How many rows it has.
        rejected: How many of the texts were not measured.
    """

    number: int
    texts: int
    targets: int
    rejected: int


def part_path(folder: Path, number: int) -> Path:
    """Return the path of a part."""
    return folder / PARTS / f"part-{number:06d}.parquet"


def write_part(folder: Path, number: int, n_texts: int, table: pa.Table, run: str) -> PartCounts:
    """Write a part aside and move it to its place.

    What was rejected stands in the part's metadata, so that both are there or neither.

    Args:
        folder: The corpus.
        number: The part's number.
        n_texts: How many texts it was made of.
        table: Its rows.
        run: What identifies the run.

    Raises:
        ValueError: If it cannot be written, as when the disk is full.
    """
    from pyarrow import parquet

    metadata: dict[bytes, Any] = dict(table.schema.metadata or {})
    counts = PartCounts(number, n_texts, len(table), len(json.loads(metadata[REJECTED])))
    metadata |= {_RUN: run, _COUNTS: json.dumps(vars(counts))}
    write_atomically(
        part_path(folder, number),
        lambda path: parquet.write_table(
            table.replace_schema_metadata(metadata), path, compression="zstd"
        ),
        durable=True,
    )
    return counts


def read_counts(folder: Path, number: int, run: str) -> PartCounts | None:
    """Return what a part holds; None if it is not there, is not whole or is of another run."""
    found = _metadata(part_path(folder, number))
    if found is None or found.get(_RUN) != run.encode():
        return None
    return PartCounts(**json.loads(found[_COUNTS]))


def read_rejected(folder: Path, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return the texts that were not measured, in order, from the parts' metadata."""
    rejected: list[Mapping[str, Any]] = []
    for number in numbers:
        found = _metadata(part_path(folder, number)) or {}
        rejected += json.loads(found.get(REJECTED, b"[]"))
    return rejected


def write_rejected(folder: Path, rejected: Sequence[Mapping[str, Any]]) -> None:
    """Write the file of the texts that were not measured."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema({"text": pa.int64(), "where": pa.string(), "reason": pa.string()})
    table = pa.Table.from_pylist(list(rejected), schema)
    write_atomically(folder / REJECTED_FILE, lambda path: parquet.write_table(table, path))


def holds_other_files(folder: Path) -> bool:
    """Return whether there is more than what a run leaves that dies before it has a manifest."""
    if not folder.exists():
        return False
    names = [path.relative_to(folder) for path in folder.rglob("*")]
    return any(name != Path(PARTS) and not name.name.startswith(".") for name in names)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes have written aside that were killed."""
    for pattern in (f"{PARTS}/.part-*", ".manifest-*", ".rejected-*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one works; a killed process keeps no lock.

    Raises:
        ValueError: If another run is at work there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"another run is writing to {str(folder)!r}; wait for it, or give another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _metadata(path: Path) -> dict[bytes, bytes] | None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException):
        return None
