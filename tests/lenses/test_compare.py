"""Comparisons: one forward pass, the same numbers as each lens alone, honest tables."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from iglens_tl import (
    LensComparison,
    compare,
    direct_logit_attribution,
    ig_lens,
    load_model,
    logit_lens,
)
from iglens_tl.models import adapt
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_identical

STATE_LENSES = ("logit_lens", "direct_logit_attribution", "ig_lens")


@pytest.fixture(scope="module")
def comparison(toy):
    return compare(toy, IDS)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_every_lens_gives_the_numbers_that_it_gives_alone(toy_model, name, backend):
    model = toy_model(name, backend)
    comparison = compare(model, [IDS, IDS[:4]], lenses=STATE_LENSES)
    alone = {
        "logit_lens": logit_lens(model, [IDS, IDS[:4]]),
        "direct_logit_attribution": direct_logit_attribution(model, [IDS, IDS[:4]]),
        "ig_lens": ig_lens(model, [IDS, IDS[:4]]),
    }
    for lens, result in alone.items():
        assert_close_to(comparison[lens].values, result.values, dtype=torch.float32)
        assert comparison[lens].targets == result.targets
        assert comparison[lens].segments == result.segments


def test_lenses_that_need_only_states_share_one_forward_pass(toy):
    passes = []
    site = adapt(toy).post_site(0)
    with toy.hooks(fwd_hooks=[(site, lambda states, hook: passes.append(len(states)))]):
        compare(toy, IDS)  # the first use of a model, or of its hooks, also checks it
        passes.clear()
        comparison = compare(toy, IDS, lenses=STATE_LENSES)
    assert passes == [1]
    assert comparison.forward_passes == 1
    assert comparison.costs["ig_lens"].readout_rows == 4 * 9 + 1
    assert comparison.costs["logit_lens"].readout_rows == 4 * 9
    assert comparison.costs["direct_logit_attribution"].readout_rows == 0


def test_a_tuned_lens_shares_the_forward_pass_as_well(demo):
    options = {"answer": " Hanoi", "lenses": (*STATE_LENSES, "tuned_lens")}
    passes = []
    site = adapt(demo).post_site(0)
    with demo.hooks(fwd_hooks=[(site, lambda states, hook: passes.append(len(states)))]):
        # The first use also checks the model and tries the lens.
        compare(demo, "The capital of Vietnam is", **options)
        passes.clear()
        comparison = compare(demo, "The capital of Vietnam is", **options)
    assert passes == [1]
    assert comparison.forward_passes == 1
    assert [result.lens for result in comparison.results] == [*STATE_LENSES, "tuned_lens"]


def test_shared_states_are_multiplied_with_the_unembedding_once(toy, monkeypatch):
    from iglens_tl.readout import sweep

    rows = []
    real = sweep.vocabulary_tiles

    def counted(readout, of_rows, **options):
        rows.append(len(of_rows))
        return real(readout, of_rows, **options)

    class Counted(sweep.LogNormalizers):
        def __init__(self, readout, of_rows, *pairs):
            rows.append(len(of_rows))
            super().__init__(readout, of_rows, *pairs)

    monkeypatch.setattr(sweep, "vocabulary_tiles", counted)
    monkeypatch.setattr(sweep, "LogNormalizers", Counted)
    compare(toy, IDS, lenses=STATE_LENSES)
    assert sum(rows) == 4 * 9 + 1


def test_the_wide_table_has_a_column_for_every_lens_and_segment(comparison):
    frame = comparison.to_frame()
    assert frame.columns.names == ["lens", "segment"]
    assert list(frame["ig_lens"].columns) == ["embed", "L0", "L1", "L2"]
    assert_identical(frame["logit_lens"], comparison["logit_lens"].values)
    assert frame.index.names == ["prompt", "position", "token_id", "token"]


def test_the_tidy_table_states_units_sums_errors_and_costs(comparison):
    frame = comparison.to_frame(tidy=True)
    by_lens = frame.groupby("lens").first()
    assert by_lens["unit"].to_dict() == {
        "logit_lens": "probability",
        "direct_logit_attribution": "logit",
        "ig_lens": "probability",
    }
    assert by_lens["additive"].to_dict() == {
        "logit_lens": False,
        "direct_logit_attribution": True,
        "ig_lens": True,
    }
    sums = frame.groupby(["lens", "position"])[["value", "sum", "expected_sum"]].agg(
        {"value": "sum", "sum": "first", "expected_sum": "first"}
    )
    for lens in ("direct_logit_attribution", "ig_lens"):
        part = sums.loc[lens]
        assert_close_to(part["value"], part["sum"])
        np.testing.assert_allclose(part["sum"], part["expected_sum"], atol=1e-4)
    assert frame[frame["lens"] == "logit_lens"]["sum"].isna().all()
    costs = ["forward_passes", "backward_passes", "readout_rows", "seconds"]
    found, expected = by_lens[costs].sort_index(), comparison.cost_frame()[costs].sort_index()
    assert_identical(found, expected, check_dtype=False)


def test_options_are_given_by_lens_and_the_value_to_all_that_have_one(toy):
    comparison = compare(
        toy,
        IDS,
        lenses={"ig_lens": {"baseline": "zero"}, "logit_lens": {"value": "logit"}},
        value="logprob",
    )
    assert comparison["ig_lens"].unit == "nats"
    assert comparison["logit_lens"].unit == "logit"
    alone = ig_lens(toy, IDS, baseline="zero", value="logprob")
    assert_close_to(comparison["ig_lens"].values, alone.values, dtype=torch.float32)


def test_a_lens_that_does_not_apply_is_left_out_with_the_reason(toy_model):
    model = toy_model("gptj")
    lenses = {"logit_lens": {"by": "sublayer"}, "ig_lens": {}}
    comparison = compare(model, IDS, lenses=lenses)
    assert [result.lens for result in comparison.results] == ["ig_lens"]
    assert "attention and MLP in parallel" in comparison.skipped["logit_lens"]
    with pytest.raises(ValueError, match="has no lens 'logit_lens': .*in parallel.*it has ig_lens"):
        comparison["logit_lens"]
    with pytest.raises(ValueError, match="none of the lenses applies to .*gptj: logit_lens: "):
        compare(model, IDS, lenses={"logit_lens": {"by": "sublayer"}})


def test_a_lens_that_turns_out_not_to_apply_lets_the_others_run(toy_folder):
    model = load_model(toy_folder("llama"))
    hook = ("blocks.1.hook_attn_out", lambda output, hook: output * 1.5 + 1)
    lenses = {"direct_logit_attribution": {"by": "head"}, "ig_lens": {}}
    with model.hooks(fwd_hooks=[hook]):
        comparison = compare(model, IDS, lenses=lenses)
        alone = ig_lens(model, IDS)
    assert_close_to(comparison["ig_lens"].values, alone.values, dtype=torch.float32)
    assert "heads of layer 1 do not add up" in comparison.skipped["direct_logit_attribution"]


def test_a_comparison_survives_its_file(comparison, tmp_path):
    path = comparison.save(tmp_path / "comparison.json")
    loaded = LensComparison.load(path)
    assert_identical(loaded.to_frame(tidy=True), comparison.to_frame(tidy=True))
    assert loaded.costs == dict(comparison.costs)
    assert loaded.to_json() == comparison.to_json()
    assert repr(loaded) == repr(comparison)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "other", "version": 1}'])
def test_a_foreign_file_is_refused(tmp_path, text):
    path = tmp_path / "foreign.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no comparison of iglens_tl"):
        LensComparison.load(path)


def test_files_that_cannot_be_are_named(comparison, tmp_path):
    with pytest.raises(ValueError, match="must end in .json"):
        comparison.save(tmp_path / "comparison.parquet")
    with pytest.raises(ValueError, match="holds no comparison"):
        LensComparison.load(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="cannot write"):
        comparison.save(tmp_path / "missing" / "comparison.json")


def test_a_changed_version_is_refused(comparison, tmp_path):
    content = json.loads(comparison.to_json())
    content["version"] = 99
    path = tmp_path / "newer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a iglens_tl.LensComparison of version 1"):
        LensComparison.load(path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lenses": ["ig_lens", "magic"]}, ValueError, "unknown lens 'magic'; choose from .*ig_le"),
        (
            {"lenses": ["ig_lens", "ig_lens"]},
            ValueError,
            "lens 'ig_lens' is given twice",
        ),
        ({"lenses": []}, ValueError, "lenses is empty; choose from"),
        ({"lenses": "ig_lens"}, TypeError, "lenses must be a list of lenses or names"),
        ({"lenses": 3}, TypeError, "lenses must be a list of lenses or names"),
        ({"lenses": {"ig_lens": {"norm": "own"}}}, TypeError, "ig_lens has no option 'norm'; it h"),
        ({"lenses": {"ig_lens": {"layers": [7]}}}, ValueError, "layer 7 is out of range"),
        ({"value": "odds"}, ValueError, "unknown value 'odds'"),
    ],
)
def test_bad_options_are_named(toy, options, error, message):
    with pytest.raises(error, match=message):
        compare(toy, IDS, **options)


def test_the_summary_of_a_comparison_covers_lenses_tokens_and_pairs(comparison):
    summary = comparison.summary()
    assert len(summary.agreement) == 3
    assert len(summary.agreement_by_target) == 3 * 9
    assert list(summary.onsets.columns) == list(STATE_LENSES)
    assert_identical(summary.onsets["ig_lens"], comparison["ig_lens"].onset().to_numpy())
    same = summary.agreement.set_index(["lens", "other"]).loc[("logit_lens", "ig_lens")]
    assert same["rank_correlation"] == pytest.approx(1)
    assert same["sign_agreement"] == pytest.approx(1)
    assert set(summary.monotonicity["lens"]) == {"logit_lens"}


def test_a_single_lens_has_nothing_to_agree_with(toy):
    summary = compare(toy, IDS, lenses=["ig_lens"]).summary()
    assert summary.agreement.empty
    assert summary.agreement_by_target.empty
    assert summary.monotonicity.empty


def test_the_trained_model_is_compared_by_text(stories):
    comparison = compare(
        stories, "Once upon a time, there was a little girl named", generate=3, lenses=STATE_LENSES
    )
    with torch.no_grad():
        assert comparison["ig_lens"].targets[0].token == " Lily"
    np.testing.assert_allclose(
        comparison["logit_lens"].final, comparison["ig_lens"].final, atol=1e-12
    )
