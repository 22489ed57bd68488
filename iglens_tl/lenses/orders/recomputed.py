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

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.orders.order import OrderLens
from iglens_tl.lenses.path_start import start_point
from iglens_tl.lenses.base import state_point
from iglens_tl.lenses.orders.shapley import ShapleyRule
from iglens_tl.lenses.orders.state_values import value_coalitions
from iglens_tl.trace import Trace
from iglens_tl.models.skipping import run_skipping
from iglens_tl.readout import Point, Reading

_LEAVE_ONE_OUT_NOTE = (
    "leave_one_out: each layer's value is what skipping it alone takes from the final value, with "
    "the layers above recomputed. The values do not sum to anything. 'embed' is no skip effect: "
    "value(embedding state) − value(baseline)"
)


@dataclass(frozen=True, kw_only=True)
class SkipShapley(OrderLens):
    """Every layer's mean credit over all orders of adding layers to a model without any."""

    rule: ShapleyRule

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline, then nobody's state and everybody's."""
        start, last = self.ends(trace)
        return [start, state_point(trace, self.chain.sites[0]), last]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every coalition of every text but nobody and everybody."""
        return (len(self.rule.coalitions) - 2) * len(trace.requests), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Run every coalition on every text."""
        levels = self.levels(trace, self.points(trace), readings)
        values = levels.diff(dim=1)[:, :1].repeat(1, len(self.chain.segments))
        errors = torch.zeros_like(values)
        nobody, everybody = levels[:, 1:2], levels[:, 2:]
        for targets, between in _values_by_text(self, trace, self.rule.coalitions[1:-1]):
            table = torch.cat([nobody[targets], between, everybody[targets]], dim=1)
            values[targets, 1:], of_sample = self.rule.credits(table)
            if of_sample is not None:
                errors[targets, 1:] = of_sample
        return self.result(
            trace,
            values=values,
            levels=levels[:, :1] + values.cumsum(1),
            ends=levels[:, [0, 2]],
            options=self.rule.options,
            notes=(self.rule.describe("layers that run or are skipped"),),
            standard_errors=None if self.rule.permutations is None else errors,
        )


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(OrderLens):
    """What skipping each layer alone takes from the final value; not additive.

    Attributes:
        top_k: How many of the most probable tokens to keep after each layer of the whole run.
    """

    top_k: int

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline, then the chain's states, whose readouts are the levels."""
        return [start_point(trace), *(state_point(trace, site) for site in self.chain.sites)]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every layer of every text."""
        return self.adapter.n_layers * len(trace.requests), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Skip every layer once on every text."""
        points = self.points(trace)
        levels = self.levels(trace, points, readings)
        values = levels.diff(dim=1)
        without_one = ~torch.eye(self.adapter.n_layers, dtype=torch.bool)
        for targets, skipped in _values_by_text(self, trace, without_one):
            values[targets, 1:] = levels[targets, -1:] - skipped
        return self.result(
            trace,
            values=values,
            levels=levels[:, 1:],
            ends=levels[:, [0, -1]],
            additive=False,
            cumulative=False,
            options={},
            notes=(_LEAVE_ONE_OUT_NOTE,),
            readings=[readings[point.key] for point in points[1:]],
            top_k=self.top_k,
        )


def _values_by_text(
    lens: OrderLens, trace: Trace, coalitions: Bool[Tensor, "coalition layer"]
) -> Iterator[tuple[Int[Tensor, " target"], Float[Tensor, "target coalition"]]]:
    """Yield for each text its targets, and their values when only some layers run."""
    first_target, first_row = 0, 0
    for request in trace.requests:
        positions = sorted(set(request.positions))
        targets = torch.arange(first_target, first_target + len(request.target_ids))
        states_of = partial(run_skipping, lens.adapter, request.ids, positions=positions)
        target_rows = trace.target_rows[targets] - first_row
        yield (
            targets,
            value_coalitions(trace, lens.value, targets, coalitions, states_of, target_rows),
        )
        first_target += len(targets)
        first_row += len(positions)
