"""Layer effects: a plain loop of hooks as reference, exact identities, draws and bad input."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from iglens_tl import LogitDifference, embedded_reference_texts, ig_lens, layer_effects
from iglens_tl.interventions import ablation
from iglens_tl.models import adapt
from iglens_tl.models.capture import run
from tests.support.cases import EVERY_MODEL, HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to, assert_far_from, assert_identical
from tests.support.fixed_batch import FIXED_BATCH, load_eager
from tests.support.native import native_bridge, native_hooked
from tests.support.results import assert_same_numbers

OTHER = [1, 30, 8, 8, 71, 2, 64]
REFERENCE = [[1, 3, 77, 20], [1, 90, 4, 4, 33, 52, 60, 11, 7, 7, 81, 15], [1, 66, 2, 49, 31]]
SITES = {"layer": "hook_resid_post", "attn": "hook_attn_out", "mlp": "hook_mlp_out"}


def probs(model, ids, hooks=()) -> torch.Tensor:
    """Return the probability of every next token of a text, from the model's own logits."""
    adapter = adapt(model)
    with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
        logits = run(adapter, torch.tensor([ids]))[0]
    found = logits[:-1].double().softmax(-1)
    return found[torch.arange(len(ids) - 1), ids[1:]]


def hooks_that_write(unit, layer, head, update, positions):
    """Return hooks under which one unit writes `update [pos, …]` at some positions."""
    inputs = []

    def enter(state, hook):
        inputs.append(state.clone())

    def leave(activation, hook):
        changed = activation.clone()
        for position in positions:
            own = update[position].to(changed)
            if unit == "layer":
                changed[:, position] = inputs[0][:, position] + own
            elif unit == "head":
                changed[:, position, head] = own
            else:
                changed[:, position] = own
        return changed

    site = f"blocks.{layer}.attn.hook_z" if unit == "head" else f"blocks.{layer}.{SITES[unit]}"
    return [(f"blocks.{layer}.hook_resid_pre", enter), (site, leave)]


def written(model, unit, layer, head, ids) -> torch.Tensor:
    """Return what a unit writes at every position of a text."""
    _, cache = model.run_with_cache(torch.tensor([ids]), return_type=None)
    if unit == "layer":
        names = (f"blocks.{layer}.hook_resid_{place}" for place in ("post", "pre"))
        post, pre = (cache[name][0] for name in names)
        return post - pre
    if unit == "head":
        return cache[f"blocks.{layer}.attn.hook_z"][0, :, head]
    return cache[f"blocks.{layer}.{SITES[unit]}"][0]


def effects_by_loop(model, ids, unit, updates_of, *, scope="all", first_token=False):
    """Take every unit out, one forward pass for each (and each position, in scope "last")."""
    untouched = probs(model, ids)
    start = 0 if first_token else 1
    columns = []
    for layer in range(3):
        for head in range(4 if unit == "head" else 1):
            found = []
            for update in updates_of(layer, head):
                if scope == "all":
                    hooks = hooks_that_write(unit, layer, head, update, range(start, len(ids)))
                    found.append(probs(model, ids, hooks))
                    continue
                alone = [
                    probs(model, ids, hooks_that_write(unit, layer, head, update, [p]))[p]
                    for p in range(start, len(ids) - 1)
                ]
                found.append(torch.stack([*untouched[:start], *alone]))
            columns.append(untouched - torch.stack(found).mean(0))
    return torch.stack(columns, dim=1).numpy()


def nothing(model, ids, layer, head):
    return [torch.zeros(len(ids), 1)]


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
@pytest.mark.parametrize("unit", ["layer", "attn", "mlp", "head"])
def test_skip_effects_equal_a_loop_of_hooks_on_every_family(toy_model, name, backend, unit):
    model = toy_model(name, backend)
    expected = effects_by_loop(model, IDS, unit, partial(nothing, model, IDS))
    found = layer_effects(model, [IDS, OTHER], by=unit).for_prompt(0)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    np.testing.assert_allclose(found.final, probs(model, IDS), atol=1e-6)
    np.testing.assert_allclose(found.levels, found.final[:, None] - found.values, atol=1e-12)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
