"""The readout's mathematics against autograd and plain evaluation, without any model."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.readout import (
    OutputTransform,
    Point,
    Readout,
    most_probable_token,
    normalizers,
    read_points,
    tiles,
)
from iglens_tl.readout.tiles import vocabulary_tiles
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.readouts import EVERY_READOUT, random_readout


def read_each(readout: Readout, states: torch.Tensor, tokens: torch.Tensor, top_k: int = 0):
    """Read one token of every state."""
    point = Point("states", states, torch.arange(len(states)))
    return read_points(readout, [point], tokens, top_k=top_k)["states"]


@pytest.mark.parametrize(("norm", "transform", "bias"), EVERY_READOUT)
def test_a_sweep_keeps_what_whole_rows_say(norm, transform, bias):
    readout = random_readout(norm, transform, bias)
    states = torch.randn(40, readout.d_model, dtype=torch.float64)
    others = torch.randn(40, readout.d_model, dtype=torch.float64)
    shared = torch.randn(1, readout.d_model, dtype=torch.float64)
    rows = torch.arange(40).repeat_interleave(2)
    tokens = torch.randint(readout.d_vocab, (80,))
    points = [
        Point("shared", shared, torch.zeros(80, dtype=torch.long), ranked=False),
        Point("first", states, rows),
        Point("last", others, rows),
    ]
    readings = read_points(readout, points, tokens, top_k=4, reference="last")
    final = readout.logits(others).log_softmax(1)
    for point in points:
        reading = readings[point.key]
        logits = readout.logits(point.states)
        at_tokens = logits[point.target_rows, tokens]
        log_probs = logits.log_softmax(1)
        torch.testing.assert_close(reading.target_logits, at_tokens)
        torch.testing.assert_close(reading.log_normalizers, logits.logsumexp(1)[point.target_rows])
        if not point.ranked:
            assert reading.ranks is reading.top_ids is reading.entropies is None
            continue
        ranks = (logits[rows] > at_tokens[:, None]).sum(1) + 1
        assert_identical(reading.ranks, ranks)
        top = log_probs.exp().topk(4, dim=1)
        torch.testing.assert_close(reading.top_probs, top.values[rows])
        if transform.softcap is None:  # near the cap different logits round to equal probabilities
            assert_identical(reading.top_ids, top.indices[rows])
        entropies = -(log_probs.exp() * log_probs).sum(1)
        torch.testing.assert_close(reading.entropies, entropies[rows])
        divergences = (final.exp() * (final - log_probs)).sum(1)
        torch.testing.assert_close(reading.divergences, divergences[rows], atol=1e-12, rtol=1e-9)


@given(
    n_states=st.integers(1, 9),
    d_vocab=st.integers(2, 3000),
    pairs=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2999)), min_size=1, max_size=12),
    top_k=st.integers(0, 6),
)
@settings(deadline=None, max_examples=60)
def test_a_sweep_does_not_depend_on_how_the_vocabulary_is_tiled(n_states, d_vocab, pairs, top_k):
    readout = random_readout(d_vocab=d_vocab, d_model=8)
    states = torch.randn(n_states, 8, dtype=torch.float64)
    rows = torch.tensor([state % n_states for state, _ in pairs], dtype=torch.long)
    tokens = torch.tensor([token % d_vocab for _, token in pairs], dtype=torch.long)
    point = Point("states", states, rows)
    with patch.dict(tiles._TILE_BYTES, cpu=1):  # the narrowest tiles: 1,024 columns
        reading = read_points(readout, [point], tokens, top_k=top_k)["states"]
    logits = readout.logits(states)
    at_tokens = logits[rows, tokens]
    torch.testing.assert_close(reading.target_logits, at_tokens)
    torch.testing.assert_close(reading.log_normalizers, logits.logsumexp(1)[rows])
    if top_k:
        top = logits.softmax(1).topk(min(top_k, d_vocab), dim=1)
        assert_identical(reading.top_ids, top.indices[rows])
        torch.testing.assert_close(reading.top_probs, top.values[rows])
        ranks = (logits[rows] > at_tokens[:, None]).sum(1) + 1
        assert_identical(reading.ranks, ranks)


@given(n_rows=st.integers(1, 5), d_vocab=st.integers(2, 3000), columns=st.integers(1, 4000))
@settings(deadline=None, max_examples=40)
def test_tiles_cover_the_vocabulary_once(n_rows, d_vocab, columns):
    readout = random_readout(d_vocab=d_vocab, d_model=8)
    rows = torch.randn(n_rows, 8, dtype=torch.float64)
    parts = [tile.product.clone() for tile in vocabulary_tiles(readout, rows, columns=columns)]
    torch.testing.assert_close(torch.cat(parts, dim=1), rows @ readout.unembed)


def test_a_target_is_never_ranked_below_itself_by_rounding():
    readout = random_readout(dtype=torch.float32, d_vocab=50_000)
    states = torch.randn(64, readout.d_model)
    best = readout.logits(states).argmax(1)
    reading = read_each(readout, states, best, top_k=1)
    assert reading.ranks.tolist() == [1] * 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_near_one_and_far_below_keep_their_precision(dtype):
    readout = random_readout(dtype=dtype)
    states = 1e3 * torch.randn(8, readout.d_model, dtype=dtype)
    sharp = Readout(8 * readout.unembed, None, None, OutputTransform(), dtype)
    for scaled in (states * 1e-3, states * 0.05):
        tokens = sharp.logits(scaled).argmin(1)
        reading = read_each(sharp, scaled, tokens)
        expected = sharp.logits(scaled).double().log_softmax(1).gather(1, tokens[:, None])[:, 0]
        found = reading.target_logits - reading.log_normalizers
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize(
    "offset",
    [
        pytest.param((0, 0), id="moderate"),
        pytest.param((300, 0), id="large"),
        pytest.param((-300, 0), id="small"),
        pytest.param((0, 500), id="one far above"),
        pytest.param((-70, 30), id="one above the others"),
        pytest.param((0, -500), id="one far below"),
    ],
)
def test_a_row_read_for_its_normaliser_alone_has_it_whatever_its_logits(dtype, narrow, offset):
    plain = random_readout(dtype=dtype, d_vocab=3001)
    every, single = offset
    bias = torch.full((3001,), float(every), dtype=dtype)
    bias[1234] += single  # a token that no sample of every 46th one has
    readout = replace(plain, unembed_bias=bias)
    states = torch.randn(70, readout.d_model, dtype=dtype)
    states[3] *= 40
    rows = torch.randint(70, (150,))
    tokens = torch.randint(3001, (150,))
    point = Point("states", states, rows, ranked=False)
    limits = {"_NARROW": 10**6 if narrow else 0, "_ROWS_IN_CACHE": 16, "_COLUMNS_IN_CACHE": 1000}
    with patch.multiple(normalizers, **limits):
        reading = read_points(readout, [point], tokens, top_k=3)["states"]
    logits = readout.logits(states).double()
    size = float(logits.abs().max())
    expected = logits.logsumexp(1)[rows]
    assert_close_to(reading.log_normalizers, expected, dtype=dtype, size=size)
    assert_close_to(reading.target_logits, logits[rows, tokens], dtype=dtype, size=size)


def test_a_state_that_is_not_finite_has_no_finite_normaliser():
    readout = random_readout(dtype=torch.float32)
    states = torch.randn(3, readout.d_model)
    states[1] = torch.nan
    point = Point("states", states, torch.arange(3), ranked=False)
    reading = read_points(readout, [point], torch.zeros(3, dtype=torch.long))["states"]
    assert reading.log_normalizers.isfinite().tolist() == [True, False, True]


def test_half_precision_weights_are_read_out_in_float32():
    full = random_readout(dtype=torch.float32)
    half = Readout(full.unembed.bfloat16(), None, full.norm, full.transform, torch.float32)
    states = torch.randn(5, full.d_model).bfloat16()
    tokens = torch.arange(5)
    reading = read_each(half, states, tokens)
    expected = half.normalize(states) @ half.unembed.float()
    assert half.logits(states).dtype == torch.float32
    assert_close_to(reading.log_normalizers, expected.double().logsumexp(1), dtype=torch.float32)


def test_levels_do_not_depend_on_the_number_of_states_read_together():
    readout = random_readout(dtype=torch.float32, d_vocab=3000)
    states = torch.randn(3000, readout.d_model)
    tokens = torch.randint(3000, (3000,))
    together = read_each(readout, states, tokens, top_k=2)
    alone = read_each(readout, states[2500:2501], tokens[2500:2501], top_k=2)
    assert_close_to(together.target_logits[2500], alone.target_logits[0], dtype=torch.float32)
    assert together.ranks[2500] == alone.ranks[0]
    assert_identical(together.top_ids[2500], alone.top_ids[0])


def test_the_most_probable_token_is_the_argmax_of_the_logits():
    for dtype in (torch.float32, torch.bfloat16):
        full = random_readout(dtype=torch.float32, d_vocab=40_000)
        readout = Readout(full.unembed.to(dtype), None, full.norm, full.transform, torch.float32)
        for state in torch.randn(5, full.d_model):
            assert most_probable_token(readout, state) == readout.logits(state).argmax()
