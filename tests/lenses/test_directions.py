"""Directions of the residual stream as parts of updates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from iglens_tl import Directions, components, ig_lens
from iglens_tl.models import adapt
from tests.support.cases import IDS
from tests.support.chords import cache_of, integrate, states_of
from tests.support.native import native_bridge

TEXT = IDS[:6]
NEXT = TEXT[1:]
D_MODEL = 32
N_LAYERS = 3


@pytest.fixture(scope="module")
def model(toy_model):
    """Return a sequential model with biases, in float64."""
    return toy_model("gpt2", "bridge", "float64")


@pytest.fixture(scope="module")
def gradients(model):
    """Return the integrated gradients of the layers, found by autograd."""
    states, readout = states_of(model, TEXT), adapt(model).readout
    return [integrate(readout, before, after, NEXT)[1] for before, after in pairwise(states[1:])]


@pytest.fixture(scope="module")
def updates(model):
    """Return what each layer adds to the stream at all positions but the last."""
    states = states_of(model, TEXT)[1:]
    return [after - before for before, after in pairwise(states)]


def random_vectors(n_directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_directions, D_MODEL, generator=generator, dtype=torch.float64)


def measure(model, directions, **options: Any):
    """Split the updates over directions; all of them are shown."""
    options = {"keep": 1000} | options
    return components(model, TEXT, by="direction", directions=directions, **options)


def test_least_squares_leave_a_rest_that_is_orthogonal_to_all_directions(model, gradients, updates):
    vectors = random_vectors(5)
    found = measure(model, vectors).to_frame()
    for layer, (update, gradient) in enumerate(zip(updates, gradients, strict=True)):
        coefficients = update @ torch.linalg.pinv(vectors)
        rest = update - coefficients @ vectors
        assert (rest @ vectors.T).abs().max() < 1e-9
        expected = coefficients * (gradient @ vectors.T)
        labels = [f"L{layer}.f{number}" for number in range(5)]
        np.testing.assert_allclose(found[labels], expected, atol=1e-9)
        np.testing.assert_allclose(found[f"L{layer}.rest"], (gradient * rest).sum(1), atol=1e-9)


def test_an_orthonormal_basis_leaves_no_rest(model, gradients, updates):
    basis = torch.linalg.qr(random_vectors(D_MODEL))[0]
    result = measure(model, basis)
    assert not any("rest" in label for label in result.segments)
    for layer, (update, gradient) in enumerate(zip(updates, gradients, strict=True)):
        expected = (update @ basis.T) * (gradient @ basis.T)
        labels = [f"L{layer}.f{number}" for number in range(D_MODEL)]
        np.testing.assert_allclose(result.to_frame()[labels], expected, atol=1e-9)


def test_the_lengths_of_directions_and_their_container_do_not_matter(model):
    vectors = random_vectors(4)
    expected = measure(model, vectors)
    parameter = torch.nn.Parameter(vectors.clone())
    for same in (
        3 * vectors,
        -0.1 * vectors,
        vectors.numpy(),
        vectors.tolist(),
        parameter,
        Directions(vectors),
        Directions(parameter),
    ):
        found = measure(model, same)
        assert found.segments == expected.segments
        np.testing.assert_allclose(found.values, expected.values, atol=1e-12)


def test_directions_of_whole_numbers_are_directions(model):
    axes = torch.eye(D_MODEL, dtype=torch.int64)[:3]
    expected = measure(model, axes.double())
    for same in (axes, axes.tolist(), axes.numpy(), Directions(axes.float())):
        np.testing.assert_allclose(measure(model, same).values, expected.values, atol=1e-12)


def test_the_most_credited_directions_are_kept_and_the_others_join_the_rest(model):
    every, few = (measure(model, random_vectors(6), keep=keep).to_frame() for keep in (1000, 2))
    shown = [label for label in few.columns if ".f" in label]
    of_directions = every[[label for label in every.columns if ".f" in label]]
    largest = {s for _, row in of_directions.iterrows() for s in row.abs().nlargest(2).index}
    assert set(shown) == largest
    np.testing.assert_allclose(few[shown], every[shown], atol=1e-12)
    for layer in range(N_LAYERS):
        others = [s for s in of_directions if s.startswith(f"L{layer}.") and s not in largest]
        expected = every[f"L{layer}.rest"] + every[others].sum(axis=1)
        np.testing.assert_allclose(few[f"L{layer}.rest"], expected, atol=1e-12)


class Encoder:
    """A rectified encoder, as sparse autoencoders have."""

    def __init__(self, n_features=7):
        self.weight = torch.nn.Parameter(random_vectors(n_features, seed=1).T.contiguous())

    def __call__(self, states):
        """Return the codes of states."""
        return torch.relu(states @ self.weight - 0.5)


@pytest.mark.parametrize("update", ["layer", "attn", "mlp"])
def test_an_encoder_says_how_much_of_each_direction_an_update_contains(model, gradients, update):
    encode, vectors = Encoder(), random_vectors(7)
    directions = Directions(vectors, update=update, layers=(0, 2), encode=encode)
    result = measure(model, directions)
    frame, kept, states = result.to_frame(), cache_of(model, TEXT), states_of(model, TEXT)[1:]
    exact = ig_lens(model, TEXT, top_k=0).to_frame()
    for layer in (0, 2):
        if update == "layer":
            codes = encode(states[layer + 1]) - encode(states[layer])
        else:
            codes = encode(kept[f"blocks.{layer}.hook_{update}_out"][:-1])
        expected = (codes * (gradients[layer] @ vectors.T)).detach()
        labels = [f"L{layer}.f{number}" for number in range(7)]
        # Columns of directions that no target credits are shown as zeros, too.
        np.testing.assert_allclose(frame[labels], expected, atol=1e-9)
    assert not any(label.startswith("L1.f") for label in result.segments)
    np.testing.assert_allclose(frame["L1.rest"], exact["L1"], atol=1e-9)
    np.testing.assert_allclose(result.by_layer().values, exact.iloc[:, :4], atol=1e-10)


def test_directions_may_describe_one_sublayer_by_least_squares(model, gradients):
    vectors = random_vectors(3)
    frame = measure(model, Directions(vectors, update="mlp")).to_frame()
    written = cache_of(model, TEXT)["blocks.1.hook_mlp_out"][:-1]
    coefficients = written @ torch.linalg.pinv(vectors)
    expected = coefficients * (gradients[1] @ vectors.T)
    np.testing.assert_allclose(frame[["L1.f0", "L1.f1", "L1.f2"]], expected, atol=1e-9)


@pytest.mark.parametrize("estimator", ["ps_ig", "idgi"])
def test_directions_keep_the_sum_rules_of_all_estimators(model, estimator):
    for path in ("hidden_states", "straight"):
        result = measure(model, random_vectors(3), estimator=estimator, path=path)
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-9)


def test_a_batch_has_the_directions_of_its_prompts(model):
    prompts, options = [IDS[:3], IDS[2:7]], {"by": "direction", "directions": random_vectors(3)}
    batch = components(model, prompts, **options)
    alone = [components(model, prompt, **options).values for prompt in prompts]
    np.testing.assert_allclose(batch.values, np.concatenate(alone), atol=1e-9)


def test_a_model_without_mlps_has_none_to_describe():
    model = native_bridge(normalization_type="LN", attn_only=True)
    result = measure(model, Directions(random_vectors(3), update="mlp"))
    assert not any(".f" in label for label in result.segments)
    np.testing.assert_allclose(result.by_layer().values, ig_lens(model, TEXT).values, atol=1.1e-5)


def test_directions_belong_to_their_split(toy):
    with pytest.raises(ValueError, match="directions together with by='direction', and only then"):
        components(toy, TEXT, by="direction")
    with pytest.raises(ValueError, match="directions together with by='direction', and only then"):
        components(toy, TEXT, by="head", directions=random_vectors(2))
    with pytest.raises(ValueError, match="by='direction' splits the update of a whole block"):
        measure(toy, random_vectors(2), path="sublayers")


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_directions_that_are_zero_or_not_finite_are_named(toy, bad):
    vectors = random_vectors(4)
    vectors[2, 5] = bad
    if bad == 0:
        vectors[2] = 0
    # A sparse autoencoder may have dead features, but none that are not numbers.
    encoded = [] if bad == 0 else [Directions(vectors, encode=Encoder(4))]
    for directions in (vectors, Directions(vectors), *encoded):
        with pytest.raises(ValueError, match="direction 2 is zero, NaN or infinite; leave such"):
            measure(toy, directions)


def test_features_of_an_encoder_may_be_dead(model):
    vectors = random_vectors(7)
    vectors[2] = 0
    frame = measure(model, Directions(vectors, encode=Encoder())).to_frame()
    assert not frame[["L0.f2", "L1.f2", "L2.f2"]].to_numpy().any()


@pytest.mark.parametrize(
    ("vectors", "shape"),
    [
        (torch.ones(3, 31), r"\(3, 31\)"),
        (torch.ones(32, 3), r"\(32, 3\)"),
        (torch.ones(32), r"\(32,\)"),
        (torch.ones(0, 32), r"\(0, 32\)"),
        ([[1.0, 2.0]], r"\(1, 2\)"),
    ],
)
def test_directions_of_a_wrong_shape_are_explained(toy, vectors, shape):
    with pytest.raises(ValueError, match=f"{shape}, expected .number of directions, 32"):
        measure(toy, vectors)


def test_other_things_are_no_directions(toy):
    for thing in ("directions", 3, {"vectors": 1}):
        with pytest.raises(TypeError, match="directions must be Directions or vectors of shape"):
            measure(toy, thing)


def test_dependent_directions_are_refused_unless_an_encoder_tells_them_apart(toy):
    dependent = torch.cat([random_vectors(3), random_vectors(3)[:1] * 2])
    too_many = random_vectors(33)
    for vectors, rank in ((dependent, 3), (too_many, 32)):
        with pytest.raises(ValueError, match=f"the {len(vectors)} directions span only {rank} dim"):
            measure(toy, vectors)
        encode = Encoder(len(vectors)).weight.float()
        result = measure(toy, Directions(vectors, encode=lambda s, encode=encode: s @ encode))
        assert abs(result.completeness_error).max() < 4e-5


def test_updates_layers_and_encoders_that_do_not_fit_are_explained(toy):
    vectors = random_vectors(3)
    with pytest.raises(ValueError, match="unknown update 'resid' .* choose one of layer, attn, ml"):
        measure(toy, Directions(vectors, update="resid"))
    for layer in (3, -1):
        with pytest.raises(ValueError, match=rf"layer {layer}, but .* has layers 0 to 2"):
            measure(toy, Directions(vectors, layers=(1, layer)))
    with pytest.raises(ValueError, match=r"shape \(5, 2\), expected \(5, 3\): one for each state"):
        measure(toy, Directions(vectors, encode=lambda states: states[:, :2]))
