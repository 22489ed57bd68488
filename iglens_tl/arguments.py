"""Options that several lenses share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    Layers: TypeAlias = Sequence[int]
    Count: TypeAlias = int
else:  # anything may arrive here; it is answered with a readable error
    Layers = Count = Any


def resolve_layers(layers: Layers | None) -> tuple[int, ...] | None:
    """Check chosen blocks, as far as that can be done without a model.

    Raises:
        TypeError: For anything but a list of integers.
        ValueError: For none, a negative one, or one that is given twice.
    """
    if layers is None:
        return None
    if isinstance(layers, (str, int)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers must be a list of block numbers, got {layers!r}")
    chosen = list(layers)
    for layer in chosen:
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise TypeError(f"layers must be block numbers, got {layer!r}")
    if not chosen:
        raise ValueError("layers is empty; name at least one block")
    repeated = [layer for layer in set(chosen) if chosen.count(layer) > 1]
    if repeated:
        raise ValueError(f"layer {repeated[0]} is given twice")
    return tuple(int(layer) for layer in chosen)


def resolve_count(name: str, number: Count, *, least: int, advice: str = "") -> int:
    """Check an option that is a number of things.

    Raises:
        TypeError: For anything but an integer.
        ValueError: For less than the least.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name} must be an integer, got {type(number).__name__}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}{advice}")
    return number


def resolve_choice(name: str, chosen: Any, options: Mapping[Any, Any]) -> str:
    """Check an option that is one of a table of names.

    Raises:
        ValueError: For anything else.
    """
    if not isinstance(chosen, str) or chosen not in options:
        raise ValueError(f"unknown {name} {chosen!r}; choose one of {', '.join(options)}")
    return chosen


def resolve_top_k(top_k: Count) -> int:
    """Check how many of the most probable tokens are wanted.

    Raises:
        ValueError: For anything but an integer of at least 0.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k must be an integer of at least 0, got {top_k!r}")
    return top_k
