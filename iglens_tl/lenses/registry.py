"""The lenses by name, with what each measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.lenses.dla import plan_direct_logit_attribution
from iglens_tl.lenses.ig import plan_ig_lens
from iglens_tl.lenses.jacobian import plan_jacobian_lens
from iglens_tl.lenses.conductance import plan_layer_conductance
from iglens_tl.lenses.layer_ig import plan_layer_integrated_gradients
from iglens_tl.lenses.logit import plan_logit_lens
from iglens_tl.lenses.base import Lens
from iglens_tl.lenses.tuned import plan_tuned_lens

if TYPE_CHECKING:
    Lenses: TypeAlias = Sequence[str] | Mapping[str, Mapping[str, Any]]
else:  # anything may arrive here; `check_names` answers with a readable error
    Lenses = Any

LENSES: dict[str, Callable[..., Lens]] = {
    "ig_lens": plan_ig_lens,
    "logit_lens": plan_logit_lens,
    "tuned_lens": plan_tuned_lens,
    "direct_logit_attribution": plan_direct_logit_attribution,
    "layer_conductance": plan_layer_conductance,
    "layer_integrated_gradients": plan_layer_integrated_gradients,
    "jacobian_lens": plan_jacobian_lens,
}
"""What plans each lens, given the model and the lens's options."""


def check_names(lenses: Lenses) -> list[str]:
    """Return the names of known lenses.

    Raises:
        TypeError: For anything but names or a mapping.
        ValueError: For an unknown or repeated lens, or none.
    """
    if isinstance(lenses, str) or not isinstance(lenses, (Sequence, Mapping)):
        raise TypeError(
            f"lenses must be a list of names or a mapping from names to options, got {lenses!r}"
        )
    names = list(lenses)
    if not names:
        raise ValueError(f"lenses is empty; choose from {', '.join(LENSES)}")
    for name in names:
        if name not in LENSES:
            raise ValueError(f"unknown lens {name!r}; choose from {', '.join(LENSES)}")
        if names.count(name) > 1:
            raise ValueError(f"lens {name!r} is given twice")
    return names
