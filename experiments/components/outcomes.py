"""What is measured for each family of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import pandas as pd

from experiments.components import tables
from experiments.components.ablation import Ablation
from experiments.components.credits import head_credits
from experiments.components.prompts import (
    FACT_ROLES,
    IOI_ROLES,
    Case,
    answered_cases,
    fact_cases,
    ioi_cases,
)
from iglens_tl.models import ModelAdapter

_SEED = 0
_SPARE = 1.5
_TOP_HEADS = 8


@dataclass(frozen=True)
class Family:
    """A kind of prompts.

    Attributes:
        name: Its name.
        title: Its name for people.
        draw: Draws candidates.
        roles: The roles of its tokens.
        example: A held-out prompt and its answer, for the pictures.
    """

    name: str
    title: str
    draw: Callable[[ModelAdapter, Random, int], list[Case]]
    roles: Sequence[str]
    example: tuple[str, str]


@dataclass(frozen=True)
class Outcome:
    """What was found for a family.

    Attributes:
        family: The family.
        n_cases: The number of cases, all answered right.
        n_asked: The number of prompts that were asked to find them.
        clean: The mean of p, log p and logit difference without ablation.
        mlp_credit: The mean credit of p of all MLPs together, and its standard error.
        heads: One row for each head.
        roles: What heads are credited with by the role of the token they read.
        ablations: What is left when heads are ablated.
        correlations: How measures and effects of single heads agree.
    """

    family: Family
    n_cases: int
    n_asked: int
    clean: tuple[float, ...]
    mlp_credit: tuple[float, float]
    heads: pd.DataFrame
    roles: pd.DataFrame
    ablations: pd.DataFrame
    correlations: pd.DataFrame


FAMILIES = (
    Family(
        "ioi",
        "Indirect-object identification",
        ioi_cases,
        IOI_ROLES,
        ("When Adam and Daisy went to the market, Daisy gave a book to", " Adam"),
    ),
    Family(
        "facts",
        "Facts",
        fact_cases,
        FACT_ROLES,
        ("As everyone knows, the capital of Greece is called", " Athens"),
    ),
)


def measure(adapter: ModelAdapter, family: Family, n_cases: int) -> Outcome:
    """Draw cases of a family, credit its heads and ablate them."""
    candidates = family.draw(adapter, Random(_SEED), round(_SPARE * n_cases))
    cases, n_asked = answered_cases(adapter, candidates, n_cases)
    credits = head_credits(adapter, cases, family.roles)
    ablation = Ablation(adapter, cases)
    effects = tables.single_effects(ablation)
    heads = tables.head_table(credits, effects)
    return Outcome(
        family=family,
        n_cases=len(cases),
        n_asked=n_asked,
        clean=tuple(ablation.clean.mean(0).tolist()),
        mlp_credit=tables.mean_credit(credits.mlps),
        heads=heads,
        roles=tables.role_table(credits, family.roles, list(heads.index[:_TOP_HEADS])),
        ablations=tables.ablation_table(ablation, credits),
        correlations=tables.correlation_table(credits, effects),
    )
