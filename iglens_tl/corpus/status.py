"""How far a corpus has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iglens_tl.corpus.folder import PartCounts, part_path, read_counts
from iglens_tl.corpus.manifest import read_manifest
from iglens_tl.corpus.run import IDENTITY, Progress, fingerprint


@dataclass(frozen=True)
class Status:
    """How far a corpus has come.

    Attributes:
        done: What each finished part holds.
        bytes: What they take on the disk.
        manifest: What the corpus is of.
    """

    done: tuple[PartCounts, ...]
    bytes: int
    manifest: dict[str, Any]

    @property
    def progress(self) -> Progress:
        """What is done."""
        return Progress(
            texts=sum(counts.texts for counts in self.done),
            all_texts=self.manifest["texts"],
            targets=sum(counts.targets for counts in self.done),
            rejected=sum(counts.rejected for counts in self.done),
        )

    @property
    def parts(self) -> tuple[int, int]:
        """How many parts are there, and how many there will be."""
        return len(self.done), self.manifest["parts"]


def read_status(folder: str | Path) -> Status:
    """Read how far a corpus has come, also while a run is at work.

    Raises:
        ValueError: For a folder that holds no corpus.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise ValueError(f"{str(folder)!r} holds no corpus: it has no manifest")
    run = fingerprint({key: manifest[key] for key in IDENTITY})
    found = (read_counts(folder, number, run) for number in range(manifest["parts"]))
    done = tuple(counts for counts in found if counts is not None)
    size = sum(part_path(folder, counts.number).stat().st_size for counts in done)
    return Status(done, size, manifest)
