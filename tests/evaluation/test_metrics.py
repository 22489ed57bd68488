"""Every metric by hand, against scipy, and against plain loops over the orders of ties."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.evaluation.metrics import (
    calibration_slope,
    kendall,
    metrics,
    ndcg,
    pearson,
    routing_gap,
    top_k_overlap,
)
from iglens_tl.results.agreement import rank_correlations, sign_agreements
from tests.support.closeness import assert_close_to


@st.composite
def pairs(draw, *, smallest=2, largest=9):
    """Draw credits and effects as coarse numbers, so that there are ties and constant rows."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(smallest, largest)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return tuple(rng.integers(-2, 3, size=(2, *shape)).astype(float))


def rows_of(*lists):
    return tuple(np.array([one], dtype=float) for one in lists)


def is_constant(*rows):
    return any(np.ptp(row) == 0 for row in rows)


def test_correlations_of_a_small_case_are_those_found_by_hand():
    credits, effects = rows_of([1, 2, 3, 4], [1, 3, 2, 4])
    # One of six pairs is swapped; squared rank differences sum to 2.
    assert kendall(credits, effects) == pytest.approx((5 - 1) / 6)
    assert rank_correlations(credits, effects) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert pearson(credits, effects) == pytest.approx(4 / 5)
    assert pearson(*rows_of([0, 0, 3], [1, 1, -1])) == pytest.approx(-1)


def test_ties_count_on_neither_side_of_kendalls_tau():
    # Of six pairs one is tied on the left; the other five agree.
    found = kendall(*rows_of([1, 1, 2, 3], [1, 2, 3, 4]))
    assert found == pytest.approx(5 / np.sqrt(5 * 6), abs=1e-9)


def test_signs_are_compared_where_both_sides_have_one():
    assert sign_agreements(*rows_of([1, -1, 0, 2], [3, 1, 1, 0.5])) == pytest.approx(2 / 3)
    assert np.isnan(sign_agreements(*rows_of([0, 1], [1, 0])))


def test_overlap_counts_the_most_positive_segments_that_both_have():
    credits, effects = rows_of([5, 4, -9, 1, 0], [4, -6, 1, 5, 3])
    overlaps = [float(top_k_overlap(credits, effects, k=k)[0]) for k in (1, 2, 3, 4)]
    assert overlaps == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert np.isnan(top_k_overlap(credits, effects, k=5))


def test_a_tie_for_the_last_place_is_drawn():
    credits, effects = rows_of([3, 2, 2, 0], [9, 8, 0, 0])
    assert top_k_overlap(credits, effects, k=2) == pytest.approx((1 + 1 / 2) / 2)


def test_the_ranking_is_worth_what_its_discounted_gains_are():
    credits, effects = rows_of([3, 2, 1], [0, 5, -7])
    found = 5 / np.log2(3)
    assert ndcg(credits, effects) == pytest.approx(found / 5, abs=1e-9)
    assert ndcg(effects, effects) == pytest.approx(1)
    assert np.isnan(ndcg(*rows_of([1, 2], [0, -1])))


def test_the_routing_gap_is_relative_to_all_effects():
    assert routing_gap(*rows_of([1, 0, -1], [2, -1, -1])) == pytest.approx(2 / 4)
    assert routing_gap(*rows_of([0, 0], [2, -1])) == pytest.approx(1)
    assert np.isnan(routing_gap(*rows_of([1, 2], [0, 0])))


def test_the_calibration_slope_is_the_effect_per_credit():
    credits, effects = rows_of([0, 1, 2, 3], [5, 3, 1, -1])
    assert calibration_slope(credits, effects) == pytest.approx(-2)
    assert np.isnan(calibration_slope(*rows_of([1, 1], [1, 2])))


