"""The lenses that look for the planted mechanisms, and what each says of every segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.planted.vocabulary import reference_texts
from iglens_tl import (
    Components,
    DirectLogitAttribution,
    IGLens,
    LayerConductance,
    LayerEffects,
    LayerIntegratedGradients,
    LogitLens,
)
from iglens_tl.lenses import PATHS
from iglens_tl.lenses.base import Lens, measure
from iglens_tl.models import ModelAdapter
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import begin_trace

_CONDUCTANCE_STEPS = 20
_GRADIENT_NODES = 20
_DRAWS = 8
_SILENCE = 0.05


@dataclass(frozen=True, eq=False)
class Finding:
    """What a lens says of an answer.

    Attributes:
        segments: The segments.
        changes: What it says of each of them.
        baseline: The value where the lens begins.
        final: The answer's value.
    """

    segments: tuple[str, ...]
    changes: Float[np.ndarray, " segment"]
    baseline: float
    final: float

    def is_silent(self, total: float) -> bool:
        """Return whether changes that sum to `total` in size are too small to mean anything.

        They are if they sum to less than a twentieth of what there is to explain: the final value,
        or its distance from the baseline if that is larger.
        """
        return total < _SILENCE * max(abs(self.final), abs(self.final - self.baseline))


@dataclass(frozen=True)
class Measure:
    """A lens with its options.

    Attributes:
        name: What it is called in tables.
        lens: The lens.
        by_difference: Whether a segment's part is the difference of the levels at its ends, as for
            lenses that measure what has been reached after a layer; else it is the segment's value.
    """

    name: str
    lens: Lens
    by_difference: bool = False


def _ig_lens(name: str, **options: Any) -> Measure:
    return Measure(name, IGLens(top_k=0, **options))


def _effects(name: str, **options: Any) -> Measure:
    return Measure(name, LayerEffects(**options))


IG_LENS = "IG-Lens, p"
EVEN = "every layer the same"
"""The name of what knows nothing, beside which the others stand."""

CREDITS = (
    _ig_lens(IG_LENS),
    _ig_lens("IG-Lens, log p", value="logprob"),
    _ig_lens("IG-Lens, logit", value="logit"),
    *(_ig_lens(f"order {path}", path=path) for path in PATHS if path != "hidden_states"),
    Measure("components by head, p", Components(by="head")),
    Measure("logit lens, differences of p", LogitLens(top_k=0), by_difference=True),
    Measure("direct logit attribution", DirectLogitAttribution(by="head")),
    Measure(
        "layer conductance, last position",
        LayerConductance(n_steps=_CONDUCTANCE_STEPS),
        by_difference=True,
    ),
    Measure(
        "layer conductance, sublayers",
        LayerConductance(by="sublayer", positions="all", n_steps=_CONDUCTANCE_STEPS),
    ),
    Measure(
        "layer integrated gradients",
        LayerIntegratedGradients(n_steps=_GRADIENT_NODES),
        by_difference=True,
    ),
)
"""The lenses: what a layer contributes to the answer."""

_FROM_TEXTS = {"reference": reference_texts(), "n_draws": _DRAWS}
EFFECTS = (
    _effects("effect of skip", intervention="skip"),
    _effects("effect of skip, last position", intervention="skip", scope="last"),
    _effects("effect of skip, log p", intervention="skip", value="logprob"),
    _effects("effect of mean", intervention="mean", **_FROM_TEXTS),
    _effects("effect of resample", intervention="resample", **_FROM_TEXTS),
    _effects("effect of early exit", intervention="early_exit"),
)
"""The interventions: what the answer loses without a layer."""

MEASURES = (*CREDITS, *EFFECTS)


def measure_all(
    adapter: ModelAdapter, prompt: str, answer: str, measures: Sequence[Measure] = MEASURES
) -> dict[str, Finding]:
    """Return what lenses say of an answer, by the lens's name."""
    trace = begin_trace(adapter, prompt, answer=f" {answer}")
    results = measure(trace, [one.lens for one in measures]).results
    return {one.name: _finding(one, r) for one, r in zip(measures, results, strict=True)}


def _finding(measure: Measure, result: LensResult) -> Finding:
    changes = result.changes if measure.by_difference else result.values
    return Finding(result.segments, changes[0], float(result.baseline[0]), float(result.final[0]))
