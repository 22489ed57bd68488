"""The result type of every lens: the data, with its tables, figures and files at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from iglens_tl.results import storage
from iglens_tl.results.contributors import contributors_frame, sum_by_head, sum_by_layer
from iglens_tl.results.data import LensData, TopTokens
from iglens_tl.results.frames import onset_series, tidy_frame, wide_frame

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure


@dataclass(frozen=True, eq=False, repr=False)
class LensResult(LensData):
    """The measurement of a lens; see `LensData` for the fields.

    The result is immutable. Its methods return new objects and write or show nothing unasked.

    Example:
        >>> from iglens_tl import ig_lens, load_model
        >>> result = ig_lens(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> result.to_frame().columns[:2].tolist()
        ['embed', 'L0']
    """

    def to_frame(self, *, tidy: bool = False) -> pd.DataFrame:
        """Return the result as a table.

        Args:
            tidy: False: one row per target, one column per segment, then `sum` (of the segments),
                `delta` (`final − baseline`), `final`, `baseline`, `error` (`sum − delta`) and
                `onset`; a level lens has only `final` and `onset`. True: one row per target and
                segment.

        Returns:
            A new table. Targets are named by prompt, position, token id and token, as the index of
            the wide table and as columns of the tidy one.
        """
        return tidy_frame(self) if tidy else wide_frame(self)

    def onset(self, *, rule: str = "mass", fraction: float = 0.5) -> pd.Series:
        """Return the segment by which each target's value has been produced.

        Args:
            rule: "mass", the rule of the IG-Lens paper: where the cumulative |change| reaches the
                fraction of its total. "persistent": from where on the level keeps at least the
                fraction of its way from baseline to final.
            fraction: The fraction, in (0, 1].

        Raises:
            ValueError: For an unknown rule or a fraction outside (0, 1].
        """
        return onset_series(self, rule=rule, fraction=fraction)

    def for_prompt(self, prompt: int) -> LensResult:
        """Return the part of a batch's result that belongs to one prompt.

        Raises:
            ValueError: If there is no such prompt.
        """
        if not 0 <= prompt < len(self.texts):
            raise ValueError(f"there is no prompt {prompt}; there are {len(self.texts)}")
        rows = [i for i, target in enumerate(self.targets) if target.prompt == prompt]
        top = self.top
        return replace(
            self,
            texts=(self.texts[prompt],),
            targets=tuple(replace(self.targets[i], prompt=0) for i in rows),
            values=self.values[rows],
            levels=self.levels[rows],
            baseline=self.baseline[rows],
            final=self.final[rows],
            ranks=None if self.ranks is None else self.ranks[rows],
            top=top and TopTokens(top.ids[rows], top.probs[rows], top.tokens),
            statistics={name: numbers[rows] for name, numbers in self.statistics.items()},
        )

    def contributors(self, *, top: int = 20, target: int | str | None = None) -> pd.DataFrame:
        """Return each target's components of largest |credit|, and the others in one row.

        Args:
            top: How many components each target has.
            target: Which target, by row number or token; by default all of them.

        Returns:
            One row per target and component; see `iglens_tl.results.contributors` for the columns.
            `credit` and `share` of a target add up to those of all its components.

        Raises:
            ValueError: For a lens that is not additive, `top` below 1, or an unknown target.
        """
        return contributors_frame(self, top=top, target=target)

    def by_layer(self) -> LensResult:
        """Return the result with the credits of each layer's components summed.

        Raises:
            ValueError: For a lens that is not additive.
        """
        return sum_by_layer(self)

    def by_head(self) -> LensResult:
        """Return the result with the credits of each head's sources summed.

        Raises:
            ValueError: For a result without the sources of heads.
        """
        return sum_by_head(self)

    def figure(self, *, prompt: int = 0, show: str = "value", title: str | None = None) -> Figure:
        """Draw the default view of a result, its `heatmap`."""
        return self.heatmap(prompt=prompt, show=show, title=title)

    def heatmap(self, *, prompt: int = 0, show: str = "value", title: str | None = None) -> Figure:
        """Draw the token × segment map; see `iglens_tl.views.figures.heatmap`."""
        from iglens_tl.views.figures import heatmap

        return heatmap(self, prompt=prompt, show=show, title=title)

    def waterfall(self, target: int | str, *, top: int | None = None) -> Figure:
        """Draw how one target's value is built up; see `iglens_tl.views.figures.waterfall`."""
        from iglens_tl.views.figures import waterfall

        return waterfall(self, target, top=top)

    def head_heatmap(self, target: int | str) -> Figure:
        """Draw one target's credits by head and layer; see `views.figures.head_heatmap`."""
        from iglens_tl.views.figures import head_heatmap

        return head_heatmap(self, target)

    def source_heatmap(self, target: int | str, *, by: str = "layer", top: int = 24) -> Figure:
        """Draw which tokens a credit was read from; see `views.figures.source_heatmap`."""
        from iglens_tl.views.figures import source_heatmap

        return source_heatmap(self, target, by=by, top=top)

    def sankey(self, target: int | str, *, top: int = 20) -> Figure:
        """Draw one target's credits as flows; see `iglens_tl.views.figures.sankey`."""
        from iglens_tl.views.figures import sankey

        return sankey(self, target, top=top)

    def save(self, path: str | Path) -> Path:
        """Write the result without loss to a `.json` or `.parquet` file.

        An interrupted write leaves no partial file. The Parquet file is the tidy table, with the
        rest in its metadata.

        Raises:
            ValueError: For another ending, or a path that cannot be written.
        """
        return storage.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> LensResult:
        """Read a result that `save` wrote.

        Raises:
            ValueError: For a missing, damaged or foreign file.
        """
        return cls(**storage.load(path))

    def to_json(self) -> str:
        """Return the text of the JSON file that `save` writes."""
        return storage.to_json(self)

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import lens_table

        return lens_table(self)

    def __repr__(self) -> str:
        """Say what the result holds in one line."""
        error = ""
        if self.additive:
            error = f", largest completeness error {abs(self.completeness_error).max():.1e}"
        return (
            f"LensResult({self.lens}, {self.provenance.model.get('name', 'unnamed model')}: "
            f"{len(self.targets)} targets × {len(self.segments)} segments in {self.unit}{error})"
        )
