"""Name lenses and values as the page does, and say what they are."""

from __future__ import annotations

from collections.abc import Sequence

from iglens_tl.views.text import show_blanks

_LENSES = {
    "ig_lens": (
        "IG-Lens",
        "What each layer adds to the level; the credits of all layers sum to final − baseline. "
        "Under the default estimator, delta, a credit is the change of the logit lens.",
    ),
    "logit_lens": (
        "logit lens",
        "What the model would predict if it stopped after a layer: levels, which sum to nothing.",
    ),
    "tuned_lens": (
        "tuned lens",
        "What the model would predict after a layer, through a map trained for that layer. Every "
        "layer has its own map, so the change from one layer to the next belongs to no single one.",
    ),
    "direct_logit_attribution": (
        "direct logit attribution",
        "What each layer writes towards the logit, with the scale of the final norm frozen.",
    ),
    "layer_conductance": (
        "layer conductance",
        "How much of the change from an input baseline passes through a layer; the values of "
        "different layers do not sum to anything.",
    ),
    "layer_integrated_gradients": (
        "layer integrated gradients",
        "The change from a layer's own baseline activation; every layer explains its own change.",
    ),
    "jacobian_lens": (
        "Jacobian lens",
        "The level after a layer, through the average Jacobian of the layers above it.",
    ),
}
_KINDS = {
    "credit": "Credits, which sum to final − baseline.",
    "level": "Levels read out after each segment, which sum to nothing.",
    "effect": "Effects of separate interventions, which sum to nothing.",
    "value": "One value for each segment; together they sum to nothing.",
}
_VALUES = {"prob": "probability", "logprob": "log-probability", "kl_to_final": "KL to final"}


def lens_label(lens: str) -> str:
    """Return what readers call a lens."""
    return _LENSES[lens][0] if lens in _LENSES else lens.replace("_", " ")


def lens_sentence(lens: str, kind: str) -> str:
    """Return what a lens measures, in a sentence or two."""
    return _LENSES[lens][1] if lens in _LENSES else _KINDS[kind]


def value_label(value: str, tokens: Sequence[str | int] = ()) -> str:
    """Return what readers call a value, with the tokens that it names."""
    label = _VALUES.get(value, value.replace("_", " "))
    if not tokens:
        return label
    joint = " − " if value.endswith("_difference") else ", "
    named = [show_blanks(token) if isinstance(token, str) else f"id {token}" for token in tokens]
    return f"{label} {joint.join(named)}"
