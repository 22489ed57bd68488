"""Orders over frozen updates: what each layer wrote in the whole run, added in another order.

The last state is the baseline plus the updates of all segments, h_l − h_{l−1}, so any order of
adding them leads from the baseline to the model's own prediction, and its credits sum to the same
total. Nothing is recomputed: a layer writes what it wrote behind all the layers below it, also
where these have not been added yet. The states on the way are then none that the model produced.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iglens_tl.arguments import Count, Layers, resolve_layers
from iglens_tl.lenses.estimators import (
    ChainEstimator,
    Estimator,
    credit_segments,
    resolve_estimator,
)
from iglens_tl.lenses.orders.order import CreditOrder
from iglens_tl.lenses.orders.shapley import ShapleyRule, check_sample, resolve_shapley_rule
from iglens_tl.lenses.orders.state_values import STATE_BYTES, value_coalitions
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Trace


@dataclass(frozen=True, kw_only=True)
class FrozenChain(CreditOrder):
    """Orders that are one chain of states from the baseline to the last state.

    Attributes:
        layers: Only these blocks end a segment, and the last block.
        estimator: "delta", "gradient" or "riemann", as in `IGLens`.
        n_steps: As in `IGLens`.
        tolerance: As in `IGLens`.
    """

    layers: Layers | None = None
    estimator: ChainEstimator = "delta"
    n_steps: Count | None = None
    tolerance: float | None = None

    cost: ClassVar[str] = "1 forward pass, a row of the unembedding per state and one per step"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        object.__setattr__(self, "layers", resolve_layers(self.layers))
        self._rule()

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline, the states between, and the last state."""
        start, last = self.ends(trace)
        between = [
            Point(f"{self.path}, {number} of {id(self)}", states, trace.target_rows, ranked=False)
            for number, states in enumerate(self._states_between(trace))
        ]
        return [start, *between, last]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Credit the steps, and put them in the order of the segments."""
        points, rule = self.points(trace), self._rule()
        visited = self.levels(trace, points, readings)
        credits = credit_segments(
            trace.adapter.readout, points, trace.token_ids, visited, self.resolved_value, rule
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
                "estimator": rule.name,
                "n_steps": rule.n_steps,
                "tolerance": rule.tolerance,
            },
        )

    def _rule(self) -> Estimator:
        return resolve_estimator(self.estimator, n_steps=self.n_steps, tolerance=self.tolerance)

    def _states_between(self, trace: Trace) -> list[Float[Tensor, "row d_model"]]:
        start = self.start(trace.adapter).states(trace)
        *inner, last = [trace.states[site] for site in self.chain(trace.adapter).sites]
        return self._between(start, inner, last)

    @abstractmethod
    def _between(self, start: Tensor, inner: list[Tensor], last: Tensor) -> list[Tensor]:
        """Return the states that the order visits between the baseline and the last state."""


@dataclass(frozen=True, kw_only=True)
class Reverse(FrozenChain):
    """The layers' frozen updates added last layer first, the embedding's step at the end."""

    path: ClassVar[str] = "reverse"
    measures: ClassVar[str] = (
        "the layers' frozen updates added last layer first, the embedding's step at the end"
    )

    def _between(self, start: Tensor, inner: list[Tensor], last: Tensor) -> list[Tensor]:
        return [start + last - states for states in reversed(inner)]


@dataclass(frozen=True, kw_only=True)
class StraightProjected(FrozenChain):
    """The straight line cut at the projections of the states, which may run backwards.

    They stand at α_l = ⟨h_l − b, D⟩ / ‖D‖² with D = h_n − b.
    """

    path: ClassVar[str] = "straight_projected"
    measures: ClassVar[str] = (
        "the straight line from baseline to last state, cut at the projections of the states; the "
        "cuts may run backwards"
    )

    def _between(self, start: Tensor, inner: list[Tensor], last: Tensor) -> list[Tensor]:
        whole = last - start
        square = whole.square().sum(1)
        # A line without length, but for rounding, has all its points in one place.
        rounding = 8 * torch.finfo(whole.dtype).eps * last.norm(dim=1)
        has_length = square > rounding.square()
        shares = [((states - start) * whole).sum(1) / square for states in inner]
        return [start + whole * torch.where(has_length, share, 0)[:, None] for share in shares]


@dataclass(frozen=True, kw_only=True)
class StraightUniform(FrozenChain):
    """The straight line cut into equal steps, without regard to the layers."""

    path: ClassVar[str] = "straight_uniform"
    measures: ClassVar[str] = "the straight line cut into equal steps, without regard to the layers"

    def _between(self, start: Tensor, inner: list[Tensor], last: Tensor) -> list[Tensor]:
        n_segments = len(inner) + 1
        return [start + (last - start) * (k / n_segments) for k in range(1, n_segments)]


@dataclass(frozen=True, kw_only=True)
class FrozenShapley(CreditOrder):
    """Every update's mean credit over all orders (Shapley 1953): v(S) = value(b + Σ_S updates).

    Attributes:
        layers: Only these blocks end a segment, and the last block.
        n_permutations: Orders that are sampled, in pairs of opposite order, with standard errors in
            `statistics`; 0 values all coalitions, None does so for at most 14 players and samples
            100 orders of more.
        seed: Seed of these orders.
    """

    layers: Layers | None = None
    n_permutations: Count | None = None
    seed: Count = 0

    path: ClassVar[str] = "shapley_frozen"
    measures: ClassVar[str] = (
        "each frozen update's mean credit over all orders of adding them (Shapley 1953)"
    )
    cost: ClassVar[str] = "1 forward pass, a row of the unembedding per coalition"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        object.__setattr__(self, "layers", resolve_layers(self.layers))
        check_sample(self.n_permutations, self.seed)

    def bind(self, adapter: ModelAdapter) -> CreditOrder:
        """Return the order, checked against the model."""
        bound = super().bind(adapter)
        self._rule(adapter)
        return bound

    def points(self, trace: Trace) -> list[Point]:
        """Return the baseline and the last state: nobody, and all."""
        return self.ends(trace)

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Value the coalitions for some rows at a time."""
        rule, readout = self._rule(trace.adapter), trace.adapter.readout
        ends = self.levels(trace, self.points(trace), readings)
        n_segments = len(self.chain(trace.adapter).segments)
        values = torch.empty(len(ends), n_segments, dtype=torch.float64)
        errors = torch.zeros_like(values)
        state_bytes = readout.d_model * readout.dtype.itemsize
        target_bytes = max(n_segments * state_bytes, 8 * len(rule.coalitions))
        for targets in torch.arange(len(ends)).split(max(1, STATE_BYTES // target_bytes)):
            table = self._table(trace, rule, targets, ends[targets])
            values[targets], of_sample = rule.credits(table)
            if of_sample is not None:
                errors[targets] = of_sample
        return self.result(
            trace,
            values=values,
            levels=ends[:, :1] + values.cumsum(1),
            ends=ends,
            options=rule.options,
            notes=(rule.describe("frozen updates"),),
            standard_errors=None if rule.permutations is None else errors,
        )

    def _rule(self, adapter: ModelAdapter) -> ShapleyRule:
        n_players = len(self.chain(adapter).segments)
        return resolve_shapley_rule(n_players, n_permutations=self.n_permutations, seed=self.seed)

    def _table(
        self, trace: Trace, rule: ShapleyRule, targets: Tensor, ends: Float[Tensor, "target end"]
    ) -> Float[Tensor, "target coalition"]:
        """Return the value of every coalition for some targets."""
        rows, target_rows = trace.target_rows[targets].unique(return_inverse=True)
        start = self.start(trace.adapter).states(trace)[rows]
        sites = self.chain(trace.adapter).sites
        states = torch.stack([start, *(trace.states[site][rows] for site in sites)])
        updates = states.diff(dim=0)

        def states_of(part: Bool[Tensor, "part player"]) -> Float[Tensor, "part row d_model"]:
            return start + torch.tensordot(part.to(updates), updates, dims=1)

        between = value_coalitions(
            trace, self.resolved_value, targets, rule.coalitions[1:-1], states_of, target_rows
        )
        return torch.cat([ends[:, :1], between, ends[:, 1:]], dim=1)
