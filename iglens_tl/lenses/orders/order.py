"""Credit orders: a common beginning, common readings and one shape of result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from iglens_tl.arguments import Layers
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.base import Lens, state_point
from iglens_tl.lenses.baselines import BaselineLike, Start, check_baseline, resolve_baseline
from iglens_tl.lenses.chain import Chain, build_chain
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.readout import Point, Reading
from iglens_tl.results.data import Kind
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace


@dataclass(frozen=True, kw_only=True)
class CreditOrder(Lens):
    """IG-Lens with its credits in one order.

    Attributes:
        value: What is attributed, as in `IGLens`.
        baseline: Where every order begins, as in `IGLens`.
        path: The name of the order.
        kind: What the values are.
    """

    baseline: BaselineLike = "mean"

    name: ClassVar[str] = "ig_lens"
    label: ClassVar[str] = "IG-Lens"
    sums_to: ClassVar[str] = "p(final) − p(baseline), exactly"
    additive: ClassVar[bool] = True
    kind: ClassVar[Kind] = "credit"
    path: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        object.__setattr__(self, "baseline", check_baseline(self.baseline))

    def bind(self, adapter: ModelAdapter) -> CreditOrder:
        """Return the order, checked against the model."""
        resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        self.chain(adapter)
        return super().bind(adapter)

    @property
    def chosen_layers(self) -> Layers | None:
        """The blocks that end a segment, None for all; only some orders have a choice."""
        return getattr(self, "layers", None)

    def chain(self, adapter: ModelAdapter) -> Chain:
        """Return the states between which the credits stand."""
        return build_chain(adapter, layers=self.chosen_layers)

    def start(self, adapter: ModelAdapter) -> Start:
        """Return where the order begins."""
        baseline = resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        return Start(adapter.embed_site, baseline)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the chain's states, and for what the baseline is made of."""
        return Needs(self.chain(adapter).sites) | self.start(adapter).needs()

    def ends(self, trace: Trace) -> list[Point]:
        """Return the two points that every order has: the baseline and the last state."""
        last = self.chain(trace.adapter).sites[-1]
        return [self.start(trace.adapter).point(trace), state_point(trace, last)]

    def levels(
        self, trace: Trace, points: Sequence[Point], readings: Mapping[str, Reading]
    ) -> Float[Tensor, "target point"]:
        """Return the value at points that were read for this lens, the last state last."""
        return levels_of(trace, self.resolved_value, [readings[point.key] for point in points])

    def result(
        self,
        trace: Trace,
        *,
        values: Float[Tensor, "target segment"],
        levels: Float[Tensor, "target segment"],
        ends: Float[Tensor, "target end"],
        options: Mapping[str, object],
        notes: tuple[str, ...] = (),
        standard_errors: Float[Tensor, "target segment"] | None = None,
        readings: Sequence[Reading] = (),
    ) -> LensResult:
        """Put the result together.

        Args:
            trace: The texts, targets and model.
            values: The credits.
            levels: The level after each segment.
            ends: The value at the baseline and at the last state.
            options: The order's own options.
            notes: What a reader must know.
            standard_errors: Those of sampled values.
            readings: The readings at the chain's states, where the levels are read from them.
        """
        value = self.resolved_value
        result = assemble(
            trace,
            lens=self,
            unit=value.unit,
            kind=self.kind,
            segments=self.chain(trace.adapter).segments,
            values=values,
            levels=levels,
            baseline=ends[:, 0],
            final=ends[:, 1],
            readings=readings,
            top_k=self.top_tokens,
            options={
                "path": self.path,
                "layers": self.chosen_layers,
                "baseline": self.start(trace.adapter).baseline.name,
                **value.provenance(),
                **options,
            },
            notes=notes,
        )
        if standard_errors is None:
            return result
        return replace(result, statistics={"standard_error": standard_errors.numpy()})
