"""Values at points, from what a sweep over the vocabulary has kept of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.points import Point, Reading
from iglens_tl.readout.readout import Readout
from iglens_tl.readout.value import Targets, TokenValue, Value

_BYTES_AT_ONCE = 64 * 2**20


@torch.no_grad()
def read_levels(
    readout: Readout,
    value: Value,
    readings: Sequence[Reading],
    token_ids: Int[Tensor, " target"],
    *,
    final: Point | None = None,
) -> Float[Tensor, "target point"]:
    """Return the value of every target at every point.

    Args:
        readout: The model's readout.
        value: What is evaluated. A `TokenValue` needs a few more products at most, any other value
            the logits of whole rows.
        readings: What a sweep kept of each point.
        token_ids: The targets.
        final: The states from which the model itself predicts; None if the last reading is theirs.

    Raises:
        ValueError: If a level is NaN or infinite.
    """
    if isinstance(value, TokenValue):
        levels = [_of_reading(readout, value, reading) for reading in readings]
    else:
        final = final or readings[-1].point
        levels = [_of_rows(readout, value, r.point, token_ids, final) for r in readings]
    stacked = torch.stack(levels, dim=1)
    _require_finite(readout, value, stacked, readings, token_ids)
    return stacked


def _require_finite(
    readout: Readout,
    value: Value,
    levels: Float[Tensor, "target point"],
    readings: Sequence[Reading],
    token_ids: Int[Tensor, " target"],
) -> None:
    """Raise ValueError, with the reason, if a level is NaN or infinite."""
    bad = ~torch.isfinite(levels)
    if not bool(bad.any()):
        return
    target, place = (int(index) for index in bad.nonzero()[0])
    point = readings[place].point
    logits = _logits(readout, point, torch.tensor([target]))
    if bool(torch.isfinite(logits).all()):
        raise ValueError(
            f"the value {value.name!r} is {float(levels[target, place])} for token "
            f"{int(token_ids[target])} at the state {point.key!r}, whose logits are finite; let "
            "its evaluate return finite numbers for every distribution"
        )
    raise ValueError(
        f"the state {point.key!r} has no finite readout; the zero baseline needs a final norm with "
        "eps above 0"
    )


def _of_reading(readout: Readout, value: TokenValue, reading: Reading) -> Tensor:
    logits, point = reading.target_logits[:, None], reading.point
    if value.tokens is not None:
        columns = readout.unembed[:, list(value.tokens)].to(readout.dtype)
        logits = readout.normalize(point.states, point.scale) @ columns
        if readout.unembed_bias is not None:
            logits = logits + readout.unembed_bias[list(value.tokens)].to(logits)
        rows = point.target_rows.to(logits.device)
        logits = readout.transform(logits)[rows].double().cpu()
    return value.of_tokens(logits, reading.log_normalizers)


def _of_rows(
    readout: Readout, value: Value, point: Point, token_ids: Tensor, final: Point
) -> Tensor:
    size = max(1, _BYTES_AT_ONCE // (readout.d_vocab * readout.dtype.itemsize))
    parts = []
    for index in torch.arange(len(token_ids)).split(size):
        logits = _logits(readout, point, index)
        of_model = _logits(readout, final, index) if value.needs_final else None
        tokens = token_ids[index].to(logits.device)
        parts.append(value.evaluate(logits, Targets(tokens, of_model)).double().cpu())
    return torch.cat(parts)


def _logits(readout: Readout, point: Point, targets: Tensor) -> Tensor:
    rows = point.target_rows[targets].to(point.states.device)
    scale = None if point.scale is None else point.scale[rows]
    states = readout.normalize(point.states[rows], scale)
    return readout.logits_of_normalized(states)
