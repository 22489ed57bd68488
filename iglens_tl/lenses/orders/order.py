"""What all credit orders share: where they begin, what they read, and the shape of their result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.baselines import Baseline
from iglens_tl.lenses.chain import Chain
from iglens_tl.lenses.path_start import start_needs, start_point
from iglens_tl.lenses.base import Lens, state_point
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.readout import Point, Reading, Readout, Value


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

    def result(
        self,
        trace: Trace,
        *,
        values: Float[Tensor, "target segment"],
        levels: Float[Tensor, "target segment"],
        ends: Float[Tensor, "target end"],
        additive: bool = True,
        cumulative: bool = True,
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
            cumulative: Whether what does not sum is read along the layers.
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
            cumulative=cumulative,
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
                **self.value.provenance(),
                **options,
            },
            notes=notes,
        )
        if standard_errors is None:
            return result
        return replace(result, statistics={"standard_error": standard_errors.numpy()})
