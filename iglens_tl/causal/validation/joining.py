"""Results and curves of chunks of prompts, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from iglens_tl.causal.skip_curves import SkipCurves
from iglens_tl.results import Target
from iglens_tl.results.lens import LensResult


def join_all(chunks: Sequence[Mapping[str, LensResult]]) -> dict[str, LensResult]:
    """Return the results of every name, the chunks joined."""
    names = chunks[0] if chunks else {}
    return {name: _join([chunk[name] for chunk in chunks]) for name in names}


def _join(results: Sequence[LensResult]) -> LensResult:
    """Return the results of chunks of prompts as one."""
    first = results[0]
    targets: list[Target] = []
    n_texts = 0
    for result in results:
        targets += [replace(target, prompt=target.prompt + n_texts) for target in result.targets]
        n_texts += len(result.texts)
    return replace(
        first,
        texts=tuple(text for result in results for text in result.texts),
        targets=tuple(targets),
        values=np.concatenate([result.values for result in results]),
        levels=np.concatenate([result.levels for result in results]),
        baseline=np.concatenate([result.baseline for result in results]),
        final=np.concatenate([result.final for result in results]),
        statistics={
            name: np.concatenate([result.statistics[name] for result in results])
            for name in first.statistics
        },
        provenance=replace(
            first.provenance,
            notes=tuple(dict.fromkeys(n for result in results for n in result.provenance.notes)),
        ),
    )


def curves_from_frame(frame: pd.DataFrame, targets: tuple[Target, ...]) -> SkipCurves:
    """Return the curves that `SkipCurves.to_frame` made a table of."""
    by_order = list(frame.groupby("order", sort=False))
    deletion, insertion = (
        {
            str(order): part[curve].to_numpy(dtype=float).reshape(len(targets), -1)
            for order, part in by_order
        }
        for curve in ("deletion", "insertion")
    )
    return SkipCurves(str(frame["unit"].iloc[0]), targets, deletion, insertion)


def join_curves(chunks: Sequence[SkipCurves], targets: tuple[Target, ...]) -> SkipCurves:
    """Return the curves of chunks as one, with the targets of all of them."""
    orders = chunks[0].deletion
    return SkipCurves(
        unit=chunks[0].unit,
        targets=targets,
        deletion={o: np.concatenate([chunk.deletion[o] for chunk in chunks]) for o in orders},
        insertion={o: np.concatenate([chunk.insertion[o] for chunk in chunks]) for o in orders},
    )
