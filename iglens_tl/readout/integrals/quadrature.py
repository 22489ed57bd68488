"""Integrals of a value's slope and gradient along chords, by a fixed rule or to a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout.integrals.chords import ChordRows, Chords
from iglens_tl.readout.integrals.integration import ChordIntegrals, Emphasis, Integration, Intervals
from iglens_tl.readout.readout import Readout
from iglens_tl.readout.value import Value

_BYTES_AT_ONCE = 400 * 2**20
_NODES_AT_FIRST = 8
_NODES_AT_ONCE = 16
_PROBES = 4
_MAX_INTERVALS_PER_CHORD = 64


def integrate_midpoint(
    readout: Readout,
    value: Value,
    chords: Chords,
    *,
    n_steps: int,
    gradients: bool = False,
    emphasis: Emphasis | None = None,
) -> ChordIntegrals:
    """Integrate by the midpoint rule, as the IG-Lens paper (arXiv 2606.29693) does.

    Args:
        readout: The model's readout.
        value: What is followed along the chords.
        chords: The lines.
        n_steps: Number of equal steps; the error falls with its square.
        gradients: Whether the gradients are wanted too.
        emphasis: Weights of the places; None for 1 everywhere.
    """
    steps = torch.arange(n_steps, dtype=torch.float64, device=readout.device)

    def run(integration: Integration, limit: Tensor) -> None:
        del limit
        for part in ((steps + 0.5) / n_steps).split(_NODES_AT_ONCE):
            integration.add_evenly(part, torch.full_like(part, 1 / n_steps))

    limits = torch.full((len(chords),), torch.inf, dtype=torch.float64)
    return _integrate(readout, value, chords, gradients, emphasis, run, limits)


def integrate_adaptive(
    readout: Readout,
    value: Value,
    chords: Chords,
    *,
    n_nodes: int,
    tolerance: float | Float[Tensor, " chord"],
    gradients: bool = False,
    emphasis: Emphasis | None = None,
) -> ChordIntegrals:
    """Integrate by Gauss–Legendre quadrature, refining where the tolerance is missed.

    Few nodes do for most chords. Where they miss, twice as many are tried if these should do for
    most of what is left, then `n_nodes`; then the chord is bisected. The nodes are those of a
    parameter in which the norm is smooth (`ChordRows.places`), because a norm makes the readout
    insensitive to length: between the zero vector and a state all change happens within about
    sqrt(eps) of zero.

    An interval is accepted if the integral of the slope reproduces the change of the value, and
    with `gradients` also if the gradients' products with fixed random directions are resolved by
    the nodes and no token can be probable between nodes that is improbable at them (see
    `errors`). The reported errors are estimates, not proofs: the first rests on four directions and
    on coefficients that keep falling as they fell at the nodes, the second is exact for a
    `TokenValue` of a model without softcap, nearly so with one, and for any other value says only
    where the most probable token changes, so that a value may hide what depends on tokens of no
    probability. Rounding is counted by the sizes of what is added up, as if it never cancelled; in
    float32 that is most of a reported error, and mostly tens of times the true one.

    Args:
        readout: The model's readout.
        value: What is followed along the chords.
        chords: The lines.
        n_nodes: Nodes per interval.
        tolerance: Largest accepted |integral − change| of a chord, in the value's unit, for all
            chords or each; four times it for the share of a part as long as the displacement.
            Never less than a few roundings. Bisection ends after a bounded number of intervals.
        gradients: Whether the gradients are wanted too.
        emphasis: Weights of the places; None for 1 everywhere. The error is checked without them.
    """
    limits = torch.as_tensor(tolerance, dtype=torch.float64).expand(len(chords))

    def run(integration: Integration, limit: Tensor) -> None:
        whole, first = Intervals.whole(limit), min(_NODES_AT_FIRST, n_nodes)

        def add(index: Tensor, n: int) -> tuple[Tensor, Tensor]:
            rule = _gauss_legendre(n, limit.device)
            missed, is_near = integration.add_accepted(
                whole.select(index), *rule, integration.ends.select(index), limit[index]
            )
            return index[missed], is_near

        missed, is_near = add(whole.chord, first)
        # For a few chords, a rule of their own costs more than the nodes that it saves.
        if n_nodes > 2 * first and 2 * int(is_near.sum()) > len(missed):
            again, _ = add(missed[is_near], 2 * first)
            missed = torch.cat([missed[~is_near], again])
        if n_nodes > first:
            missed, _ = add(missed, n_nodes)
        intervals = whole.select(missed)
        left = torch.full_like(limit, _MAX_INTERVALS_PER_CHORD)
        while len(intervals):
            intervals = intervals.halves()
            ends = integration.ends_of(intervals)
            left.index_add_(0, intervals.chord, -torch.ones_like(intervals.low))
            # Errors of intervals add up, and a chord may end in some of them.
            accepted, is_last = limit[intervals.chord] / 8, left[intervals.chord] <= 0
            missed, _ = integration.add_accepted(
                intervals, *_gauss_legendre(n_nodes, limit.device), ends, accepted, is_last
            )
            intervals = intervals.select(missed)

    return _integrate(readout, value, chords, gradients, emphasis, run, limits)


def _integrate(
    readout: Readout,
    value: Value,
    chords: Chords,
    gradients: bool,
    emphasis: Emphasis | None,
    run: Callable[[Integration, Tensor], None],
    limits: Tensor,
) -> ChordIntegrals:
    """Integrate as many chords at a time as fit into memory with their vocabulary rows."""
    bytes_per_chord = readout.d_vocab * readout.dtype.itemsize * (2 if gradients else 1)
    size = max(1, _BYTES_AT_ONCE // bytes_per_chord)
    parts = []
    for index in torch.arange(len(chords)).tensor_split(-(-len(chords) // size)):
        places = None
        if emphasis is not None:
            places = Emphasis(emphasis.places[index], emphasis.weight)
        n_probes = _PROBES if gradients and bool(limits.isfinite().all()) else 0
        rows = ChordRows(readout, chords.select(index), n_probes=n_probes)
        integration = Integration(rows, value, gradients, places)
        run(integration, limits[index].to(readout.device))
        parts.append(integration.result())
        del rows, integration  # before the next ones take as much memory again
    return ChordIntegrals(
        start=torch.cat([part.start for part in parts]),
        end=torch.cat([part.end for part in parts]),
        means=torch.cat([part.means for part in parts]),
        slopes=torch.cat([part.slopes for part in parts]),
        gradients=torch.cat([part.gradients for part in parts]) if gradients else None,
        errors=torch.cat([part.errors for part in parts]) if parts[0].errors is not None else None,
    )


@lru_cache
def _gauss_legendre(n_nodes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    unit = torch.from_numpy(np.stack([(points + 1) / 2, weights / 2]))
    return unit[0].to(device), unit[1].to(device)
