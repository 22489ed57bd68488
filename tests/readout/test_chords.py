"""Values, slopes and gradients along straight lines between states."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.readout import (
    VALUES,
    Chords,
    Emphasis,
    FinalNorm,
    LogitDifference,
    ProbabilityDifference,
    Readout,
    Targets,
    TokenSet,
    Value,
    integrate_adaptive,
    integrate_midpoint,
)
from iglens_tl.readout.integrals import quadrature, slopes
from iglens_tl.readout.integrals.chords import ChordRows
from iglens_tl.readout.integrals.slopes import slopes_at
from tests.support.readouts import EVERY_READOUT, TRANSFORMS, random_readout

EVERY_VALUE = [
    *VALUES.values(),
    LogitDifference(3, 5),
    ProbabilityDifference(3, 9),
    TokenSet([3, 9, 11]),
]
BY_NAME = pytest.mark.parametrize("value", EVERY_VALUE, ids=lambda value: value.name)
PROB, LOGPROB = VALUES["prob"], VALUES["logprob"]


def random_path(readout: Readout, n_chords: int = 6) -> Chords:
    """Return chords that follow one another, each with a target of its own."""
    states = torch.randn(n_chords + 1, readout.d_model, dtype=readout.dtype)
    tokens = torch.randint(readout.d_vocab, (n_chords,))
    start = torch.arange(n_chords)
    return Chords(states, start, start + 1, torch.full_like(start, n_chords), tokens)


def value_of(
    readout: Readout, value: Value, states: torch.Tensor, chords: Chords, chord: int
) -> torch.Tensor:
    """Evaluate a chord's value plainly, over whole rows."""
    logits = readout.logits(states).double()
    tokens = chords.tokens[chord].expand(logits.shape[:-1])
    final = readout.logits(chords.states[chords.final[chord]]).double().expand_as(logits)
    return value.evaluate(logits, Targets(tokens, final))


def points_on(chords: Chords, chord: int, at: torch.Tensor) -> torch.Tensor:
    start, end = chords.states[chords.start[chord]], chords.states[chords.end[chord]]
    return torch.lerp(start, end, at[:, None].to(start))


def changes_of(readout: Readout, value: Value, chords: Chords) -> torch.Tensor:
    ends = torch.tensor([0.0, 1.0])
    levels = [
        value_of(readout, value, points_on(chords, chord, ends), chords, chord)
        for chord in range(len(chords))
    ]
    return torch.stack([level[1] - level[0] for level in levels])


def mean_gradients(readout: Readout, value: Value, chords: Chords, n_nodes: int) -> torch.Tensor:
    """Integrate the gradient of every chord with autograd and a fine Gauss–Legendre rule."""
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    at, weights = torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)
    gradients = []
    for chord in range(len(chords)):
        states = points_on(chords, chord, at).requires_grad_()
        values = value_of(readout, value, states, chords, chord)
        (gradient,) = torch.autograd.grad((values * weights).sum(), states)
        gradients.append(gradient.sum(0))
    return torch.stack(gradients)


@pytest.mark.parametrize(("norm", "transform", "bias"), EVERY_READOUT)
@BY_NAME
def test_values_and_slopes_at_nodes_agree_with_autograd(norm, transform, bias, value):
    readout = random_readout(norm, transform, bias, d_vocab=200)
    chords = random_path(readout)
    at = torch.rand(6, 5, dtype=torch.float64)
    rows = ChordRows(readout, chords)
    found = slopes_at(rows, value, rows.nodes(torch.arange(6), at))
    for chord in range(6):
        nodes = at[chord].clone().requires_grad_()
        expected = value_of(readout, value, points_on(chords, chord, nodes), chords, chord)
        (by_alpha,) = torch.autograd.grad(expected.sum(), nodes)
        torch.testing.assert_close(found.values[chord], expected.detach(), atol=1e-11, rtol=1e-9)
        torch.testing.assert_close(found.slopes[chord], by_alpha, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("norm", "transform", "bias"), EVERY_READOUT)
