"""Components add up: to coarser ones, to their layer's credit and to the whole change."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from iglens_tl import components, ig_lens
from iglens_tl.lenses.base import measure
from iglens_tl.lenses.decomposition.components import COMPONENT_ESTIMATORS, Components
from iglens_tl.lenses.decomposition.splits import COMPONENT_PATHS, SPLITS
from iglens_tl.lenses.ig import IGLens
from iglens_tl.models import NotApplicableError, adapt
from iglens_tl.results.segments import parse_segment
from iglens_tl.trace import begin_trace
from tests.support.cases import EVERY_MODEL, EVERY_MODEL_AND_DTYPE, HAS_HOOKED, IDS
from tests.support.closeness import assert_identical
from tests.support.native import native_bridge, native_hooked

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
EXPERTS = ("mixtral", "olmoe")
# Hugging Face computes these families' norms in float32, also in a float64 model.
FLOAT32_NORMS = ("gemma2", "gemma3", "olmo2")
LEARNED_POSITIONS = ("gpt2", "opt")
TEXT = IDS[:7]
N_LAYERS = 3
EVERY_NEURON = 1000
OWN_MODELS = {
    "attention-only": {"normalization_type": None, "attn_only": True},
    "no norm": {"normalization_type": None},
    "parallel": {"normalization_type": "LN", "parallel_attn_mlp": True},
    "capped": {"normalization_type": "RMS", "output_logits_soft_cap": 5.0},
}
EVERY_OWN_MODEL = [
    pytest.param(build, name, id=f"{name}-{build.__name__}")
    for build, name in product((native_bridge, *([native_hooked] * HAS_HOOKED)), OWN_MODELS)
]


def sum_of(result, layer, *parts):
    """Return the summed credits of some kinds of segments of a layer."""
    found = [parse_segment(label) for label in result.segments]
    chosen = [s.layer == layer and s.part in parts for s in found]
    return result.values[:, chosen].sum(1)


def of_layers(result, n_layers=N_LAYERS):
    """Return the credits of the embedding and of every layer, `[target, segment]`."""
    coarse = result.by_layer()
    assert coarse.segments == ("embed", *(f"L{layer}" for layer in range(n_layers)))
    return coarse.values


def assert_splits_agree(splits, exact, atol, *, atol_of_parts):
    """Check that every split sums to the layers, and that finer splits sum to coarser ones."""
    for result in splits.values():
        np.testing.assert_allclose(of_layers(result), exact.values, atol=atol, rtol=0)
        np.testing.assert_allclose(result.final, exact.final, atol=atol, rtol=0)
        np.testing.assert_allclose(result.baseline, exact.baseline, atol=atol, rtol=0)
        assert abs(result.completeness_error).max() <= (N_LAYERS + 1) * atol
        assert result.additive and result.unit == "probability"
    assert_coarser_splits_are_sums(splits, atol_of_parts)


def assert_coarser_splits_are_sums(splits, atol):
    by_head = splits["head_source"].by_head()
    assert by_head.segments == splits["head"].segments
    np.testing.assert_allclose(by_head.values, splits["head"].values, atol=atol, rtol=0)
    for layer in range(N_LAYERS):
        whole = sum_of(splits["sublayer"], layer, "attn")
        heads = sum_of(splits["head"], layer, "head", "attn_bias")
        np.testing.assert_allclose(heads, whole, atol=atol, rtol=0)
        if "neuron" in splits:
            whole = sum_of(splits["sublayer"], layer, "mlp")
            neurons = sum_of(splits["neuron"], layer, "neuron", "mlp_rest", "mlp_bias")
            np.testing.assert_allclose(neurons, whole, atol=atol, rtol=0)


def assert_later_positions_get_nothing(result):
    """Check that the only sources are the read positions and those before them."""
    found = [parse_segment(label) for label in result.segments]
    sources = np.array([-1 if segment.source is None else segment.source for segment in found])
    assert sources.max() == max(target.position for target in result.targets)
    for row, target in enumerate(result.targets):
        assert not result.values[row, sources > target.position].any()


def run_together(model, *options, **choice):
    """Return the delta credits of layers and, in one run, components with some options each."""
    lenses = [IGLens(estimator="delta", top_k=0)]
    lenses += [Components(**chosen) for chosen in options]
    return measure(begin_trace(model, TEXT, **choice), lenses).results


def tamed(model):
    """Make the weights of a random model so small that its logits stay below a hundred."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(0.1)
    return model


