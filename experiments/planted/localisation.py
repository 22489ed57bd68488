"""How much of what a lens says lies on the segments that are known to be true.

Only what blocks do is scored. The embedding's credit is left out: it depends on the baseline, and
causal effects of blocks have no such segment. Signs do not count: a lens that takes the answer away
from a wrong layer is as wrong as one that gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from iglens_tl.results.segments import attention_label, parse_segment


@dataclass(frozen=True)
class Localisation:
    """Where a lens looks for the answer, compared with where it is.

    Attributes:
        mass: Σ|change| of the true segments / Σ|change| of all blocks: 1 if the lens names nothing
            but them.
        evenness: The smallest of the masses of the true segments, times their number: 0 if one of
            them is missed, 1 if all have the same mass and nothing else has any. With one true
            segment it is the mass.
        top: The segment of largest |change|.
        top_is_true: Whether that is a true one.
        total: Σ|change| of all blocks, in the lens's unit.
    """

    mass: float
    evenness: float
    top: str
    top_is_true: bool
    total: float


def localise(
    changes: Float[np.ndarray, " segment"], segments: Sequence[str], truth: Sequence[str]
) -> Localisation:
    """Score the changes of one target.

    Args:
        changes: What the lens says of each segment.
        segments: Labels of the segments, of layers or of their parts.
        truth: Labels of the true segments, as fine as they are known ("L3.mlp", "L2.H1"). A coarser
            segment that holds one of them is true.

    Raises:
        ValueError: If there is nothing to score: no truth, a truth that no segment holds, or no
            block of which the lens says anything.
    """
    if not truth:
        raise ValueError("there is no true segment to find")
    of_blocks = [i for i, label in enumerate(segments) if parse_segment(label).layer is not None]
    labels = [segments[i] for i in of_blocks]
    sizes = np.abs(np.asarray(changes, dtype=np.float64)[of_blocks])
    total = float(sizes.sum())
    if not total > 0:
        raise ValueError(f"the lens says nothing of any block: its changes sum to {total}")
    holding = np.array([[label in _holders(true) for label in labels] for true in truth])
    missing = [true for true, holds in zip(truth, holding, strict=True) if not holds.any()]
    if missing:
        raise ValueError(f"no segment holds {missing[0]}; the blocks' segments are {labels}")
    is_true = np.any(holding, axis=0)
    # Several true parts of one coarse segment share it.
    parts = (holding / np.maximum(holding.sum(0), 1)) @ sizes / total
    top = int(sizes.argmax())
    return Localisation(
        mass=float(sizes[is_true].sum() / total),
        evenness=float(parts.min() * len(truth)),
        top=labels[top],
        top_is_true=bool(is_true[top]),
        total=total,
    )


def _holders(true: str) -> tuple[str, ...]:
    """Return the labels of a segment and of the coarser ones that hold it."""
    segment = parse_segment(true)
    if segment.part == "head" and segment.layer is not None:
        return true, attention_label(segment.layer), segment.layer_label
    return true, segment.layer_label
