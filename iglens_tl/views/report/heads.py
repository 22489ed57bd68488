"""Collect the heads that a target's value comes from, and the tokens that they read it from."""

from __future__ import annotations

from typing import Any

import numpy as np

from iglens_tl.results.contributors import check_has, largest
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import Segment, head_label, parse_segment
from iglens_tl.views.report.arrays import ArrayPool

N_HEADS = 12
"""The number of heads of each target on the page."""

N_SOURCES = 16
"""The number of sources of each head on the page; the others stand there as their sum."""

_PARTS = {"source": "heads", "mlp": "MLPs", "embed": "embedding", "pos_embed": "embedding"}
_OTHER = "biases and rest"


def heads_content(data: LensData, rows: list[int], pool: ArrayPool) -> dict[str, Any]:
    """Collect the largest heads of each target with their sources.

    Args:
        data: A result of `components(…, by="head_source")`.
        rows: The targets on the page.
        pool: Where the arrays go.

    Returns:
        By target: "together", what all heads read from each position; "parts", the sums over the
        kinds of components, which add up to `final − baseline` and the completeness error; the
        heads of largest |credit|, and for each the sources of largest |credit|.

    Raises:
        ValueError: For a result without the sources of heads.
    """
    check_has(data, "source", 'components(…, by="head_source")')
    segments = [parse_segment(label) for label in data.segments]
    reads = np.array([i for i, segment in enumerate(segments) if segment.source is not None])
    sources = np.array([segments[i].source for i in reads])
    positions = int(sources.max()) + 1
    owners = [_head(segments[i]) for i in reads]
    heads = list(dict.fromkeys(owners))
    place = {head: index for index, head in enumerate(heads)}
    of_head = np.array([place[owner] for owner in owners])
    credits = np.zeros((len(rows), len(heads), positions))
    credits[:, of_head, sources] = data.values[rows][:, reads]
    of_heads = credits.sum(2)
    n_heads, n_sources = min(N_HEADS, len(heads)), min(N_SOURCES, positions)
    chosen = np.stack([largest(credit, n_heads)[0] for credit in of_heads])
    by_source = np.take_along_axis(credits, chosen[:, :, None], axis=1)
    nearest = np.argsort(-np.abs(by_source), axis=2, kind="stable")[:, :, :n_sources]
    names = dict.fromkeys(_part(segment.part) for segment in segments)
    parts = np.stack(
        [
            data.values[rows][:, [_part(segment.part) == name for segment in segments]].sum(1)
            for name in names
        ],
        axis=1,
    )
    return {
        "unit": data.unit,
        "labels": heads,
        "parts": {"names": list(names), "sums": pool.add(parts)},
        "together": pool.add(credits.sum(1)),
        "heads": pool.add(chosen),
        "credits": pool.add(np.take_along_axis(of_heads, chosen, axis=1)),
        "sources": pool.add(nearest),
        "source_credits": pool.add(np.take_along_axis(by_source, nearest, axis=2)),
    }


def _head(segment: Segment) -> str:
    assert segment.layer is not None and segment.head is not None
    return head_label(segment.layer, segment.head)


def _part(part: str) -> str:
    return _PARTS.get(part, _OTHER)
