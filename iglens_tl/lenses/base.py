"""Lenses, and measuring a trace with several of them.

A lens is a frozen dataclass of options. It is checked when it is made, and again against the model
whose trace it measures; it names the activations that it needs and the states that it wants read
out, and makes a result of them. Several lenses share one forward pass and one sweep over the
vocabulary.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from iglens_tl.models.adapter import Model, ModelAdapter, NotApplicableError
from iglens_tl.prompts import PromptLike, bind_value
from iglens_tl.readout import Point, Reading, Value, ValueLike, read_points, resolve_value
from iglens_tl.results.comparison import Cost
from iglens_tl.results.lens import LensResult
from iglens_tl.results.sequences import sum_over_targets
from iglens_tl.trace import Needs, Trace, begin_trace

if TYPE_CHECKING:
    Measured: TypeAlias = Trace
else:  # anything may arrive here; `measure` answers with a readable error
    Measured = Any

_Lens = TypeVar("_Lens", bound="Lens")


@dataclass(frozen=True, kw_only=True)
class Lens(ABC):
    """A lens with its options.

    Attributes:
        value: What is measured: a name of `VALUES`, or a `Value`.
        name: The name by which it is asked for, and under which its results stand.
        label: What readers call it.
        measures: What its numbers are, in a sentence.
        units: The unit of its numbers.
        sums_to: What the numbers of a target's layers sum to.
        additive: Whether they sum to `final − baseline`.
        cost: What it costs alone.
    """

    value: ValueLike = "prob"

    name: ClassVar[str]
    label: ClassVar[str]
    measures: ClassVar[str]
    units: ClassVar[str] = "the value's: probability, nats or logit"
    sums_to: ClassVar[str]
    additive: ClassVar[bool]
    cost: ClassVar[str]

    # Whether something was fitted to the model with its own weights.
    fitted: ClassVar[bool] = False
    # Whether entropies, and divergences from the last state, are kept at the points.
    statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            TypeError: For an option of a wrong kind.
            ValueError: For an option that the lens does not have.
        """
        resolve_value(self.value)

    def __call__(self, trace: Measured) -> LensResult:
        """Measure a trace.

        Raises:
            TypeError: For anything but a trace.
            ValueError: For options that do not fit the model of the trace.
        """
        return measure(trace, [self]).results[0]

    @classmethod
    def accepts(cls, value: ValueLike) -> bool:
        """Return whether the lens can measure a value."""
        del value
        return True

    def bind(self: _Lens, adapter: ModelAdapter) -> _Lens:
        """Return the lens with its options as they are for a model, such as tokens as ids.

        Raises:
            ValueError: For options that do not fit the model.
            NotApplicableError: If the lens does not apply to the architecture.
        """
        return replace(self, value=bind_value(adapter, self.value))

    @abstractmethod
    def needs(self, adapter: ModelAdapter) -> Needs:
        """Return what to keep of the forward pass."""

    def points(self, trace: Trace) -> list[Point]:
        """Return the states to read out. Points of equal key are read once for all lenses."""
        del trace
        return []

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Return the forward and backward passes that `measure` itself runs."""
        del trace
        return 0, 0

    @abstractmethod
    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Compute the result from the states and the readings of all points."""

    @property
    def top_tokens(self) -> int:
        """The number of most probable tokens that are kept at the points."""
        return getattr(self, "top_k", 0)

    @property
    def resolved_value(self) -> Value:
        """The value itself, where it is given by name."""
        return resolve_value(self.value)

    def describe_options(self) -> str:
        """Return the options that differ from the defaults, as Python writes them."""
        told = []
        for option in fields(self):
            chosen = getattr(self, option.name)
            if not _is_default(chosen, option.default):
                told.append(f"{option.name}={getattr(chosen, 'name', None) or chosen!r}")
        return ", ".join(told)


@dataclass(frozen=True)
class Run:
    """The outcome of measuring a trace with some lenses.

    Attributes:
        results: One for each lens that applies, in order.
        costs: For each result what its lens costs alone.
        skipped: By the lens's index, why it does not apply to the model.
        n_forward_passes: Forward passes that the model ran for this trace in all.
        shared_seconds: Time of the shared forward pass and of the sweep over the vocabulary.
    """

    results: tuple[LensResult, ...]
    costs: tuple[Cost, ...]
    skipped: Mapping[int, str]
    n_forward_passes: int
    shared_seconds: float


