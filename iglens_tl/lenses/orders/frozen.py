"""Orders over frozen updates: what each layer wrote in the whole run, added in another order.

The last state is the baseline plus the updates of all segments, h_l − h_{l−1}, so any order of
adding them leads from the baseline to the model's own prediction, and its credits sum to the same
total. Nothing is recomputed: a layer writes what it wrote behind all the layers below it, also
where these have not been added yet. The states on the way are then none that the model produced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.estimators import Estimator, credit_segments
from iglens_tl.lenses.orders.order import OrderLens
from iglens_tl.lenses.path_start import start_states
from iglens_tl.lenses.orders.shapley import ShapleyRule
from iglens_tl.lenses.orders.state_values import STATE_BYTES, value_coalitions
from iglens_tl.trace import Trace
from iglens_tl.readout import Point, Reading


@dataclass(frozen=True, kw_only=True)
class FrozenChain(OrderLens):
    """Orders that are one chain of states from the baseline to the last state.

    - `reverse` adds the updates last layer first and the embedding's step at the end.
    - `straight_projected` cuts the straight line at the projections of the states,
      α_l = ⟨h_l − b, D⟩ / ‖D‖² with D = h_n − b; they may run backwards.
    - `straight_uniform` cuts it into equal steps, without regard to the layers.
    """

    estimator: Estimator

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline, the states between, and the last state."""
        start, last = self.ends(trace)
        between = [
            Point(f"{self.path}, {number}", states, trace.target_rows, ranked=False)
            for number, states in enumerate(self._states_between(trace))
        ]
        return [start, *between, last]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Credit the steps, and put them in the order of the segments."""
        points = self.points(trace)
        visited = self.levels(trace, points, readings)
        credits = credit_segments(
            self.readout, points, trace.token_ids, visited, self.value, self.estimator
        )
        changes = visited.diff(dim=1)
        if self.path == "reverse":
            credits, changes = credits.flip(1), changes.flip(1)
        return self.result(
            trace,
            values=credits,
            levels=visited[:, :1] + changes.cumsum(1),
            ends=visited[:, [0, -1]],
            options={
                "estimator": self.estimator.name,
                "n_steps": self.estimator.n_steps,
                "tolerance": self.estimator.tolerance,
            },
        )

    def _states_between(self, trace: Trace) -> list[Float[Tensor, "row d_model"]]:
        start = start_states(trace)
        *inner, last = [trace.states[site] for site in self.chain.sites]
        if self.path == "reverse":
            return [start + last - states for states in reversed(inner)]
        whole = last - start
        if self.path == "straight_uniform":
            n_segments = len(self.chain.segments)
            return [start + whole * (k / n_segments) for k in range(1, n_segments)]
        # A line without length has all its points in one place.
        square = whole.square().sum(1).clamp_min(torch.finfo(whole.dtype).tiny)
        return [
            start + whole * (((states - start) * whole).sum(1) / square)[:, None]
            for states in inner
        ]


@dataclass(frozen=True, kw_only=True)
class FrozenShapley(OrderLens):
    """Every update's mean credit over all orders (Shapley 1953): v(S) = value(b + Σ_S updates)."""

    rule: ShapleyRule

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline and the last state: nobody, and all."""
        return self.ends(trace)

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Value the coalitions for some rows at a time."""
        ends = self.levels(trace, self.points(trace), readings)
        n_segments = len(self.chain.segments)
        values = torch.empty(len(ends), n_segments, dtype=torch.float64)
        errors = torch.zeros_like(values)
        state_bytes = self.readout.d_model * self.readout.dtype.itemsize
        target_bytes = max(n_segments * state_bytes, 8 * len(self.rule.coalitions))
        for targets in torch.arange(len(ends)).split(max(1, STATE_BYTES // target_bytes)):
            table = self._table(trace, targets, ends[targets])
            values[targets], of_sample = self.rule.credits(table)
            if of_sample is not None:
                errors[targets] = of_sample
        return self.result(
            trace,
            values=values,
            levels=ends[:, :1] + values.cumsum(1),
            ends=ends,
            options=self.rule.options,
            notes=(self.rule.describe("frozen updates"),),
            standard_errors=None if self.rule.permutations is None else errors,
        )

    def _table(
        self, trace: Trace, targets: Tensor, ends: Float[Tensor, "target end"]
    ) -> Float[Tensor, "target coalition"]:
        """Return the value of every coalition for some targets."""
        rows, target_rows = trace.target_rows[targets].unique(return_inverse=True)
        start = start_states(trace)[rows]
        states = torch.stack([start, *(trace.states[site][rows] for site in self.chain.sites)])
        updates = states.diff(dim=0)

        def states_of(part: Bool[Tensor, "part player"]) -> Float[Tensor, "part row d_model"]:
            return start + torch.tensordot(part.to(updates), updates, dims=1)

        between = value_coalitions(
            trace, self.value, targets, self.rule.coalitions[1:-1], states_of, target_rows
        )
        return torch.cat([ends[:, :1], between, ends[:, 1:]], dim=1)
