"""The reported error of integrals along chords, on chords made to deceive a quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from scipy.integrate import quad

from iglens_tl import CompletenessWarning, trace_prompt
from iglens_tl.lenses.estimators import credit_segments, resolve_estimator
from iglens_tl.readout import (
    VALUES,
    Chords,
    FinalNorm,
    OutputTransform,
    Point,
    Readout,
    Targets,
    Value,
    integrate_adaptive,
)
from iglens_tl.readout.integrals.errors import SAFETY, error_seen

D_MODEL = 8


def chord_of(readout: Readout, start: torch.Tensor, end: torch.Tensor, token: int) -> Chords:
    states = torch.stack([start, end]).to(readout.dtype)
    zero, one = torch.tensor([0]), torch.tensor([1])
    return Chords(states, zero, one, one, torch.tensor([token]))


def in_float64(readout: Readout) -> Readout:
    norm, bias = readout.norm, readout.unembed_bias
    if norm is not None:
        weight = None if norm.weight is None else norm.weight.double()
        shift = None if norm.bias is None else norm.bias.double()
        norm = FinalNorm(norm.centered, norm.eps, weight, shift)
    bias = None if bias is None else bias.double()
    return Readout(readout.unembed.double(), bias, norm, readout.transform, torch.float64)


def true_gradient(readout: Readout, value: Value, chords: Chords, at: float) -> torch.Tensor:
    """Integrate by autograd, over intervals that are finest around one place and both ends.

    Intervals are divided until two rules agree on every one.
    """
    readout, (start, end) = in_float64(readout), chords.states.double()
    steps = np.geomspace(1e-10, 1, 300)
    moved = end - start
    nearest = -float(start @ moved) / float(moved @ moved)
    edges = [np.linspace(0, 1, 200), steps, 1 - steps]
    edges += [place + sign * steps for place in (at, nearest) for sign in (-1, 1)]
    grid = np.unique(np.concatenate(edges))
    grid = grid[(grid >= 0) & (grid <= 1)]
    for _ in range(8):
        coarse, fine = (by_interval(readout, value, chords, grid, n) for n in (3, 6))
        wrong = ((coarse - fine).norm(dim=1) * moved.norm() > 1e-10).numpy()
        if not wrong.any():
            break
        widths = np.diff(grid)[wrong]
        inside = [grid[:-1][wrong] + widths * share for share in (0.25, 0.5, 0.75)]
        grid = np.unique(np.concatenate([grid, *inside]))
    return fine.sum(0)


def by_interval(
    readout: Readout, value: Value, chords: Chords, grid: np.ndarray, n_nodes: int
) -> torch.Tensor:
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    low, width = grid[:-1, None], np.diff(grid)[:, None]
    at = torch.from_numpy((low + width * (points + 1) / 2).ravel())
    measure = torch.from_numpy((width * weights / 2).ravel())
    start, end = chords.states.double()
    final = readout.logits(end)
    gradients = []
    for index in torch.arange(len(at)).split(20_000):
        states = torch.lerp(start, end, at[index, None]).requires_grad_()
        logits = readout.logits(states)
        targets = Targets(chords.tokens.expand(len(index)), final.expand_as(logits))
        values = value.evaluate(logits, targets)
        gradients.append(torch.autograd.grad((values * measure[index]).sum(), states)[0])
    return torch.cat(gradients).view(len(grid) - 1, n_nodes, -1).sum(1)


def assert_error_is_bounded(
    readout: Readout, value: Value, chords: Chords, *, at: float = 0.5
) -> float:
    """Check the error, for the worst part as long as the displacement, and return it."""
    tolerance = 1e-5 if readout.dtype == torch.float32 else 1e-10
    options = {"n_nodes": 32, "tolerance": tolerance, "gradients": True}
    found = integrate_adaptive(readout, value, chords, **options)
    expected = true_gradient(readout, value, chords, at)
    length = (chords.states[1] - chords.states[0]).double().norm()
    true = float((found.gradients[0].double() - expected).norm() * length)
    reported = float(found.errors[0] * length)
    size = float(max(1.0, expected.norm() * length))
    # The oracle's own precision.
    assert true <= reported + 1e-9 * size, f"{true} is not below {reported}, of {size}"
    if readout.dtype == torch.float64:
        assert true <= 1e-9 * size, f"{true}, of {size}"
    return true


def readout_with_bump(
    place: float, width: float, height: float, norm: str, dtype: torch.dtype, seed: int
) -> tuple[Readout, Chords]:
    """Return a chord along which token 0 is probable near one place only.

    Before it token 1 has nearly all the probability, after it token 2; both lines meet `height`
    below that of token 0, which is flat.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    axes = torch.linalg.qr(random(D_MODEL, D_MODEL))[0]
    start = 2 * axes[:, 0]
    end = start + 3 * axes[:, 1]
    logits, slopes = random(40) - 60, random(40)
    steepness = height / width
    logits[0], slopes[0] = 0, 0
    logits[1], slopes[1] = steepness * place - height, -steepness
    logits[2], slopes[2] = -steepness * place - height, steepness
    unembed = axes[:, :1] * logits / 2 + axes[:, 1:2] * slopes / 3
    unembed = unembed + axes[:, 2:] @ random(D_MODEL - 2, 40)
    final_norm = None
    if norm == "rms_norm":
        final_norm = FinalNorm(False, 1e-6)
        unembed = unembed * start.square().mean().sqrt()
    readout = Readout(unembed.to(dtype), None, final_norm, OutputTransform(), dtype)
    return readout, chord_of(readout, start, end, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ["none", "rms_norm"])
