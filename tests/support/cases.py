"""Which toy models exist with the installed TransformerLens, as pytest parameters."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from iglens_tl.models.adapter import hooked_transformer_class
from tests.support.families import FAMILIES

HAS_HOOKED = hooked_transformer_class() is not None

TL_VERSION = version("transformer_lens")

IDS = [1, 17, 42, 5, 88, 23, 9, 61, 30, 12]
"""A text of the toy vocabulary."""


def loadable(backend: str) -> list[str]:
    """Return the names of the families that `load_model` accepts with a backend."""
    names = []
    for family in FAMILIES:
        if backend == "hooked" and not (HAS_HOOKED and family.hooked):
            continue
        if TL_VERSION.split(".")[0] not in family.wrong_in:
            names.append(family.name)
    return names


EVERY_MODEL = [
    pytest.param(name, backend, id=f"{name}-{backend}")
    for backend in ("hooked", "bridge")
    for name in loadable(backend)
]
"""(family, backend) for every toy model that loads."""

EVERY_MODEL_AND_DTYPE = [
    pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}")
    for case in EVERY_MODEL
    for dtype in ("float32", "float64")
    # A HookedTransformer's experts compute in float32 only.
    if not (
        case.values[1] == "hooked" and case.values[0] in ("mixtral", "olmoe") and dtype == "float64"
    )
]
"""(family, backend, dtype)."""

EVERY_MODEL_IN_FLOAT64 = [
    pytest.param(*case.values[:2], id=str(case.id).removesuffix("-float64"))
    for case in EVERY_MODEL_AND_DTYPE
    if case.values[2] == "float64"
]
"""(family, backend) for every toy model that computes in float64, for exact identities."""
