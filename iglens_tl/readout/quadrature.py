"""Integrals of a value's slope along chords, by the paper's midpoint rule or to a tolerance."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout.chords import Chords, evaluate_chords
from iglens_tl.readout.readout import Readout
from iglens_tl.readout.values import Value

_NODES_PER_EVALUATION = 64
_MAX_PIECES_PER_CHORD = 64


def integrate_midpoint(
    readout: Readout, value: Value, chords: Chords, *, n_steps: int
) -> Float[Tensor, " chord"]:
    """Integrate the slope by the midpoint rule, as the IG-Lens paper (arXiv 2606.29693) does.

    Args:
        readout: The model's readout.
        value: What to integrate the slope of.
        chords: The lines.
        n_steps: Number of equal steps; the error falls with its square.

    Returns:
        `[chord]` integrals, float64.
    """
    nodes = (torch.arange(n_steps, dtype=torch.float64) + 0.5) / n_steps
    total = torch.zeros(len(chords), dtype=torch.float64)
    for part in nodes.split(_NODES_PER_EVALUATION):
        _, slopes = evaluate_chords(readout, value, chords, part.expand(len(chords), -1))
        total += slopes.sum(1)
    return total / n_steps


def integrate_adaptive(
    readout: Readout,
    value: Value,
    chords: Chords,
    *,
    change: Float[Tensor, " chord"],
    n_nodes: int,
    tolerance: float,
) -> Float[Tensor, " chord"]:
    """Integrate the slope by Gauss–Legendre quadrature, bisecting chords that miss the tolerance.

    The change of the value between the ends of a piece is known, so that the error of a piece costs
    nothing to check. Bisection converges also where the slope lives in a tiny part of the chord: a
    norm makes the readout insensitive to length, so that between the zero vector and a state all
    change happens within about sqrt(eps) of zero.

    Args:
        readout: The model's readout.
        value: What to integrate the slope of.
        chords: The lines.
        change: `[chord]` value at the end minus value at the start.
        n_nodes: Nodes per piece.
        tolerance: Largest accepted |integral − change| of a piece, in the value's unit.

    Returns:
        `[chord]` integrals, float64. A piece that float rounding keeps above the tolerance is
        accepted after a bounded number of bisections; compare with `change` for what is left.
    """
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    unit = torch.from_numpy((points + 1) / 2)
    weights = torch.from_numpy(weights / 2)
    nodes = unit.expand(len(chords), -1)
    integrals = evaluate_chords(readout, value, chords, nodes)[1] @ weights
    open_chords = ((integrals - change).abs() > tolerance).nonzero().squeeze(-1)
    if len(open_chords):
        integrals[open_chords] = _refine(
            readout, value, chords.select(open_chords), unit, weights, tolerance
        )
    return integrals


def _refine(
    readout: Readout,
    value: Value,
    chords: Chords,
    unit: Tensor,
    weights: Tensor,
    tolerance: float,
) -> Tensor:
    integrals = torch.zeros(len(chords), dtype=torch.float64)
    pieces_left = torch.full((len(chords),), _MAX_PIECES_PER_CHORD)
    owner = torch.arange(len(chords)).repeat_interleave(2)
    low = torch.tensor([0.0, 0.5], dtype=torch.float64).repeat(len(chords))
    width = torch.full_like(low, 0.5)
    while len(owner):
        # The ends of a piece are evaluated with its nodes, for the change of the value over it.
        nodes = low[:, None] + width[:, None] * torch.cat([unit, unit.new_tensor([0.0, 1.0])])
        values, slopes = evaluate_chords(readout, value, chords.select(owner), nodes)
        pieces = width * (slopes[:, :-2] @ weights)
        change = values[:, -1] - values[:, -2]
        pieces_left.index_add_(0, owner, torch.full_like(owner, -1))
        split = ((pieces - change).abs() > tolerance / 4) & (pieces_left[owner] > 0)
        integrals.index_add_(0, owner[~split], pieces[~split])
        owner = owner[split].repeat_interleave(2)
        width = width[split].repeat_interleave(2) / 2
        low = low[split].repeat_interleave(2)
        low[1::2] += width[1::2]
    return integrals