def split_every_way(model, skip=()):
    """Return the delta credits of layers, and the components by split."""
    names = [by for by in ("sublayer", "head", "head_source", "neuron") if by not in skip]
    dictionary = np.random.default_rng(0).normal(size=(5, adapt(model).readout.d_model))
    options = [{"by": by} for by in names]
    exact, *results = run_together(model, *options, {"by": "direction", "directions": dictionary})
    return exact, dict(zip([*names, "direction"], results, strict=True))


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_components_sum_to_coarser_ones_and_to_their_layers_credit(toy_model, name, backend, dtype):
    model = toy_model(name, backend, dtype)
    skip = ("neuron",) if name in EXPERTS else ()
    exact, splits = split_every_way(model, skip)
    atol = TOLERANCE[dtype]
    of_parts = 1e-6 if name in FLOAT32_NORMS else atol / 10
    assert_splits_agree(splits, exact, atol, atol_of_parts=of_parts)
    assert_later_positions_get_nothing(splits["head_source"])
    assert splits["sublayer"].segments == (
        *(("embed", "pos_embed") if name in LEARNED_POSITIONS else ("embed",)),
        *(f"L{layer}.{part}" for layer in range(N_LAYERS) for part in ("attn", "mlp")),
    )
    # What float32 norms leave is a rest of its own, so that the layers still sum exactly.
    left = [f"L{layer}.rest" for layer in range(N_LAYERS)]
    of_heads = [label for label in splits["head_source"].segments if label.endswith("rest")]
    assert of_heads == (left if name in FLOAT32_NORMS and dtype == "float64" else [])
    assert set(left) < set(splits["direction"].segments)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_components_on_the_other_paths_share_out_the_same_change(toy_model, name, backend):
    model = toy_model(name, backend)
    is_parallel = adapt(model).block_kind == "parallel"
    options = [{"by": by, "path": "straight"} for by in ("layer", "sublayer", "head_source")]
    options += [] if is_parallel else [{"path": "sublayers"}]
    usual, whole, by_sublayer, by_source, *apart = run_together(model, *options)
    for result in (whole, by_sublayer, by_source):
        np.testing.assert_allclose(result.baseline, usual.baseline, atol=1e-6)
        np.testing.assert_allclose(result.final, usual.final, atol=1e-6)
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-5)
        np.testing.assert_allclose(of_layers(result), of_layers(whole), atol=2e-6)
    assert_later_positions_get_nothing(by_source)
    for layer in range(N_LAYERS):
        heads = sum_of(by_source, layer, "source", "attn_bias")
        np.testing.assert_allclose(heads, sum_of(by_sublayer, layer, "attn"), atol=1e-6)
    if is_parallel:
        with pytest.raises(NotApplicableError, match="in parallel on the same state"):
            components(model, TEXT, path="sublayers")
        return
    expected = ig_lens(model, TEXT, path="sublayers", top_k=0).to_frame()
    found = apart[0].to_frame()
    labels = [f"L{layer}.{part}" for layer in range(N_LAYERS) for part in ("attn", "mlp")]
    np.testing.assert_allclose(found[labels], expected[labels], atol=1e-5)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_batch_has_the_credits_of_its_prompts_one_by_one(toy_model, name, backend):
    model = toy_model(name, backend)
    prompts = [IDS[:3], IDS[2:8]]
    options = {"by": "head_source", "targets": [5, 9]}
    batch = components(model, prompts, **options)
    assert "L1.H2<pos 5" in batch.segments and "L1.H2<pos 6" not in batch.segments
    for index, prompt in enumerate(prompts):
        alone = components(model, prompt, **options).to_frame().reset_index(drop=True)
        of_batch = batch.for_prompt(index).to_frame().reset_index(drop=True)
        assert of_batch.loc[:, alone.columns].shape == alone.shape
        # The estimated error depends on how many parts there are, which longer texts have more of.
        numbers = [column for column in alone.columns if column not in ("onset", "error")]
        np.testing.assert_allclose(of_batch[numbers], alone[numbers], atol=2e-5)
        added = [label for label in of_batch.columns if label not in alone.columns]
        assert all("<pos" in label for label in added) and not of_batch[added].to_numpy().any()


