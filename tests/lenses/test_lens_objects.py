"""Lenses as frozen objects: checked when made, told apart in comparisons, self-describing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from iglens_tl import (
    Components,
    DirectLogitAttribution,
    IGLens,
    LayerConductance,
    LayerIntegratedGradients,
    LogitDifference,
    LogitLens,
    TunedLens,
    compare,
    ig_lens,
    trace_prompt,
    validate,
)
from iglens_tl.lenses import LENSES, ORDERS
from tests.support.cases import IDS
from tests.support.closeness import assert_far_from

EVERY_LENS = (*LENSES.values(), *ORDERS.values())


@pytest.mark.parametrize("lens", EVERY_LENS)
def test_every_lens_says_what_it_is(lens):
    for attribute in ("name", "label", "measures", "units", "sums_to", "cost"):
        assert getattr(lens, attribute).strip() == getattr(lens, attribute) != ""
    assert isinstance(lens.additive, bool)
    with pytest.raises(dataclasses.FrozenInstanceError):
        lens().value = "logit"


@pytest.mark.parametrize("lens", EVERY_LENS)
def test_an_unknown_value_is_refused_when_a_lens_is_made(lens):
    with pytest.raises(ValueError, match="odds"):
        lens(value="odds")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: IGLens(baseline="median"), ValueError, "unknown baseline 'median'; choose one of"),
        (lambda: IGLens(baseline=[1.0, float("nan")]), ValueError, "NaN or infinite"),
        (lambda: IGLens(baseline={}), TypeError, "baseline must be a name or a vector, got dict"),
        (lambda: IGLens(layers="02"), TypeError, "layers must be a list of block numbers"),
        (lambda: IGLens(layers=[]), ValueError, "layers is empty"),
        (lambda: IGLens(top_k=-1), ValueError, "top_k must be an integer of at least 0"),
        (lambda: IGLens(path="reverse", by="sublayer"), ValueError, "credits whole layers"),
        (lambda: LogitLens(norm="none"), ValueError, "unknown norm 'none'; choose one of own"),
        (lambda: TunedLens(top_k=1.5), ValueError, "top_k must be an integer"),
        (lambda: Components(by="heads"), ValueError, "unknown split by='heads'"),
        (lambda: Components(keep=0), ValueError, "keep must be an integer of at least 1"),
        (lambda: DirectLogitAttribution(value="prob"), ValueError, "has no value 'prob'"),
        (lambda: LayerConductance(n_steps=0), ValueError, "n_steps must be at least 1, got 0"),
        (lambda: LayerConductance(baseline="embed"), ValueError, "nothing would flow"),
        (lambda: LayerIntegratedGradients(baseline="embed"), ValueError, "unknown baseline"),
    ],
)
def test_bad_options_are_refused_when_a_lens_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_same_lens_stands_twice_in_a_comparison_under_its_options(toy):
    trace = trace_prompt(toy, IDS)
    comparison = compare(trace, [IGLens(), IGLens(baseline="zero"), "logit_lens"])
    assert comparison.names == ("ig_lens", "ig_lens(baseline='zero')", "logit_lens")
    assert [result.lens for result in comparison.results] == ["ig_lens", "ig_lens", "logit_lens"]
    for baseline, name in (("mean", "ig_lens"), ("zero", "ig_lens(baseline='zero')")):
        alone = ig_lens(toy, IDS, baseline=baseline)
        np.testing.assert_allclose(comparison[name].values, alone.values, atol=1e-6)
        np.testing.assert_allclose(comparison[name].baseline, alone.baseline, atol=1e-6)
    assert set(comparison.to_frame().columns.get_level_values("lens")) == set(comparison.names)
    assert set(comparison.costs) == set(comparison.names)
    assert len(comparison.summary().agreement) == 3


def test_two_vectors_as_baselines_do_not_mix(toy):
    vectors = np.random.default_rng(0).normal(size=(2, 32))
    labels = {"one": IGLens(baseline=vectors[0]), "other": IGLens(baseline=vectors[1])}
    comparison = compare(toy, IDS, lenses=labels)
    assert comparison.names == ("one", "other")
    for name, vector in zip(labels, vectors, strict=True):
        alone = ig_lens(toy, IDS, baseline=vector)
        np.testing.assert_allclose(comparison[name].values, alone.values, atol=1e-6)
    assert_far_from(comparison["one"].baseline, comparison["other"].baseline)


def test_equal_lenses_need_labels(toy):
    with pytest.raises(ValueError, match=r"lens 'ig_lens' is given twice with the same options"):
        compare(toy, IDS, lenses=[IGLens(), "ig_lens"])
    both = compare(toy, IDS, lenses={"a": IGLens(), "b": IGLens()})
    np.testing.assert_allclose(both["a"].values, both["b"].values, atol=1e-9)


def test_a_comparisons_value_holds_for_names_and_not_for_objects(toy):
    comparison = compare(
        toy,
        IDS,
        lenses=["ig_lens", LogitLens(), "direct_logit_attribution"],
        value="logprob",
    )
    units = {result.name: result.unit for result in comparison.results}
    expected = {
        "ig_lens": "nats",
        "logit_lens": "probability",
        "direct_logit_attribution": "logit",
    }
    assert units == expected


def test_a_validation_takes_lenses_under_labels(demo):
    capitals = ["The capital of Vietnam is", "The capital of France is"]
    lenses = {"early exit": IGLens(), "backwards": IGLens(path="reverse")}
    found = validate(demo, capitals, lenses=lenses, interventions=["skip"], nulls=False)
    assert list(found.credits) == list(lenses)
    answers = [[target.token_id] for target in found.credits["backwards"].targets]
    alone = ig_lens(demo, capitals, answer=answers, path="reverse")
    np.testing.assert_allclose(found.credits["backwards"].values, alone.values, atol=1e-6)


def test_a_value_that_names_tokens_is_the_same_object_for_every_model(toy):
    lens = IGLens(value=LogitDifference(" w9", " w30"))
    result = lens(trace_prompt(toy, IDS, targets=[9]))
    assert lens.value == LogitDifference(" w9", " w30")
    assert result.unit == "logit difference"
    assert result.provenance.options["value_tokens"] == [" w9", " w30"]
