"""Components against autograd, Captum and plain loops, under every estimator."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients

from iglens_tl import components, ig_lens
from iglens_tl.models import adapt
from iglens_tl.results.segments import parse_segment
from tests.support.cases import IDS
from tests.support.chords import gradient_at, integrate, part_vectors, states_of
from tests.support.families import D_VOCAB
from tests.support.native import native_bridge

TEXT = IDS[:6]
NEXT = TEXT[1:]
N_LAYERS = 3
SPLITS = ("sublayer", "head", "head_source", "neuron")
REFERENCES = ["gpt2", "gpt_neox_parallel"]
"""A sequential and a parallel model whose heads read values of their own, with biases."""


def reference_model(toy_model, name):
    return toy_model(name, "bridge", "float64")


def shares(gradient, vectors):
    """Return the products of an integrated gradient with parts, `[target]` by label."""
    return {label: (gradient * vector).sum(1).numpy() for label, vector in vectors.items()}


def assert_shares_are(result, expected, atol=1e-9):
    """Check all credits but those of rests."""
    for label, credit in zip(result.segments, result.values.T, strict=True):
        if "rest" not in label:
            np.testing.assert_allclose(credit, expected[label], atol=atol, rtol=0, err_msg=label)


def steps_of(model):
    """Yield the layer (None for the embedding), start and end of every step."""
    states = states_of(model, TEXT)
    yield from zip((None, *range(N_LAYERS)), states, states[1:], strict=False)


@pytest.mark.parametrize("name", REFERENCES)
def test_shares_along_hidden_states_are_what_autograd_finds(toy_model, name):
    model = reference_model(toy_model, name)
    readout, expected = adapt(model).readout, {}
    for layer, start, end in steps_of(model):
        _, gradient = integrate(readout, start, end, NEXT)
        expected |= shares(gradient, part_vectors(model, TEXT, layer))
    for by in SPLITS:
        assert_shares_are(components(model, TEXT, by=by, keep=500), expected)


@pytest.mark.parametrize("name", REFERENCES)
def test_shares_along_the_straight_line_are_what_autograd_finds(toy_model, name):
    model = reference_model(toy_model, name)
    states, expected = states_of(model, TEXT), {}
    _, gradient = integrate(adapt(model).readout, states[0], states[-1], NEXT)
    for layer in (None, *range(N_LAYERS)):
        expected |= shares(gradient, part_vectors(model, TEXT, layer))
    for by in SPLITS:
        result = components(model, TEXT, by=by, path="straight", keep=500)
        assert_shares_are(result, expected)


def test_shares_along_sublayers_are_what_autograd_finds(toy_model):
    model = reference_model(toy_model, "gpt2")
    readout, expected = adapt(model).readout, {}
    for layer, start, end in steps_of(model):
        vectors = part_vectors(model, TEXT, layer)
        middle = end if layer is None else start + vectors[f"L{layer}.attn"]
        of_mlp = {label: vectors[label] for label in vectors if ".mlp" in label}
        expected |= shares(integrate(readout, start, middle, NEXT)[1], vectors)
        if of_mlp:
            expected |= shares(integrate(readout, middle, end, NEXT)[1], of_mlp)
    for by in SPLITS:
        result = components(model, TEXT, by=by, path="sublayers", keep=500)
        assert_shares_are(result, expected)


@pytest.mark.parametrize("name", REFERENCES)
def test_captum_finds_the_same_shares_of_a_layers_parts(toy_model, name):
    model = reference_model(toy_model, name)
    readout = adapt(model).readout
    start = states_of(model, TEXT)[2]
    vectors = part_vectors(model, TEXT, 1)
    result = components(model, TEXT, by="head").to_frame()
    labels = [label for label in result.columns if label.startswith("L1.")]
    for row, token in enumerate(NEXT):
        parts = torch.stack([vectors[label][row] for label in labels])

        def probability(weights, row=row, parts=parts, token=token):
            return readout.logits(start[row] + weights @ parts).softmax(-1)[:, token]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = IntegratedGradients(probability).attribute(
                torch.ones(1, len(labels), dtype=torch.float64), n_steps=150
            )
        np.testing.assert_allclose(result[labels].iloc[row], found[0].detach(), atol=1e-9)


def test_on_the_straight_line_equal_updates_have_equal_credit_and_double_ones_twice(toy_model):
    model = reference_model(toy_model, "gpt2")
    update = torch.linspace(-2, 3, 32).double().roll(7)

    def write(factor):
        return lambda written, hook: (factor * update).expand_as(written)

    hooks = [(f"blocks.{layer}.hook_attn_out", write(0.0)) for layer in range(N_LAYERS)]
    hooks += [(f"blocks.{layer}.hook_mlp_out", write((1, 2, 1)[layer])) for layer in range(3)]
    with model.hooks(fwd_hooks=hooks):
        straight = components(model, TEXT, by="layer", path="straight").to_frame()
        ordered = components(model, TEXT, by="layer").to_frame()
    np.testing.assert_allclose(straight["L0"], straight["L2"], atol=1e-12)
    np.testing.assert_allclose(2 * straight["L0"], straight["L1"], atol=1e-12)
    assert abs(ordered["L0"] - ordered["L2"]).max() > 1e-3
    assert abs(straight["L0"]).max() > 1e-3


@pytest.mark.parametrize("path", ["hidden_states", "straight"])
def test_ps_ig_weights_every_place_and_sums_to_the_final_less_the_mean(toy_model, path):
    model = reference_model(toy_model, "gpt2")
    readout, states, expected = adapt(model).readout, states_of(model, TEXT), {}
    on_one_line = path == "straight"
    n_chords = 1 if on_one_line else N_LAYERS + 1
    means = []
    for number, (layer, start, end) in enumerate(steps_of(model)):
        first, chord = (0, (states[0], states[-1])) if on_one_line else (number, (start, end))
        mean, gradient = integrate(
            readout, *chord, NEXT, weight=lambda at, first=first: (first + at) / n_chords
        )
        means.append(mean)
        expected |= shares(gradient, part_vectors(model, TEXT, layer))
    mean = torch.stack(means).mean(0).numpy()
    for by in ("sublayer", "head", "neuron"):
        result = components(model, TEXT, by=by, path=path, estimator="ps_ig", keep=500)
        assert_shares_are(result, expected)
        np.testing.assert_allclose(result.baseline, mean, atol=1e-10)
        np.testing.assert_allclose(result.values.sum(1), result.final - mean, atol=4e-10)
    np.testing.assert_allclose(result.final, ig_lens(model, TEXT).final, atol=1e-12)


def idgi(readout, start, end, parts, n_steps):
    """Split every step's change by the squares of the parts' slopes at its middle."""
    credits = torch.zeros(len(start), len(parts), dtype=torch.float64)
    stacked = torch.stack(parts, dim=1)
    for step in range(n_steps):
        low, middle, high = (start + (step + a) / n_steps * (end - start) for a in (0, 0.5, 1))
        change = gradient_at(readout, high, NEXT)[0] - gradient_at(readout, low, NEXT)[0]
        squares = torch.einsum("rpm,rm->rp", stacked, gradient_at(readout, middle, NEXT)[1]) ** 2
        credits += squares / squares.sum(1, keepdim=True) * change[:, None]
    return credits.numpy()


@pytest.mark.parametrize("n_steps", [1, 3, 16])
def test_idgi_is_complete_and_what_a_plain_loop_finds(toy_model, n_steps):
    model = reference_model(toy_model, "gpt2")
    exact = ig_lens(model, TEXT, top_k=0)
    options = {"estimator": "idgi", "n_steps": n_steps}
    result = components(model, TEXT, by="head", **options)
    np.testing.assert_allclose(result.by_layer().values, exact.values, atol=1e-12)
    for layer, start, end in steps_of(model):
        vectors = part_vectors(model, TEXT, layer)
        prefix = "L" if layer is None else f"L{layer}."
        own = [s for s in result.segments if s.startswith(prefix) == (layer is not None)]
        expected = idgi(adapt(model).readout, start, end, [vectors[s] for s in own], n_steps)
        np.testing.assert_allclose(result.to_frame()[own], expected, atol=1e-10)
        if n_steps == 1:
            # Within one step, all parts get the sign of its change.
            credits = result.to_frame()[own].to_numpy()
            assert ((credits >= 0).all(1) | (credits <= 0).all(1)).all()
    whole = components(model, TEXT, by="layer", **options).by_layer()
    np.testing.assert_allclose(whole.values, exact.values, atol=1e-12)
    straight = components(model, TEXT, by="head_source", path="straight", **options)
    np.testing.assert_allclose(straight.completeness_error, 0, atol=1e-12)
    if n_steps == 1:
        change = straight.final - straight.baseline
        assert (straight.values * np.sign(change)[:, None] >= 0).all()


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "gpt_neox_parallel"])
@pytest.mark.parametrize("estimator", ["ps_ig", "idgi"])
def test_other_estimators_keep_their_sum_rules_in_float32(toy_model, name, estimator):
    model = toy_model(name, "auto")
    result = components(model, TEXT, by="head_source", estimator=estimator)
    np.testing.assert_allclose(result.completeness_error, 0, atol=4e-5)
    assert result.provenance.options["estimator"] == estimator
    assert result.provenance.options["n_steps"] == {"ps_ig": 32, "idgi": 16}[estimator]


@pytest.mark.parametrize("keep", [1, 7])
def test_the_most_credited_neurons_of_every_target_are_kept(toy_model, keep):
    model = reference_model(toy_model, "gpt2")
    every = components(model, TEXT, by="neuron", keep=10_000)
    few = components(model, TEXT, by="neuron", keep=keep)
    is_neuron = [parse_segment(label).neuron is not None for label in every.segments]
    neurons = every.to_frame()[np.array(every.segments)[is_neuron]]
    largest = {label for _, row in neurons.iterrows() for label in row.abs().nlargest(keep).index}
    shown = [label for label in few.segments if parse_segment(label).neuron is not None]
    assert set(shown) == largest
    kept = few.to_frame()
    np.testing.assert_allclose(kept[shown], neurons[shown], atol=1e-12)
    for layer in range(N_LAYERS):
        others = [s for s in neurons if s.startswith(f"L{layer}.") and s not in largest]
        np.testing.assert_allclose(
            kept[f"L{layer}.mlp.rest"], neurons[others].sum(axis=1), atol=1e-12
        )
    assert few.provenance.options["keep"] == keep


def test_all_neurons_leave_no_rest(toy_model):
    model = reference_model(toy_model, "gpt2")
    every = components(model, TEXT, by="neuron", keep=10_000)
    n_neurons = model.blocks[0].mlp.W_out.shape[0]
    found = [parse_segment(label).neuron for label in every.segments]
    assert sum(number is not None for number in found) == N_LAYERS * n_neurons
    assert not any(label.endswith("rest") for label in every.segments)


def bump_model(place, width, height):
    """Return a model of one layer along whose update token 0 is probable near one place only.

    Attention and MLP write constants, half of the update each and something opposite besides.
    """
    model = native_bridge(n_layers=1, normalization_type=None).to(torch.float32)
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(32, 32, generator=generator))[0]
    logits, slopes = torch.randn(2, D_VOCAB, generator=generator)
    logits -= 60
    steepness = height / width
    logits[:3] = torch.tensor([0, steepness * place - height, -steepness * place - height])
    slopes[:3] = torch.tensor([0, -steepness, steepness])
    across = torch.randn(30, D_VOCAB, generator=generator)
    written = {
        "tok_embed": axes[:, 0].expand(D_VOCAB, 32),
        "pos": 0,
        "attn._original_component.o._original_component.bias": axes[:, 1] / 2 + 3 * axes[:, 2],
        "attn._original_component.o._original_component.weight": 0,
        "fc_out._original_component.bias": axes[:, 1] / 2 - 3 * axes[:, 2],
        "fc_out._original_component.weight": 0,
        "head._original_component.weight": (axes @ torch.stack([logits, slopes, *across])).T,
        "head._original_component.bias": 0,
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for part, weight in written.items():
                if part in name:
                    parameter.copy_(torch.as_tensor(weight))
    return model, axes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("by", ["sublayer", "head"])
@pytest.mark.parametrize(("place", "width"), [(0.014, 0.003), (0.9, 0.02), (0.3, 0.01)])
def test_the_error_of_a_credit_bounds_what_a_bump_between_two_states_makes_of_it(
    place, width, by, dtype
):
    model, axes = bump_model(place, width, height=6)
    model.to(dtype)
    result = components(model, [5, 0], by=by, baseline="embed")
    start, update, across = axes[:, :3].double().T
    unembed = model.W_U.double()
    edges = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    at = ((edges[1:] + edges[:-1]) / 2)[:, None]
    states = (start + at * update).requires_grad_()
    probs = (states @ unembed).softmax(1)[:, 0]
    assert probs[0] < 0.01 and probs[-1] < 0.01 < 0.9 < probs.max()
    gradient = torch.autograd.grad(probs.sum() / len(at), states)[0].sum(0)
    errors = dict(zip(result.segments, result.statistics["credit_error"][0], strict=True))
    credits = dict(zip(result.segments, result.values[0], strict=True))
    attention = "L0.attn" if by == "sublayer" else "L0.attn_bias"
    for name, sign in ((attention, 1), ("L0.mlp", -1)):
        expected = float(gradient @ (update / 2 + sign * 3 * across))
        assert abs(expected) > 1e-3
        # Rising and falling cancel in a credit, but not in its rounding.
        assert errors[name] < {4: 0.01, 8: 1e-5}[dtype.itemsize]
        precision_of_the_oracle = 1e-8
        assert abs(credits[name] - expected) <= errors[name] + precision_of_the_oracle
