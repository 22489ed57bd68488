"""Random results of several lenses and values, as a report takes them."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np

from iglens_tl.lenses import LENSES
from iglens_tl.results import Provenance
from iglens_tl.results.lens import LensResult
from tests.support.results import make_component_result, make_result

UNITS = {"prob": "probability", "logprob": "nats", "logit": "logit"}
TOKENS = (" Hanoi", ".", "\n", " the")


def make_lens(
    name: str, value: str, *, tokens: tuple[str, ...] = TOKENS, n_layers: int = 3, seed: int = 0
) -> LensResult:
    """Build a result of one lens in one value; only the lens named "ig_lens" has credits."""
    rng = np.random.default_rng(seed + 10 * len(value) + len(name))
    shape = (len(tokens), n_layers + 1)
    additive = name in ("ig_lens", "direct_logit_attribution")
    values = rng.normal(scale=0.2, size=shape) if additive else rng.uniform(size=shape)
    result = make_result(values, tokens=tokens, unit=UNITS[value], additive=additive)
    # What belongs to the distribution is the same whatever the value.
    entropy = np.random.default_rng(seed + len(name)).uniform(size=shape)
    statistics = {} if additive else {"entropy": entropy}
    options = {} if name == "direct_logit_attribution" else {"value": value, "generate": 3}
    provenance = Provenance(
        lens=_described(name),
        model={"name": "a <b>model</b>", "n_layers": n_layers, "dtype": "float32"},
        options=options,
        checks={"readout_error": 1.5e-7},
        versions={"iglens_tl": "0.1.0", "torch": "2.13.0"},
        created="2026-11-21T10:00:00+00:00",
        notes=("a note",),
    )
    if name == "direct_logit_attribution":
        result = replace(result, ranks=None, top=None)
    return replace(result, lens=name, statistics=statistics, provenance=provenance)


def _described(name: str) -> dict[str, str]:
    lens = LENSES.get(name)
    return {} if lens is None else {"label": lens.label, "measures": lens.measures}


def make_lenses(**options: Any) -> list[LensResult]:
    """Build three lenses in three values, and one that measures the logit only."""
    names = ("ig_lens", "logit_lens", "tuned_lens")
    results = [make_lens(name, value, **options) for value in UNITS for name in names]
    return [*results, make_lens("direct_logit_attribution", "logit", **options)]


def make_heads(tokens: tuple[str, ...] = TOKENS, n_layers: int = 3, n_heads: int = 2) -> LensResult:
    """Build credits of heads by source for the same targets."""
    return make_component_result(tokens=tokens, n_layers=n_layers, n_heads=n_heads)


def decode(content: dict[str, Any], place: int) -> np.ndarray:
    """Return an array of a report's content."""
    entry = content["arrays"][place]
    data = base64.b64decode(entry["data"])
    return np.frombuffer(data, dtype=f"<{entry['type']}").reshape(entry["shape"])
