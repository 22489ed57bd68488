"""Random results, for tests of tables, files and figures."""

from __future__ import annotations

import numpy as np

from iglens_tl.lens_result import LensResult
from iglens_tl.results import Provenance, Target, Text, TopTokens

HOSTILE = "</script><img src=x onerror=alert(1)>"


def make_result(
    values: np.ndarray | None = None,
    *,
    tokens: tuple[str, ...] = (" Hanoi", ".", "\n", " "),
    unit: str = "probability",
    additive: bool = True,
    error: float = 0.0,
    with_top: bool = True,
    seed: int = 0,
) -> LensResult:
    """Build credits whose completeness error is `error` for every target, or given levels."""
    rng = np.random.default_rng(seed)
    n_targets = len(tokens)
    if values is None:
        values = rng.normal(scale=0.2, size=(n_targets, 4))
    n_segments = values.shape[1]
    baseline = rng.uniform(0, 0.1, size=n_targets)
    levels = baseline[:, None] + values.cumsum(1)
    if not additive:
        levels, baseline = values, values[:, 0]
    top = TopTokens(
        rng.integers(0, 3, size=(n_targets, n_segments, 2)),
        np.sort(rng.uniform(size=(n_targets, n_segments, 2)))[:, :, ::-1].copy(),
        {0: " the", 1: HOSTILE, 2: "é\x00"},
    )
    return LensResult(
        lens="ig_lens",
        unit=unit,
        additive=additive,
        segments=("embed", *(f"L{layer}" for layer in range(n_segments - 1))),
        texts=(Text(tuple(range(n_targets + 1)), ("<s>", *tokens)),),
        targets=tuple(Target(0, i, i + 1, token) for i, token in enumerate(tokens)),
        values=values,
        levels=levels - error,
        baseline=baseline,
        final=levels[:, -1] - error,
        ranks=rng.integers(1, 9, size=(n_targets, n_segments)) if with_top else None,
        top=top if with_top else None,
        provenance=Provenance(
            model={"name": "a <b>model</b>"}, options={"layers": None}, notes=("a note",)
        ),
    )
