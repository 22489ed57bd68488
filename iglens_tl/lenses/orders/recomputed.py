"""Orders over recomputed layers: what the model predicts when it runs only some of its layers.

A layer that is skipped, at all positions, passes its input on, and the layers above read what is
then there. Credits therefore hold also what a layer prepares for later ones, at any position.
Running the first layers alone leaves the state that the logit lens reads (early exit), so the
game's prefixes are the hidden-state path, and the last layer's credit there is its skip effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.arguments import Count, resolve_top_k
from iglens_tl.lenses.base import state_point
from iglens_tl.lenses.orders.order import CreditOrder
from iglens_tl.lenses.orders.shapley import ShapleyRule, check_sample, resolve_shapley_rule
from iglens_tl.lenses.orders.state_values import value_coalitions
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.skipping import run_skipping
from iglens_tl.readout import Point, Reading
from iglens_tl.results.data import Kind
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Trace

_LEAVE_ONE_OUT_NOTE = (
    "leave_one_out: each layer's value is what skipping it alone takes from the final value, with "
    "the layers above recomputed. The values do not sum to anything. 'embed' is no skip effect: "
    "value(embedding state) − value(baseline)"
)


@dataclass(frozen=True, kw_only=True)
class SkipShapley(CreditOrder):
    """Every layer's mean credit over all orders of adding layers to a model without any.

    Attributes:
        n_permutations: As in `FrozenShapley`; the players are the layers.
        seed: Seed of the sampled orders.
    """

    n_permutations: Count | None = None
    seed: Count = 0

    path: ClassVar[str] = "shapley_skip"
    measures: ClassVar[str] = (
        "each layer's mean credit over all orders of adding layers to a model that skips the "
        "others, recomputed (Shapley 1953)"
    )
    cost: ClassVar[str] = "2^n_layers forward passes for each text, or those of sampled orders"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_sample(self.n_permutations, self.seed)

    def bind(self, adapter: ModelAdapter) -> CreditOrder:
        """Return the order, checked against the model."""
        bound = super().bind(adapter)
        self._rule(adapter)
        return bound

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline, then nobody's state and everybody's."""
        start, last = self.ends(trace)
        return [start, state_point(trace, self.chain(trace.adapter).sites[0]), last]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every coalition of every text but nobody and everybody."""
        n_coalitions = len(self._rule(trace.adapter).coalitions)
        return (n_coalitions - 2) * len(trace.requests), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Run every coalition on every text."""
        rule = self._rule(trace.adapter)
        levels = self.levels(trace, self.points(trace), readings)
        n_segments = len(self.chain(trace.adapter).segments)
        values = levels.diff(dim=1)[:, :1].repeat(1, n_segments)
        errors = torch.zeros_like(values)
        nobody, everybody = levels[:, 1:2], levels[:, 2:]
        for targets, between in _values_by_text(self, trace, rule.coalitions[1:-1]):
            table = torch.cat([nobody[targets], between, everybody[targets]], dim=1)
            values[targets, 1:], of_sample = rule.credits(table)
            if of_sample is not None:
                errors[targets, 1:] = of_sample
        return self.result(
            trace,
            values=values,
            levels=levels[:, :1] + values.cumsum(1),
            ends=levels[:, [0, 2]],
            options=rule.options,
            notes=(rule.describe("layers that run or are skipped"),),
            standard_errors=None if rule.permutations is None else errors,
        )

    def _rule(self, adapter: ModelAdapter) -> ShapleyRule:
        return resolve_shapley_rule(
            adapter.n_layers, n_permutations=self.n_permutations, seed=self.seed
        )


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(CreditOrder):
    """Leave one out: the loss of final value when a layer alone is skipped; not additive.

    Attributes:
        top_k: How many of the most probable tokens to keep after each layer of the whole run.
    """

    top_k: Count = 5

    path: ClassVar[str] = "leave_one_out"
    measures: ClassVar[str] = (
        "what skipping each layer alone takes from the final value, recomputed; not additive"
    )
    sums_to: ClassVar[str] = "nothing: separate effects"
    additive: ClassVar[bool] = False
    kind: ClassVar[Kind] = "effect"
    cost: ClassVar[str] = "a forward pass for every layer of every text"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        resolve_top_k(self.top_k)

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline, then the chain's states, whose readouts are the levels."""
        adapter = trace.adapter
        states = [state_point(trace, site) for site in self.chain(adapter).sites]
        return [self.start(adapter).point(trace), *states]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every layer of every text."""
        return trace.adapter.n_layers * len(trace.requests), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Skip every layer once on every text."""
        points = self.points(trace)
        levels = self.levels(trace, points, readings)
        values = levels.diff(dim=1)
        without_one = ~torch.eye(trace.adapter.n_layers, dtype=torch.bool)
        for targets, skipped in _values_by_text(self, trace, without_one):
            values[targets, 1:] = levels[targets, -1:] - skipped
        return self.result(
            trace,
            values=values,
            levels=levels[:, 1:],
            ends=levels[:, [0, -1]],
            options={},
            notes=(_LEAVE_ONE_OUT_NOTE,),
            readings=[readings[point.key] for point in points[1:]],
        )


def _values_by_text(
    lens: CreditOrder, trace: Trace, coalitions: Bool[Tensor, "coalition layer"]
) -> Iterator[tuple[Int[Tensor, " target"], Float[Tensor, "target coalition"]]]:
    """Yield for each text its targets, and their values when only some layers run."""
    first_target, first_row = 0, 0
    for request in trace.requests:
        positions = sorted(set(request.positions))
        targets = torch.arange(first_target, first_target + len(request.target_ids))
        states_of = partial(run_skipping, trace.adapter, request.ids, positions=positions)
        target_rows = trace.target_rows[targets] - first_row
        yield (
            targets,
            value_coalitions(
                trace, lens.resolved_value, targets, coalitions, states_of, target_rows
            ),
        )
        first_target += len(targets)
        first_row += len(positions)
