"""A reference integration along chords and arcs between the same states, in float64.

It shares no code with the lenses: the value is a function of the curve's parameter, and autograd
gives its slope along the curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.common.items import Item
from experiments.common.precision import in_float64
from experiments.path_study.conditions import STEPS
from iglens_tl.models import ModelAdapter, capture
from iglens_tl.readout.readout import Readout

CHORD, ARC = "chord", "arc"
_NODES = 128


def curves_frame(adapter: ModelAdapter, items: Sequence[Item]) -> pd.DataFrame:
    """Integrate the slope of p along two curves between an item's states, and add up its changes.

    Returns:
        One row per item, curve and layer: `delta`, the change of p; `integral`, that of the slope
        by Gauss and Legendre's rule with 128 nodes; `spread`, by how much the sum of the changes
        over m steps along the curve varies with m.
    """
    readout = in_float64(adapter.readout)
    rows = []
    for place, item in enumerate(items):
        states = _states(adapter, item.ids)
        for layer, (start, end) in enumerate(pairwise(states)):
            for name, curve in ((CHORD, _chord), (ARC, _arc)):
                value = partial(_p, readout, item.answer_id, partial(curve, start, end))
                rows.append({"item": place, "curve": name, "layer": layer} | _along(value))
    return pd.DataFrame(rows)


def _along(value: Callable[[Tensor], Tensor]) -> dict[str, float]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    places = torch.tensor((nodes + 1) / 2, requires_grad=True)
    (slopes,) = torch.autograd.grad(value(places).sum(), places)
    with torch.no_grad():
        ends = value(torch.tensor([0.0, 1.0], dtype=torch.float64))
        sums = [
            value(torch.linspace(0, 1, steps + 1, dtype=torch.float64)).diff().sum().item()
            for steps in STEPS
        ]
    return {
        "delta": float(ends[1] - ends[0]),
        "integral": float(slopes @ torch.tensor(weights / 2)),
        "spread": max(sums) - min(sums),
    }


def _chord(start: Tensor, end: Tensor, places: Tensor) -> Tensor:
    return start + places[:, None] * (end - start)


def _arc(start: Tensor, end: Tensor, places: Tensor) -> Tensor:
    """Turn from one state to the other at constant speed, while the length changes evenly."""
    lengths = start.norm(), end.norm()
    first, last = start / lengths[0], end / lengths[1]
    angle = torch.arccos((first @ last).clamp(-1, 1))
    share_first, share_last = torch.sin((1 - places) * angle), torch.sin(places * angle)
    turned = (share_first[:, None] * first + share_last[:, None] * last) / torch.sin(angle)
    return turned * (lengths[0] + places * (lengths[1] - lengths[0]))[:, None]


def _p(readout: Readout, token: int, curve: Callable[[Tensor], Tensor], places: Tensor) -> Tensor:
    return readout.logits(curve(places)).softmax(-1)[:, token]


def _states(adapter: ModelAdapter, ids: Sequence[int]) -> list[Tensor]:
    """Return the states at the last position, the embedding state first."""
    sites = [adapter.embed_site, *(adapter.post_site(n) for n in range(adapter.n_layers))]
    readers = dict.fromkeys(sites, lambda states: states[0, -1].clone())
    found = capture(adapter, torch.tensor([list(ids)]), readers)
    return [found[site].double() for site in sites]
