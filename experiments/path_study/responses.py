"""What the study asks of the credits: ranks, places in depth, consistency and agreement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from experiments.common.items import WRONG
from experiments.path_study.conditions import (
    BREAKPOINTS,
    DEFAULT,
    ORDERS,
    VALUES,
    Condition,
    coarse_conditions,
    estimator_conditions,
    full_conditions,
    of_order,
)
from experiments.path_study.measuring import EFFECTS
from experiments.path_study.study import RIGHT, Study, values_of
from iglens_tl.evaluation.metrics import kendall
from iglens_tl.results.agreement import rank_correlations
from iglens_tl.results.statistics import average

RANKS = {"kendall": kendall, "spearman": rank_correlations}
_EQUAL = "all credits or all effects equal"
_NOTHING = "all credits zero"
_GROUPS = (RIGHT, WRONG)
_RESAMPLES = 1000
NUMBERS = ("mean", "low", "high")


def response_table(study: Study, *, seed: int = 0) -> pd.DataFrame:
    """Average every response over items, with 95 % bootstrap intervals over prompts.

    Returns:
        One row per response, condition, `against` (what it is compared with) and group of items:
        `mean`, `low`, `high`, `items`, and a `note` on what is missing.
    """
    rows = [row for part in _PARTS for row in part(study)]
    columns = dict.fromkeys(NUMBERS, "Float64")
    return pd.DataFrame(_averaged(study, rows, seed)).astype(columns)


def centre_of_mass(credits: pd.DataFrame) -> Float[np.ndarray, " item"]:
    """Return the mean layer number, weighted with |credit|; NaN where all are zero."""
    size = np.abs(values_of(credits))
    numbers = np.array([_number(label) for label in credits.columns], dtype=float)
    return _divide(size @ numbers, size.sum(axis=1))


def onset_layer(credits: pd.DataFrame) -> Float[np.ndarray, " item"]:
    """Return the layer by which half of all |credit| has been given; NaN where all are zero."""
    mass = np.abs(values_of(credits)).cumsum(axis=1)
    place = (mass >= mass[:, -1:] / 2).argmax(axis=1)
    numbers = np.array([_number(label) for label in credits.columns], dtype=float)[place]
    return np.where(mass[:, -1] > 0, numbers, np.nan)


def coarse_gap(coarse: pd.DataFrame, fine: pd.DataFrame) -> Float[np.ndarray, " item"]:
    """Return Σ|coarse credit − sum of the fine ones| / Σ|coarse credit|; NaN where it is 0 / 0."""
    ends = [_number(label) for label in coarse.columns]
    begins = [0, *(end + 1 for end in ends[:-1])]
    numbers = [_number(label) for label in fine.columns]
    sums = np.stack(
        [
            values_of(fine)[:, [begin <= n <= end for n in numbers]].sum(axis=1)
            for begin, end in zip(begins, ends, strict=True)
        ],
        axis=1,
    )
    found = values_of(coarse)
    return _divide(np.abs(found - sums).sum(axis=1), np.abs(found).sum(axis=1))


@dataclass(frozen=True)
class _Numbers:
    """One response of one condition, item by item."""

    response: str
    condition: Condition
    against: str
    numbers: Float[np.ndarray, " item"]
    reason: str
    groups: Sequence[str] | None = _GROUPS


def _stability(study: Study) -> Iterable[_Numbers]:
    """Compare the ranks of layers between all pairs of orders, value by value."""
    for value in VALUES:
        known = [order for order in ORDERS if of_order(order, value=value) in study.credits]
        layers = {o: values_of(study.layer_credits(of_order(o, value=value))) for o in known}
        for first, second in combinations(known, 2):
            for name, compare in RANKS.items():
                found = compare(layers[first], layers[second])
                condition = of_order(second, value=value)
                yield _Numbers(f"{name} of orders", condition, first, found, _EQUAL)


def _baselines(study: Study) -> Iterable[_Numbers]:
    """Compare the ranks of layers with those of the same order and value from the mean baseline."""
    for condition in _known(study, full_conditions()):
        if condition.baseline != DEFAULT.baseline:
            same = of_order(condition.order, value=condition.value)
            sides = [values_of(study.layer_credits(c)) for c in (condition, same)]
            for name, compare in RANKS.items():
                found = compare(*sides)
                yield _Numbers(f"{name} of baselines", condition, same.baseline, found, _EQUAL)


def _depth(study: Study) -> Iterable[_Numbers]:
    """Tell where in depth credit lies, beside the forward order of the same value."""
    conditions = [*full_conditions(), *coarse_conditions()]
    for condition in _known(study, conditions):
        credits = study.layer_credits(condition)
        forward = study.layer_credits(of_order(DEFAULT.order, value=condition.value))
        onset = onset_layer(credits) - onset_layer(forward)
        yield _Numbers("onset shift", condition, DEFAULT.order, onset, _NOTHING)
        if BREAKPOINTS[condition.breakpoints] == 1:
            centre = centre_of_mass(credits)
            shift = centre - centre_of_mass(forward)
            yield _Numbers("centre of mass", condition, "", centre, _NOTHING, None)
            yield _Numbers("shift of centre", condition, DEFAULT.order, shift, _NOTHING)


def _coarsening(study: Study) -> Iterable[_Numbers]:
    """Compare fewer break points with the sums of the credits of all layers."""
    for condition in _known(study, coarse_conditions()):
        fine = study.layer_credits(of_order(condition.order))
        found = coarse_gap(study.layer_credits(condition), fine)
        yield _Numbers("coarsening gap", condition, "all layers", found, _NOTHING)


def _estimators(study: Study) -> Iterable[_Numbers]:
    """Compare the other estimators with delta."""
    for condition in _known(study, estimator_conditions()):
        delta = Condition(order=condition.order, value=condition.value)
        found, exact = (values_of(study.credits[c]) for c in (condition, delta))
        missed = np.abs(found - exact)
        ranks = kendall(*(values_of(study.layer_credits(chosen)) for chosen in (condition, delta)))
        yield _Numbers("sum of errors", condition, "delta", missed.sum(axis=1), "")
        yield _Numbers("largest error", condition, "delta", missed.max(axis=1), "")
        yield _Numbers("kendall of estimators", condition, "delta", ranks, _EQUAL)


def _agreement(study: Study) -> Iterable[_Numbers]:
    """Compare with the effects of interventions on the same value, by Spearman's correlation."""
    for condition in _known(study, full_conditions()):
        credits = values_of(study.layer_credits(condition))
        for name in EFFECTS:
            effects = values_of(study.effects[name, condition.value])
            found = rank_correlations(credits, effects)
            by_family = condition.baseline == DEFAULT.baseline
            groups = None if by_family else _GROUPS
            yield _Numbers("agreement", condition, name, found, _EQUAL, groups)


_PARTS: tuple[Callable[[Study], Iterable[_Numbers]], ...] = (
    _stability,
    _baselines,
    _depth,
    _coarsening,
    _estimators,
    _agreement,
)


def _averaged(study: Study, rows: Iterable[_Numbers], seed: int) -> list[dict[str, object]]:
    groups: dict[str, Bool[np.ndarray, " item"]] = study.groups()
    found = []
    for row in rows:
        for name in row.groups or groups:
            chosen = groups.get(name)
            if chosen is None or not chosen.any():
                continue
            own = average(
                row.numbers[chosen],
                np.flatnonzero(chosen),
                reason=row.reason,
                n_resamples=_RESAMPLES,
                seed=seed,
            )
            named = {"response": row.response, **asdict(row.condition), "against": row.against}
            found.append({**named, "group": name, **own})
    return found


def _known(study: Study, conditions: Iterable[Condition]) -> list[Condition]:
    return [condition for condition in conditions if condition in study.credits]


def _number(label: str) -> int:
    return int(label.removeprefix("L"))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    out = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)
