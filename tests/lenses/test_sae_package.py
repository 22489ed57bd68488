"""The sparse autoencoders of SAELens itself: those that add up, and those that are refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from iglens_tl import components, directions_from_sae
from tests.support.results import features

TEXT = "The capital of Vietnam is Hanoi"


@pytest.fixture(scope="module")
def saes() -> Any:
    """Return SAELens's classes, or skip where it is not installed."""
    with warnings.catch_warnings():
        # It imports modules of TransformerLens by names that are deprecated.
        warnings.simplefilter("ignore")
        pytest.importorskip("sae_lens")
        from sae_lens import saes  # pyright: ignore[reportMissingImports]
    return saes


def build(saes, name, hook="blocks.3.hook_resid_post", **options):
    """Build a random autoencoder of the embedded model's states by the name of its class."""
    torch.manual_seed(0)
    metadata = saes.sae.SAEMetadata(hook_name=hook)
    options = {"d_in": 192, "d_sae": 256, "metadata": metadata} | options
    sae = getattr(saes, name)(getattr(saes, f"{name}Config")(**options))
    with torch.no_grad():
        for parameter in sae.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter).abs())
    return sae


def require_that_it_adds_up(model, sae, layers):
    directions = directions_from_sae(sae)
    result = components(model, TEXT, by="direction", directions=directions)
    frame = result.to_frame()
    for layer in range(8):
        own = frame[[name for name in result.segments if name.startswith(f"L{layer}.")]]
        np.testing.assert_allclose(own.sum(axis=1), layers[f"L{layer}"], atol=1e-6)
    assert np.abs(features(result, 3)).to_numpy().max() > 1e-3
    _, cache = model.run_with_cache(model.to_tokens(TEXT))
    states = cache["blocks.3.hook_resid_post"][0]
    with torch.no_grad():
        assert directions.encode is not None
        decoded = sae(states) - sae.decode(torch.zeros(1, 256))
        written = directions.encode(states) @ directions.vectors
    torch.testing.assert_close(written, decoded, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def demo_layers(demo) -> Any:
    """Return the layers' credits on the embedded model."""
    return components(demo, TEXT, by="layer").to_frame()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StandardSAE", {}),
        ("StandardSAE", {"apply_b_dec_to_input": False}),
        ("TopKSAE", {"k": 16}),
        ("JumpReLUSAE", {}),
        ("GatedSAE", {}),
        ("MatchingPursuitSAE", {}),
    ],
)
def test_autoencoders_of_saelens_add_up(saes, demo, demo_layers, name, options):
    require_that_it_adds_up(demo, build(saes, name, **options), demo_layers)


def test_autoencoders_of_saelens_add_up_once_folded(saes, demo, demo_layers):
    by_length = build(saes, "TopKSAE", k=16, rescale_acts_by_decoder_norm=True)
    by_factor = build(saes, "StandardSAE", normalize_activations="expected_average_only_in")
    with pytest.raises(ValueError, match="call sae.fold_W_dec_norm"):
        directions_from_sae(by_length)
    with pytest.raises(ValueError, match="sae.fold_activation_norm_scaling_factor"):
        directions_from_sae(by_factor)
    by_length.fold_W_dec_norm()
    by_factor.fold_activation_norm_scaling_factor(0.3)
    for sae in (by_length, by_factor):
        require_that_it_adds_up(demo, sae, demo_layers)


def test_what_saelens_has_besides_autoencoders_is_refused(saes):
    transcoder = build(saes, "Transcoder", d_out=192, apply_b_dec_to_input=False)
    with pytest.raises(ValueError, match="this is a transcoder"):
        directions_from_sae(transcoder)
    with pytest.raises(ValueError, match="depend on the other states in the batch"):
        directions_from_sae(build(saes, "BatchTopKTrainingSAE", k=16))
    with pytest.raises(ValueError, match="cannot encode single states"):
        directions_from_sae(build(saes, "TemporalSAE", d_sae=512))
    heads = "blocks.3.attn.hook_z"
    with pytest.raises(ValueError, match="reads blocks.3.attn.hook_z, which is neither"):
        directions_from_sae(build(saes, "StandardSAE", heads, reshape_activations="hook_z"))
