"""Where the parts of a corpus are measured: what engines share, and the one in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iglens_tl.corpus.folder import PartCounts, write_part
from iglens_tl.corpus.measurement import Measurement
from iglens_tl.corpus.measuring import Measurer
from iglens_tl.corpus.preparing import Prepared
from iglens_tl.corpus.sources import Part, Source
from iglens_tl.models.adapter import ModelAdapter


@dataclass(frozen=True)
class Work:
    """All that a process needs to know, beside the model and the texts, to finish a part.

    Attributes:
        measurement: What is measured.
        keep: The names of the columns that are carried along.
        folder: The corpus.
        run: What identifies the run.
        model: What `describe_model` says of the model.
    """

    measurement: Measurement
    keep: tuple[str, ...]
    folder: Path
    run: str
    model: Mapping[str, Any]

    def measurer(self, adapter: ModelAdapter) -> Measurer:
        """Return what measures texts with a model."""
        return Measurer(adapter, self.measurement, keep=self.keep)

    def finish(
        self, number: int, n_texts: int, prepared: Prepared, measurer: Measurer
    ) -> PartCounts:
        """Measure a part and write it.

        Args:
            number: The part's number.
            n_texts: How many texts it is made of.
            prepared: Its texts.
            measurer: Measures them.
        """
        return write_part(self.folder, number, n_texts, measurer(prepared), self.run)


class Engine(ABC):
    """A way to have parts measured and written."""

    @abstractmethod
    def run(
        self, parts: Sequence[Part], source: Source, work: Work, adapter: ModelAdapter
    ) -> Iterator[PartCounts]:
        """Yield what each part holds as soon as it is written, in any order."""


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Measures in this process, one part after the other."""

    def run(
        self, parts: Sequence[Part], source: Source, work: Work, adapter: ModelAdapter
    ) -> Iterator[PartCounts]:
        """Yield what each part holds, in order."""
        measurer = work.measurer(adapter)
        for part in parts:
            prepared = measurer.prepare(source.read(part))
            yield work.finish(part.number, part.n_texts, prepared, measurer)
