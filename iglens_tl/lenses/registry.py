"""The lenses by name, with what each measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iglens_tl.lenses.direct_logit_attribution import plan_direct_logit_attribution
from iglens_tl.lenses.ig_lens import plan_ig_lens
from iglens_tl.lenses.logit_lens import plan_logit_lens
from iglens_tl.lenses.running import Lens
from iglens_tl.models.adapter import ModelAdapter

LENSES: dict[str, Callable[..., Lens]] = {
    "ig_lens": plan_ig_lens,
    "logit_lens": plan_logit_lens,
    "direct_logit_attribution": plan_direct_logit_attribution,
}
"""What plans each lens, given the model and the lens's options."""


def plan_lenses(
    adapter: ModelAdapter, lenses: Sequence[str] | Mapping[str, Mapping[str, Any]]
) -> list[Lens]:
    """Look lenses up and check their options.

    Args:
        adapter: The model.
        lenses: Names, or a mapping from names to options.

    Raises:
        TypeError: For an option that a lens does not have.
        ValueError: For an unknown or repeated lens, or an option that does not fit the model.
    """
    if isinstance(lenses, str):
        raise TypeError(f"lenses must be a list of names or a mapping, got the text {lenses!r}")
    names = list(lenses)
    if not names:
        raise ValueError(f"lenses is empty; choose from {', '.join(LENSES)}")
    for name in names:
        if name not in LENSES:
            raise ValueError(f"unknown lens {name!r}; choose from {', '.join(LENSES)}")
        if names.count(name) > 1:
            raise ValueError(f"lens {name!r} is given twice")
    planned = []
    for name in names:
        options = lenses[name] if isinstance(lenses, Mapping) else {}
        try:
            planned.append(LENSES[name](adapter, **options))
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from error
    return planned
