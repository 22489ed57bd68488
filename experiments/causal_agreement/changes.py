"""What a lens or an intervention says of every segment, as a table and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.common.items import Item
from iglens_tl import LensResult
from iglens_tl.results import Target, Text
from iglens_tl.results.segments import parse_segment


@dataclass(frozen=True, eq=False)
class Changes:
    """One number for every segment of every item: a credit, an effect, or a change of a level.

    Attributes:
        unit: Their unit.
        segments: The segments, parts of blocks only.
        items: Which items they are known of, by their number.
        values: The numbers.
    """

    unit: str
    segments: tuple[str, ...]
    items: tuple[int, ...]
    values: Float[np.ndarray, "item segment"]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per item and segment: `item`, `segment`, `change`, `unit`."""
        return pd.DataFrame(
            {
                "item": np.repeat(self.items, len(self.segments)),
                "segment": np.tile(np.array(self.segments, dtype=object), len(self.items)),
                "change": self.values.reshape(-1),
                "unit": self.unit,
            }
        )

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Changes:
        """Read the table that `to_frame` wrote, which has at least one row."""
        wide = frame.pivot(index="item", columns="segment", values="change")
        segments = tuple(frame["segment"].unique())
        items = tuple(int(item) for item in wide.index)
        return cls(str(frame["unit"].iloc[0]), segments, items, wide[list(segments)].to_numpy())

    def without_layers(self, layers: Sequence[int]) -> Changes:
        """Return what is said of the segments of all other layers."""
        kept = [
            i for i, label in enumerate(self.segments) if parse_segment(label).layer not in layers
        ]
        segments = tuple(self.segments[i] for i in kept)
        return Changes(self.unit, segments, self.items, self.values[:, kept])

    def of_items(self, items: Sequence[int]) -> Changes:
        """Return what is said of some of the items."""
        places = [self.items.index(item) for item in items]
        return Changes(self.unit, self.segments, tuple(items), self.values[places])

    def to_result(self, name: str, items: Sequence[Item]) -> LensResult:
        """Return the numbers as a result about the items' answers, ready to be compared.

        What was measured of another token or model stands there as well, as if it were about the
        answer: that is what a null compares.

        Args:
            name: The name of the lens.
            items: All items, in the order of their numbers.
        """
        targets = [
            Target(
                number, len(items[number].ids) - 1, items[number].answer_id, items[number].answer
            )
            for number in self.items
        ]
        nothing = np.zeros(len(targets))
        return LensResult(
            lens=name,
            unit=self.unit,
            kind="effect",
            segments=self.segments,
            texts=tuple(Text(item.ids, tuple(map(str, item.ids))) for item in items),
            targets=tuple(targets),
            values=self.values.copy(),
            levels=np.zeros_like(self.values),
            baseline=nothing,
            final=nothing.copy(),
        )


def changes_of_blocks(result: LensResult, *, by_layer: bool = False) -> Changes:
    """Return what a result with one target for each item says of the parts of blocks.

    Level lenses are read by the differences of their levels.

    Args:
        result: The result.
        by_layer: Sum the parts of each layer.
    """
    labels = [parse_segment(label) for label in result.segments]
    changes = result.changes
    if by_layer:
        layers = sorted({label.layer for label in labels if label.layer is not None})
        sums = [
            changes[:, [i for i, label in enumerate(labels) if label.layer == layer]].sum(1)
            for layer in layers
        ]
        segments, values = tuple(f"L{layer}" for layer in layers), np.stack(sums, axis=1)
    else:
        kept = [i for i, label in enumerate(labels) if label.layer is not None]
        segments, values = tuple(result.segments[i] for i in kept), changes[:, kept]
    return Changes(result.unit, segments, tuple(range(len(result.targets))), values)


def side_by_side(parts: Sequence[Changes]) -> Changes:
    """Return what several measures say of different segments of the same items as one."""
    segments = tuple(segment for part in parts for segment in part.segments)
    values = np.concatenate([part.values for part in parts], axis=1)
    return Changes(parts[0].unit, segments, parts[0].items, values)
