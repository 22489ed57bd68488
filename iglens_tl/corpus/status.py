"""How far a corpus has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iglens_tl.corpus.folder import part_path, read_counts
from iglens_tl.corpus.manifest import read_manifest
from iglens_tl.corpus.run import IDENTITY, Progress, fingerprint


@dataclass(frozen=True)
class Status:
    """How far a corpus has come.

    Attributes:
        progress: What is done.
        parts: How many parts are there, and how many there will be.
        bytes: What they take on the disk.
        manifest: What the corpus is of.
    """

    progress: Progress
    parts: tuple[int, int]
    bytes: int
    manifest: dict[str, Any]


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
    found = [read_counts(folder, number, run) for number in range(manifest["parts"])]
    done = [counts for counts in found if counts is not None]
    progress = Progress(
        texts=sum(counts.texts for counts in done),
        all_texts=manifest["texts"],
        targets=sum(counts.targets for counts in done),
        rejected=sum(counts.rejected for counts in done),
    )
    size = sum(part_path(folder, counts.number).stat().st_size for counts in done)
    return Status(progress, (len(done), manifest["parts"]), size, manifest)
