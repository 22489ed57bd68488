"""Several lenses on the same targets, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from iglens_tl.files import write_atomically
from iglens_tl.results import storage
from iglens_tl.results.agreement import (
    monotonicity,
    pairwise_agreement,
    pairwise_agreement_by_target,
)
from iglens_tl.results.frames import target_index
from iglens_tl.results.lens import LensResult

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

_FORMAT = "iglens_tl.LensComparison"
_VERSION = 1


@dataclass(frozen=True)
class Cost:
    """The cost of a lens when it runs alone; the comparison shares most of it.

    Attributes:
        forward_passes: Forward passes of the model.
        backward_passes: Backward passes.
        readout_rows: States multiplied with W_U.
        seconds: What the lens computed by itself, beyond the shared forward pass and sweep.
    """

    forward_passes: int
    backward_passes: int
    readout_rows: int
    seconds: float


@dataclass(frozen=True)
class ComparisonSummary:
    """Tables of how the lenses of a comparison relate.

    Attributes:
        agreement: One row per pair of lenses: mean rank correlation of what changes in each layer,
            with the 95 % bootstrap interval over prompts, and mean sign agreement.
        agreement_by_target: The same for every target.
        onsets: One row per target, one column per lens: the segment by which half of the lens's
            absolute change has happened.
        monotonicity: One row per level lens and target: how often, and how far in all, the level
            moves away from where it ends.
    """

    agreement: pd.DataFrame
    agreement_by_target: pd.DataFrame
    onsets: pd.DataFrame
    monotonicity: pd.DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class LensComparison:
    """The results of several lenses for the same targets.

    Attributes:
        results: One for each lens, in the order asked for.
        costs: By lens, what it costs alone.
        shared_seconds: Time of the forward pass and sweep that the lenses shared.
        forward_passes: Forward passes that the comparison ran in all.
        skipped: By lens, why it does not apply to this model.
    """

    results: tuple[LensResult, ...]
    costs: Mapping[str, Cost]
    shared_seconds: float
    forward_passes: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the results, in their order: labels, or the names of their lenses."""
        return tuple(result.name for result in self.results)

    def __getitem__(self, lens: str) -> LensResult:
        """Return the result of one lens.

        Raises:
            ValueError: If the comparison has no such lens.
        """
        for result in self.results:
            if result.name == lens:
                return result
        names = ", ".join(result.name for result in self.results)
        reason = f": {self.skipped[lens]}" if lens in self.skipped else ""
        raise ValueError(f"the comparison has no lens {lens!r}{reason}; it has {names}")

    def to_frame(self, *, tidy: bool = False) -> pd.DataFrame:
        """Return all results as one table.

        Args:
            tidy: False: one row per target and one column per (lens, segment). True: one row per
                lens, target and segment, with the lens's `unit`, whether it is `additive`, the
                target's `sum`, `expected_sum` and `completeness_error` (NaN for level lenses), and
                the lens's costs.
        """
        if tidy:
            return pd.concat([self._tidy(result) for result in self.results], ignore_index=True)
        frames = {result.name: result.to_frame()[list(result.segments)] for result in self.results}
        return pd.concat(frames, axis=1, names=["lens", "segment"])

    def cost_frame(self) -> pd.DataFrame:
        """Return one row per lens with its unit, additivity, worst error and costs."""
        rows = {}
        for result in self.results:
            cost = self.costs[result.name]
            rows[result.name] = {
                "unit": result.unit,
                "additive": result.additive,
                "largest_error": abs(result.completeness_error).max(),
                **vars(cost),
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lens")

    def summary(self) -> ComparisonSummary:
        """Compare the lenses with one another."""
        onsets = {result.name: result.onset().to_numpy() for result in self.results}
        return ComparisonSummary(
            agreement=pairwise_agreement(self.results),
            agreement_by_target=pairwise_agreement_by_target(self.results),
            onsets=pd.DataFrame(onsets, index=target_index(self.results[0])),
            monotonicity=monotonicity(self.results),
        )

    def figure(self, *, prompt: int = 0, target: int | str | None = None) -> Figure:
        """Draw one map per lens on shared axes; see `iglens_tl.views.figures.comparison_figure`."""
        from iglens_tl.views.figures import comparison_figure

        return comparison_figure(self.results, prompt=prompt, target=target)

    def report(
        self,
        path: str | Path,
        *,
        others: LensComparison | Sequence[LensComparison] = (),
        heads: LensResult | None = None,
        why_no_heads: str = "",
        prompt: int = 0,
        notes: Sequence[str] = (),
    ) -> Path:
        """Write one HTML page to explore and to mail: it needs no network and is below 6 MB.

        Args:
            path: Where the page goes; it ends in ".html".
            others: A comparison of the same targets in another value, or several, so that the page
                can switch.
            heads: `components(…, by="head_source")` of the same targets, for the largest heads and
                the tokens that they read.
            why_no_heads: Why there are none, in a sentence that stands in their place.
            prompt: Which text of a batch.
            notes: What else a reader of the page must know, in sentences.

        Raises:
            ValueError: For another ending, results of different targets, a lens that measured a
                value in two ways, a text that is too long for 6 MB, or a path that cannot be
                written.
        """
        from iglens_tl.views.report import write_report

        comparisons = [self, *([others] if isinstance(others, LensComparison) else others)]
        results = [result for comparison in comparisons for result in comparison.results]
        shown = {result.name for result in results}
        skipped = {
            lens: why
            for comparison in comparisons
            for lens, why in comparison.skipped.items()
            if lens not in shown
        }
        return write_report(
            results,
            path,
            heads=heads,
            why_no_heads=why_no_heads,
            prompt=prompt,
            skipped=skipped,
            notes=notes,
        )

    def to_json(self) -> str:
        """Return the text of the JSON file that `save` writes."""
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "forward_passes": self.forward_passes,
            "shared_seconds": self.shared_seconds,
            "costs": {lens: asdict(cost) for lens, cost in self.costs.items()},
            "skipped": dict(self.skipped),
            "results": [storage.encode(result) for result in self.results],
        }
        return json.dumps(content, ensure_ascii=False, indent=1)

    def save(self, path: str | Path) -> Path:
        """Write the comparison without loss to a `.json` file; an interruption leaves no part.

        Raises:
            ValueError: For another ending, or a path that cannot be written.
        """
        if Path(path).suffix.lower() != ".json":
            raise ValueError(f"{str(path)!r} must end in .json")
        text = self.to_json() + "\n"
        return write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: str | Path) -> LensComparison:
        """Read a comparison that `save` wrote.

        Raises:
            ValueError: For a missing, damaged or foreign file.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT or content["version"] != _VERSION:
                raise ValueError(f"it is not a {_FORMAT} of version {_VERSION}")
            return cls(
                results=tuple(LensResult(**storage.decode(r)) for r in content["results"]),
                costs={lens: Cost(**cost) for lens, cost in content["costs"].items()},
                shared_seconds=content["shared_seconds"],
                forward_passes=content["forward_passes"],
                skipped=content["skipped"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} holds no comparison of iglens_tl: {error}") from error

    def _tidy(self, result: LensResult) -> pd.DataFrame:
        frame = result.to_frame(tidy=True)
        n_segments = len(result.segments)
        frame["additive"] = result.additive
        missing = float("nan") if not result.additive else 0.0
        for column, numbers in {
            "sum": result.sums + missing,
            "expected_sum": result.final - result.baseline + missing,
            "completeness_error": result.completeness_error,
        }.items():
            frame[column] = numbers.repeat(n_segments)
        for column, number in vars(self.costs[result.name]).items():
            frame[column] = number
        return frame

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import comparison_table

        return comparison_table(self.results, self.skipped)

    def __repr__(self) -> str:
        """Say what the comparison holds in one line."""
        names = ", ".join(result.name for result in self.results)
        return f"LensComparison({names}: {len(self.results[0].targets)} targets)"
