"""The straight line from the baseline to the last state, on which all updates grow together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iglens_tl.lenses.decomposition.components import Components
from iglens_tl.lenses.decomposition.splits import ComponentPath, PartsBy


@dataclass(frozen=True, kw_only=True)
class LayerParts(Components):
    """Whole layers, or sublayers, as the parts that share an integral: `Components` of IG-Lens."""

    by: PartsBy = "layer"

    name: ClassVar[str] = "ig_lens"
    label: ClassVar[str] = "IG-Lens"


@dataclass(frozen=True, kw_only=True)
class Straight(LayerParts):
    """All updates growing together on the line from baseline to last state (Aumann–Shapley)."""

    path: ComponentPath = "straight"

    measures: ClassVar[str] = (
        "the straight line from baseline to last state, on which all updates grow together "
        "(Aumann and Shapley 1974)"
    )

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.path != "straight" or self.by != "layer":
            raise ValueError("Straight credits whole layers along path='straight'")
