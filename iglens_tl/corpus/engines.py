"""Where the parts of a corpus are measured: in this process, or in actors of Ray Data."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iglens_tl.corpus.folder import PartCounts, write_part
from iglens_tl.corpus.manifest import describe_model
from iglens_tl.corpus.measurement import Measurement
from iglens_tl.corpus.measuring import Measurer
from iglens_tl.corpus.sources import Part, Source
from iglens_tl.models import adapt
from iglens_tl.models.adapter import Model, ModelAdapter

if TYPE_CHECKING:
    import numpy as np


_PROBLEM = "problem"


@dataclass(frozen=True)
class Work:
    """All that a process needs to know, beside the model, to measure and write a part.

    Attributes:
        source: The texts.
        measurement: What is measured.
        folder: The corpus.
        run: What identifies the run.
        model: What `describe_model` says of the model.
    """

    source: Source
    measurement: Measurement
    folder: Path
    run: str
    model: Mapping[str, Any]

    def measurer(self, adapter: ModelAdapter) -> Measurer:
        """Return what measures texts with a model."""
        return Measurer(adapter, self.measurement, keep=self.source.columns.keep)

    def finish(self, part: Part, measurer: Measurer) -> PartCounts:
        """Measure a part and write it."""
        table = measurer(self.source.read(part))
        return write_part(self.folder, part.number, part.n_texts, table, self.run)


class Engine(ABC):
    """A way to have parts measured and written."""

    @abstractmethod
    def run(self, parts: Sequence[Part], work: Work, adapter: ModelAdapter) -> Iterator[PartCounts]:
        """Yield what each part holds as soon as it is written, in any order."""


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Measures in this process, one part after the other."""

    def run(self, parts: Sequence[Part], work: Work, adapter: ModelAdapter) -> Iterator[PartCounts]:
        """Yield what each part holds, in order."""
        measurer = work.measurer(adapter)
        for part in parts:
            yield work.finish(part, measurer)


@dataclass(frozen=True, kw_only=True)
class RayEngine(Engine):
    """Measures in a pool of actors of Ray Data, each with the model in its own memory.

    Ray Data feeds the actors, starts them again when they die, and hands the part that one had in
    hand to another. Every actor writes its parts itself, so the corpus has to be in a folder that
    all nodes see, as have the source and the model.

    Attributes:
        load: Loads the model in an actor.
        workers: How many actors there are.
        cpus: Cores of each, and threads; None shares out those of this machine.
        gpus: GPUs of each.
        address: An existing cluster, such as "auto" or "10.0.0.1:6379"; None starts one here.
    """

    load: Callable[[], Model]
    workers: int = 1
    cpus: int | float | None = None
    gpus: int | float = 0
    address: str | None = None

    def run(self, parts: Sequence[Part], work: Work, adapter: ModelAdapter) -> Iterator[PartCounts]:
        """Yield what each part holds as soon as it is written.

        Raises:
            ValueError: Without Ray, for a cluster that cannot be reached or has too few cores, and
                for what goes wrong in an actor.
        """
        del adapter  # every actor loads its own
        if not parts:
            return
        ray = _ray()
        started_here = not ray.is_initialized()
        if started_here:
            self._connect(ray)
        try:
            yield from self._measured(ray, parts, work)
        finally:
            if started_here:
                ray.shutdown()

    def _measured(self, ray: Any, parts: Sequence[Part], work: Work) -> Iterator[PartCounts]:
        cpus = self._cpus(ray)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # `report` tells more
        context.print_on_execution_start = False
        # What goes wrong is told in one sentence; the whole of it stands in Ray's log files.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        numbers = [{"part": place} for place in range(len(parts))]
        workers = min(self.workers, len(parts))
        finished = ray.data.from_items(numbers, override_num_blocks=len(parts)).map_batches(
            _Worker,
            fn_constructor_args=(self.load, work, list(parts)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cpus,
            num_gpus=self.gpus,
        )
        for row in finished.iter_rows():
            problem = row.pop(_PROBLEM)
            if problem:
                raise ValueError(problem)
            yield PartCounts(**{name: int(number) for name, number in row.items()})

    def _connect(self, ray: Any) -> None:
        options = {"address": self.address} if self.address else {"include_dashboard": False}
        # That an actor's arguments stand in the object store is reported as an error otherwise.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"the cluster at {self.address!r}" if self.address else "a cluster here"
            told = " ".join(str(error).split())
            raise ValueError(f"Ray cannot reach {where}: {told:.200}") from error

    def _cpus(self, ray: Any) -> int | float:
        """Return the cores of each actor."""
        there = ray.cluster_resources()
        cpus = self.cpus or max(1, int(there.get("CPU", 1) // self.workers))
        for what, wanted, name in (("cores", cpus, "CPU"), ("GPUs", self.gpus, "GPU")):
            if wanted * self.workers > there.get(name, 0):
                raise ValueError(
                    f"{self.workers} workers of {wanted:g} {what} need {wanted * self.workers:g}, "
                    f"but the cluster has {there.get(name, 0):g}; take fewer workers"
                )
        return cpus


class _Worker:
    """An actor: a model, and parts to measure by their places in the list of parts."""

    def __init__(self, load: Callable[[], Model], work: Work, parts: list[Part]) -> None:
        self.load, self.work, self.parts = load, work, parts

    @cached_property
    def measurer(self) -> Measurer:
        """The model, loaded with the first part, so that its errors are errors of a part."""
        adapter = adapt(self.load())
        found, wanted = describe_model(adapter), self.work.model
        other = [name for name in found if found[name] != wanted[name]]
        if other:
            raise ValueError(
                f"a worker loaded another {adapter.name} than the run began with (other "
                f"{', '.join(other)}); give all nodes the same files"
            )
        return self.work.measurer(adapter)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Measure a part; what is wrong with the source or the folder is returned, not raised."""
        (place,) = batch["part"]
        part, problem = self.parts[place], ""
        counts = PartCounts(part.number, 0, 0, 0)
        try:
            counts = self.work.finish(part, self.measurer)
        except ValueError as error:
            problem = str(error)
        return {name: [value] for name, value in {**vars(counts), _PROBLEM: problem}.items()}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            "the ray engine needs Ray Data: pip install 'iglens_tl[scale]', or take the local one"
        ) from error
    return ray
