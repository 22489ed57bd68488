"""What all credit orders share: where they begin, what they read, and the shape of their result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.lens_result import LensResult
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.baselines import Baseline
from iglens_tl.lenses.chain import Chain
from iglens_tl.lenses.path_start import start_needs, start_point
from iglens_tl.lenses.running import Lens, state_point
from iglens_tl.lenses.trace import Needs, Trace
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.readout import Point, Reading, Readout, Value, read_levels, read_points

STATE_BYTES = 32 * 2**20
"""How many bytes of states are made at a time, beyond those of the trace."""


@dataclass(frozen=True, kw_only=True)
class OrderLens(Lens):
    """IG-Lens with its credits in another order, with resolved options.

    Attributes:
        adapter: The model.
        path: The name of the order.
        value: What is attributed.
        baseline: Where every order begins.
        chain: The states between which the credits stand.
        layers: The blocks that were chosen, None for all.
    """

    name = "ig_lens"

    adapter: ModelAdapter
    path: str
    value: Value
    baseline: Baseline
    chain: Chain
    layers: tuple[int, ...] | None = None

    @property
    def readout(self) -> Readout:
        """The model's readout."""
        return self.adapter.readout

    def needs(self) -> Needs:
        """Ask for the chain's states, and for what the baseline is made of."""
        lowest = self.chain.sites[0]
        return Needs(self.chain.sites, start_needs(lowest, self.baseline.of_text))

    def ends(self, trace: Trace) -> list[Point]:
        """Return the two points that every order has: the baseline and the last state."""
        return [start_point(trace), state_point(trace, self.chain.sites[-1])]

    def levels(
        self, trace: Trace, points: Sequence[Point], readings: Mapping[str, Reading]
    ) -> Float[Tensor, "target point"]:
        """Return the value at points that were read for this lens, the last state last."""
        return levels_of(trace, self.value, [readings[point.key] for point in points])

    def values_of_coalitions(
        self,
        trace: Trace,
        targets: Int[Tensor, " target"],
        coalitions: Bool[Tensor, "coalition player"],
        states_of: Callable[[Bool[Tensor, "part player"]], Float[Tensor, "part row d_model"]],
        target_rows: Int[Tensor, " target"],
    ) -> Float[Tensor, "target coalition"]:
        """Value many coalitions, a few at a time, so that their states need `STATE_BYTES` at most.

        Args:
            trace: The texts, targets and model.
            targets: Some of the targets.
            coalitions: For each coalition who belongs to it.
            states_of: Gives the last states of some coalitions.
            target_rows: The row of these states at which each target is read.
        """
        final = state_point(trace, self.chain.sites[-1])
        n_rows = int(target_rows.max()) + 1
        row_bytes = self.readout.d_model * self.readout.dtype.itemsize
        size = max(1, STATE_BYTES // (n_rows * row_bytes))
        values = torch.empty(len(targets), len(coalitions), dtype=torch.float64)
        for first in range(0, len(coalitions), size):
            part = slice(first, first + size)
            states = states_of(coalitions[part])
            # One point for all: as many pairs of a target and a coalition as fit share a sweep.
            rows = torch.arange(len(states))[:, None] * states.shape[1] + target_rows
            point = Point("coalitions", states.flatten(0, 1), rows.flatten(), ranked=False)
            token_ids = trace.token_ids[targets].repeat(len(states))
            reading = read_points(self.readout, [point], token_ids)[point.key]
            last = replace(final, target_rows=final.target_rows[targets].repeat(len(states)))
            levels = read_levels(self.readout, self.value, [reading], token_ids, final=last)
            values[:, part] = levels.view(len(states), -1).T
        return values

    def result(
        self,
        trace: Trace,
        *,
        values: Float[Tensor, "target segment"],
        levels: Float[Tensor, "target segment"],
        ends: Float[Tensor, "target end"],
        additive: bool = True,
        options: Mapping[str, object],
        notes: tuple[str, ...] = (),
        standard_errors: Float[Tensor, "target segment"] | None = None,
        readings: Sequence[Reading] = (),
        top_k: int = 0,
    ) -> LensResult:
        """Put the result together.

        Args:
            trace: The texts, targets and model.
            values: The credits.
            levels: The level after each segment.
            ends: The value at the baseline and at the last state.
            additive: Whether the values sum to the difference of the two.
            options: The order's own options.
            notes: What a reader must know.
            standard_errors: Those of sampled values.
            readings: The readings at the chain's states, where the levels are read from them.
            top_k: How many of these readings' most probable tokens to keep.
        """
        result = assemble(
            trace,
            lens=self.name,
            unit=self.value.unit,
            additive=additive,
            segments=self.chain.segments,
            values=values,
            levels=levels,
            baseline=ends[:, 0],
            final=ends[:, 1],
            readings=readings,
            top_k=top_k,
            options={
                "path": self.path,
                "layers": self.layers,
                "baseline": self.baseline.name,
                "value": self.value.name,
                **options,
            },
            notes=notes,
        )
        if standard_errors is None:
            return result
        return replace(result, statistics={"standard_error": standard_errors.numpy()})
