"""From a lens's numbers to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.provenance import describe
from iglens_tl.trace import Trace
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts import Request, token_string
from iglens_tl.readout import Reading, Value, read_levels, stack
from iglens_tl.results import Target, Text, TopTokens


def assemble(
    trace: Trace,
    *,
    lens: str,
    unit: str,
    additive: bool,
    cumulative: bool = True,
    segments: Sequence[str],
    values: Float[Tensor, "target segment"],
    levels: Float[Tensor, "target segment"],
    baseline: Float[Tensor, " target"],
    final: Float[Tensor, " target"],
    readings: Sequence[Reading] = (),
    top_k: int = 0,
    statistics: bool = False,
    options: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> LensResult:
    """Put a result together.

    Args:
        trace: The texts, targets and model.
        lens: The lens's name.
        unit: Unit of the values.
        additive: Whether the values sum to `final − baseline`.
        cumulative: Whether other values are read along the layers; see `LensData`.
        segments: Labels, one for each column of values.
        values: What the lens measured.
        levels: The level at the end of each segment.
        baseline: The level at the beginning.
        final: The level at the end.
        readings: The reading at the end of each segment, for ranks, top tokens and statistics.
        top_k: How many of the readings' most probable tokens to keep; 0 leaves the ranks out too.
        statistics: Whether the readings' entropies and divergences are kept.
        options: The lens's options, for the provenance.
        notes: What a reader must know.
    """
    ranks, top = None, None
    if readings and top_k:
        ranks = stack(readings, "ranks")
        top = _top_tokens(trace.adapter, readings, top_k)
    kept: dict[str, np.ndarray] = {}
    if readings and statistics:
        for name, field in (("entropy", "entropies"), ("kl_to_final", "divergences")):
            of_readings = stack(readings, field)
            assert of_readings is not None
            kept[name] = of_readings.numpy()
    return LensResult(
        lens=lens,
        unit=unit,
        additive=additive,
        cumulative=cumulative,
        segments=tuple(segments),
        texts=_texts(trace.adapter, trace.requests),
        targets=_targets(trace.adapter, trace.requests),
        values=values.numpy(),
        levels=levels.numpy(),
        baseline=baseline.numpy(),
        final=final.numpy(),
        ranks=None if ranks is None else ranks.numpy(),
        top=top,
        statistics=kept,
        provenance=describe(trace, options, notes),
    )


def assemble_levels(
    trace: Trace,
    *,
    lens: str,
    value: Value,
    segments: Sequence[str],
    readings: Sequence[Reading],
    top_k: int,
    options: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> LensResult:
    """Put the result of a level lens together: what is read out after each segment.

    Args:
        trace: The texts, targets and model.
        lens: The lens's name.
        value: What the levels are; its name joins the options.
        segments: Labels, one for each reading.
        readings: The reading at the end of each segment, with statistics; the last state's last.
        top_k: How many of the readings' most probable tokens to keep; 0 leaves the ranks out too.
        options: The lens's options, for the provenance.
        notes: What a reader must know.
    """
    levels = levels_of(trace, value, readings)
    return assemble(
        trace,
        lens=lens,
        unit=value.unit,
        additive=False,
        segments=segments,
        values=levels,
        levels=levels,
        baseline=levels[:, 0],
        final=levels[:, -1],
        readings=readings,
        top_k=top_k,
        statistics=True,
        options={**value.provenance(), **options},
        notes=notes,
    )


def levels_of(
    trace: Trace, value: Value, readings: Sequence[Reading]
) -> Float[Tensor, "target point"]:
    """Return the value of every target at every reading, the last state's last.

    Raises:
        ValueError: If a level is NaN or infinite.
    """
    return read_levels(trace.adapter.readout, value, readings, trace.token_ids)


def _texts(adapter: ModelAdapter, requests: Sequence[Request]) -> tuple[Text, ...]:
    return tuple(
        Text(request.ids, tuple(token_string(adapter, token) for token in request.ids))
        for request in requests
    )


def _targets(adapter: ModelAdapter, requests: Sequence[Request]) -> tuple[Target, ...]:
    return tuple(
        Target(index, position, token, token_string(adapter, token))
        for index, request in enumerate(requests)
        for position, token in zip(request.positions, request.target_ids, strict=True)
    )


def _top_tokens(adapter: ModelAdapter, readings: Sequence[Reading], top_k: int) -> TopTokens:
    ids, probs = stack(readings, "top_ids"), stack(readings, "top_probs")
    assert ids is not None and probs is not None
    ids, probs = ids[:, :, :top_k], probs[:, :, :top_k]
    tokens = {int(token): token_string(adapter, int(token)) for token in ids.unique()}
    return TopTokens(ids.numpy(), probs.numpy(), tokens)