@settings(deadline=None, max_examples=60)
@given(pairs())
def test_correlations_and_slope_are_those_of_scipy(pair):
    credits, effects = pair
    found = [f(credits, effects) for f in (rank_correlations, kendall, pearson, calibration_slope)]
    for row, (x, y) in enumerate(zip(credits, effects, strict=True)):
        numbers = [one[row] for one in found]
        if is_constant(x, y):
            assert np.isnan(numbers[:3]).all()
        else:
            oracles = (scipy.stats.spearmanr, scipy.stats.kendalltau, scipy.stats.pearsonr)
            expected = [oracle(x, y).statistic for oracle in oracles]
            np.testing.assert_allclose(numbers[:3], expected, atol=1e-12)
        if is_constant(x):
            assert np.isnan(numbers[3])
        else:
            expected = scipy.stats.linregress(x, y).slope
            np.testing.assert_allclose(numbers[3], expected, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(pairs(largest=5), st.integers(1, 3))
def test_ties_give_the_mean_over_their_orders(pair, k):
    credits, effects = pair
    gains, overlaps = ndcg(credits, effects), top_k_overlap(credits, effects, k=k)
    n_segments = credits.shape[1]
    discounts = 1 / np.log2(np.arange(n_segments) + 2)
    for row, (x, y) in enumerate(zip(credits, effects, strict=True)):
        by_credit, by_effect = (
            [list(p) for p in permutations(range(n_segments)) if is_descending(values, p)]
            for values in (x, y)
        )
        gain = np.clip(y, 0, None)
        if gain.any():
            best = (np.sort(gain)[::-1] * discounts).sum()
            expected = np.mean([(gain[order] * discounts).sum() for order in by_credit]) / best
            assert gains[row] == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(gains[row])
        if k < n_segments:
            common = [len({*a[:k]} & {*b[:k]}) for a in by_credit for b in by_effect]
            assert overlaps[row] == pytest.approx(np.mean(common) / k, abs=1e-9)
        else:
            assert np.isnan(overlaps[row])


def is_descending(values, order):
    return all(values[a] >= values[b] for a, b in pairwise(order))


@settings(deadline=None, max_examples=40)
@given(pairs(), st.integers(0, 1000))
def test_no_metric_depends_on_the_order_of_segments(pair, seed):
    credits, effects = pair
    order = np.random.default_rng(seed).permutation(credits.shape[1])
    for metric in metrics([1, 3]):
        here = metric.measure(credits, effects)
        there = metric.measure(credits[:, order], effects[:, order])
        np.testing.assert_allclose(here, there, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(pairs(), st.floats(0.5, 3))
def test_only_metrics_of_one_unit_depend_on_the_scale(pair, factor):
    credits, effects = pair
    for metric in metrics([1, 3]):
        here, there = (metric.measure(scale * credits, effects) for scale in (1.0, factor))
        if not metric.same_unit:
            np.testing.assert_allclose(here, there, atol=1e-12)
    here, there = (calibration_slope(scale * credits, effects) for scale in (1.0, factor))
    np.testing.assert_allclose(here, factor * there, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(pairs())
def test_effects_agree_with_themselves(pair):
    _, effects = pair
    for metric in metrics([1]):
        found = metric.measure(effects, effects)
        if metric.name == "routing_gap":
            expected = 0
        elif metric.name == "top_1_overlap":
            # Ties for the first place are drawn on both sides.
            expected = 1 / (effects == effects.max(axis=1, keepdims=True)).sum(axis=1)
        else:
            expected = 1
        assert_close_to(np.where(np.isnan(found), expected, found), expected, size=1)


@pytest.mark.parametrize("constant", [0.1, 1e-20, -3e7])
def test_rounding_errors_of_equal_numbers_are_no_order(constant):
    credits, effects = rows_of([constant] * 7, [1, 2, 3, 4, 5, 6, 7])
    for measure in (rank_correlations, kendall, pearson):
        assert np.isnan(measure(credits, effects))
        assert np.isnan(measure(effects, credits))
    assert np.isnan(calibration_slope(credits, effects))
    assert calibration_slope(effects, credits) == pytest.approx(0, abs=1e-6)