@pytest.mark.parametrize(("name", "backend"), [c for c in EVERY_MODEL if c.values[0] in EXPERTS])
def test_mixtures_of_experts_have_no_neurons(toy_model, name, backend):
    with pytest.raises(NotApplicableError, match="mixture of experts.*by='sublayer'"):
        components(toy_model(name, backend), TEXT, by="neuron")


@pytest.mark.parametrize(("build", "name"), EVERY_OWN_MODEL)
def test_components_of_models_built_in_transformer_lens_add_up(build, name):
    model = tamed(build(**OWN_MODELS[name])).to(torch.float64)
    atol = TOLERANCE["float64"]
    attention_only = name == "attention-only"
    skip = ("neuron",) if attention_only else ()
    exact, splits = split_every_way(model, skip)
    assert_splits_agree(splits, exact, atol, atol_of_parts=atol / 10)
    assert_later_positions_get_nothing(splits["head_source"])
    straight = components(model, TEXT, by="head", path="straight")
    assert abs(straight.completeness_error).max() <= atol
    if attention_only:
        assert not any("mlp" in label for r in splits.values() for label in r.segments)
        with pytest.raises(NotApplicableError, match="has no MLPs.*by='head'"):
            components(model, TEXT, by="neuron")
        found = components(model, TEXT, by="head", path="sublayers")
        np.testing.assert_allclose(found.values, splits["head"].values, atol=atol)


@pytest.mark.parametrize("name", LEARNED_POSITIONS)
@pytest.mark.parametrize("path", COMPONENT_PATHS)
def test_token_and_position_share_the_embeddings_credit_under_every_baseline(toy_model, name, path):
    model = toy_model(name, "auto", "float64")
    vector = np.linspace(-1, 1, adapt(model).readout.d_model)
    rests = {}
    for baseline in ("mean", "mean_causal", "zero", "embed", vector):
        options = {"baseline": baseline, "targets": [5, 9]}
        result = components(model, TEXT, path=path, **options)
        embedding = [label for label in result.segments if not label.startswith("L")]
        rests[result.provenance.options["baseline"]] = embedding[2:]
        assert embedding[:2] == ["embed", "pos_embed"]
        exact = ig_lens(model, TEXT, estimator="delta", top_k=0, **options)
        assert abs(result.completeness_error).max() < 4e-10
        np.testing.assert_allclose(result.baseline, exact.baseline, atol=1e-10)
        if path != "straight":
            np.testing.assert_allclose(of_layers(result), exact.values, atol=1e-10)
        if isinstance(baseline, str) and baseline == "embed":
            np.testing.assert_allclose(result.values[:, :2], 0, atol=1e-12)
    # A given vector is no sum of a token's and a position's part.
    assert rests.pop("vector") == ["embed.rest"]
    assert not any(rests.values())


@pytest.mark.parametrize("by", ["sublayer", "head", "head_source", "neuron"])
def test_levels_start_at_the_baseline_and_follow_the_logit_lens(toy_model, by):
    model = toy_model("gpt2", "auto", "float64")
    exact = ig_lens(model, TEXT, top_k=0)
    result = components(model, TEXT, by=by)
    np.testing.assert_allclose(result.by_layer().levels, exact.levels, atol=1e-12)
    np.testing.assert_allclose(result.segment_error, 0, atol=2e-10)
    apart = components(model, TEXT, path="sublayers")
    halves = ig_lens(model, TEXT, path="sublayers", top_k=0)
    np.testing.assert_allclose(apart.levels[:, 1:], halves.levels, atol=1e-12)


def test_several_candidates_have_the_credits_of_each_alone(toy):
    candidates = [5, 9, 30]
    together = components(toy, TEXT, by="head_source", targets=candidates)
    assert [target.token_id for target in together.targets] == candidates
    for row, candidate in enumerate(candidates):
        alone = components(toy, TEXT, by="head_source", targets=[candidate])
        np.testing.assert_allclose(together.values[row], alone.values[0], atol=1e-5)


