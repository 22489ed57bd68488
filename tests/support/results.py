"""Random results, for tests of tables, files and figures, and what tests read from results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from iglens_tl.results import Provenance, Target, Text, TopTokens
from iglens_tl.results import segments as labels
from iglens_tl.results.lens import LensResult
from tests.support.closeness import assert_close_to

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
        kind="credit" if additive else "level",
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


def make_component_result(
    *,
    tokens: tuple[str, ...] = (" Hanoi", ".", "\n", " "),
    n_layers: int = 2,
    n_heads: int = 2,
    seed: int = 0,
) -> LensResult:
    """Build credits of every kind of component, heads by source; later sources have none."""
    rng = np.random.default_rng(seed)
    names = ["embed", "pos_embed"]
    for layer in range(n_layers):
        for head in range(n_heads):
            names += [labels.source_label(layer, head, source) for source in range(len(tokens))]
        names += [labels.attention_bias_label(layer), labels.mlp_label(layer)]
    names.append("norm_bias")
    values = rng.normal(scale=0.05, size=(len(tokens), len(names)))
    sources = [labels.parse_segment(name).source or 0 for name in names]
    values[np.arange(len(tokens))[:, None] < np.array(sources)] = 0
    result = make_result(values, tokens=tokens, seed=seed)
    entropy = rng.uniform(size=values.shape)
    return replace(
        result, lens="components", segments=tuple(names), statistics={"entropy": entropy}
    )


def features(result, layer):
    """Return the credits of a layer's features by label."""
    frame = result.to_frame()
    return frame[[name for name in result.segments if name.startswith(f"L{layer}.f")]]


def assert_same_numbers(left, right, size: float | None = None) -> None:
    """Require two results to be the same measurement of the same targets, but for rounding.

    The size is that of the levels, by default, of which credits are differences.
    """
    names = ("values", "final", "baseline")
    size = size or max(np.abs(getattr(right, name)).max() for name in names)
    for name in names:
        numbers = getattr(left, name), getattr(right, name)
        assert_close_to(*numbers, dtype=torch.float32, size=size)
    assert [(t.position, t.token_id) for t in left.targets] == [
        (t.position, t.token_id) for t in right.targets
    ]


def assert_same_table(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Require two tables of one measurement to be the same but for float32 rounding.

    Credits and errors are differences of values, and rounded as these are, however small they
    come out. Statistics of a state are of another unit.
    """
    own = [name for name in ("entropy", "kl_to_final") if name in expected]
    assert_close_to(found[own], expected[own], dtype=torch.float32)
    size = float(expected["sum"].abs().max())
    found, expected = found.drop(columns=own), expected.drop(columns=own)
    assert_close_to(found, expected, dtype=torch.float32, size=size)