def measure(trace: Measured, lenses: Sequence[Lens], *, skip_inapplicable: bool = False) -> Run:
    """Measure a trace with several lenses, which share whatever they can.

    Args:
        trace: The trace; what the lenses need beyond what it holds is added to it.
        lenses: The lenses.
        skip_inapplicable: Leave out lenses that do not apply to the architecture.

    Raises:
        TypeError: For anything but a trace.
        NotApplicableError: If a lens does not apply to the architecture and is not to be skipped.
    """
    if not isinstance(trace, Trace):
        raise TypeError(
            f"a lens measures a trace, got {type(trace).__name__}; make one with "
            "trace_prompt(model, prompt) or Trace.from_cache(model, cache, tokens)"
        )
    skipped: dict[int, str] = {}
    bound: dict[int, Lens] = {}
    for index, lens in enumerate(lenses):
        try:
            bound[index] = lens.bind(trace.adapter)
        except NotApplicableError as error:
            if not skip_inapplicable:
                raise
            skipped[index] = str(error)
    start = time.perf_counter()
    before = trace.n_forward_passes
    trace.collect(lens.needs(trace.adapter) for lens in bound.values())
    shared_passes = trace.n_forward_passes - before
    points = {index: lens.points(trace) for index, lens in bound.items()}
    readings = _read(trace, [(bound[index], own) for index, own in points.items()])
    shared_seconds = time.perf_counter() - start
    results: list[LensResult] = []
    costs: list[Cost] = []
    for index, lens in bound.items():
        start = time.perf_counter()
        try:
            result = lens.measure(trace, readings)
        except NotApplicableError as error:
            if not skip_inapplicable:
                raise
            skipped[index] = str(error)
            continue
        if lens.resolved_value.sums_over_targets:
            result = sum_over_targets(result)
        results.append(result)
        seconds = time.perf_counter() - start
        forward, backward = lens.passes(trace)
        trace.n_forward_passes += forward
        alone = shared_passes if lens.needs(trace.adapter).any else 0
        rows = sum(len(point) for point in points[index])
        costs.append(Cost(alone + forward, backward, rows, seconds))
    return Run(tuple(results), tuple(costs), skipped, trace.n_forward_passes, shared_seconds)


def measure_prompt(
    lens: type[Lens], options: Mapping[str, Any], model: Model, prompt: PromptLike, **choice: Any
) -> LensResult:
    """Measure a prompt with one lens, which the functions named like lenses do.

    Args:
        lens: The class of the lens.
        options: Its options.
        model: The model.
        prompt: The prompt.
        **choice: What is attributed: `answer`, `generate`, `targets` and `prepend_bos`.
    """
    made = configure(lens, options)
    trace = begin_trace(model, prompt, **choice)
    return made(trace)


def configure(lens: type[_Lens], options: Mapping[str, Any]) -> _Lens:
    """Make a lens of options by name.

    Raises:
        TypeError: For an option that the lens does not have.
    """
    known = [option.name for option in fields(lens)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(
            f"{lens.name} has no option {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    return lens(**options)


def state_point(trace: Trace, site: str) -> Point:
    """Return the states at a site as a point whose key is the site."""
    return Point(site, trace.states[site], trace.target_rows)


def _read(trace: Trace, wanted: Sequence[tuple[Lens, Sequence[Point]]]) -> dict[str, Reading]:
    """Read the points of all lenses; ranks and statistics only where a lens asks for them."""
    points: dict[str, Point] = {}
    lenses = [lens for lens, _ in wanted]
    for lens, own in wanted:
        for point in own:
            known = points.get(point.key)
            is_ranked = point.ranked and (lens.top_tokens > 0 or lens.statistics)
            is_ranked |= known is not None and known.ranked
            points[point.key] = replace(point, ranked=is_ranked)
    reference = None
    if any(lens.statistics for lens in lenses):
        reference = trace.adapter.post_site(trace.adapter.n_layers - 1)
    return read_points(
        trace.adapter.readout,
        list(points.values()),
        trace.token_ids,
        top_k=max((lens.top_tokens for lens in lenses), default=0),
        reference=reference,
    )


def _is_default(chosen: Any, default: Any) -> bool:
    return type(chosen) is type(default) and bool(chosen == default)
