"""Holds one module per family of examples, each with a name and a function `draw`."""

from typing import Any

from experiments.demo_model.examples import Family
from experiments.demo_model.families import (
    agreement,
    arithmetic,
    brackets,
    fact_recall,
    greater_than,
    induction,
    ioi,
    pronouns,
    two_hop,
)

_MODULES: tuple[Any, ...] = (
    fact_recall,
    two_hop,
    ioi,
    induction,
    greater_than,
    agreement,
    pronouns,
    arithmetic,
    brackets,
)
FAMILIES: dict[str, Family] = {family.NAME: family for family in _MODULES}
