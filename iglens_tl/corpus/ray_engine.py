"""Measuring the parts of a corpus in processes of Ray Data, on one machine or on many."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from iglens_tl.corpus.engines import Engine, Work
from iglens_tl.corpus.folder import PartCounts, read_counts
from iglens_tl.corpus.manifest import describe_model
from iglens_tl.corpus.measuring import Measurer
from iglens_tl.corpus.preparing import Preparer
from iglens_tl.corpus.sources import Part, Source
from iglens_tl.models import adapt
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import WithoutWeights

if TYPE_CHECKING:
    import pyarrow as pa

BYTES_AHEAD = 2**24
"""How much of the object store tokenised texts take at most, for each worker."""

_SECONDS_TO_ANSWER = 5


@dataclass(frozen=True, kw_only=True)
class RayEngine(Engine):
    """Measures in a pool of actors of Ray Data, each with the model in its own memory.

    Readers, which are actors without the model's weights, read the texts of a part and tokenise
    them while workers measure and write other parts. Ray Data moves what is tokenised to the
    workers, lets readers wait when it takes too much memory, starts actors again that die, and
    hands the part that one had in hand to another. Workers write their parts themselves, so the
    corpus and the model have to be in folders that all nodes see, and the source too, because
    readers may be on any node.

    Attributes:
        load: Loads the model in a worker.
        workers: How many workers there are; there are at most as many readers.
        cpus: Cores of each worker, and threads; None shares out those that there are. Readers are
            not counted.
        gpus: GPUs of each worker.
        address: An existing cluster, such as "auto" or "10.0.0.1:6379"; None starts one here.
    """

    load: Callable[[], Model]
    workers: int = 1
    cpus: int | float | None = None
    gpus: int | float = 0
    address: str | None = None

    def run(
        self, parts: Sequence[Part], source: Source, work: Work, adapter: ModelAdapter
    ) -> Iterator[PartCounts]:
        """Yield what each part holds as soon as it is written.

        Raises:
            ValueError: Without Ray, for a cluster that cannot be reached, has too few cores or
                lacks this package, and for what goes wrong in an actor.
        """
        if not parts:
            return
        ray = _ray()
        # Workers load the model themselves.
        prepare = Preparer(WithoutWeights.of(adapter), work.measurement)
        started_here = not ray.is_initialized()
        if started_here:
            self._connect(ray)
        try:
            yield from self._measured(ray, parts, source, prepare, work)
        except ray.exceptions.RayTaskError:
            raise  # an error of this package, of which all is to be seen
        except ray.exceptions.RayError as error:
            *_, told = filter(None, map(str.strip, str(error).splitlines()))
            raise ValueError(
                f"Ray gave up ({told:.200}); what was measured before is kept: give all nodes the "
                "same packages and folders, and the same command goes on"
            ) from error
        finally:
            if started_here:
                ray.shutdown()

    def _measured(
        self, ray: Any, parts: Sequence[Part], source: Source, prepare: Preparer, work: Work
    ) -> Iterator[PartCounts]:
        cpus = self._cpus(ray)
        workers = min(self.workers, len(parts))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # `report` tells more
        context.print_on_execution_start = False
        context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
            object_store_memory=BYTES_AHEAD * workers
        )
        # What goes wrong is told in one sentence; the whole of it stands in Ray's log files.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        # A row for each part: blocks may be cut or joined between rows.
        places = [{"place": place} for place in range(len(parts))]
        finished = (
            ray.data.from_items(places, override_num_blocks=len(parts))
            .map_batches(
                _Reader,
                fn_constructor_args=(source, prepare, list(parts)),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
                # Workers may have all cores, and a reader works much less than they do.
                num_cpus=0,
            )
            .map_batches(
                _Worker,
                fn_constructor_args=(self.load, work),
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=cpus,
                num_gpus=self.gpus,
            )
        )
        for row in finished.iter_rows():
            if row["problem"]:
                raise ValueError(row["problem"])
            yield PartCounts(row["number"], row["texts"], row["targets"], row["rejected"])

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"address": self.address or "local"}
        if not self.address:
            options["include_dashboard"] = False
        # That an actor's arguments stand in the object store is reported as an error otherwise.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            _require_answer(self.address)
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
        except (OSError, RuntimeError, ValueError) as error:
            where = f"the cluster at {self.address!r}" if self.address else "a cluster here"
            told = " ".join((getattr(error, "strerror", None) or str(error)).split())
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


class _Reader:
    """An actor that reads and tokenises parts, given by their places in the list of parts."""

    def __init__(self, source: Source, prepare: Preparer, parts: list[Part]) -> None:
        self.source, self.prepare, self.parts = source, prepare, parts

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Prepare a part; what is wrong with the source is passed on, not raised."""
        (place,) = batch["place"].to_pylist()
        part, problem, prepared = self.parts[place], "", b""
        try:
            prepared = pickle.dumps(self.prepare(self.source.read(part)))
        except ValueError as error:
            problem = str(error)
        row = {"number": part.number, "texts": part.n_texts, "problem": problem}
        return _row(row, prepared)


class _Worker:
    """An actor that measures parts with its model, and writes them."""

    def __init__(self, load: Callable[[], Model], work: Work) -> None:
        self.load, self.work = load, work

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

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Finish a part; what is wrong with it or with the folder is returned, not raised."""
        number, n_texts, problem = (
            batch[name][0].as_py() for name in ("number", "texts", "problem")
        )
        # Ray repeats what it has lost the outcome of.
        counts = read_counts(self.work.folder, number, self.work.run)
        try:
            if not problem and counts is None:
                prepared = pickle.loads(batch["prepared"][0].as_buffer())
                counts = self.work.finish(number, n_texts, prepared, self.measurer)
        except ValueError as error:
            problem = str(error)
        counts = counts or PartCounts(number, n_texts, 0, 0)
        return _row({**vars(counts), "problem": problem})


def _row(entries: dict[str, Any], prepared: bytes | None = None) -> pa.Table:
    import pyarrow as pa

    columns = {name: pa.array([entry]) for name, entry in entries.items()}
    if prepared is not None:
        columns["prepared"] = pa.array([prepared], pa.large_binary())
    return pa.table(columns)


def _require_answer(address: str | None) -> None:
    """Raise an `OSError` for a host that does not answer, which Ray itself finds out in minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError(
            "the ray engine needs Ray Data: pip install 'iglens_tl[scale]', or take the local one"
        ) from error
    return ray
