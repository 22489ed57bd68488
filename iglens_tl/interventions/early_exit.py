"""Stopping a model after every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from iglens_tl.interventions.base import BoundEffectLens
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.orders.state_values import value_coalitions
from iglens_tl.models.skipping import run_skipping
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.results.segments import layer_label
from iglens_tl.trace import Trace

_NOTE = (
    "early_exit: value(stopping after the layer) − value(stopping before it); the values sum to "
    "the final value − that of the embedding state"
)


@dataclass(frozen=True, kw_only=True)
class EarlyExit(BoundEffectLens):
    """Runs the model with all layers above each one skipped."""

    additive: ClassVar[bool] = True

    def points(self, trace: Trace) -> list[Point]:
        """Read nothing of the untouched run."""
        del trace
        return []

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for each layer of every text, and one for the embedding."""
        return (self.adapter.n_layers + 1) * len(trace.requests), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Stop after every layer of every text."""
        del readings
        n_layers = self.adapter.n_layers
        first_layers = torch.ones(n_layers + 1, n_layers).tril(-1).bool()
        levels = torch.empty(len(trace.token_ids), n_layers + 1, dtype=torch.float64)
        first_target, first_row = 0, 0
        for request in trace.requests:
            positions = sorted(set(request.positions))
            targets = torch.arange(first_target, first_target + len(request.target_ids))
            levels[targets] = value_coalitions(
                trace,
                self.resolved_value,
                targets,
                first_layers,
                partial(run_skipping, self.adapter, request.ids, positions=positions),
                trace.target_rows[targets] - first_row,
            )
            first_target += len(targets)
            first_row += len(positions)
        return assemble(
            trace,
            lens=self,
            unit=self.resolved_value.unit,
            kind="credit",
            segments=[layer_label(layer) for layer in range(n_layers)],
            values=levels.diff(dim=1),
            levels=levels[:, 1:],
            baseline=levels[:, 0],
            final=levels[:, -1],
            options={
                "intervention": "early_exit",
                "by": "layer",
                "scope": "all",
                **self.resolved_value.provenance(),
            },
            notes=(_NOTE,),
        )