@BY_NAME
def test_integrated_gradients_agree_with_autograd_and_reproduce_the_change(
    norm, transform, bias, value
):
    readout = random_readout(norm, transform, bias, d_vocab=200)
    chords = random_path(readout)
    found = integrate_adaptive(readout, value, chords, n_nodes=32, tolerance=1e-10, gradients=True)
    change = changes_of(readout, value, chords)
    displacement = chords.states[1:] - chords.states[:-1]
    torch.testing.assert_close(found.end - found.start, change, atol=1e-11, rtol=1e-10)
    torch.testing.assert_close(found.slopes, change, atol=1e-9, rtol=0)
    torch.testing.assert_close((found.gradients * displacement).sum(1), change, atol=1e-9, rtol=0)
    expected = mean_gradients(readout, value, chords, 160)
    torch.testing.assert_close(found.gradients, expected, atol=1e-7, rtol=1e-6)


@BY_NAME
def test_integrated_gradients_in_float32_reproduce_the_change(value):
    readout = random_readout("layer_norm", TRANSFORMS[1], True, dtype=torch.float32)
    chords = random_path(readout)
    found = integrate_adaptive(readout, value, chords, n_nodes=32, tolerance=1e-5, gradients=True)
    displacement = (chords.states[1:] - chords.states[:-1]).double()
    shares = (found.gradients.double() * displacement).sum(1)
    torch.testing.assert_close(shares, found.end - found.start, atol=3e-5, rtol=0)


@pytest.mark.parametrize("logit", [-30.0, -10.0, 5.0])
def test_gradients_of_tiny_probabilities_keep_their_relative_precision(logit):
    readout = random_readout("none", dtype=torch.float32, d_vocab=700)
    chords = random_path(readout, 1)
    direction = readout.unembed[:, chords.tokens[0]]
    states = chords.states + direction * logit / direction.square().sum()
    found, expected = (
        integrate_adaptive(
            Readout(readout.unembed.to(dtype), None, None, readout.transform, dtype),
            PROB,
            Chords(states.to(dtype), chords.start, chords.end, chords.final, chords.tokens),
            n_nodes=32,
            tolerance=1e-30,
            gradients=True,
        ).gradients.double()
        for dtype in (torch.float32, torch.float64)
    )
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_integrals_do_not_depend_on_how_chords_and_nodes_are_divided(monkeypatch):
    readout = random_readout("layer_norm", TRANSFORMS[1], True, d_vocab=2400)
    chords = random_path(readout, 9)
    options = {"n_nodes": 16, "tolerance": 1e-9, "gradients": True}
    together = integrate_adaptive(readout, PROB, chords, **options)
    monkeypatch.setattr(quadrature, "_BYTES_AT_ONCE", 2400 * 8 * 2 * 2)
    monkeypatch.setattr(slopes, "_BLOCK_ENTRIES", 1)
    monkeypatch.setattr(slopes, "_SLICE_ENTRIES", 1)
    divided = integrate_adaptive(readout, PROB, chords, **options)
    for name in ("start", "end", "slopes", "gradients"):
        one, other = getattr(together, name), getattr(divided, name)
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_adaptive_integrals_agree_with_captums_integrated_gradients():
    readout = random_readout("layer_norm", TRANSFORMS[1], True)
    chords = random_path(readout)
    found = integrate_adaptive(readout, LOGPROB, chords, n_nodes=32, tolerance=1e-10)
    for chord, (start, end) in enumerate(pairwise(chords.states)):
        captum = IntegratedGradients(
            lambda states, chord=chord: value_of(readout, LOGPROB, states, chords, chord)
        )
        attributions = captum.attribute(end[None], baselines=start[None], n_steps=200)
        assert attributions.sum().item() == pytest.approx(found.slopes[chord].item(), abs=1e-6)


def test_bisection_finds_the_change_hidden_next_to_the_zero_vector():
    readout = random_readout("rms_norm")
    states = torch.stack(
        [torch.zeros(readout.d_model), 300 * torch.randn(readout.d_model)]
    ).double()
    one = torch.tensor([1])
    token = readout.logits(states[1]).argmax()[None]
    chords = Chords(states, torch.tensor([0]), one, one, token)
    found = integrate_adaptive(readout, PROB, chords, n_nodes=16, tolerance=1e-9, gradients=True)
    change = changes_of(readout, PROB, chords).item()
    assert found.slopes.item() == pytest.approx(change, abs=1e-8)
    assert (found.gradients[0] @ states[1]).item() == pytest.approx(change, abs=1e-8)
    missed = integrate_midpoint(readout, PROB, chords, n_steps=64)
    assert abs(missed.slopes.item()) < 0.01 * change


