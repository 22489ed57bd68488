"""The credits of the same targets under several credit orders, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results import storage
from iglens_tl.results.agreement import rank_correlations
from iglens_tl.results.frames import target_index
from iglens_tl.results.lens import LensResult
from iglens_tl.results.objects import load_object, save_object

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

_KIND = "PathSensitivity"


@dataclass(frozen=True, eq=False, repr=False)
class PathSensitivity:
    """The credits of the same targets under several orders.

    Attributes:
        results: By path, the credits under that order.
    """

    results: Mapping[str, LensResult]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per target and segment, "embed" and the layers.

        Returns:
            One column per order, then the `min`, the `max` and the `range` between them. Credits of
            sublayers are summed over each layer.
        """
        credits = {path: self._by_layer(path).reshape(-1) for path in self.results}
        targets, labels = target_index(self._first), list(self._by_segment(self._first))
        rows = targets.repeat(len(labels)).to_frame(index=False)
        rows["segment"] = labels * len(targets)
        frame = pd.DataFrame(credits, index=pd.MultiIndex.from_frame(rows))
        low, high = frame.min(axis=1), frame.max(axis=1)
        return frame.assign(min=low, max=high, range=high - low)

    def rank_correlations(self) -> pd.DataFrame:
        """Compare every pair of orders by how they rank the layers.

        Returns:
            Spearman's rank correlation over the layers, without the embedding, averaged over the
            targets that have one, as a square table of the orders. NaN if no target has one.
        """
        layers = {path: self._by_layer(path)[:, 1:] for path in self.results}
        table = {
            path: {
                other: _mean_where_known(rank_correlations(credits, layers[other]))
                for other in layers
            }
            for path, credits in layers.items()
        }
        return pd.DataFrame.from_dict(table, orient="index").rename_axis("path")

    def figure(self, *, target: int | str = 0) -> Figure:
        """Draw one target's credits under every order, with their range.

        See `iglens_tl.views.figures.path_sensitivity_figure`.
        """
        from iglens_tl.views.figures import path_sensitivity_figure

        return path_sensitivity_figure(self.results, target=target)

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import path_sensitivity_table

        return path_sensitivity_table(self.to_frame(), self._first.unit, self._first.provenance)

    def save(self, path: str | Path) -> Path:
        """Write the results without loss to a `.json` file; an interruption leaves no part of it.

        Raises:
            ValueError: For another ending, or a path that cannot be written.
        """
        encoded = {name: storage.encode(result) for name, result in self.results.items()}
        return save_object(path, _KIND, {"results": encoded})

    @classmethod
    def load(cls, path: str | Path) -> PathSensitivity:
        """Read results that `save` wrote.

        Raises:
            ValueError: For a missing, damaged or foreign file.
        """
        return load_object(path, _KIND, cls._decode)

    @classmethod
    def _decode(cls, content: Mapping[str, Any]) -> PathSensitivity:
        results = content["results"].items()
        return cls({name: LensResult(**storage.decode(result)) for name, result in results})

    @property
    def _first(self) -> LensResult:
        return next(iter(self.results.values()))

    def _by_layer(self, path: str) -> Float[np.ndarray, "target segment"]:
        result = self.results[path]
        columns = self._by_segment(result).values()
        return np.stack([result.values[:, places].sum(1) for places in columns], axis=1)

    @staticmethod
    def _by_segment(result: LensResult) -> dict[str, list[int]]:
        """Return which columns of a result belong to each whole segment."""
        places: dict[str, list[int]] = {}
        for place, label in enumerate(result.segments):
            places.setdefault(label.split(".")[0], []).append(place)
        return places

    def __repr__(self) -> str:
        """Say in one line what was compared, and where the orders differ most."""
        frame = self.to_frame()
        token, segment = frame.index[int(frame["range"].argmax())][-2:]
        return (
            f"PathSensitivity({len(self._first.targets)} targets, {len(self.results)} orders: "
            f"{', '.join(self.results)}; largest range {frame['range'].max():.2g} in "
            f"{self._first.unit}, {segment} of {token!r})"
        )


def _mean_where_known(numbers: Float[np.ndarray, " target"]) -> float:
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if len(known) else float("nan")
