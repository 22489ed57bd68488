"""Models of one layer: every public function measures one, or says why it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import iglens_tl
from iglens_tl import PATHS
from tests.support.cases import IDS
from tests.support.families import FAMILIES, Family, write_folder

CORRUPTED = [IDS[0], 61, *IDS[2:]]
REFERENCE = {"reference": [[1, 3, 77, 20], [1, 90, 4, 4, 33], [1, 66, 2, 49, 31]], "n_draws": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    llama = next(family for family in FAMILIES if family.name == "llama")
    family = Family("one_layer", llama.architecture, llama.options | {"num_hidden_layers": 1})
    return write_folder(family, tmp_path_factory.mktemp("one_layer"), dtype=torch.float64)


@pytest.fixture(scope="module")
def model(folder):
    return iglens_tl.load_model(folder, backend="bridge", dtype="float64")


@pytest.fixture(scope="module")
def ends(folder):
    """Return the probabilities of the next tokens without the layer, and with it."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        found = plain(torch.tensor([IDS]), output_hidden_states=True)
        without = plain.lm_head(plain.model.norm(found.hidden_states[0]))
    rows = torch.arange(len(IDS) - 1)
    return [logits[0, :-1].softmax(-1)[rows, IDS[1:]].numpy() for logits in (without, found.logits)]


@pytest.mark.parametrize("path", PATHS)
def test_every_order_gives_the_only_layer_what_it_adds(model, ends, path):
    result = iglens_tl.ig_lens(model, IDS, path=path)
    np.testing.assert_allclose(result.final, ends[1], atol=1e-7)
    layer = [place for place, label in enumerate(result.segments) if label.startswith("L0")]
    if path in ("hidden_states", "sublayers", "shapley_skip", "leave_one_out"):
        credits = result.values[:, layer].sum(axis=1)
        np.testing.assert_allclose(credits, ends[1] - ends[0], atol=1e-7)
    if path != "leave_one_out":
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-9)


def test_sampled_orders_of_one_layer_are_the_exact_one(model):
    exact, sampled = (
        iglens_tl.ig_lens(model, IDS, path="shapley_skip", n_permutations=n) for n in (0, 4)
    )
    np.testing.assert_allclose(sampled.values, exact.values, atol=1e-12)
    assert not sampled.statistics["standard_error"].any()


def test_orders_are_compared_though_one_layer_has_no_rank(model):
    sensitivity = iglens_tl.path_sensitivity(model, IDS)
    assert list(sensitivity.results) == list(PATHS)
    assert sensitivity.to_frame().shape == (18, len(PATHS) + 3)
    assert sensitivity.rank_correlations().isna().all(axis=None)


@pytest.mark.parametrize("intervention", ["skip", "early_exit"])
def test_taking_out_the_only_layer_leaves_the_embedding(model, ends, intervention):
    found = iglens_tl.layer_effects(model, IDS, intervention=intervention, first_token=True)
    np.testing.assert_allclose(found.values[:, 0], ends[1] - ends[0], atol=1e-7)


@pytest.mark.parametrize("unit", ["layer", "attn", "mlp", "head"])
@pytest.mark.parametrize("intervention", ["mean", "resample"])
def test_reference_texts_stand_in_for_parts_of_one_layer(model, unit, intervention):
    found = iglens_tl.layer_effects(model, IDS, by=unit, intervention=intervention, **REFERENCE)
    assert np.isfinite(found.values).all() and found.values[1:].any()


def test_skip_curves_have_two_steps(model, ends):
    curves = iglens_tl.skip_curves(model, iglens_tl.ig_lens(model, IDS), first_token=True)
    np.testing.assert_allclose(curves.deletion["ig_lens"], np.stack(ends[::-1], 1), atol=1e-7)
    np.testing.assert_allclose(curves.insertion["ig_lens"], np.stack(ends, 1), atol=1e-7)


def test_patching_one_layer_recovers_the_clean_run_at_the_end(model):
    found = iglens_tl.activation_patching(model, IDS, CORRUPTED, answer=5)
    assert found.values.shape == (1, len(IDS))
    np.testing.assert_allclose(found.recovered[0, -1], 1, atol=1e-9)
    assert found.to_effects().segments == ("L0",)


@pytest.mark.parametrize("by", ["layer", "sublayer", "head", "head_source", "neuron"])
def test_components_of_one_layer_sum_to_its_credit(model, ends, by):
    found = iglens_tl.components(model, IDS, by=by).by_layer()
    np.testing.assert_allclose(found.values[:, 1], ends[1] - ends[0], atol=1e-7)


@pytest.mark.parametrize(
    "lens",
    [
        "logit_lens",
        "direct_logit_attribution",
        "layer_conductance",
        "layer_integrated_gradients",
    ],
)
def test_every_other_lens_measures_one_layer(model, lens):
    result = getattr(iglens_tl, lens)(model, IDS)
    assert np.isfinite(result.values).all() and "L0" in result.segments


def test_a_level_lens_has_no_ranks_to_compare(model):
    lenses = ["logit_lens", "ig_lens"]
    agreement = iglens_tl.compare(model, IDS, lenses=lenses).summary().agreement
    assert agreement["rank_correlation"].isna().all()
    assert agreement["note"].str.contains("no change to rank").all()


def test_what_needs_an_order_of_layers_says_so(model):
    credits, effects = iglens_tl.ig_lens(model, IDS), iglens_tl.layer_effects(model, IDS)
    for function in (iglens_tl.agreement, iglens_tl.agreement_by_item):
        with pytest.raises(ValueError, match="on 1 segments of blocks, and an order needs two"):
            function(credits, effects)
    with pytest.raises(ValueError, match="has one layer, so there is no order of layers"):
        iglens_tl.validate(model, [IDS], interventions=["skip"])
    heads = [
        iglens_tl.components(model, IDS, by="head"),
        iglens_tl.layer_effects(model, IDS, by="head"),
    ]
    assert len(iglens_tl.agreement(*heads)) > 0
