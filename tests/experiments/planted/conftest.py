"""Planted models, loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from experiments.planted.models import PlantedModel


@pytest.fixture(scope="session")
def loaded() -> Callable[..., Any]:
    """Return a function that loads a planted model; the same model gives the same object."""

    @cache
    def load(model: PlantedModel, backend: str = "auto") -> Any:
        return model.load(backend=backend)

    return load
