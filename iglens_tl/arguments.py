"""Options that several lenses share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Layers: TypeAlias = Sequence[int]
    Count: TypeAlias = int
else:  # anything may arrive here; it is answered with a readable error
    Layers = Count = Any


def resolve_top_k(top_k: Count) -> int:
    """Check how many of the most probable tokens are wanted.

    Raises:
        ValueError: For anything but an integer of at least 0.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k must be an integer of at least 0, got {top_k!r}")
    return top_k
