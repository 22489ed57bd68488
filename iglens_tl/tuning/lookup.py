"""Finding the tuned lens that a user means."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.loading import DEMO_FOLDER
from iglens_tl.tuning.identity import known_names
from iglens_tl.tuning.storage import load_translators
from iglens_tl.tuning.translators import Translators

DEMO_LENS = Path(__file__).parent / "demo"
"""The tuned lens of the embedded model."""

if TYPE_CHECKING:
    LensLike: TypeAlias = str | Path | Translators
else:  # anything may arrive here; it is answered with a readable error
    LensLike = Any


def resolve_translators(adapter: ModelAdapter, lens: LensLike = "auto") -> Translators:
    """Return the translators that a user asks for.

    Args:
        adapter: The model.
        lens: Translators, a folder, the name of a published lens, or "auto" for the one that is
            shipped for the embedded model or published for this one.

    Raises:
        TypeError: For anything else.
        NotApplicableError: If "auto" finds none.
        ValueError: If a named lens is missing or damaged.
    """
    if isinstance(lens, Translators):
        return lens
    if not isinstance(lens, str) or lens != "auto":
        return load_translators(lens)
    if _is_demo(adapter):
        return demo_translators()
    reasons = []
    for name in known_names(adapter):
        try:
            return load_translators(name)
        except ValueError as error:
            reasons.append(str(error))
    reason = (
        "; ".join(reasons) or "it was read from a folder, so no published lens can be looked up"
    )
    raise NotApplicableError(
        f"no tuned lens is known for {adapter.name} ({reason}); train one with "
        "iglens_tl.train_tuned_lens(model, texts) or `iglens tuned-lens train` and pass it as lens"
    )


@cache
def demo_translators() -> Translators:
    """Return the tuned lens of the embedded model."""
    return load_translators(DEMO_LENS)


def _is_demo(adapter: ModelAdapter) -> bool:
    source = getattr(adapter.tokenizer, "name_or_path", None)
    if adapter.path != "demo" and not (source and Path(str(source)) == DEMO_FOLDER):
        return False
    # A model of that name that somebody else made has another shape.
    shipped = demo_translators()
    return (adapter.n_layers, adapter.readout.d_model) == (shipped.n_layers, shipped.d_model)
