"""A clean and a corrupted toy prompt, and the patches between them."""

from __future__ import annotations

from iglens_tl.interventions import activation_patching
from iglens_tl.results.patching import PatchingResult
from tests.support.cases import IDS

CLEAN = IDS[:4]
CORRUPTED = [IDS[0], 70, *IDS[2:4]]
OTHER_END = [*IDS[:3], 70]
ANSWER = 31


def patch(model, clean=CLEAN, corrupted=CORRUPTED, **options) -> PatchingResult:
    """Patch the clean prompt's activations into the corrupted one's run."""
    return activation_patching(
        model, clean, corrupted, **{"answer": ANSWER, "value": "logprob"} | options
    )
