"""Sparse autoencoders as directions: their features add up, or they are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from iglens_tl import Directions, components, directions_from_sae
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to
from tests.support.results import features

WIDTH = 32
SOME_MODELS = [
    case
    for case in EVERY_MODEL
    if case.values[0] in ("gpt2", "gpt_neox_parallel", "gemma2", "granite", "mixtral")
]


class Autoencoder:
    """A sparse autoencoder with SAELens's attributes, of which nothing is learned."""

    def __init__(self, hook="blocks.1.hook_resid_post", *, vectors=None, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        if vectors is None:
            vectors = torch.randn(48, WIDTH, generator=generator)
        self.W_dec = torch.nn.Parameter(vectors.to(dtype))
        self.W_enc = self.W_dec.detach().T.clone()
        self.b_dec = torch.randn(vectors.shape[-1], generator=generator).to(dtype)
        self.cfg: Any = SimpleNamespace(metadata=SimpleNamespace(hook_name=hook))

    def encode(self, states):
        return torch.relu((states - self.b_dec) @ self.W_enc)

    def decode(self, codes):
        return codes @ self.W_dec + self.b_dec


def lossless(hook="blocks.1.hook_resid_post", **options):
    """Return an autoencoder of which every feature is one side of a coordinate."""
    return Autoencoder(hook, vectors=torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]), **options)


def split(model, directions, **options):
    return components(model, IDS, by="direction", directions=directions, keep=10**6, **options)


@pytest.mark.parametrize(("name", "backend"), SOME_MODELS)
def test_features_of_a_lossless_autoencoder_are_all_of_their_layer(toy_model, name, backend):
    model = toy_model(name, backend)
    result = split(model, directions_from_sae(lossless()))
    layers = components(model, IDS, by="layer").to_frame()
    np.testing.assert_allclose(features(result, 1).sum(axis=1), layers["L1"], atol=1e-5)
    frame = result.to_frame()
    rest = np.abs(frame["L1.rest"]).max() if "L1.rest" in frame else 0
    assert rest < 1e-5
    for layer in (0, 2):
        np.testing.assert_allclose(frame[f"L{layer}.rest"], layers[f"L{layer}"], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.0.hook_attn_out"])
def test_features_and_rest_are_exactly_the_layer(toy_model, hook, dtype):
    model = toy_model("gpt2", dtype=dtype)
    frame = split(model, directions_from_sae(Autoencoder(hook))).to_frame()
    layers = components(model, IDS, by="layer").to_frame()
    for layer in range(3):
        own = [name for name in frame if name.startswith(f"L{layer}.")]
        atol = 1e-5 if dtype == "float32" else 1e-10
        np.testing.assert_allclose(frame[own].sum(axis=1), layers[f"L{layer}"], atol=atol)


@pytest.mark.parametrize(
    ("name", "backend"),
    [("gpt2", "auto"), ("phi", "bridge"), ("gemma2", "bridge"), ("olmo2", "bridge")],
)
@pytest.mark.parametrize("part", ["attn", "mlp"])
def test_features_of_a_lossless_autoencoder_of_an_output_are_all_of_it(
    toy_model, name, backend, part
):
    model = toy_model(name, backend)
    sae = lossless(f"blocks.1.hook_{part}_out")
    sae.b_dec.zero_()
    result = split(model, directions_from_sae(sae))
    sublayers = components(model, IDS, by="sublayer").to_frame()
    np.testing.assert_allclose(features(result, 1).sum(axis=1), sublayers[f"L1.{part}"], atol=1e-5)


def test_a_feature_is_credited_along_its_direction_with_the_change_of_its_coefficient(toy_model):
    model, sae = toy_model("gpt2", dtype="float64"), Autoencoder(dtype=torch.float64)
    result = features(split(model, directions_from_sae(sae)), 1)
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    before, after = (cache[f"blocks.{layer}.hook_resid_post"][0, :-1] for layer in (0, 1))
    nodes, weights = np.polynomial.legendre.leggauss(64)
    gradient = torch.zeros_like(before)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        state = (before + node * (after - before)).detach().requires_grad_()
        probs = model.unembed(model.ln_final(state[None]))[0].softmax(-1)
        chosen = probs[range(len(IDS) - 1), IDS[1:]].sum()
        gradient += weight * torch.autograd.grad(chosen, state)[0]
    change = sae.encode(after) - sae.encode(before)
    expected = change * (gradient @ sae.W_dec.T)
    assert list(result) == [f"L1.f{number}" for number in range(48)]
    np.testing.assert_allclose(result, expected.detach(), atol=1e-9)


@pytest.mark.parametrize(
    ("hook", "update", "layers"),
    [
        ("blocks.2.hook_resid_post", "layer", (2,)),
        ("blocks.2.hook_resid_pre", "layer", (1,)),
        ("blocks.2.hook_attn_out", "attn", (2,)),
        ("blocks.10.hook_mlp_out", "mlp", (10,)),
    ],
)
def test_an_autoencoder_describes_the_update_that_ends_where_it_reads(hook, update, layers):
    directions = directions_from_sae(Autoencoder(hook))
    assert (directions.update, directions.layers) == (update, layers)
    chosen = directions_from_sae(Autoencoder(hook), layers=[0, 2])
    assert (chosen.update, chosen.layers) == (update, (0, 2))


def test_an_autoencoder_of_the_embedding_describes_only_the_blocks_that_are_named():
    sae = Autoencoder("blocks.0.hook_resid_pre")
    with pytest.raises(ValueError, match=r"reads the embedding, .* layers=\[0\] describes"):
        directions_from_sae(sae)
    assert directions_from_sae(sae, layers=np.array([0])).layers == (0,)


def test_dead_features_keep_the_numbers_of_the_others(toy):
    whole, thinned = Autoencoder(), Autoencoder()
    dead = [0, 7, 47]
    with torch.no_grad():
        thinned.W_dec[dead] = 0
    all_features = features(split(toy, directions_from_sae(whole)), 1)
    others = features(split(toy, directions_from_sae(thinned)), 1)
    alive = [label for label in all_features if label not in {f"L1.f{number}" for number in dead}]
    assert_close_to(others[alive].to_numpy(), all_features[alive].to_numpy(), dtype=torch.float32)
    assert not others.drop(columns=alive).to_numpy().any()
    with pytest.raises(ValueError, match="direction 0 is zero"):
        split(toy, Directions(thinned.W_dec.detach()[:2]))


def test_names_of_hooks_are_found_in_configurations_before_saelens_6():
    sae = Autoencoder()
    sae.cfg = SimpleNamespace(hook_name="blocks.2.hook_resid_post", normalize_activations="none")
    assert directions_from_sae(sae).layers == (2,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_autoencoder_keeps_its_own_precision(toy, dtype):
    sae = Autoencoder(dtype=dtype)
    directions = directions_from_sae(sae)
    assert directions.encode is not None
    assert directions.encode(torch.ones(2, WIDTH)).dtype == dtype
    own, plain = (
        features(split(toy, directions_from_sae(either)), 1) for either in (sae, Autoencoder())
    )
    np.testing.assert_allclose(own, plain, atol=0.02)


def test_sparse_coefficients_are_read(toy):
    sae, plain = Autoencoder(), Autoencoder()
    dense = sae.encode
    sae.encode = lambda states: dense(states).to_sparse()
    own, expected = (split(toy, directions_from_sae(either)) for either in (sae, plain))
    assert_close_to(own.values, expected.values, dtype=torch.float32)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.1.hook_resid_mid", "a state in the middle of a block"),
        ("blocks.1.attn.hook_z", "reads blocks.1.attn.hook_z, which is neither"),
        ("blocks.1.mlp.hook_post", "neither a state of the stream nor what .* adds to it"),
        ("hook_embed", "names the hook 'hook_embed', expected"),
        ("model.layers.3", "such as 'blocks.3.hook_resid_post'"),
        (None, "names the hook None"),
    ],
)
def test_autoencoders_of_other_places_are_refused_with_the_reason(hook, message):
    with pytest.raises(ValueError, match=message):
        directions_from_sae(Autoencoder(hook))