def test_a_bump_between_the_nodes_of_the_coarse_rule_is_found(norm, dtype):
    readout, chords = readout_with_bump(0.014, 0.003, 6, norm, dtype, seed=0)
    assert assert_error_is_bounded(readout, VALUES["prob"], chords, at=0.014) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(
    exponent=st.floats(-5, -0.31),
    from_end=st.booleans(),
    narrowness=st.floats(0, 1.5),
    height=st.floats(1, 8),
    norm=st.sampled_from(["none", "rms_norm"]),
    value=st.sampled_from(["prob", "logprob", "entropy", "kl_to_final"]),
    token=st.integers(0, 2),
    seed=st.integers(0, 100),
)
@settings(deadline=None, max_examples=12, derandomize=True)
def test_the_error_of_a_bump_at_any_place_and_of_any_width_is_bounded(
    dtype, exponent, from_end, narrowness, height, norm, value, token, seed
):
    distance = 10**exponent
    place = 1 - distance if from_end else distance
    width = distance * 10**-narrowness
    readout, chords = readout_with_bump(place, width, height, norm, dtype, seed)
    chords = Chords(chords.states, chords.start, chords.end, chords.final, torch.tensor([token]))
    assert_error_is_bounded(readout, VALUES[value], chords, at=place)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(["none", "rms_norm", "layer_norm"]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 5.0, 30.0]),
    sharpness=st.floats(-1, 1.5),
    lengths=st.tuples(st.floats(-3, 1.5), st.floats(-3, 1.5)),
    opposite=st.booleans(),
    value=st.sampled_from(["prob", "logprob", "entropy", "kl_to_final"]),
)
@settings(deadline=None, max_examples=20, derandomize=True)
def test_the_error_of_sharp_random_readouts_is_bounded(
    dtype, seed, norm, bias, softcap, sharpness, lengths, opposite, value
):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    unembed = random(D_MODEL, 60) * 10**sharpness
    start, end = random(D_MODEL) * 10 ** lengths[0], random(D_MODEL) * 10 ** lengths[1]
    if opposite:  # the chord passes close by zero
        end = -start * (1 + seed % 7) + 1e-3 * end
    final_norm = None
    if norm != "none":
        weight, shift = random(D_MODEL).abs() + 0.3, random(D_MODEL) if bias else None
        shift = None if shift is None else shift.to(dtype)
        final_norm = FinalNorm(norm == "layer_norm", 1e-6, weight.to(dtype), shift)
    transform = OutputTransform(softcap=softcap)
    unembed_bias = 3 * random(60).to(dtype) if bias else None
    readout = Readout(unembed.to(dtype), unembed_bias, final_norm, transform, dtype)
    states = torch.lerp(start, end, torch.rand(1, generator=generator, dtype=torch.float64))
    token = int(readout.logits(states.to(dtype)).argmax())
    chords = chord_of(readout, start, end, token)
    assert_error_is_bounded(readout, VALUES[value], chords)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_error_is_bounded_where_a_models_states_begin_near_zero(demo, dtype):
    trace = trace_prompt(demo, [1, 5, 9, 3025, 3042, 3027, 545, 1412, 19])
    adapter, row = trace.adapter, int(trace.target_rows[1])
    readout = adapter.readout if dtype == torch.float32 else in_float64(adapter.readout)
    # All change of this token's probability is near the mean embedding, which is very short.
    start = trace.states[adapter.embed_site][trace.target_rows].mean(0)
    end = trace.states[adapter.post_site(adapter.n_layers - 1)][row]
    chords = chord_of(readout, start, end, int(trace.token_ids[1]))
    assert_error_is_bounded(readout, VALUES["prob"], chords)


