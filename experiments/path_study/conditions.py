"""The factors of the study, and which of their combinations are measured."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import product

from iglens_tl.lenses.ig import FROZEN_CHAINS, PATHS, RECOMPUTED_PATHS

FORWARD = "hidden_states"
REVERSE = "reverse"
STRAIGHT = "straight"
LEAVE_ONE_OUT = "leave_one_out"
ORDERS = tuple(PATHS)
NAMED_ORDERS = (REVERSE, STRAIGHT, "shapley_frozen", "shapley_skip", LEAVE_ONE_OUT)
"""The orders of METHODS 8.4 besides the forward one; the others are ways to cut the same paths."""

CORPUS = "mean_corpus"
BASELINES = ("mean", "embed", "zero", "mean_causal", CORPUS)
PROB, LOGPROB, DIFFERENCE = "prob", "logprob", "logit_difference"
VALUES = (PROB, LOGPROB, DIFFERENCE)
BREAKPOINTS = {"all layers": 1, "every 2nd": 2, "every 4th": 4}
STEPS = (1, 4, 16, 64, 256)
COARSE_ORDERS = (FORWARD, *FROZEN_CHAINS, "shapley_frozen")


@dataclass(frozen=True, order=True)
class Condition:
    """One combination of the factors.

    Attributes:
        order: The credit order, a path of `ig_lens`; "sublayers" has the break points "+mid".
        breakpoints: Which layers end a segment, one of `BREAKPOINTS`.
        baseline: Where the path begins.
        value: What is attributed.
        estimator: "delta", "gradient" or "riemann"; the straight line has "gradient" only.
        n_steps: Steps of "riemann", 0 for the others.
    """

    order: str = FORWARD
    breakpoints: str = "all layers"
    baseline: str = "mean"
    value: str = PROB
    estimator: str = "delta"
    n_steps: int = 0


FACTORS = [field.name for field in fields(Condition)]
DEFAULT = Condition()


def of_order(order: str, *, value: str = PROB, baseline: str = "mean") -> Condition:
    """Return the condition of an order with its own estimator and all break points."""
    estimator = "gradient" if order == STRAIGHT else "delta"
    return Condition(order=order, value=value, baseline=baseline, estimator=estimator)


def full_conditions() -> list[Condition]:
    """Return order × baseline × value; recomputed layers do not depend on the baseline."""
    return [
        of_order(order, value=value, baseline=baseline)
        for order, baseline, value in product(ORDERS, BASELINES, VALUES)
        if baseline == DEFAULT.baseline or order not in RECOMPUTED_PATHS
    ]


def coarse_conditions() -> list[Condition]:
    """Return orders × fewer break points, for orders that can credit several layers as one."""
    coarse = [name for name, every in BREAKPOINTS.items() if every > 1]
    return [Condition(order=o, breakpoints=b) for o, b in product(COARSE_ORDERS, coarse)]


def estimator_conditions() -> list[Condition]:
    """Return the estimators, for the forward order with p and log p, and the reverse with p."""
    ways = [("riemann", n_steps) for n_steps in STEPS] + [("gradient", 0)]
    cases = ((FORWARD, PROB), (FORWARD, LOGPROB), (REVERSE, PROB))
    return [
        Condition(order=order, value=value, estimator=estimator, n_steps=n_steps)
        for (order, value), (estimator, n_steps) in product(cases, ways)
    ]


def all_conditions() -> list[Condition]:
    """Return every condition that is measured."""
    return [*full_conditions(), *coarse_conditions(), *estimator_conditions()]
