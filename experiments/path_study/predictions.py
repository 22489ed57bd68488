"""The predictions of METHODS 8.4, each with its criterion, judged by the numbers.

Statement and criterion of every prediction were written down before the study was run.
Intervals are 95 % bootstrap intervals of means over prompts, on items with right answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.path_study.conditions import (
    DEFAULT,
    FORWARD,
    LEAVE_ONE_OUT,
    LOGPROB,
    NAMED_ORDERS,
    PROB,
    REVERSE,
    STRAIGHT,
    Condition,
    of_order,
)
from experiments.path_study.curves import ARC, CHORD
from experiments.path_study.measuring import EARLY_EXIT
from experiments.path_study.responses import centre_of_mass
from experiments.path_study.study import RIGHT, Study, values_of
from iglens_tl.results.statistics import average

_SAME_SUM = 1e-9
_SAME_INTEGRAL = 1e-6
_SAME_CREDIT = 1e-5
_LARGE = 0.1


@dataclass(frozen=True)
class Prediction:
    """A prediction and what became of it.

    Attributes:
        statement: What was predicted.
        criterion: What had to be found for it to hold.
        found: What was found, in words and numbers.
        held: Whether it held; None where the items were too few to tell.
    """

    statement: str
    criterion: str
    found: str
    held: bool | None

    @property
    def verdict(self) -> str:
        """Return "held", "failed", or that it cannot be told."""
        return {True: "held", False: "failed", None: "too few items"}[self.held]


def judge(study: Study) -> list[Prediction]:
    """Judge all predictions."""
    return [Prediction(statement, criterion, *check(study)) for statement, criterion, check in _ALL]


_Verdict = tuple[str, bool | None]


def _steps_do_not_matter(study: Study) -> _Verdict:
    worst = float(study.curves["spread"].max())
    return f"the sums vary by up to {worst:.1e}", worst < _SAME_SUM


def _curves_do_not_matter(study: Study) -> _Verdict:
    missed = (study.curves["integral"] - study.curves["delta"]).abs()
    worst = {name: float(missed[study.curves["curve"] == name].max()) for name in (CHORD, ARC)}
    found = f"largest difference {worst[CHORD]:.1e} on chords, {worst[ARC]:.1e} on arcs"
    return found, max(worst.values()) < _SAME_INTEGRAL


def _forward_is_early_exit(study: Study) -> _Verdict:
    credits = values_of(study.layer_credits(DEFAULT))
    effects = values_of(study.effects[EARLY_EXIT, PROB])
    worst = float(np.abs(credits - effects).max())
    return f"largest difference {worst:.1e}", worst < _SAME_CREDIT


def _forward_is_latest(study: Study) -> _Verdict:
    pairs = [(of_order(FORWARD), of_order(order)) for order in NAMED_ORDERS]
    return _centres(study, pairs, sign=1)


def _reverse_is_early(study: Study) -> _Verdict:
    return _is_early(study, REVERSE)


def _leave_one_out_is_early(study: Study) -> _Verdict:
    return _is_early(study, LEAVE_ONE_OUT)


def _is_early(study: Study, order: str) -> _Verdict:
    others = [FORWARD, *(o for o in NAMED_ORDERS if o not in (REVERSE, LEAVE_ONE_OUT))]
    pairs = [(of_order(order), of_order(other)) for other in others]
    return _centres(study, pairs, sign=-1)


def _straight_is_negative_late(study: Study) -> _Verdict:
    right = study.groups()[RIGHT]
    lowest = {}
    for order in (STRAIGHT, FORWARD):
        credits = values_of(study.layer_credits(of_order(order)))[right]
        n_late = max(1, credits.shape[1] // 4)
        lowest[order] = credits[:, -n_late:].min(axis=1)
    share = float((lowest[STRAIGHT] < -_LARGE).mean())
    mean, low, high = _interval(lowest[STRAIGHT] - lowest[FORWARD])
    found = (
        f"{share:.0%} of items have a late credit below −{_LARGE}, the lowest is "
        f"{lowest[STRAIGHT].min():.2f}; mean difference from forward {_written(mean, low, high)}"
    )
    return found, None if high is None else share >= _LARGE and high < 0


def _late_bias_shrinks(study: Study) -> _Verdict:
    return _centres(study, [(of_order(FORWARD, value=LOGPROB), of_order(FORWARD))], sign=-1)


def _centres(study: Study, pairs: Iterable[tuple[Condition, Condition]], *, sign: int) -> _Verdict:
    """Tell whether the first centre of mass of every pair lies above (1) or below (−1) the other's.

    It does if the whole interval of the paired difference lies on that side of 0.
    """
    right = study.groups()[RIGHT]
    parts, verdicts = [], []
    for first, second in pairs:
        centres = [centre_of_mass(study.layer_credits(c))[right] for c in (first, second)]
        mean, low, high = _interval(centres[0] - centres[1])
        end = low if sign > 0 else high
        verdicts.append(None if end is None else sign * end > 0)
        name = second.order if first.value == second.value else second.value
        parts.append(f"{_written(mean, low, high)} layers from {name}")
    held = None if None in verdicts else all(verdicts)
    return "; ".join(parts), held


def _interval(
    numbers: Float[np.ndarray, " item"],
) -> tuple[float | None, float | None, float | None]:
    found = average(numbers, np.arange(len(numbers)), reason="")
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    assert not isinstance(mean, str) and not isinstance(low, str) and not isinstance(high, str)
    return mean, low, high


def _written(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None:
        return "unknown"
    return f"{mean:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")


_ALL: tuple[tuple[str, str, Callable[[Study], _Verdict]], ...] = (
    (
        "The delta estimator does not depend on the number of steps",
        f"on every segment the changes of p over 1, 4, 16, 64 and 256 steps have sums that differ "
        f"by less than {_SAME_SUM:.0e}",
        _steps_do_not_matter,
    ),
    (
        "It does not depend on the curve between two states, chord or arc (slerp)",
        f"on every segment the numerical integral along either curve is delta to "
        f"{_SAME_INTEGRAL:.0e}",
        _curves_do_not_matter,
    ),
    (
        "The forward order is early exit",
        f"credits of p and effects of early exit differ by less than {_SAME_CREDIT:.0e}",
        _forward_is_early_exit,
    ),
    (
        "The forward order is the most late-biased",
        "the centre of |credit| of p over depth lies above that of reverse, straight line, both "
        "Shapley orders and leave-one-out, each interval of the paired difference above 0",
        _forward_is_latest,
    ),
    (
        "The reverse order is the most early-biased, with leave-one-out",
        "its centre lies below that of forward, straight line and both Shapley orders, each "
        "interval below 0",
        _reverse_is_early,
    ),
    (
        "Leave-one-out is the most early-biased, with the reverse order",
        "the same of its centre",
        _leave_one_out_is_early,
    ),
    (
        "The straight line (Aumann and Shapley) allows large negative late terms",
        f"at least {_LARGE:.0%} of items have a credit of p below −{_LARGE} in the last quarter of "
        "the layers, and the lowest late credit is lower than in the forward order, the interval "
        "below 0",
        _straight_is_negative_late,
    ),
    (
        "The late bias of p shrinks in log p",
        "the forward order's centre of log p lies below that of p, the interval below 0",
        _late_bias_shrinks,
    ),
)