@pytest.mark.parametrize("scope", ["all", "last"])
def test_skipping_the_last_layer_is_its_credit_on_every_family(toy_model, name, backend, scope):
    model = toy_model(name, backend)
    credits = ig_lens(model, IDS).to_frame()["L2"].to_numpy()
    effects = layer_effects(model, IDS, scope=scope, first_token=True).to_frame()["L2"].to_numpy()
    np.testing.assert_allclose(effects, credits, atol=2e-6)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_early_exit_is_the_logit_lens_on_every_family(toy_model, name, backend):
    model = toy_model(name, backend)
    credits = ig_lens(model, [IDS, OTHER])
    exits = layer_effects(model, [IDS, OTHER], intervention="early_exit")
    assert exits.additive and exits.segments == ("L0", "L1", "L2")
    np.testing.assert_allclose(exits.levels, credits.levels[:, 1:], atol=2e-6)
    np.testing.assert_allclose(exits.values, credits.values[:, 1:], atol=2e-6)
    np.testing.assert_allclose(exits.completeness_error, 0, atol=1e-12)


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if HAS_HOOKED else ["bridge"])
@pytest.mark.parametrize("unit", ["layer", "attn", "mlp", "head"])
@pytest.mark.parametrize("first_token", [False, True])
def test_scope_last_touches_only_the_position_that_is_read(toy_model, backend, unit, first_token):
    model = toy_model("llama", backend)
    expected = effects_by_loop(
        model,
        IDS,
        unit,
        partial(nothing, model, IDS),
        scope="last",
        first_token=first_token,
    )
    found = layer_effects(model, IDS, by=unit, scope="last", first_token=first_token)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    if not first_token:
        assert_close_to(found.values[0], 0, dtype=torch.float32, size=1)
        assert "read there have no effects" in found.provenance.notes[1]


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if HAS_HOOKED else ["bridge"])
@pytest.mark.parametrize("unit", ["layer", "attn", "mlp", "head"])
def test_a_mean_is_over_all_tokens_of_the_reference_but_the_first(toy_model, backend, unit):
    model = toy_model("gpt2", backend)

    def mean(layer, head):
        texts = [written(model, unit, layer, head, ids)[1:] for ids in REFERENCE]
        return [torch.cat(texts).mean(0).expand(len(IDS), -1)]

    found = layer_effects(model, IDS, intervention="mean", by=unit, reference=REFERENCE)
    np.testing.assert_allclose(found.values, effects_by_loop(model, IDS, unit, mean), atol=1e-5)
    assert (found.statistics["standard_error"][1:] > 0).all()


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if HAS_HOOKED else ["bridge"])
@pytest.mark.parametrize("unit", ["layer", "attn", "mlp", "head"])
def test_resampling_averages_over_what_units_write_in_other_texts(toy_model, backend, unit):
    model = toy_model("gpt2", backend)

    def others(layer, head):
        texts = [written(model, unit, layer, head, ids) for ids in REFERENCE]
        # A text that is too short begins again after its first token.
        return [torch.cat([text, *[text[1:]] * 4])[: len(IDS)] for text in texts]

    expected = effects_by_loop(model, IDS, unit, others)
    # The text itself is no other text, and neither is one that begins with it.
    reference = [*REFERENCE, IDS, [*IDS, 5]]
    found = layer_effects(
        model, IDS, intervention="resample", by=unit, reference=reference, n_draws=3
    )
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_standard_errors_are_those_of_the_draws(toy):
    options = {"intervention": "resample", "reference": REFERENCE}
    alone = [
        layer_effects(toy, IDS, **options | {"reference": pair}, n_draws=2).values
        for pair in ([REFERENCE[0], REFERENCE[1]], [REFERENCE[0], REFERENCE[2]], REFERENCE[1:])
    ]
    # Means of two of three numbers give the numbers.
    draws = sum(alone) - 2 * np.stack(alone)
    found = layer_effects(toy, IDS, **options, n_draws=3)
    assert_close_to(found.values, draws.mean(0), dtype=torch.float32)
    expected = draws.std(0, ddof=1) / 3**0.5
    assert_close_to(found.statistics["standard_error"], expected, dtype=torch.float32)


def test_equal_reference_texts_leave_no_uncertainty(toy):
    same = [REFERENCE[1]] * 4
    for intervention in ("mean", "resample"):
        found = layer_effects(toy, IDS, intervention=intervention, reference=same, n_draws=4)
        np.testing.assert_allclose(found.statistics["standard_error"], 0, atol=1e-7)


def test_draws_follow_the_seed(demo):
    options = {"answer": " Hanoi", "intervention": "resample", "n_draws": 4}
    first, again, other = (
        layer_effects(demo, "The capital of Vietnam is", **options, seed=seed) for seed in (0, 0, 1)
    )
    assert_close_to(first.values, again.values, dtype=torch.float32)
    assert_far_from(first.values, other.values)


@pytest.mark.parametrize("intervention", ["skip", "mean", "resample", "early_exit"])
@pytest.mark.parametrize("scope", ["all", "last"])
def test_a_batch_gives_the_same_as_its_prompts_and_so_do_small_passes(
    toy, monkeypatch, intervention, scope
):
    options = {"intervention": intervention, "scope": scope}
    if intervention in ("mean", "resample"):
        options |= {"reference": REFERENCE, "n_draws": 3}
    prompts = [IDS, OTHER, IDS[::-1], OTHER[::-1], [1, 2]]
    whole = layer_effects(toy, prompts, **options)
    for index, prompt in enumerate(prompts):
        assert_same_numbers(whole.for_prompt(index), layer_effects(toy, prompt, **options), size=1)
    monkeypatch.setattr(ablation, "TOKENS_PER_PASS", 30)
    assert_same_numbers(layer_effects(toy, prompts, **options), whole, size=1)


