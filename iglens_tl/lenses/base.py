"""Running lenses: one forward pass and one sweep over the vocabulary for all of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iglens_tl.results.comparison import Cost
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace, collect_trace
from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.checks import check_model
from iglens_tl.prompts import PromptLike, build_requests
from iglens_tl.readout import VALUES, Point, Reading, Readout, Value, read_points
from iglens_tl.results.sequences import sum_over_targets


class Lens(ABC):
    """A lens with its options, ready to measure a trace.

    Attributes:
        name: The lens's name.
        top_k: How many of the most probable tokens it wants at its points.
        statistics: Whether it wants entropies, and divergences from the last state.
        value: What it measures; a logit for lenses that have no choice.
    """

    name: str
    top_k: int = 0
    statistics: bool = False
    value: Value = VALUES["logit"]

    @abstractmethod
    def needs(self) -> Needs:
        """Return what to keep of the forward pass."""

    @abstractmethod
    def points(self, trace: Trace) -> list[Point]:
        """Return the states to read out. Points of equal key are read once for all lenses."""

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Return the forward and backward passes that `measure` itself runs."""
        del trace
        return 0, 0

    @abstractmethod
    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Compute the result from the states and the readings of all points."""


@dataclass(frozen=True)
class Run:
    """What running some lenses gave.

    Attributes:
        results: One for each lens that applies, in order.
        costs: For each result what its lens costs alone.
        skipped: By lens, why it does not apply to the model.
        n_forward_passes: Forward passes that the model ran in all.
        shared_seconds: Time of the shared forward pass and of the sweep over the vocabulary.
    """

    results: tuple[LensResult, ...]
    costs: tuple[Cost, ...]
    skipped: Mapping[str, str]
    n_forward_passes: int
    shared_seconds: float


def run_lenses(
    adapter: ModelAdapter,
    lenses: Sequence[Lens],
    prompt: PromptLike,
    *,
    readout: Readout | None = None,
    skip_inapplicable: bool = False,
    **choice: Any,
) -> Run:
    """Measure a prompt with several lenses.

    Args:
        adapter: The model.
        lenses: The lenses.
        prompt: What `iglens_tl.prompts.build_requests` takes.
        readout: Replaces the model's own readout.
        skip_inapplicable: Leave out lenses that turn out not to apply to the architecture.
        **choice: What is attributed, as `build_requests` takes it.

    Raises:
        NotApplicableError: If a lens does not apply to the architecture and is not to be skipped.
    """
    requests = build_requests(adapter, prompt, **choice)
    check_model(adapter, torch.tensor(requests[0].ids))
    recorded = {name: choice.get(name) for name in ("generate", "prepend_bos")}
    start = time.perf_counter()
    trace = collect_trace(adapter, requests, [lens.needs() for lens in lenses], recorded)
    wanted = [lens.points(trace) for lens in lenses]
    readings = _read(readout or adapter.readout, trace, lenses, wanted)
    shared_seconds = time.perf_counter() - start
    results: list[LensResult] = []
    costs: list[Cost] = []
    skipped: dict[str, str] = {}
    n_forward_passes = trace.n_forward_passes
    for lens, points in zip(lenses, wanted, strict=True):
        start = time.perf_counter()
        try:
            result = lens.measure(trace, readings)
        except NotApplicableError as error:
            if not skip_inapplicable:
                raise
            skipped[lens.name] = str(error)
            continue
        if lens.value.sums_over_targets:
            result = sum_over_targets(result)
        results.append(result)
        seconds = time.perf_counter() - start
        forward, backward = lens.passes(trace)
        shared = trace.n_forward_passes if lens.needs().any else 0
        n_forward_passes += forward
        rows = sum(len(point) for point in points)
        costs.append(Cost(shared + forward, backward, rows, seconds))
    return Run(tuple(results), tuple(costs), skipped, n_forward_passes, shared_seconds)


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
        top_k=max((lens.top_k for lens in lenses), default=0),
        reference=reference,
    )
