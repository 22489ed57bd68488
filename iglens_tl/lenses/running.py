"""Running lenses: one forward pass and one sweep over the vocabulary for all of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iglens_tl.lens_result import LensResult
from iglens_tl.lenses.trace import Needs, Trace, collect_trace
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.checks import check_model
from iglens_tl.prompts import PromptLike, build_requests
from iglens_tl.readout import Point, Reading, Readout, read_points


class Lens(ABC):
    """A lens with its options, ready to measure a trace.

    Attributes:
        name: The lens's name.
        top_k: How many of the most probable tokens it wants at its points.
        statistics: Whether it wants entropies, and divergences from the last state.
    """

    name: str
    top_k: int = 0
    statistics: bool = False

    @abstractmethod
    def needs(self) -> Needs:
        """Return what to keep of the forward pass."""

    @abstractmethod
    def points(self, trace: Trace) -> list[Point]:
        """Return the states to read out. Points of equal key are read once for all lenses."""

    @abstractmethod
    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Compute the result from the states and the readings of all points."""


@dataclass(frozen=True)
class Run:
    """What running some lenses gave.

    Attributes:
        results: One for each lens.
        n_forward_passes: Batches that the model ran for all lenses together.
        readout_rows: For each lens, how many rows of its own were multiplied with W_U.
        shared_seconds: Time of the forward pass and the sweep over the vocabulary.
        own_seconds: Time that each lens took by itself.
    """

    results: tuple[LensResult, ...]
    n_forward_passes: int
    readout_rows: tuple[int, ...]
    shared_seconds: float
    own_seconds: tuple[float, ...]


def run_lenses(
    adapter: ModelAdapter,
    lenses: Sequence[Lens],
    prompt: PromptLike,
    *,
    readout: Readout | None = None,
    **choice: Any,
) -> Run:
    """Measure a prompt with several lenses.

    Args:
        adapter: The model.
        lenses: The lenses.
        prompt: What `iglens_tl.prompts.build_requests` takes.
        readout: Replaces the model's own readout.
        **choice: What is attributed, as `build_requests` takes it.
    """
    requests = build_requests(adapter, prompt, **choice)
    check_model(adapter, torch.tensor(requests[0].ids))
    start = time.perf_counter()
    recorded = {name: choice.get(name) for name in ("generate", "prepend_bos")}
    trace = collect_trace(adapter, requests, [lens.needs() for lens in lenses], recorded)
    wanted = [lens.points(trace) for lens in lenses]
    readings = _read(readout or adapter.readout, trace, lenses, wanted)
    shared_seconds = time.perf_counter() - start
    results, own_seconds = [], []
    for lens in lenses:
        start = time.perf_counter()
        results.append(lens.measure(trace, readings))
        own_seconds.append(time.perf_counter() - start)
    return Run(
        results=tuple(results),
        n_forward_passes=trace.n_forward_passes,
        readout_rows=tuple(sum(len(point) for point in points) for points in wanted),
        shared_seconds=shared_seconds,
        own_seconds=tuple(own_seconds),
    )


def state_point(trace: Trace, site: str) -> Point:
    """Return the states at a site as a point whose key is the site."""
    return Point(site, trace.states[site], trace.target_rows)


def _read(
    readout: Readout, trace: Trace, lenses: Sequence[Lens], wanted: list[list[Point]]
) -> dict[str, Reading]:
    points = {point.key: point for own in wanted for point in own}
    reference = None
    if any(lens.statistics for lens in lenses):
        reference = trace.adapter.post_site(trace.adapter.n_layers - 1)
    return read_points(
        readout,
        list(points.values()),
        trace.token_ids,
        top_k=max(lens.top_k for lens in lenses),
        reference=reference,
    )