def test_targets_may_be_an_answer_or_generated(toy):
    answer = components(toy, TEXT[:4], by="head", answer=TEXT[4:])
    every = components(toy, TEXT, by="head", baseline="mean")
    np.testing.assert_allclose(answer.values, every.values[3:], atol=1e-5)
    greedy = components(toy, "w17 w42", by="head", generate=2)
    assert len(greedy.targets) == 2 and abs(greedy.completeness_error).max() < 4e-5


def test_results_do_not_depend_on_how_targets_are_divided(toy, monkeypatch):
    from iglens_tl.lenses.decomposition import credits

    usual = {by: components(toy, TEXT, by=by, keep=4) for by in ("head_source", "neuron")}
    monkeypatch.setattr(credits, "_SHARE_ENTRIES", 1)
    monkeypatch.setattr(credits, "ROWS_PER_PASS", 1)
    for by, expected in usual.items():
        divided = components(toy, TEXT, by=by, keep=4)
        assert divided.segments == expected.segments
        np.testing.assert_allclose(divided.values, expected.values, atol=2e-6)


def test_hooks_of_the_user_are_part_of_what_is_measured(toy_model):
    model = toy_model("llama", "bridge", "float64")

    def without_head(z, hook):
        z = z.clone()
        z[:, :, 1] = 0
        return z

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", without_head)]):
        ablated = components(model, TEXT, by="head")
        exact = ig_lens(model, TEXT, top_k=0)
    assert not ablated.to_frame()["L1.H1"].any()
    np.testing.assert_allclose(of_layers(ablated), exact.values, atol=1e-10)


def test_an_edited_stream_leaves_a_rest(toy_model):
    model = toy_model("llama", "bridge", "float64")

    def steer(state, hook):
        return state + 0.5

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steer)]):
        steered = components(model, TEXT, by="sublayer")
        exact = ig_lens(model, TEXT, top_k=0)
    assert "L1.rest" in steered.segments and "L0.rest" not in steered.segments
    np.testing.assert_allclose(of_layers(steered), exact.values, atol=1e-10)


def test_the_result_names_its_options_and_survives_a_file(toy, tmp_path):
    result = components(toy, TEXT, by="head_source", path="straight", value="logit")
    options = result.provenance.options
    assert (options["by"], options["path"], options["value"]) == (
        "head_source",
        "straight",
        "logit",
    )
    assert options["keep"] is None and result.unit == "logit"
    for ending in ("json", "parquet"):
        path = result.save(tmp_path / f"result.{ending}")
        loaded = type(result).load(path)
        assert loaded.segments == result.segments
        assert_identical(loaded.values, result.values)


def test_unknown_and_contradictory_options_are_explained(toy):
    for by in SPLITS:
        if by != "direction":
            components(toy, TEXT[:2], by=by)
    with pytest.raises(ValueError, match="unknown split by='heads'; choose one of layer, sublayer"):
        components(toy, TEXT, by="heads")
    with pytest.raises(ValueError, match="grow along path hidden_states, sublayers, straight, got"):
        components(toy, TEXT, path="reverse")
    with pytest.raises(ValueError, match="by='layer' splits the update of a whole block"):
        components(toy, TEXT, by="layer", path="sublayers")
    with pytest.raises(ValueError, match="'delta' does not split .* choose one of gradient, ps_ig"):
        components(toy, TEXT, estimator="delta")
    assert COMPONENT_ESTIMATORS == ("gradient", "ps_ig", "idgi")
    for keep in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match="keep must be an integer of at least 1"):
            components(toy, TEXT, by="neuron", keep=keep)
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        components(toy, TEXT, n_steps=0)
    with pytest.raises(ValueError, match="the idgi estimator has no tolerance"):
        components(toy, TEXT, estimator="idgi", tolerance=1e-3)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        components(toy, TEXT, tolerance=0.0)
    with pytest.raises(ValueError, match="unknown baseline"):
        components(toy, TEXT, baseline="median")
