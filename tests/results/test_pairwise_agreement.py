"""Agreement between lenses, against pandas and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.results.agreement import (
    monotonicity,
    pairwise_agreement,
    pairwise_agreement_by_target,
)
from tests.support.closeness import assert_close_to
from tests.support.results import make_result


def pair(left, right):
    tokens = tuple(f" t{index}" for index in range(len(left)))
    first = make_result(np.array(left), tokens=tokens)
    return [first, replace(make_result(np.array(right), tokens=tokens), lens="other_lens")]


@given(seed=st.integers(0, 10_000), n_segments=st.integers(3, 12))
@settings(deadline=None, max_examples=40)
def test_rank_correlations_are_spearmans(seed, n_segments):
    rng = np.random.default_rng(seed)
    # Coarse numbers, so that there are ties.
    left, right = rng.integers(-3, 4, size=(2, 5, n_segments)).astype(float)
    found = pairwise_agreement_by_target(pair(left, right))["rank_correlation"]
    for index in range(5):
        both = pd.DataFrame({"left": left[index], "right": right[index]})
        expected = both.corr(method="spearman").loc["left", "right"]
        np.testing.assert_allclose(found[index], expected, atol=1e-12)


def test_signs_are_compared_where_both_lenses_move():
    results = pair([[1.0, -1.0, 0.0, 2.0]], [[2.0, 1.0, 5.0, 0.5]])
    assert pairwise_agreement_by_target(results)["sign_agreement"].tolist() == [2 / 3]


def test_level_lenses_are_compared_by_their_differences_and_not_in_the_first_segment():
    levels = make_result(np.array([[0.1, 0.4, 0.2, 0.9]]), tokens=(" a",), additive=False)
    credits = replace(
        make_result(np.array([[-5.0, 0.3, -0.2, 0.7]]), tokens=(" a",)), lens="credits"
    )
    found = pairwise_agreement_by_target([levels, credits])
    assert found["rank_correlation"].tolist() == [pytest.approx(1)]
    assert found["sign_agreement"].tolist() == [1]


def test_intervals_hold_the_mean_and_shrink_with_more_targets():
    rng = np.random.default_rng(0)
    widths = []
    for n_targets in (20, 2000):
        left = rng.normal(size=(n_targets, 8))
        row = pairwise_agreement(pair(left, left + rng.normal(size=left.shape))).iloc[0]
        assert row["low"] < row["rank_correlation"] < row["high"]
        assert row["targets"] == n_targets
        widths.append(row["high"] - row["low"])
    assert widths[1] < widths[0] / 5
    assert (
        pairwise_agreement(pair([[1.0, 2.0]], [[1.0, 2.0]]))[["low", "high"]].isna().all(axis=None)
    )


def test_a_level_that_turns_back_is_counted():
    levels = make_result(
        np.array([[0.1, 0.4, 0.2, 0.9], [0.9, 0.5, 0.6, 0.1]]), tokens=(" a", " b"), additive=False
    )
    found = monotonicity([levels])
    assert found["violations"].tolist() == [1, 1]
    assert_close_to(found["backtracking"], [0.2, 0.1])
    assert monotonicity([make_result()]).empty
