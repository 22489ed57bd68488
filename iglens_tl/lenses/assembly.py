"""From a lens's numbers to its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl import __version__
from iglens_tl.lenses.base import Lens
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts import token_string
from iglens_tl.readout import Reading, Value, read_levels, stack
from iglens_tl.results import Provenance, TopTokens
from iglens_tl.results.data import Kind
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Trace

_PACKAGES = ("transformer_lens", "torch", "transformers")


def assemble(
    trace: Trace,
    *,
    lens: type[Lens] | Lens,
    unit: str,
    kind: Kind,
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
        lens: The lens.
        unit: Unit of the values.
        kind: What the values are.
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
        lens=lens.name,
        unit=unit,
        kind=kind,
        segments=tuple(segments),
        texts=trace.texts,
        targets=trace.targets,
        values=values.numpy(),
        levels=levels.numpy(),
        baseline=baseline.numpy(),
        final=final.numpy(),
        ranks=None if ranks is None else ranks.numpy(),
        top=top,
        statistics=kept,
        provenance=describe(trace, options, notes, lens=lens),
    )


def assemble_levels(
    trace: Trace,
    *,
    lens: Lens,
    segments: Sequence[str],
    readings: Sequence[Reading],
    options: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> LensResult:
    """Put the result of a level lens together: what is read out after each segment.

    Args:
        trace: The texts, targets and model.
        lens: The lens; its value joins the options.
        segments: Labels, one for each reading.
        readings: The reading at the end of each segment, with statistics; the last state's last.
        options: The lens's options, for the provenance.
        notes: What a reader must know.
    """
    value = lens.resolved_value
    levels = levels_of(trace, value, readings)
    return assemble(
        trace,
        lens=lens,
        unit=value.unit,
        kind="level",
        segments=segments,
        values=levels,
        levels=levels,
        baseline=levels[:, 0],
        final=levels[:, -1],
        readings=readings,
        top_k=lens.top_tokens,
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


def describe(
    trace: Trace,
    options: Mapping[str, Any],
    notes: tuple[str, ...] = (),
    *,
    lens: type[Lens] | Lens | None = None,
) -> Provenance:
    """Record the model, the lens and its options, the checks and the versions."""
    adapter = trace.adapter
    if adapter.dtype in (torch.float16, torch.bfloat16):
        notes += (
            f"the model runs in {_name(adapter.dtype)} and is read out in float32; its own rounded "
            f"probabilities differ by up to {trace.check.readout_error:.1e}",
        )
    return Provenance(
        model={
            "name": adapter.name,
            "backend": adapter.backend,
            "n_layers": adapter.n_layers,
            "d_model": adapter.readout.d_model,
            "d_vocab": adapter.readout.d_vocab,
            "dtype": _name(adapter.dtype),
            "device": str(adapter.device),
        },
        lens={} if lens is None else {"label": lens.label, "measures": lens.measures},
        options={**options, **trace.choice},
        checks=asdict(trace.check),
        versions=dict(_versions()),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=notes,
    )


def _top_tokens(adapter: ModelAdapter, readings: Sequence[Reading], top_k: int) -> TopTokens:
    ids, probs = stack(readings, "top_ids"), stack(readings, "top_probs")
    assert ids is not None and probs is not None
    ids, probs = ids[:, :, :top_k], probs[:, :, :top_k]
    tokens = {int(token): token_string(adapter, int(token)) for token in ids.unique()}
    return TopTokens(ids.numpy(), probs.numpy(), tokens)


@cache
def _versions() -> dict[str, str]:
    return {"iglens_tl": __version__} | {package: version(package) for package in _PACKAGES}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
