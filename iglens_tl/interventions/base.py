"""What all lenses have in common that take parts of a model out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iglens_tl.lenses.base import Lens
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.trace import Needs


@dataclass(frozen=True, kw_only=True)
class EffectLens(Lens):
    """A lens that measures what the final value loses."""

    name: ClassVar[str] = "layer_effects"
    label: ClassVar[str] = "layer effects"
    measures: ClassVar[str] = (
        "What the final value loses when a unit is taken out and everything above it recomputed: "
        "separate effects, which sum to nothing."
    )
    sums_to: ClassVar[str] = "nothing: separate effects"
    additive: ClassVar[bool] = False
    cost: ClassVar[str] = "a row of a forward pass for every unit, text and draw"

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the last state."""
        return Needs((adapter.post_site(adapter.n_layers - 1),))


@dataclass(frozen=True, kw_only=True)
class BoundEffectLens(EffectLens):
    """A lens of effects that is bound to a model already.

    Attributes:
        adapter: The model.
    """

    adapter: ModelAdapter

    def bind(self, adapter: ModelAdapter) -> Lens:
        """Return the lens itself."""
        del adapter
        return self
