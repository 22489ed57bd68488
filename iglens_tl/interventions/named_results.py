"""Results as they are compared: one or several by name, all of the same targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from iglens_tl.results import LensData
from iglens_tl.results.comparison import LensComparison
from iglens_tl.results.lens import LensResult
from iglens_tl.results.segments import layer_label, parse_segment

if TYPE_CHECKING:
    Results: TypeAlias = LensResult | LensComparison | Mapping[str, LensResult]
else:  # anything may arrive here; `named_results` answers with a readable error
    Results = Any


def named_results(results: Results, what: str) -> dict[str, LensResult]:
    """Return results by name; a single one and those of a comparison are called as their lens.

    Args:
        results: What the user gave.
        what: What it was given as.

    Raises:
        TypeError: For anything but results.
        ValueError: For none.
    """
    if isinstance(results, LensResult):
        return {results.lens: results}
    if isinstance(results, LensComparison):
        return {result.name: result for result in results.results}
    if not isinstance(results, Mapping):
        raise TypeError(
            f"{what} must be a LensResult, a mapping from names to them, or a LensComparison, got "
            f"{type(results).__name__}"
        )
    if not results:
        raise ValueError(f"{what} is empty; give at least one result")
    for name, result in results.items():
        if not isinstance(name, str) or not isinstance(result, LensResult):
            raise TypeError(
                f"{what} must map names to LensResults, got {type(result).__name__} for {name!r}"
            )
    return dict(results)


def check_same_targets(results: Mapping[str, LensData]) -> None:
    """Raise ValueError, with the first difference, unless all results have the same targets."""
    (first_name, first), *others = results.items()
    for name, other in others:
        advice = "measure both with the same prompts and the same answer, generate or targets"
        if len(first.targets) != len(other.targets):
            raise ValueError(
                f"{first_name} has {len(first.targets)} targets, but {name} has "
                f"{len(other.targets)}; {advice}"
            )
        for row, (left, right) in enumerate(zip(first.targets, other.targets, strict=True)):
            texts = first.texts[left.prompt].ids, other.texts[right.prompt].ids
            if left != right or texts[0] != texts[1]:
                said = (
                    f"{left.token!r} at position {left.position} of prompt {left.prompt} in "
                    f"{first_name}, but {right.token!r} at position {right.position} of prompt "
                    f"{right.prompt} in {name}"
                )
                if left == right:
                    said = f"after another text in {name} than in {first_name}"
                raise ValueError(f"target {row} is {said}; {advice}")


def changes_of_layers(
    data: LensData, n_layers: int, name: str
) -> Float[np.ndarray, "target layer"]:
    """Return what a result says of each whole layer of a model.

    Segments of no layer, as "embed", are left out.

    Raises:
        ValueError: If the result has other segments than the model's layers, or begins in one.
    """
    wanted = [layer_label(layer) for layer in range(n_layers)]
    found = [label for label in data.segments if parse_segment(label).layer is not None]
    if found != wanted:
        raise ValueError(
            f"{name} has the segments {shorten(found)}, but whole layers are skipped, from L0 to "
            f"{wanted[-1]}; measure every layer, or sum components with by_layer()"
        )
    if data.kind in ("level", "value") and data.segments[0] == wanted[0]:
        raise ValueError(
            f"{name} begins with the level after L0, which says nothing of L0 itself; give a "
            "result that begins with the embedding"
        )
    return data.changes[:, [data.segments.index(label) for label in wanted]]


def shorten(segments: list[str] | tuple[str, ...]) -> str:
    """Write a list of segments, the middle of a long one left out."""
    labels = list(segments)
    shown = labels if len(labels) <= 6 else [*labels[:3], "…", *labels[-2:]]
    return ", ".join(shown) or "none"