@pytest.mark.parametrize("family", FIXED_BATCH, ids=lambda family: family.name)
def test_architectures_that_fix_the_batch_run_every_copy_from_the_start(family, tmp_path):
    model = load_eager(family, tmp_path)
    for unit in ("layer", "attn"):
        expected = effects_by_loop(model, IDS, unit, partial(nothing, model, IDS))
        found = layer_effects(model, [IDS, IDS[::-1]], by=unit).for_prompt(0)
        np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_native_models_work(toy):
    model = native_bridge()
    expected = effects_by_loop(model, IDS, "layer", partial(nothing, model, IDS))
    np.testing.assert_allclose(layer_effects(model, IDS).values, expected, atol=1e-5)


def test_every_value_can_be_measured(toy):
    for value in ("logprob", "logit", LogitDifference(5, 9), "entropy", "kl_to_final"):
        found = layer_effects(toy, IDS, targets=[7], value=value)
        last = ig_lens(toy, IDS, targets=[7], value=value)
        np.testing.assert_allclose(found.values[:, -1], last.values[:, -1], atol=1e-5)
        assert found.unit == last.unit


def test_effects_are_separate_and_keep_in_a_file(toy, tmp_path):
    found = layer_effects(toy, IDS, by="head")
    assert not found.additive and found.kind == "effect" and found.segments[5] == "L1.H1"
    assert_identical(found.changes, found.values)
    loaded = type(found).load(found.save(tmp_path / "effects.parquet"))
    assert loaded.kind == "effect" and loaded.provenance == found.provenance
    assert found.heatmap().data


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_no_hook_stays_behind_also_after_an_interruption(toy_model, name):
    model = toy_model(name, "bridge")
    points = model.hook_dict.values()
    before = [len(point.fwd_hooks) for point in points]

    def interrupt(activation, hook):
        raise KeyboardInterrupt

    for unit in ("layer", "head"):
        layer_effects(model, IDS, by=unit)
        assert [len(point.fwd_hooks) for point in points] == before
        with (
            model.hooks(fwd_hooks=[("blocks.2.hook_attn_out", interrupt)]),
            pytest.raises(KeyboardInterrupt),
        ):
            layer_effects(model, IDS, by=unit)
        assert [len(point.fwd_hooks) for point in points] == before


def test_hooks_of_the_user_stay_active(toy):
    def double(activation, hook):
        return 2 * activation

    hooks = [("blocks.1.hook_attn_out", double)]
    expected = probs(toy, IDS, hooks)
    with toy.hooks(fwd_hooks=hooks):
        found = layer_effects(toy, IDS, first_token=True)
        np.testing.assert_allclose(found.final, expected, atol=1e-6)
        last = ig_lens(toy, IDS)
    np.testing.assert_allclose(found.values[:, -1], last.values[:, -1], atol=2e-6)


@pytest.mark.skipif(not HAS_HOOKED, reason="HookedTransformer is in TransformerLens 3 only")
def test_a_unit_that_the_architecture_lacks_is_named():
    model = native_hooked(attn_only=True)
    with pytest.raises(ValueError, match=r"has no MLPs.*use by='attn', 'head' or 'layer'"):
        layer_effects(model, IDS, by="mlp")
    assert layer_effects(model, IDS, by="attn").segments == ("L0.attn", "L1.attn", "L2.attn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intervention": "delete"}, "unknown intervention 'delete'; choose one of skip, mean"),
        (
            {"intervention": "zero"},
            "a unit whose output is zero writes nothing.*intervention='skip'",
        ),
        ({"by": "neuron"}, "unknown split by 'neuron'; choose one of layer, attn, mlp, head"),
        ({"scope": "first"}, "unknown scope 'first'; choose one of all, last"),
        ({"intervention": "early_exit", "by": "head"}, "early_exit stops between layers"),
        ({"reference": ["a text"]}, "reference texts are for intervention 'mean' and 'resample'"),
        ({"intervention": "mean", "reference": []}, "reference holds no text; give several"),
        ({"intervention": "mean", "reference": [[1, 2]]}, "at least 2 reference texts, got 1"),
        ({"intervention": "mean", "reference": [[1, 2], [1]]}, "text 1 has one token only"),
        ({"intervention": "mean", "n_draws": 1}, "n_draws must be at least 2, got 1"),
        ({"intervention": "mean", "seed": -1}, "seed must be at least 0, got -1"),
        (
            {"intervention": "resample", "reference": [*REFERENCE, IDS], "n_draws": 4},
            "resampling needs 4 reference texts .* that differ from the prompt, got 3",
        ),
    ],
)
def test_bad_options_are_answered_with_what_to_do(toy, options, message):
    with pytest.raises(ValueError, match=message):
        layer_effects(toy, IDS, **options)


def test_options_of_a_wrong_kind_are_refused(toy):
    with pytest.raises(TypeError, match="reference must be a list of texts, got a single one"):
        layer_effects(toy, IDS, intervention="mean", reference="one text")


def test_the_embedded_reference_texts_are_many_and_differ():
    texts = embedded_reference_texts()
    assert len(texts) == len(set(texts)) >= 64
    assert all(len(text.split()) > 8 for text in texts)
