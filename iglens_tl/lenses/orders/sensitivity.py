"""Measure how much a layer's credit depends on the order in which credit is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.arguments import Count
from iglens_tl.lenses.base import measure
from iglens_tl.lenses.baselines import BaselineLike
from iglens_tl.lenses.ig import PATHS, SHAPLEY_PATHS, IGLens, PathName
from iglens_tl.models.adapter import Model
from iglens_tl.models.loading import adapt
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import ValueLike
from iglens_tl.results.sensitivity import PathSensitivity
from iglens_tl.trace import Trace, as_trace

if TYPE_CHECKING:
    Paths: TypeAlias = Sequence[PathName]
else:  # anything may arrive here; `_check_paths` answers with a readable error
    Paths = Any


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
    if paths is None and adapter.block_kind in ("undivided", "parallel"):
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