def test_bisection_ends_where_rounding_keeps_the_error_above_the_tolerance():
    readout = random_readout(dtype=torch.float32)
    chords = random_path(readout)
    found = integrate_adaptive(readout, LOGPROB, chords, n_nodes=8, tolerance=1e-14)
    change = changes_of(readout, LOGPROB, chords)
    torch.testing.assert_close(found.slopes, change, atol=1e-4, rtol=0)


@pytest.mark.parametrize("n_steps", [1, 7, 64, 130])
def test_the_midpoint_rule_is_the_mean_of_gradients_at_the_midpoints(n_steps):
    readout = random_readout()
    chords = random_path(readout)
    at = (torch.arange(n_steps, dtype=torch.float64) + 0.5) / n_steps
    found = integrate_midpoint(readout, PROB, chords, n_steps=n_steps, gradients=True)
    for chord in range(len(chords)):
        points = points_on(chords, chord, at).requires_grad_()
        probs = value_of(readout, PROB, points, chords, chord)
        (gradients,) = torch.autograd.grad(probs.sum(), points)
        torch.testing.assert_close(found.gradients[chord], gradients.mean(0))
        displacement = chords.states[chord + 1] - chords.states[chord]
        torch.testing.assert_close(found.slopes[chord], gradients.mean(0) @ displacement)


@given(places=st.tuples(st.floats(0, 1), st.floats(0, 1)), power=st.floats(1, 4))
@settings(deadline=None, max_examples=20)
def test_an_emphasis_weights_every_place_of_the_path(places, power):
    readout = random_readout(d_vocab=200)
    chords = random_path(readout, 1)
    emphasis = Emphasis(torch.tensor([places], dtype=torch.float64), lambda place: place**power)
    options = {"n_nodes": 32, "tolerance": 1e-9, "gradients": True, "emphasis": emphasis}
    found = integrate_adaptive(readout, PROB, chords, **options)
    at = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    points = points_on(chords, 0, at).requires_grad_()
    weights = (places[0] + at * (places[1] - places[0])) ** power
    values = value_of(readout, PROB, points, chords, 0)
    (gradients,) = torch.autograd.grad((values * weights).sum() / 4000, points)
    torch.testing.assert_close(found.gradients[0], gradients.sum(0), atol=1e-5, rtol=1e-4)
    shares = found.gradients[0] @ (chords.states[1] - chords.states[0])
    torch.testing.assert_close(found.slopes[0], shares, atol=1e-9, rtol=1e-7)


def test_half_precision_weights_are_integrated_in_float32():
    full = random_readout("none", dtype=torch.float32, d_vocab=300)
    half = Readout(full.unembed.bfloat16(), None, None, full.transform, torch.float32)
    rounded = Readout(half.unembed.float(), None, None, full.transform, torch.float32)
    chords = random_path(full, 3)
    found, expected = (
        integrate_adaptive(r, PROB, chords, n_nodes=32, tolerance=1e-6, gradients=True)
        for r in (half, rounded)
    )
    assert found.gradients.dtype == torch.float32
    torch.testing.assert_close(found.gradients, expected.gradients)


def test_a_norm_whose_weight_is_folded_away_is_integrated_too():
    readout = random_readout("layer_norm", d_vocab=300)
    folded = Readout(
        readout.unembed * readout.norm.weight[:, None],
        None,
        FinalNorm(True, readout.norm.eps),
        readout.transform,
        torch.float64,
    )
    chords = random_path(readout, 3)
    found, expected = (
        integrate_adaptive(r, PROB, chords, n_nodes=32, tolerance=1e-10, gradients=True)
        for r in (folded, readout)
    )
    torch.testing.assert_close(found.gradients, expected.gradients)
