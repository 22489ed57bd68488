"""Every value through the lenses that attribute or read it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from iglens_tl import (
    CompletenessWarning,
    Entropy,
    KLToFinal,
    LensResult,
    LogitDifference,
    ProbabilityDifference,
    TokenSet,
    Value,
    components,
    ig_lens,
    layer_conductance,
    layer_integrated_gradients,
    logit_lens,
)
from iglens_tl.lenses import Components, IGLens
from iglens_tl.lenses.base import measure
from iglens_tl.models import adapt
from iglens_tl.trace import begin_trace
from tests.support.cases import EVERY_MODEL_IN_FLOAT64, IDS
from tests.support.chords import states_of
from tests.support.closeness import assert_close_to, assert_identical

TEXT = IDS[:6]
PROMPT, NEXT = TEXT[:-1], TEXT[1:]
# Experts switch along a path through the model, and no integral of gradients sees a jump.
THROUGH_THE_MODEL = ["gpt2", "gemma2"]
UNITS = {
    "prob": "probability",
    "logprob": "nats",
    "logit": "logit",
    "logit_difference": "logit difference",
    "probability_difference": "probability difference",
    "token_set": "probability",
    "entropy": "nats",
    "kl_to_final": "nats",
    "log_odds": "nats",
}


@dataclass(frozen=True)
class LogOdds(Value):
    """The log-odds of the target, as a user would write them."""

    name = "log_odds"
    unit = "nats"

    def evaluate(self, logits, targets):
        """Return log p − log (1 − p)."""
        logprob = logits.log_softmax(-1).gather(-1, targets.token_ids[..., None])[..., 0]
        return logprob - torch.log1p(-logprob.exp())

    def gradient(self, logits, targets):
        """Return 1 for the target and −p / (1 − p_target) for the others."""
        probs = logits.softmax(-1)
        at_target = probs.gather(-1, targets.token_ids[..., None])
        rest = -probs / (1 - at_target)
        return rest.scatter(-1, targets.token_ids[..., None], 1.0)


EVERY_VALUE = [
    "prob",
    "logprob",
    "logit",
    LogitDifference(5, 9),
    ProbabilityDifference(5, 9),
    TokenSet([5, 9, 30]),
    Entropy(),
    KLToFinal(),
    LogOdds(),
]
SPLIT_ON_EVERY_FAMILY = ["logprob", LogitDifference(5, 9), KLToFinal()]
BY_NAME = pytest.mark.parametrize(
    "value", EVERY_VALUE, ids=lambda value: getattr(value, "name", value)
)


def name_of(value):
    return value if isinstance(value, str) else value.name


def plainly(name, logits, final, tokens):
    """Return a value of rows of logits, by its definition."""
    logits, final = logits.double(), final.double()
    probs, own = logits.softmax(-1), torch.tensor(tokens)[:, None]
    of_model = final.softmax(-1)
    return {
        "prob": lambda: probs.gather(1, own)[:, 0],
        "logprob": lambda: probs.log().gather(1, own)[:, 0],
        "logit": lambda: logits.gather(1, own)[:, 0],
        "logit_difference": lambda: logits[:, 5] - logits[:, 9],
        "probability_difference": lambda: probs[:, 5] - probs[:, 9],
        "token_set": lambda: probs[:, [5, 9, 30]].sum(1),
        "entropy": lambda: torch.distributions.Categorical(probs).entropy(),
        "kl_to_final": lambda: (of_model * (of_model.log() - probs.log())).sum(1),
        "log_odds": lambda: torch.logit(probs.gather(1, own)[:, 0]),
    }[name]().numpy()


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL_IN_FLOAT64)
def test_levels_and_credits_of_every_value_are_those_of_plain_logits(
    toy_model, hf_probs, name, backend
):
    model = toy_model(name, backend, "float64")
    adapter = adapt(model)
    lenses = [IGLens(value=value, top_k=0) for value in EVERY_VALUE]
    lenses += [Components(value=value) for value in SPLIT_ON_EVERY_FAMILY]
    results = measure(begin_trace(adapter, TEXT), lenses).results
    logits = [adapter.readout.logits(state) for state in states_of(model, TEXT)]
    # Log-probabilities are logits too, up to a constant that only the logit itself sees.
    hugging_face = hf_probs(name, TEXT, torch.float64)[:-1].log()
    splits = dict(zip(SPLIT_ON_EVERY_FAMILY, results[len(EVERY_VALUE) :], strict=True))
    for value, credits in zip(EVERY_VALUE, results, strict=False):
        kind = name_of(value)
        expected = np.stack([plainly(kind, z, logits[-1], NEXT) for z in logits], axis=1)
        scale = max(1.0, abs(expected).max())
        found = np.concatenate([credits.baseline[:, None], credits.levels], axis=1)
        # Two passes round some norms in float32 even here, and not always alike.
        np.testing.assert_allclose(found, expected, atol=1e-6 * scale, rtol=0)
        np.testing.assert_allclose(credits.values, np.diff(expected), atol=1e-6 * scale, rtol=0)
        np.testing.assert_allclose(credits.completeness_error, 0, atol=1e-12 * scale)
        if value in splits:
            of_layers = splits[value].by_layer().values
            np.testing.assert_allclose(of_layers, credits.values, atol=1e-8 * scale, rtol=0)
        assert credits.unit == UNITS[kind]
        assert credits.provenance.options["value"] == kind
        if kind != "logit":
            of_model = plainly(kind, hugging_face, hugging_face, NEXT)
            # Hugging Face computes some norms and angles in float32 always.
            np.testing.assert_allclose(credits.final, of_model, atol=2e-5 * scale, rtol=0)
        if kind == "kl_to_final":
            np.testing.assert_allclose(credits.final, 0, atol=1e-9)
            assert (credits.levels > -1e-9).all()


@BY_NAME
def test_estimators_and_paths_of_components_agree_on_every_value(toy_model, value):
    model = toy_model("llama", "bridge", "float64")
    adapter = adapt(model)
    options = [
        {"by": "head_source"},
        {"by": "neuron"},
        {"by": "head", "path": "sublayers"},
        {"by": "head", "estimator": "idgi", "n_steps": 2},
    ]
    lenses = [IGLens(value=value, top_k=0)]
    lenses += [Components(value=value, **chosen) for chosen in options]
    lenses += [IGLens(value=value, estimator="gradient", top_k=0)]
    lenses += [Components(value=value, by="head", path="straight")]
    exact, *results, straight = measure(begin_trace(adapter, TEXT), lenses).results
    scale = max(1.0, abs(exact.levels).max())
    for result in results:
        coarse = result if result.lens == "ig_lens" else result.by_layer()
        np.testing.assert_allclose(coarse.values, exact.values, atol=2e-9 * scale)
    for result in (*results, straight):
        np.testing.assert_allclose(result.final, exact.final, atol=1e-10 * scale)
        np.testing.assert_allclose(result.baseline, exact.baseline, atol=1e-10 * scale)
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-9 * scale)


@BY_NAME
def test_the_logit_lens_reads_the_levels_of_every_value(toy_model, value):
    model = toy_model("gemma2", "bridge", "float64")
    levels, credits = logit_lens(model, TEXT, value=value), ig_lens(model, TEXT, value=value)
    np.testing.assert_allclose(levels.values, credits.levels, atol=1e-12)
    assert levels.unit == credits.unit == UNITS[name_of(value)]
    assert_identical(levels.ranks, credits.ranks)


@BY_NAME
@pytest.mark.parametrize("path", ["reverse", "straight", "shapley_frozen", "shapley_skip"])
def test_every_order_shares_out_every_value(toy_model, value, path):
    model = toy_model("llama", "bridge", "float64")
    usual = ig_lens(model, TEXT, value=value, top_k=0)
    result = ig_lens(model, TEXT, value=value, path=path, top_k=0)
    np.testing.assert_allclose(result.completeness_error, 0, atol=1e-9)
    np.testing.assert_allclose(result.final, usual.final, atol=1e-10)
    np.testing.assert_allclose(result.baseline, usual.baseline, atol=1e-10)
    assert result.unit == UNITS[name_of(value)]


@BY_NAME
def test_leave_one_out_is_the_effect_of_skipping_a_layer_on_every_value(toy_model, value):
    model = toy_model("llama", "bridge", "float64")
    adapter = adapt(model)
    result = ig_lens(model, TEXT, value=value, path="leave_one_out", top_k=0).to_frame()
    for layer in range(3):
        hooks = [
            (site, lambda update, hook: torch.zeros_like(update))
            for site in adapter.update_sites(layer)
        ]
        with torch.no_grad():
            whole, skipped = (
                model.run_with_hooks(torch.tensor([TEXT]), fwd_hooks=chosen)[0, :-1]
                for chosen in ([], hooks)
            )
        before = plainly(name_of(value), skipped, whole, NEXT)
        after = plainly(name_of(value), whole, whole, NEXT)
        np.testing.assert_allclose(result[f"L{layer}"], after - before, atol=1e-6)


@BY_NAME
@pytest.mark.parametrize("name", THROUGH_THE_MODEL)
def test_gradients_through_the_model_explain_the_change_of_every_value(toy_model, name, value):
    model = toy_model(name, "bridge")
    usual = ig_lens(model, PROMPT, targets=[42], value=value, top_k=0)
    options = {"targets": [42], "value": value, "positions": "all"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        flow = layer_conductance(model, PROMPT, n_steps=150, **options)
        each = layer_integrated_gradients(model, PROMPT, n_steps=60, layers=[1], **options)
    change = flow.final - flow.baseline
    scale = max(1.0, abs(usual.levels).max())
    for segment in range(flow.values.shape[1]):
        np.testing.assert_allclose(flow.values[:, segment], change, atol=0.05 * scale)
    own = each.levels - each.values
    np.testing.assert_allclose(each.values, each.final[:, None] - own, atol=0.05 * scale)
    for result in (flow, each):
        np.testing.assert_allclose(result.final, usual.final, atol=1e-5 * scale)
        assert result.unit == UNITS[name_of(value)]


def measure_sequence(model, lens, value, **options):
    options = {"answer": TEXT[3:]} | options
    return lens(model, TEXT[:3], value=value, **options)


@pytest.mark.parametrize(
    ("lens", "options"),
    [
        (ig_lens, {}),
        (ig_lens, {"estimator": "gradient"}),
        (ig_lens, {"path": "reverse"}),
        (ig_lens, {"path": "shapley_skip"}),
        (ig_lens, {"path": "leave_one_out"}),
        (logit_lens, {}),
        (components, {"by": "head_source"}),
        (components, {"by": "sublayer", "estimator": "idgi"}),
        (layer_conductance, {"n_steps": 5}),
        (layer_integrated_gradients, {"n_steps": 5}),
    ],
)
def test_the_value_of_a_sequence_is_the_sum_over_its_tokens(toy_model, lens, options):
    # With a LayerNorm, because Hugging Face computes an RMSNorm in float32.
    model = toy_model("gpt2", "bridge", "float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        whole = measure_sequence(model, lens, "sequence_logprob", **options)
        apart = measure_sequence(model, lens, "logprob", **options)
    assert len(whole.targets) == 1 and len(apart.targets) == 3
    assert whole.segments == apart.segments and whole.additive == apart.additive
    for field in ("values", "levels", "baseline", "final"):
        total = getattr(apart, field).sum(0, keepdims=True)
        np.testing.assert_allclose(getattr(whole, field), total, atol=1e-12)
    assert whole.targets[0].position == 2
    assert whole.targets[0].token == "".join(target.token for target in apart.targets)
    assert whole.ranks is None and whole.top is None and whole.unit == "nats"
    assert "sums over the tokens" in whole.provenance.notes[-1]


def test_the_value_of_a_sequence_is_hugging_faces_log_probability(toy_model, hf_probs):
    probs = hf_probs("llama", TEXT)
    expected = sum(probs[place, TEXT[place + 1]].log().item() for place in (2, 3, 4))
    result = measure_sequence(toy_model("llama"), ig_lens, "sequence_logprob")
    np.testing.assert_allclose(result.final, [expected], atol=1e-5)
    np.testing.assert_allclose(result.completeness_error, 0, atol=1e-12)


def test_every_text_of_a_batch_has_a_sequence_of_its_own(toy_model):
    toy = toy_model("llama", "bridge", "float64")
    prompts, answers = [IDS[:3], IDS[4:6]], [IDS[3:5], IDS[6:10]]
    options = {"value": "sequence_logprob"}
    batch = ig_lens(toy, prompts, answer=answers, **options)
    assert len(batch.targets) == 2
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        alone = ig_lens(toy, prompt, answer=answer, **options)
        found = batch.for_prompt(index)
        assert_close_to(found.values, alone.values, tolerance=1e-6)
        assert found.targets == alone.targets


@pytest.mark.parametrize("lens", [ig_lens, components, logit_lens])
def test_candidates_are_no_sequence(toy, lens):
    with pytest.raises(ValueError, match="alternatives for the same one; give the continuation as"):
        lens(toy, PROMPT, targets=[5, 9], value="sequence_logprob")
    one = lens(toy, PROMPT, targets=[5], value="sequence_logprob")
    other = lens(toy, PROMPT, targets=[5], value="logprob")
    assert_close_to(one.values, other.values, dtype=torch.float32)


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_the_result_of_a_sequence_survives_a_file(toy, tmp_path, ending):
    result = measure_sequence(toy, components, "sequence_logprob", by="head")
    loaded = LensResult.load(result.save(tmp_path / f"sequence.{ending}"))
    assert loaded.targets == result.targets and loaded.segments == result.segments
    for field in ("values", "levels", "baseline", "final"):
        assert_identical(getattr(loaded, field), getattr(result, field))
    assert loaded.ranks is None and loaded.provenance.notes == result.provenance.notes
    assert_close_to(loaded.to_frame()["sum"], result.values.sum(1))
    assert len(loaded.contributors(top=3)) == 4
    loaded.waterfall(0)
    loaded.heatmap()


@pytest.mark.parametrize(
    "lens", [ig_lens, logit_lens, components, layer_conductance, layer_integrated_gradients]
)
def test_every_lens_explains_values_that_do_not_exist(toy, lens):
    for value, message in (
        ("probability", "unknown value 'probability'; choose one of prob"),
        (LogitDifference(5, 97), "value token id 97 is not in the vocabulary"),
        (ProbabilityDifference("w5", 5), "names token 5 twice"),
        (TokenSet(["w5 w9"]), "'w5 w9', which is 2 tokens"),
        (TokenSet(["w5", "Paris"]), "names 'Paris', not in the vocabulary"),
    ):
        with pytest.raises(ValueError, match=message):
            lens(toy, PROMPT, targets=[5], value=value)
    with pytest.raises(TypeError, match="value must be a name or a Value"):
        lens(toy, PROMPT, targets=[5], value=3)
