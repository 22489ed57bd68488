"""Measuring a corpus: planned, in parts, and continued where it stopped."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from iglens_tl import __version__
from iglens_tl.corpus.engines import Engine, LocalEngine, Work
from iglens_tl.corpus.folder import (
    PARTS,
    PartCounts,
    holds_other_files,
    locked,
    read_counts,
    read_rejected,
    remove_unfinished,
    write_rejected,
)
from iglens_tl.corpus.manifest import (
    describe_model,
    read_manifest,
    require_equal,
    write_manifest,
)
from iglens_tl.corpus.measurement import Measurement
from iglens_tl.corpus.measuring import Measurer
from iglens_tl.corpus.sources import Part, Source
from iglens_tl.models import adapt
from iglens_tl.models.adapter import Model

TEXTS_PER_PART = 512
"""How many texts are measured and written together: what a killed run has to measure again."""

IDENTITY = ("model", "source", "options")
"""The keys of a manifest that tell one run from another."""

_PACKAGES = ("transformer_lens", "torch", "transformers", "pyarrow")


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        texts: Texts that are done, those of earlier runs included.
        all_texts: Texts of the whole source.
        targets: Rows that are written.
        rejected: Texts that were not measured.
        new_texts: Texts that this run has done.
        new_targets: Rows that this run has written.
    """

    texts: int
    all_texts: int
    targets: int
    rejected: int
    new_texts: int = 0
    new_targets: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left."""
        return self.texts == self.all_texts


Report: TypeAlias = Callable[[Progress], object]


def run_corpus(
    source: Source,
    model: Model,
    folder: str | Path,
    measurement: Measurement,
    *,
    texts_per_part: int = TEXTS_PER_PART,
    limit: int | None = None,
    engine: Engine | None = None,
    report: Report | None = None,
) -> Progress:
    """Measure the texts of a source and write a row for each target, part after part.

    The folder holds `manifest.json`, `parts/*.parquet` sorted by text, and `rejected.parquet` with
    every text that was not measured and why. A part is there whole or not at all, so that a run
    that was stopped in any way goes on with the same call and ends with the rows of an undisturbed
    one.

    Args:
        source: The texts; see `open_source`.
        model: The model.
        folder: Where the corpus is, or is to be.
        measurement: What is measured.
        texts_per_part: How many texts a part has.
        limit: Measure only so many texts.
        engine: Where parts are measured; None for this process.
        report: Is called after every part.

    Returns:
        How far the run has come: it is complete unless it was interrupted (Ctrl-C), which ends it
        after the part that is finished next; a second one ends it at once.

    Raises:
        ValueError: For a source that cannot be read, a folder with a corpus of another run, or one
            to which another run is writing.
    """
    folder, adapter = Path(folder), adapt(model)
    for name, number in (("texts_per_part", texts_per_part), ("limit", limit)):
        if number is not None and (isinstance(number, bool) or number < 1):
            raise ValueError(f"{name} must be at least 1, got {number!r}")
    existing = read_manifest(folder)
    if existing is None and holds_other_files(folder):
        raise ValueError(f"{str(folder)!r} is not empty and holds no corpus; give another folder")
    measurer = Measurer(adapter, measurement, keep=source.columns.keep)
    parts = source.plan(texts_per_part, limit=limit)
    identity: dict[str, Any] = {
        "model": describe_model(adapter),
        "source": source.fingerprint(),
        "options": {
            **measurement.described(),
            "texts_per_part": texts_per_part,
            "limit": limit,
        },
    }
    if existing is not None:
        require_equal(folder, existing, identity)
    manifest = existing or _manifest(identity, parts, measurer)
    try:
        (folder / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
    with locked(folder):
        remove_unfinished(folder)
        if existing is None:
            write_manifest(folder, manifest)
        run = fingerprint(identity)
        state = _Run(folder, run, parts)
        keep = source.columns.keep
        work = Work(measurement, keep, folder.absolute(), run, identity["model"])
        with _asked_to_stop() as is_asked:
            for counts in (engine or LocalEngine()).run(state.left, source, work, adapter):
                state.add(counts)
                if report is not None:
                    report(state.progress)
                if is_asked():
                    break
        _end(folder, manifest, state)
    return state.progress


def fingerprint(identity: dict[str, Any]) -> str:
    """Return what identifies a run, which its parts carry."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class _Run:
    """The parts of a run, with what is done."""

    def __init__(self, folder: Path, run: str, parts: Sequence[Part]) -> None:
        self.folder, self.run, self.parts = folder, run, parts
        found = (read_counts(folder, part.number, run) for part in parts)
        self.done = {counts.number: counts for counts in found if counts is not None}
        self.earlier = frozenset(self.done)

    @property
    def left(self) -> list[Part]:
        return [part for part in self.parts if part.number not in self.done]

    def add(self, counts: PartCounts) -> None:
        self.done[counts.number] = counts

    @property
    def progress(self) -> Progress:
        done = self.done.values()
        new = [counts for counts in done if counts.number not in self.earlier]
        return Progress(
            texts=sum(counts.texts for counts in done),
            all_texts=sum(part.n_texts for part in self.parts),
            targets=sum(counts.targets for counts in done),
            rejected=sum(counts.rejected for counts in done),
            new_texts=sum(counts.texts for counts in new),
            new_targets=sum(counts.targets for counts in new),
        )


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only be remembered; the second one does what it always does."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set  # signals belong to the main thread
        return
    usual = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: Any) -> None:
        del number, frame
        asked.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, remember)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


def _manifest(
    identity: dict[str, Any], parts: Sequence[Part], measurer: Measurer
) -> dict[str, Any]:
    return {
        **identity,
        "lenses": measurer.describe_lenses(),
        "texts": sum(part.n_texts for part in parts),
        "parts": len(parts),
        "versions": {"iglens_tl": __version__} | {name: version(name) for name in _PACKAGES},
        "begun": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _end(folder: Path, manifest: dict[str, Any], state: _Run) -> None:
    """Write what is known only now."""
    remove_unfinished(folder)  # a worker may have been killed and another have done its part
    write_rejected(folder, read_rejected(folder, sorted(state.done)))
    progress = state.progress
    counts = {
        "texts": progress.texts,
        "targets": progress.targets,
        "rejected": progress.rejected,
        "complete": progress.is_complete,
    }
    content = {key: value for key, value in manifest.items() if key not in ("format", "version")}
    write_manifest(folder, {**content, "counts": counts})
