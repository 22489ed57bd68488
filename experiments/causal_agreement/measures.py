"""The lenses that are put to the test, and the interventions that they are tested against."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.causal_agreement.changes import Changes, changes_of_blocks, side_by_side
from experiments.causal_agreement.pairs import corrupted_ids
from experiments.common.items import Item
from iglens_tl import (
    CompletenessWarning,
    Components,
    DirectLogitAttribution,
    IGLens,
    LayerConductance,
    LayerEffects,
    LayerIntegratedGradients,
    TunedLens,
    TunedLensWarning,
    activation_patching,
)
from iglens_tl.interventions.effects import UnitName
from iglens_tl.lenses import PATHS
from iglens_tl.lenses.base import Lens, measure
from iglens_tl.models import ModelAdapter, capture
from iglens_tl.results.segments import layer_label
from iglens_tl.trace import begin_trace

CONDUCTANCE_STEPS = 20
GRADIENT_NODES = 10
DRAWS = 8
_SETS_OF_MEANS = 2  # they only say how certain the mean is, which is not asked here


class Measure(ABC):
    """Something that gives every segment of a kind a number.

    Attributes:
        name: What it is called in tables.
    """

    name: str

    @abstractmethod
    def take(
        self, adapter: ModelAdapter, items: Sequence[Item], tokens: Sequence[int]
    ) -> Changes | None:
        """Measure one token after each item's prompt; None if it is known of no item."""

    def reason_against(self, adapter: ModelAdapter) -> str | None:
        """Return why it does not apply to the model, None where it does."""
        del adapter
        return None