def test_transcoders_and_crosscoders_are_refused_with_the_reason():
    elsewhere, other_width, several = Autoencoder(), Autoencoder(), Autoencoder()
    elsewhere.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
    other_width.cfg.d_out = 32
    several.W_dec = torch.nn.Parameter(torch.ones(48, 2, WIDTH))
    for transcoder in (elsewhere, other_width):
        with pytest.raises(ValueError, match="a transcoder: it reads blocks.1.hook_resid_post"):
            directions_from_sae(transcoder)
    with pytest.raises(ValueError, match=r"shape \(48, 2, 32\), .* a crosscoder"):
        directions_from_sae(several)


def test_autoencoders_that_do_not_add_up_are_refused_with_the_reason():
    normalising, rescaling, broken = Autoencoder(), Autoencoder(), Autoencoder()
    normalising.cfg.normalize_activations = "layer_norm"
    rescaling.decode = lambda codes: codes @ (rescaling.W_dec * 1.001) + rescaling.b_dec
    with torch.no_grad():
        broken.W_dec[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"normalises its input \(layer_norm\)"):
        directions_from_sae(normalising)
    for sae in (rescaling, broken):
        with pytest.raises(ValueError, match="times W_dec are not what it decodes"):
            directions_from_sae(sae)


def test_encoders_that_look_at_other_states_are_refused_with_the_reason():
    in_batch, in_text = Autoencoder(), Autoencoder()
    dense = in_batch.encode

    def largest_of_all(states):
        codes = dense(states)
        return codes * (codes >= codes.flatten().topk(8 * len(codes)).values[-1])

    def after_each_other(states):
        n_texts, n_positions, _ = states.shape
        return dense(states).view(n_texts, n_positions, -1)

    in_batch.encode, in_text.encode = largest_of_all, after_each_other
    with pytest.raises(ValueError, match="depend on the other states in the batch"):
        directions_from_sae(in_batch)
    with pytest.raises(ValueError, match="cannot encode single states .*expected 3, got 2"):
        directions_from_sae(in_text)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (1, TypeError, "layers must be a list of block numbers, got 1"),
        ("12", TypeError, "layers must be a list of block numbers, got '12'"),
        ([1.0], TypeError, "layers must be block numbers, got 1.0"),
        ([True], TypeError, "layers must be block numbers, got True"),
        ([], ValueError, "layers is empty"),
    ],
)
def test_bad_layers_are_named(layers, error, message):
    with pytest.raises(error, match=message):
        directions_from_sae(Autoencoder(), layers=layers)


def test_what_is_no_autoencoder_or_none_of_this_model_is_named(toy):
    with pytest.raises(TypeError, match="has W_dec, encode, decode, cfg, but Linear has no W_dec"):
        directions_from_sae(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match="directions for layer 9, but .* has layers 0 to 2"):
        split(toy, directions_from_sae(Autoencoder("blocks.9.hook_resid_post")))
    narrow = Autoencoder(vectors=torch.ones(4, 8))
    with pytest.raises(ValueError, match=r"directions have shape \(4, 8\), expected"):
        split(toy, directions_from_sae(narrow))
