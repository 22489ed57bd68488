"""Several orders side by side: table, rank correlations, sharing of the forward pass, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from iglens_tl import PATHS, PathSensitivity, ig_lens, path_sensitivity
from iglens_tl.models import adapt
from tests.support.cases import IDS
from tests.support.closeness import assert_close_to, assert_identical

FROZEN = ["hidden_states", "sublayers", "reverse", "straight_projected", "shapley_frozen"]


def plain_spearman(left, right):
    """Rank by sorting and correlate, for numbers without ties."""
    ranks = [np.argsort(np.argsort(numbers)) for numbers in (left, right)]
    return np.corrcoef(*ranks)[0, 1]


@pytest.fixture(scope="module")
def sensitivity(toy_model):
    return path_sensitivity(toy_model("llama"), IDS)


def test_every_order_gives_what_it_gives_alone(toy_model, sensitivity):
    assert list(sensitivity.results) == list(PATHS)
    for path, result in sensitivity.results.items():
        alone = ig_lens(toy_model("llama"), IDS, path=path)
        np.testing.assert_allclose(result.values, alone.values, atol=1e-6)
        assert result.provenance.options["path"] == path


def test_the_table_has_a_row_per_target_and_layer_and_a_column_per_order(sensitivity):
    frame = sensitivity.to_frame()
    assert frame.columns.tolist() == [*PATHS, "min", "max", "range"]
    assert frame.index.names == ["prompt", "position", "token_id", "token", "segment"]
    assert len(frame) == (len(IDS) - 1) * 4
    reverse = sensitivity.results["reverse"]
    assert_close_to(frame["reverse"], reverse.values.reshape(-1), dtype=torch.float32)
    orders = frame[list(PATHS)].to_numpy()
    assert_identical(frame["min"], orders.min(1))
    assert_identical(frame["max"], orders.max(1))
    assert_identical(frame["range"], orders.max(1) - orders.min(1))
    assert frame.index[5][:3] == (0, 1, 42) and frame.index[5][-1] == "L0"


def test_sublayers_are_summed_over_their_layer(sensitivity):
    frame = sensitivity.to_frame()
    np.testing.assert_allclose(frame["sublayers"], frame["hidden_states"], atol=1e-6)


def test_rank_correlations_are_spearmans_over_the_layers_averaged_over_targets(sensitivity):
    table = sensitivity.rank_correlations()
    assert table.index.tolist() == table.columns.tolist() == list(PATHS)
    assert_close_to(np.diag(table), 1)
    assert_close_to(table.to_numpy(), table.to_numpy().T)
    for path, other in [("hidden_states", "reverse"), ("shapley_frozen", "leave_one_out")]:
        pairs = zip(*(sensitivity.results[p].values[:, 1:] for p in (path, other)), strict=True)
        expected = np.mean([plain_spearman(*pair) for pair in pairs])
        assert table.loc[path, other] == pytest.approx(expected, abs=1e-9)


def test_orders_over_frozen_states_share_one_forward_pass(toy_model):
    model = toy_model("llama")
    runs = []
    adapt(model).model.hook_dict["blocks.0.hook_resid_pre"].add_hook(
        lambda states, hook: runs.append(len(states))
    )
    try:
        ig_lens(model, IDS)  # the first use of a model, or of its hooks, also checks it
        runs.clear()
        path_sensitivity(model, IDS, paths=FROZEN)
        shared = len(runs)
        runs.clear()
        ig_lens(model, IDS)
        assert shared == len(runs)
    finally:
        model.reset_hooks()


def test_a_parallel_model_has_no_sublayers_to_compare(toy_model):
    model = toy_model("gpt_neox_parallel")
    assert "sublayers" not in path_sensitivity(model, IDS[:4]).results
    with pytest.raises(ValueError, match="attention and MLP in parallel"):
        path_sensitivity(model, IDS[:4], paths=["sublayers"])


def test_options_reach_every_order(toy):
    options = {"targets": [9, 30], "value": "logprob", "baseline": "zero"}
    found = path_sensitivity(toy, IDS, n_permutations=6, seed=5, **options)
    for path, result in found.results.items():
        sampled = {"n_permutations": 6, "seed": 5} if path.startswith("shapley") else {}
        alone = ig_lens(toy, IDS, path=path, **options, **sampled)
        assert_close_to(result.values, alone.values, dtype=torch.float32)
        assert result.unit == "nats"
    assert "standard_error" in found.results["shapley_skip"].statistics


def test_one_line_says_what_was_compared(sensitivity):
    text = repr(sensitivity)
    frame = sensitivity.to_frame()
    assert text.startswith("PathSensitivity(9 targets, 9 orders: hidden_states, sublayers, ")
    assert f"largest range {frame['range'].max():.2g} in probability" in text
    assert "\n" not in text


def test_a_single_order_has_no_range(toy):
    found = path_sensitivity(toy, IDS, paths=["reverse"])
    assert_identical(found.to_frame()["range"], 0)
    assert found.rank_correlations().to_numpy().tolist() == [[1.0]]


def test_orders_without_any_change_have_no_rank_correlation(toy):
    result = ig_lens(toy, IDS)
    still = replace(result, values=np.zeros_like(result.values))
    table = PathSensitivity({"hidden_states": result, "reverse": still}).rank_correlations()
    assert np.isnan(table.loc["hidden_states", "reverse"])


@pytest.mark.parametrize(
    ("paths", "error", "message"),
    [
        (["forward"], ValueError, "unknown path 'forward'; choose from hidden_states"),
        (["reverse", "reverse"], ValueError, "path 'reverse' is given twice"),
        ([], ValueError, "paths is empty; choose from hidden_states"),
        ("reverse", TypeError, "paths must be a list of names, got 'reverse'"),
        (3, TypeError, "paths must be a list of names, got 3"),
    ],
)
def test_bad_paths_are_named_with_their_remedy(toy, paths, error, message):
    with pytest.raises(error, match=message):
        path_sensitivity(toy, IDS, paths=paths)


def test_results_survive_their_file(toy, tmp_path):
    sensitivity = path_sensitivity(toy, IDS, paths=["hidden_states", "reverse"])
    path = sensitivity.save(tmp_path / "orders.json")
    again = PathSensitivity.load(path)
    assert_identical(again.to_frame(), sensitivity.to_frame())
    assert repr(again) == repr(sensitivity)
    with pytest.raises(ValueError, match=r"must end in \.json"):
        sensitivity.save(tmp_path / "orders.csv")
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no PathSensitivity of iglens_tl"):
        PathSensitivity.load(path)
