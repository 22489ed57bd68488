"""Name lenses and values as the page does, and say what they are."""

from __future__ import annotations

from collections.abc import Sequence

from iglens_tl.results import LensData
from iglens_tl.views.text import show_blanks

_KINDS = {
    "credit": "Credits, which sum to final − baseline.",
    "level": "Levels read out after each segment, which sum to nothing.",
    "effect": "Effects of separate interventions, which sum to nothing.",
    "value": "One value for each segment; together they sum to nothing.",
}
_VALUES = {"prob": "probability", "logprob": "log-probability", "kl_to_final": "KL to final"}


def lens_label(data: LensData) -> str:
    """Return what readers call a result: its own label, or that of its lens."""
    return data.label or data.provenance.lens.get("label") or shown_name(data.lens)


def lens_sentence(data: LensData) -> str:
    """Return what the numbers of a result are, in a sentence or two."""
    return data.provenance.lens.get("measures") or _KINDS[data.kind]


def shown_name(name: str) -> str:
    """Return the name of a lens that measured nothing, as words."""
    return name.replace("_", " ")


def value_label(value: str, tokens: Sequence[str | int] = ()) -> str:
    """Return what readers call a value, with the tokens that it names."""
    label = _VALUES.get(value, value.replace("_", " "))
    if not tokens:
        return label
    joint = " − " if value.endswith("_difference") else ", "
    named = [show_blanks(token) if isinstance(token, str) else f"id {token}" for token in tokens]
    return f"{label} {joint.join(named)}"
