"""How much a layer's credit depends on the order in which credit is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.arguments import Count
from iglens_tl.lenses.base import measure
from iglens_tl.lenses.baselines import BaselineLike
from iglens_tl.lenses.ig import PATHS, SHAPLEY_PATHS, IGLens, PathName
from iglens_tl.models.adapter import Model, adapt
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import ValueLike
from iglens_tl.results.agreement import rank_correlations
from iglens_tl.results.frames import target_index
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Trace, as_trace

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

    Paths: TypeAlias = Sequence[PathName]
else:  # anything may arrive here; `_check_paths` answers with a readable error
    Paths = Any


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


def path_sensitivity(
    model: Model | Trace,
    prompt: PromptLike | None = None,
    *,
    paths: Paths | None = None,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    value: ValueLike = "prob",
    baseline: BaselineLike = "mean",
    n_permutations: Count | None = None,
    seed: Count = 0,
    prepend_bos: bool | None = None,
) -> PathSensitivity:
    """Credit the same targets under several orders.

    All orders over frozen states share one forward pass and one sweep over the vocabulary; those
    over recomputed layers run the model once for every coalition of layers and every text.

    Args:
        model: A model, or a `Trace`, which already has its prompt and targets.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        paths: The orders, from `PATHS`; None for all, without "sublayers" where the architecture
            has none. "leave_one_out" takes part though its values do not sum to the same total.
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        value: As in `ig_lens`.
        baseline: As in `ig_lens`; orders over frozen states depend on it in every layer, but for
            "hidden_states" and "sublayers".
        n_permutations: As in `ig_lens`, for the Shapley orders.
        seed: Seed of these orders.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        The results by path, with a table of their range and their rank correlations.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For an unknown or repeated order, none at all, or arguments that do not fit the
            model or an order.

    Example:
        >>> from iglens_tl import load_model, path_sensitivity
        >>> sensitivity = path_sensitivity(
        ...     load_model("demo"),
        ...     "The capital of Vietnam is",
        ...     answer=" Hanoi",
        ...     paths=["hidden_states", "reverse"],
        ... )
        >>> sensitivity.to_frame().shape
        (9, 5)
    """
    names = _check_paths(paths)
    adapter = model.adapter if isinstance(model, Trace) else adapt(model)
    if paths is None and adapter.block_kind == "parallel":
        names.remove("sublayers")
    lenses = [
        IGLens(
            path=name,
            value=value,
            baseline=baseline,
            n_permutations=n_permutations if name in SHAPLEY_PATHS else None,
            seed=seed,
            top_k=0,
        )
        for name in names
    ]
    choice = {"answer": answer, "generate": generate, "targets": targets}
    trace = as_trace(model, prompt, **choice, prepend_bos=prepend_bos)
    run = measure(trace, lenses)
    return PathSensitivity(dict(zip(names, run.results, strict=True)))


def _check_paths(paths: Paths | None) -> list[PathName]:
    """Return the names of known orders.

    Raises:
        TypeError: For anything but a list of names.
        ValueError: For an unknown or repeated order, or none.
    """
    if paths is None:
        return list(PATHS)
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        raise TypeError(f"paths must be a list of names, got {paths!r}")
    if not paths:
        raise ValueError(f"paths is empty; choose from {', '.join(PATHS)}")
    for path in paths:
        if path not in PATHS:
            raise ValueError(f"unknown path {path!r}; choose from {', '.join(PATHS)}")
        if list(paths).count(path) > 1:
            raise ValueError(f"path {path!r} is given twice")
    return list(paths)


def _mean_where_known(numbers: Float[np.ndarray, " target"]) -> float:
    known = numbers[~np.isnan(numbers)]
    return float(known.mean()) if len(known) else float("nan")
