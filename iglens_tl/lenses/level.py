"""Level lenses: a level is read out after each segment, with its distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iglens_tl.arguments import Count, resolve_top_k
from iglens_tl.lenses.base import Lens


@dataclass(frozen=True, kw_only=True)
class LevelLens(Lens):
    """A lens whose numbers are levels: they do not sum to anything.

    Attributes:
        top_k: How many of the most probable tokens are kept per state; 0 also skips the ranks and
            saves about a tenth of the time.
    """

    top_k: Count = 5

    sums_to: ClassVar[str] = "nothing: levels"
    additive: ClassVar[bool] = False
    statistics: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        resolve_top_k(self.top_k)