@dataclass(frozen=True)
class OfLenses(Measure):
    """What one or several lenses of different segments say.

    Attributes:
        name: What the measure is called in tables.
        lenses: The lenses.
        by_layer: Whether the parts of a layer are summed.
    """

    name: str
    lenses: tuple[Lens, ...]
    by_layer: bool = False

    def take(self, adapter: ModelAdapter, items: Sequence[Item], tokens: Sequence[int]) -> Changes:
        """Run the lenses."""
        with warnings.catch_warnings():
            # The README says how exactly the integrals are taken.
            warnings.simplefilter("ignore", CompletenessWarning)
            warnings.simplefilter("ignore", TunedLensWarning)
            prompts, answers = [list(item.ids) for item in items], [[token] for token in tokens]
            trace = begin_trace(adapter, prompts, answer=answers)
            results = measure(trace, self.lenses).results
        return side_by_side([changes_of_blocks(r, by_layer=self.by_layer) for r in results])

    def reason_against(self, adapter: ModelAdapter) -> str | None:
        """Return what fitting the lenses to the model says."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TunedLensWarning)
                for lens in self.lenses:
                    lens.bind(adapter)
        except ValueError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class UpdateNorm(Measure):
    """How long the update is that a layer writes at the last position: no lens at all."""

    name: str = "update norm"

    def take(self, adapter: ModelAdapter, items: Sequence[Item], tokens: Sequence[int]) -> Changes:
        """Measure the states of the prompts, whatever the tokens are."""
        del tokens
        layers = range(adapter.n_layers)
        sites = [adapter.pre_site(0), *(adapter.post_site(layer) for layer in layers)]
        rows = []
        for item in items:
            found = capture(adapter, torch.tensor([item.ids]), dict.fromkeys(sites, _last_state))
            states = torch.stack([found[site] for site in sites])
            rows.append(states.double().diff(dim=0).norm(dim=-1).cpu().numpy())
        labels = tuple(layer_label(layer) for layer in layers)
        return Changes("norm", labels, tuple(range(len(items))), np.stack(rows))


@dataclass(frozen=True)
class Patching(Measure):
    """What every layer brings to the last position of a patched run.

    Attributes:
        name: What the measure is called in tables.
        direction: "denoising" or "noising".
    """

    name: str
    direction: str

    def take(
        self, adapter: ModelAdapter, items: Sequence[Item], tokens: Sequence[int]
    ) -> Changes | None:
        """Patch the items that have a corrupted prompt of the same length."""
        parts = []
        for number, (item, token) in enumerate(zip(items, tokens, strict=True)):
            corrupted = corrupted_ids(adapter, item)
            if corrupted is not None:
                result = activation_patching(
                    adapter.model,
                    list(item.ids),
                    corrupted,
                    answer=[token],
                    direction=self.direction,
                )
                parts.append((number, changes_of_blocks(result.to_effects())))
        if not parts:
            return None
        numbers, found = zip(*parts, strict=True)
        values = np.concatenate([changes.values for changes in found])
        return Changes(found[0].unit, found[0].segments, numbers, values)


VALUES = {"prob": "p", "logprob": "log p", "logit": "logit"}
"""What can be measured, and how tables call it."""

ORDERS = {
    "hidden_states": "IG-Lens",
    "reverse": "reverse order",
    "straight": "straight line",
    "straight_projected": "straight, projected",
    "straight_uniform": "straight, uniform",
    "shapley_frozen": "Shapley, frozen",
    "shapley_skip": "Shapley, skip",
    "leave_one_out": "leave one out",
}
"""The credit orders by path; of whole layers "sublayers" gives the same as "hidden_states"."""

_ORDERS_OF_P = ("shapley_skip",)  # 2^layers forward passes for each prompt and value
IG_LENS = "IG-Lens, p"
DLA = "direct logit attribution"


def _ig_lens(path: Any, value: str) -> Measure:
    lens = IGLens(path=path, value=value, top_k=0)
    return OfLenses(f"{ORDERS[path]}, {VALUES[value]}", (lens,))


def _tuned_lens(value: str) -> Measure:
    name = f"tuned lens differences, {VALUES[value]}"
    return OfLenses(name, (TunedLens(value=value, top_k=0),))


def _effect(
    name: str, *, value: str = "prob", units: Sequence[UnitName] = ("layer",), **options: Any
) -> Measure:
    if value != "prob":
        name = f"{name} ({VALUES[value]})"
    return OfLenses(name, tuple(LayerEffects(value=value, by=unit, **options) for unit in units))


CREDITS: tuple[Measure, ...] = (
    *(
        _ig_lens(path, value)
        for value in VALUES
        for path in PATHS
        if path in ORDERS and (value == "prob" or path not in _ORDERS_OF_P)
    ),
    *(_tuned_lens(value) for value in VALUES),
    OfLenses(DLA, (DirectLogitAttribution(),)),
    OfLenses(
        "layer conductance, last position",
        (LayerConductance(n_steps=CONDUCTANCE_STEPS),),
    ),
    OfLenses(
        "layer conductance, what layers write",
        (LayerConductance(by="sublayer", positions="all", n_steps=CONDUCTANCE_STEPS),),
        by_layer=True,
    ),
    OfLenses(
        "layer integrated gradients",
        (LayerIntegratedGradients(n_steps=GRADIENT_NODES),),
    ),
    UpdateNorm(),
)
"""Credits of whole layers."""

_MEAN = {"intervention": "mean", "n_draws": _SETS_OF_MEANS}
_RESAMPLE = {"intervention": "resample", "n_draws": DRAWS}
SKIP, SKIP_LAST = "skip, all positions", "skip, last position"
MEAN, MEAN_LAST = "mean, all positions", "mean, last position"
RESAMPLE, RESAMPLE_LAST = "resample, all positions", "resample, last position"
EARLY_EXIT = "early exit"
DENOISING, NOISING = "denoising", "noising"

EFFECTS: tuple[Measure, ...] = (
    _effect(SKIP),
    _effect(SKIP_LAST, scope="last"),
    _effect(MEAN, **_MEAN),
    _effect(MEAN_LAST, scope="last", **_MEAN),
    _effect(RESAMPLE, **_RESAMPLE),
    _effect(RESAMPLE_LAST, scope="last", **_RESAMPLE),
    _effect(EARLY_EXIT, intervention="early_exit"),
    Patching(DENOISING, "denoising"),
    Patching(NOISING, "noising"),
)
"""Effects of whole layers on the probability."""

EFFECTS_OF_OTHER_VALUES: tuple[Measure, ...] = tuple(
    _effect(name, value=value, **options)
    for value in ("logprob", "logit")
    for name, options in {SKIP: {}, SKIP_LAST: {"scope": "last"}, RESAMPLE: _RESAMPLE}.items()
)
"""Effects of whole layers in other units."""

_SUBLAYERS = ("attn", "mlp")
SUBLAYER_CREDITS: tuple[Measure, ...] = (
    OfLenses("IG-Lens by sublayers, p", (IGLens(path="sublayers", top_k=0),)),
    OfLenses("components, p", (Components(by="sublayer"),)),
    OfLenses(DLA, (DirectLogitAttribution(by="sublayer"),)),
    OfLenses(
        "layer conductance, what sublayers write",
        (LayerConductance(by="sublayer", positions="all", n_steps=CONDUCTANCE_STEPS),),
    ),
)
SUBLAYER_EFFECTS: tuple[Measure, ...] = (
    _effect(SKIP, units=_SUBLAYERS),
    _effect(SKIP_LAST, units=_SUBLAYERS, scope="last"),
    _effect(MEAN, units=_SUBLAYERS, **_MEAN),
)
HEAD_CREDITS: tuple[Measure, ...] = (
    OfLenses("components, p", (Components(by="head"),)),
    OfLenses(DLA, (DirectLogitAttribution(by="head"),)),
)
HEAD_EFFECTS: tuple[Measure, ...] = (
    _effect(SKIP, units=("head",)),
    _effect(SKIP_LAST, units=("head",), scope="last"),
)


def _last_state(states: Tensor) -> Tensor:
    return states[0, -1].clone()
