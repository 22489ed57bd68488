"""Validations: how far lenses agree with interventions on some prompts, and with chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from iglens_tl.files import write_atomically
from iglens_tl.results import storage
from iglens_tl.results.agreement import SHUFFLED
from iglens_tl.results.curves import SkipCurves
from iglens_tl.results.data import Provenance
from iglens_tl.results.lens import LensResult
from iglens_tl.results.objects import (
    decode_frame,
    decode_provenance,
    encode_frame,
    load_object,
    save_object,
)

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

RANDOM_TARGET, RANDOM_WEIGHTS = ", random target", ", random weights"
NULLS = (SHUFFLED, RANDOM_TARGET, RANDOM_WEIGHTS)
"""Endings of the names of credits that stand for chance."""

_KIND = "Validation"
_PAGE_WIDTH = 1060


@dataclass(frozen=True, eq=False, repr=False)
class Validation:
    """How far lenses agree with interventions on some prompts.

    Attributes:
        table: One row per credits, effects and metric, as from `agreement`: `mean`, `low` and
            `high`, the ends of its 95 % interval, `items` and `note`. The nulls are rows whose
            credits end in ", layers shuffled", ", random target" or ", random weights".
        by_item: One row per credits, effects and target, as from `agreement_by_item`.
        curves: The value with layers skipped in the order of the credits.
        credits: By name, what the lenses measured.
        effects: By intervention, what taking each layer out does.
        provenance: Model, options, checks, versions and date.
    """

    table: pd.DataFrame
    by_item: pd.DataFrame
    curves: SkipCurves
    credits: Mapping[str, LensResult]
    effects: Mapping[str, LensResult]
    provenance: Provenance

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, in sentences."""
        return self.provenance.notes

    @property
    def nulls(self) -> tuple[str, ...]:
        """Names of credits that stand for chance."""
        return tuple(n for n in dict.fromkeys(self.table["credits"]) if n.endswith(NULLS))

    def figure(self, *, metric: str = "spearman") -> Figure:
        """Draw one metric for all credits; see `iglens_tl.views.figures.agreement_figure`."""
        from iglens_tl.views.figures import agreement_figure

        return agreement_figure(self.table, metric=metric, nulls=self.nulls)

    def curves_figure(self) -> Figure:
        """Draw the mean skip curves; see `iglens_tl.views.figures.skip_curves_figure`."""
        return self.curves.figure()

    def layers_figure(self) -> Figure:
        """Draw the mean credits beside the mean effects, layer by layer."""
        from iglens_tl.views.figures import layers_figure

        return layers_figure(self.credits, self.effects)

    def to_html(self) -> str:
        """Return a page that says what was compared, with tables and figures, self-contained."""
        from iglens_tl.views.validation import validation_page

        narrow = self.figure().update_layout(width=_PAGE_WIDTH)
        figures = [self.layers_figure(), narrow, self.curves_figure()]
        return validation_page(self.table, figures, self.provenance, nulls=NULLS).decode()

    def write_html(self, path: str | Path) -> Path:
        """Write the page; an interruption leaves no part of it.

        Raises:
            ValueError: If the path cannot be written.
        """
        page = self.to_html()
        return write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))

    def to_frame(self, *, by_item: bool = False) -> pd.DataFrame:
        """Return the agreement as a table.

        Args:
            by_item: False: `table`, the means over targets. True: `by_item`, target by target.
        """
        return (self.by_item if by_item else self.table).copy()

    def save(self, path: str | Path) -> Path:
        """Write everything without loss to a `.json` file.

        An interrupted write leaves no partial file.

        Raises:
            ValueError: For another ending, or a path that cannot be written.
        """
        fields = {
            "table": encode_frame(self.table),
            "by_item": encode_frame(self.by_item),
            "curves": self.curves.encode(),
            "credits": {name: storage.encode(result) for name, result in self.credits.items()},
            "effects": {name: storage.encode(result) for name, result in self.effects.items()},
            "provenance": asdict(self.provenance),
        }
        return save_object(path, _KIND, fields)

    @classmethod
    def load(cls, path: str | Path) -> Validation:
        """Read a validation that `save` wrote.

        Raises:
            ValueError: For a missing, damaged or foreign file.
        """
        return load_object(path, _KIND, cls._decode)

    @classmethod
    def _decode(cls, content: Mapping[str, Any]) -> Validation:
        credits, effects = (
            {name: LensResult(**storage.decode(one)) for name, one in content[side].items()}
            for side in ("credits", "effects")
        )
        return cls(
            table=decode_frame(content["table"]),
            by_item=decode_frame(content["by_item"]),
            curves=SkipCurves.decode(content["curves"]),
            credits=credits,
            effects=effects,
            provenance=decode_provenance(content["provenance"]),
        )

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import validation_table

        return validation_table(self.table, self.provenance, NULLS)

    def __repr__(self) -> str:
        """Say what the validation holds in one line."""
        data = next(iter(self.credits.values()))
        return (
            f"Validation({', '.join(self.credits)} against {', '.join(self.effects)}: "
            f"{len(data.targets)} targets of {len(data.texts)} prompts, "
            f"{self.provenance.model.get('name', 'unnamed model')})"
        )
