"""Skip curves: the value with some of the layers skipped, along orders of the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results.data import Target
from iglens_tl.results.frames import TARGET_COLUMNS
from iglens_tl.results.objects import (
    decode_array,
    decode_target,
    load_object,
    save_object,
)

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

RANDOM, ORACLE = "random", "oracle"
"""The orders that credits are compared with."""

_SMALLEST_AREA = 1e-9
_KIND = "SkipCurves"


@dataclass(frozen=True, eq=False, repr=False)
class SkipCurves:
    """Values with some of the layers skipped, along orders of the layers.

    Attributes:
        unit: The unit of the values.
        targets: The targets.
        deletion: By order, `[target, step]`: the value without the first k layers of the order, for
            k from 0 to the number of layers.
        insertion: The same with only the first k layers. The order "random" is the mean over random
            orders in both.
    """

    unit: str
    targets: tuple[Target, ...]
    deletion: Mapping[str, Float[np.ndarray, "target step"]]
    insertion: Mapping[str, Float[np.ndarray, "target step"]]

    def __post_init__(self) -> None:
        """Check that the parts fit one another, and make the arrays read-only."""
        if list(self.deletion) != list(self.insertion):
            raise ValueError(
                f"deletion has the orders {', '.join(self.deletion)}, but insertion "
                f"{', '.join(self.insertion)}"
            )
        if ORACLE not in self.deletion:
            raise ValueError(f"the order {ORACLE!r} is missing")
        arrays = [*self.deletion.values(), *self.insertion.values()]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1 or shapes[0][0] != len(self.targets):
            raise ValueError(f"the curves of {len(self.targets)} targets have shapes {shapes}")
        for array in arrays:
            array.setflags(write=False)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per order, target and step: `layers`, `deletion`, `insertion`, `unit`."""
        parts = []
        for order, deletion in self.deletion.items():
            n_steps = deletion.shape[1]
            part = self._index(order)
            part = part.loc[part.index.repeat(n_steps)].reset_index(drop=True)
            part["layers"] = np.tile(np.arange(n_steps), len(deletion))
            part["deletion"] = deletion.reshape(-1)
            part["insertion"] = self.insertion[order].reshape(-1)
            parts.append(part)
        return pd.concat(parts, ignore_index=True).assign(unit=self.unit)

    def areas(self) -> pd.DataFrame:
        """Return one row per order and target with the areas under the curves, all in `unit`.

        Returns:
            `deletion_area` and `insertion_area`: means over all steps, the first and the last
            included. `area_between`: insertion − deletion; 0 for random orders, because each comes
            with its reverse. `share_of_oracle`: the part of the oracle's `area_between`, without
            unit; NaN where the oracle has none. `comprehensiveness` and `sufficiency`: by how much
            the value falls without the first k layers and with only the first k, means over k from
            1 (areas over the perturbation curve, DeYoung et al., "ERASER", 2020). Good orders have
            a large comprehensiveness and a small sufficiency.
        """
        parts = [self._index(order).assign(**self.areas_of(order)) for order in self.deletion]
        return pd.concat(parts, ignore_index=True)

    def areas_of(self, order: str) -> dict[str, Float[np.ndarray, " target"]]:
        """Return the columns of `areas` for one order."""
        deletion, insertion = self.deletion[order], self.insertion[order]
        between, oracle = self._area_between(order), self._area_between(ORACLE)
        share = np.full(len(between), np.nan)
        np.divide(between, oracle, out=share, where=oracle > _SMALLEST_AREA)
        return {
            "deletion_area": deletion.mean(axis=1),
            "insertion_area": insertion.mean(axis=1),
            "area_between": between,
            "share_of_oracle": share,
            "comprehensiveness": (deletion[:, :1] - deletion[:, 1:]).mean(axis=1),
            "sufficiency": (deletion[:, :1] - insertion[:, 1:]).mean(axis=1),
        }

    def figure(self) -> Figure:
        """Draw the mean curves; see `iglens_tl.views.figures.skip_curves_figure`."""
        from iglens_tl.views.figures import skip_curves_figure

        return skip_curves_figure(self.to_frame())

    def save(self, path: str | Path) -> Path:
        """Write the curves without loss to a `.json` file.

        An interrupted write leaves no partial file.

        Raises:
            ValueError: For another ending, or a path that cannot be written.
        """
        return save_object(path, _KIND, self.encode())

    @classmethod
    def load(cls, path: str | Path) -> SkipCurves:
        """Read curves that `save` wrote.

        Raises:
            ValueError: For a missing, damaged or foreign file.
        """
        return load_object(path, _KIND, cls.decode)

    def encode(self) -> dict[str, Any]:
        """Return the curves as an object that JSON can hold, but for NaN."""
        return {
            "unit": self.unit,
            "targets": [asdict(target) for target in self.targets],
            "deletion": {order: values.tolist() for order, values in self.deletion.items()},
            "insertion": {order: values.tolist() for order, values in self.insertion.items()},
        }

    @classmethod
    def decode(cls, content: Mapping[str, Any]) -> SkipCurves:
        """Return curves from what `encode` and JSON made of them."""
        deletion, insertion = (
            {order: decode_array(values) for order, values in content[curve].items()}
            for curve in ("deletion", "insertion")
        )
        targets = tuple(decode_target(target) for target in content["targets"])
        return cls(content["unit"], targets, deletion, insertion)

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import skip_curves_table

        curves = {"deletion": self.deletion, "insertion": self.insertion}
        return skip_curves_table(curves, self.areas(), self.unit)

    def __repr__(self) -> str:
        """Say what the curves hold in one line."""
        n_layers = next(iter(self.deletion.values())).shape[1] - 1
        return (
            f"SkipCurves({', '.join(self.deletion)}: {len(self.targets)} targets, {n_layers} "
            f"layers, in {self.unit})"
        )

    def _area_between(self, order: str) -> Float[np.ndarray, " target"]:
        return (self.insertion[order] - self.deletion[order]).mean(axis=1)

    def _index(self, order: str) -> pd.DataFrame:
        columns = {name: [getattr(t, name) for t in self.targets] for name in TARGET_COLUMNS}
        frame = pd.DataFrame(columns)
        frame.insert(0, "order", order)
        return frame
