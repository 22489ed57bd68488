"""Scores of arrays small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.planted.localisation import localise

LAYERS = ("embed", "L0", "L1", "L2")


def test_the_mass_is_the_true_share_of_all_changes_of_blocks():
    found = localise(np.array([9.0, 1.0, -2.0, 5.0]), LAYERS, ["L1"])
    assert found.mass == found.evenness == pytest.approx(2 / 8)
    assert (found.top, found.top_is_true, found.total) == ("L2", False, 8.0)


def test_a_part_is_true_of_the_coarser_segment_that_holds_it():
    found = localise(np.array([0.0, 0.0, 0.0, 4.0]), LAYERS, ["L2.mlp"])
    assert (found.mass, found.top, found.top_is_true) == (1.0, "L2", True)
    sublayers = ("L0.attn", "L0.mlp", "L1.attn", "L1.mlp")
    assert localise(np.array([1.0, 1.0, 5.0, 1.0]), sublayers, ["L1.H2"]).mass == 5 / 8
    heads = ("L0.H0", "L0.H1", "L0.attn_bias", "L0.mlp", "unembed_bias")
    assert localise(np.array([1.0, 5.0, 1.0, 1.0, 7.0]), heads, ["L0.H1"]).mass == 5 / 8
    assert localise(np.array([1.0, 5.0, 1.0, 1.0, 7.0]), heads, ["L0.mlp"]).mass == 1 / 8


def test_evenness_tells_whether_one_of_two_true_segments_is_missed():
    truth = ["L0.mlp", "L2.H1"]
    assert localise(np.array([0.0, 4.0, 0.0, 4.0]), LAYERS, truth).evenness == 1
    missed = localise(np.array([0.0, 0.0, 0.0, 4.0]), LAYERS, truth)
    assert (missed.mass, missed.evenness) == (1, 0)
    assert localise(np.array([0.0, 1.0, 6.0, 3.0]), LAYERS, truth).evenness == pytest.approx(0.2)


def test_two_true_parts_of_one_layer_share_its_mass():
    found = localise(np.array([0.0, 6.0, 2.0, 0.0]), LAYERS, ["L0.mlp", "L0.H1"])
    assert found.mass == found.evenness == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    ("changes", "truth", "message"),
    [
        ([0.0, 1.0, 0.0, 0.0], [], "no true segment"),
        ([0.0, 1.0, 0.0, 0.0], ["L7.mlp"], "no segment holds L7.mlp"),
        ([3.0, 0.0, 0.0, 0.0], ["L1"], "says nothing of any block"),
        ([3.0, np.nan, 0.0, 0.0], ["L1"], "says nothing of any block"),
    ],
)
def test_what_cannot_be_scored_is_refused(changes, truth, message):
    with pytest.raises(ValueError, match=message):
        localise(np.array(changes), LAYERS, truth)