INTEGRANDS = {
    "exponential": lambda x, place, width: np.exp(-np.abs(x - np.copysign(1, place)) / width),
    "bump": lambda x, place, width: np.exp(-(((x - place) / width) ** 2)),
    "pole": lambda x, place, width: 1 / ((x - place) ** 2 + width**2),
    "sigmoid": lambda x, place, width: special.expit((x - place) / width),
}


@pytest.mark.parametrize("n_nodes", [8, 16, 32])
@given(
    name=st.sampled_from(sorted(INTEGRANDS)),
    place=st.floats(-1.2, 1.2),
    exponent=st.floats(-1, 1),
)
@settings(deadline=None, max_examples=100, derandomize=True)
def test_what_is_seen_at_nodes_bounds_the_error_of_the_rule(n_nodes, name, place, exponent):
    # Nodes are to see it: what is narrower than their distance may hide between them.
    width = 10**exponent * 8 / n_nodes

    def integrand(x):
        return INTEGRANDS[name](x, place, width)

    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    breaks = [place] if abs(place) < 1 else None
    expected, oracle = quad(integrand, -1, 1, points=breaks, limit=200, epsabs=1e-13)
    true = abs(weights @ integrand(points) - expected) / 2
    size = np.abs(integrand(points)).max()
    products = torch.from_numpy(integrand(points))[None, :, None]
    seen = error_seen(products, torch.full((1, n_nodes), 1e-16, dtype=torch.float64))
    assert true <= SAFETY * float(seen) + oracle + 1e-14 * size


def test_errors_of_segments_that_cancel_in_their_sum_are_warned_of():
    readout, chords = readout_with_bump(0.4, 0.05, 6, "none", torch.float64, seed=0)
    row = torch.zeros(1, dtype=torch.long)
    # To the bump and back: what the second segment loses is what the first has gained.
    top = torch.lerp(chords.states[0], chords.states[1], 0.4)
    states = (chords.states[0], top, chords.states[0])
    points = [Point(str(number), state[None], row) for number, state in enumerate(states)]
    levels = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    paper = resolve_estimator("riemann", n_steps=2, tolerance=None)
    with pytest.warns(CompletenessWarning, match=r"1 of 1 targets .* divide by up to 0\.9"):
        credits = credit_segments(readout, points, row, levels, VALUES["prob"], paper)
    assert abs(float(credits.sum())) < 1e-9


def test_segments_are_integrated_to_the_same_tolerance_alone_and_in_a_batch():
    generator = torch.Generator().manual_seed(0)
    unembed = torch.randn(D_MODEL, 60, generator=generator, dtype=torch.float64)
    readout = Readout(unembed, None, None, OutputTransform(), torch.float64)
    states = torch.randn(3, 6, D_MODEL, generator=generator, dtype=torch.float64)
    states[:, 0] *= 200  # the change of one target is a thousand times that of the others
    tokens = torch.tensor([1, 2, 3, 4, 5, 6])
    estimator = resolve_estimator("gradient", n_steps=8, tolerance=1e-4)

    def credits(targets):
        rows = torch.arange(len(targets))
        points = [Point(str(i), state[targets], rows) for i, state in enumerate(states)]
        logits = readout.logits(states[:, targets])
        own = tokens[targets][None, :, None].expand(len(states), -1, -1)
        levels = logits.log_softmax(-1).gather(2, own)[:, :, 0].T.contiguous()
        found = credit_segments(
            readout, points, tokens[targets], levels, VALUES["logprob"], estimator
        )
        return found, levels.diff(dim=1)

    together, change = credits(torch.arange(6))
    alone = torch.cat([credits(torch.tensor([target]))[0] for target in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-11, rtol=1e-11)
    assert bool(((together - change).abs() <= 1e-4 * change.abs().clamp_min(1)).all())
