"""Agreement between lenses, against pandas and by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.evaluation import agreement
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


def of_prompts(results, prompts):
    """Return results whose targets stand in several prompts."""
    texts = (results[0].texts[0],) * (max(prompts) + 1)
    return [
        replace(
            result,
            texts=texts,
            targets=tuple(
                replace(target, prompt=prompt)
                for target, prompt in zip(result.targets, prompts, strict=True)
            ),
        )
        for result in results
    ]


def test_intervals_hold_the_mean_and_shrink_with_more_prompts():
    rng = np.random.default_rng(0)
    widths = []
    for n_targets in (20, 2000):
        left = rng.normal(size=(n_targets, 8))
        results = pair(left, left + rng.normal(size=left.shape))
        row = pairwise_agreement(of_prompts(results, range(n_targets))).iloc[0]
        assert row["low"] < row["rank_correlation"] < row["high"]
        assert row["targets"] == n_targets and row["note"] == ""
        widths.append(row["high"] - row["low"])
    assert widths[1] < widths[0] / 5


def test_the_interval_is_over_prompts_as_in_agreement_because_targets_of_a_text_belong_together():
    rng = np.random.default_rng(1)
    left = rng.normal(size=(12, 6))
    results = pair(left, left + rng.normal(size=left.shape))
    alone = pairwise_agreement(results).iloc[0]
    assert np.isnan([alone["low"], alone["high"]]).all() and alone["targets"] == 12
    assert alone["note"] == "one prompt: no interval"
    prompts = [0] * 7 + [1] * 3 + [2] * 2
    row = pairwise_agreement(of_prompts(results, prompts)).iloc[0]
    # All ways to draw three of the three prompts, each as probable as the others.
    found = pairwise_agreement_by_target(results)["rank_correlation"].to_numpy()
    of_prompt = [found[np.array(prompts) == prompt] for prompt in range(3)]
    means = [
        np.concatenate([of_prompt[prompt] for prompt in drawn]).mean()
        for drawn in product(range(3), repeat=3)
    ]
    # One prompt three times comes up in 1 of 27 draws, which is more than 2.5 %.
    np.testing.assert_allclose([row["low"], row["high"]], [min(means), max(means)], atol=1e-12)
    assert row["note"] == "only 3 prompts: the interval is rough"
    # Interventions are made in blocks only, so without "embed" it is the same comparison.
    blocks = tuple(f"L{layer}" for layer in range(6))
    first, second = (replace(result, segments=blocks) for result in of_prompts(results, prompts))
    table = agreement(first, second)
    same = table.set_index("metric").loc["spearman"]
    assert same[["low", "high"]].tolist() == [row["low"], row["high"]]


def test_a_level_that_turns_back_is_counted():
    levels = make_result(
        np.array([[0.1, 0.4, 0.2, 0.9], [0.9, 0.5, 0.6, 0.1]]), tokens=(" a", " b"), additive=False
    )
    found = monotonicity([levels])
    assert found["violations"].tolist() == [1, 1]
    assert_close_to(found["backtracking"], [0.2, 0.1])
    assert monotonicity([make_result()]).empty
