"""The value of targets at other last states than the model's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.lenses.base import state_point
from iglens_tl.readout import Point, Value, read_levels, read_points
from iglens_tl.trace import Trace

STATE_BYTES = 32 * 2**20
"""The bytes of states that are made at a time, beyond those of the trace."""


def value_states(
    trace: Trace,
    value: Value,
    states: Float[Tensor, "row d_model"],
    rows: Int[Tensor, " pair"],
    targets: Int[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Return the value of targets if the model ended in other states.

    Args:
        trace: The texts, targets and model, with the model's own last states.
        value: What is evaluated.
        states: Last residual states.
        rows: For each wanted value the row of its state.
        targets: For each wanted value the target, as an index into those of the trace.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    adapter = trace.adapter
    # One point for all: as many pairs of a target and a state as fit share a sweep.
    point = Point("other states", states, rows, ranked=False)
    token_ids = trace.token_ids[targets]
    reading = read_points(adapter.readout, [point], token_ids)[point.key]
    final = state_point(trace, adapter.post_site(adapter.n_layers - 1))
    last = replace(final, target_rows=final.target_rows[targets])
    return read_levels(adapter.readout, value, [reading], token_ids, final=last)[:, 0]


def value_coalitions(
    trace: Trace,
    value: Value,
    targets: Int[Tensor, " target"],
    coalitions: Bool[Tensor, "coalition player"],
    states_of: Callable[[Bool[Tensor, "part player"]], Float[Tensor, "part row d_model"]],
    target_rows: Int[Tensor, " target"],
) -> Float[Tensor, "target coalition"]:
    """Return the value of targets for many coalitions of players.

    The states of a few coalitions are made at a time, so that they need little memory.

    Args:
        trace: The texts, targets and model.
        value: What is evaluated.
        targets: Some of the targets.
        coalitions: For each coalition who belongs to it.
        states_of: Gives the last states of some coalitions.
        target_rows: The row of these states at which each target is read.
    """
    if not len(coalitions):  # between nobody and a single player stands no other coalition
        return torch.empty(len(targets), 0, dtype=torch.float64)
    readout = trace.adapter.readout
    n_rows = int(target_rows.max()) + 1
    size = max(1, STATE_BYTES // (n_rows * readout.d_model * readout.dtype.itemsize))
    parts = []
    for part in coalitions.split(size):
        states = states_of(part)
        rows = torch.arange(len(states))[:, None] * states.shape[1] + target_rows
        pairs = targets.repeat(len(states))
        found = value_states(trace, value, states.flatten(0, 1), rows.flatten(), pairs)
        parts.append(found.view(len(states), -1).T)
    return torch.cat(parts, dim=1)
