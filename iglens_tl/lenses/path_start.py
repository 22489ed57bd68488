"""Where a path begins for every target: the baseline as what a lens needs, and as a point."""

from __future__ import annotations

from collections import Counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.trace import Reduction, Trace
from iglens_tl.readout import Point

START = "ig_lens.baseline"
"""The name of the baseline among a trace's reductions and points."""


def start_needs(site: str, baseline_of_text: Reduction) -> dict[str, tuple[str, Reduction]]:
    """Return what to keep of the forward pass for a baseline that is made of a site's states."""
    return {START: (site, baseline_of_text)}


def start_point(trace: Trace) -> Point:
    """Return the baselines as a point."""
    states = torch.cat(trace.reduced[START])
    return Point(START, states, _baseline_of_row(trace)[trace.target_rows], ranked=False)


def start_states(trace: Trace, name: str = START) -> Float[Tensor, "row d_model"]:
    """Return the baseline of every row of the trace, or what was kept in its way under a name."""
    return torch.cat(trace.reduced[name])[_baseline_of_row(trace, name)]


def _baseline_of_row(trace: Trace, name: str = START) -> Int[Tensor, " row"]:
    """Return which baseline each row begins at: the text's only one, or the position's own."""
    n_positions = Counter(trace.row_texts)
    chosen, first = [], 0
    for text, baselines in enumerate(trace.reduced[name]):
        shared = len(baselines) == 1
        chosen += [first + (0 if shared else place) for place in range(n_positions[text])]
        first += len(baselines)
    return torch.tensor(chosen)
