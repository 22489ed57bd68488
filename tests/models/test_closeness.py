"""How far two computations of the same logits are apart."""

from __future__ import annotations

import math

import pytest
import torch

from iglens_tl.models.closeness import Tolerance, logit_distance


def test_a_constant_added_to_the_logits_of_a_position_is_no_difference():
    logits = torch.randn(70, 13, dtype=torch.float64)
    distance = logit_distance(logits, logits + torch.randn(70, 1, dtype=torch.float64))
    assert distance.probability < 1e-15
    assert distance.logit < 1e-13


def test_differences_are_relative_to_the_spread_however_small_the_probabilities_are():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 20_000, generator=generator, dtype=torch.float64)
    wrong = logits + 0.1 * torch.randn(5, 20_000, generator=generator, dtype=torch.float64)
    for scale in (1.0, 1e-3):
        distance = logit_distance(scale * logits, scale * wrong)
        assert distance.mean_logit == pytest.approx(0.1, rel=0.02)
        assert 0.3 < distance.logit < 0.6
        assert distance.probability < 1e-2 * scale


def test_one_wrong_logit_of_many_is_seen():
    logits = torch.randn(5, 20_000, generator=torch.Generator().manual_seed(0))
    wrong = logits.clone()
    wrong[3, 17] += 0.01
    assert logit_distance(logits, wrong).logit == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_is_accepted_by_no_tolerance(value):
    logits = torch.randn(3, 7)
    broken = logits.clone()
    broken[1, 2] = value
    tolerance = Tolerance(1.0, 1e9, 1e9)
    assert not tolerance.accepts(logit_distance(logits, broken))
    assert not tolerance.accepts(logit_distance(broken, logits))


@pytest.mark.parametrize("mask", [-math.inf, torch.finfo(torch.float32).min])
def test_tokens_that_are_masked_in_both_do_not_matter_and_else_do(mask):
    logits = torch.randn(3, 7)
    logits[:, 2] = mask
    assert logit_distance(logits, logits.clone()).logit == 0
    other = logits.clone()
    other[:, 2] = 0.0
    assert not Tolerance(1e-4, 1e-3, None).accepts(logit_distance(logits, other))


def test_equal_logits_without_any_spread_are_accepted():
    logits = torch.full((3, 7), 2.0)
    assert Tolerance(0.0, 0.0, 0.0).accepts(logit_distance(logits, logits))
