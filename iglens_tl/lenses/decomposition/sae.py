"""Sparse autoencoders of SAELens as directions: which update they describe, and that they add up.

SAELens itself is not imported: whatever has the few attributes that are used here will do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.arguments import Layers
from iglens_tl.lenses.decomposition.directions import Directions

_UPDATES = {
    "hook_resid_post": "layer",
    "hook_resid_pre": "layer",
    "hook_attn_out": "attn",
    "hook_mlp_out": "mlp",
}
_NEEDED = ("W_dec", "encode", "decode", "cfg")
_TOLERANCE = 1e-4


def directions_from_sae(sae: Any, *, layers: Layers | None = None) -> Directions:
    """Make directions of a sparse autoencoder of SAELens 4 or later, or of an object like it.

    The directions are the rows of its decoder, and its encoder says how much of each an update
    contains. For an autoencoder of states (`hook_resid_post`, `hook_resid_pre`) that is the
    coefficients of the state after a block minus those of the state before it, so that biases
    cancel; for one of `hook_attn_out` or `hook_mlp_out` the coefficients of that output. What the
    autoencoder does not reconstruct, and in the second case its decoder's bias, is left as the
    rest of the layer.

    The model must have the stream that the autoencoder was trained on. Its configuration says in
    `model_from_pretrained_kwargs` how that model was loaded: centred weights, for one, move it.

    Args:
        sae: The autoencoder: `W_dec` `[feature, d_model]`, `encode`, `decode`, and the name of its
            hook in `cfg.metadata.hook_name` or, before SAELens 6, in `cfg.hook_name`. It is used
            as it is, where it is and in its own precision, whenever coefficients are needed.
        layers: The blocks to describe. By default the one at whose end the autoencoder reads:
            block 3 for `blocks.3.hook_resid_post` and for `blocks.4.hook_resid_pre`.

    Returns:
        Directions for `components(model, prompt, by="direction", directions=…)`. The numbers in
        its labels are those of the features: "L3.f12" is feature 12.

    Raises:
        TypeError: For an object that is no sparse autoencoder, or layers that are no integers.
        ValueError: For an autoencoder that does not read the stream or what a block adds to it,
            that writes elsewhere than it reads (a transcoder or crosscoder), of which the
            coefficients of one state depend on others, or of which coefficients times `W_dec` are
            not what it decodes.
    """
    missing = [name for name in _NEEDED if not hasattr(sae, name)]
    if missing:
        raise TypeError(
            f"a sparse autoencoder of SAELens has {', '.join(_NEEDED)}, but {type(sae).__name__} "
            f"has no {missing[0]}; for others, give Directions(vectors, encode=…)"
        )
    update, layer = _described_update(sae.cfg)
    vectors = sae.W_dec.detach()
    if vectors.ndim != 2:
        raise ValueError(
            f"W_dec has shape {tuple(vectors.shape)}, expected (features, d_model); a crosscoder, "
            "which writes to several layers, cannot describe the update of one"
        )

    def encode(states: Tensor) -> Tensor:
        # SAELens answers with sparse tensors where it is told to in training.
        return sae.encode(states.to(sae.W_dec)).to_dense()

    _check_encoder(encode, vectors)
    _check_decoder(sae, vectors)
    if layers is None and layer < 0:
        raise ValueError(
            "the autoencoder reads the embedding, where no block ends; layers=[0] describes the "
            "block that begins there"
        )
    described = (layer,) if layers is None else _as_layers(layers)
    return Directions(vectors, update=update, layers=described, encode=encode)


def _described_update(configuration: Any) -> tuple[str, int]:
    """Return which kind of update an autoencoder describes, and of which block."""
    metadata = getattr(configuration, "metadata", configuration)
    hook = getattr(metadata, "hook_name", None)
    written = getattr(metadata, "hook_name_out", None) or hook
    if written != hook or hasattr(configuration, "d_out"):
        raise ValueError(
            f"this is a transcoder: it reads {hook} and writes elsewhere, so its coefficients are "
            "not those of what it reads; give a sparse autoencoder"
        )
    if getattr(configuration, "normalize_activations", "none") not in ("none", None):
        raise ValueError(
            f"the autoencoder normalises its input ({configuration.normalize_activations}), so its "
            "coefficients are not in the units of the stream; a factor that is the same for all "
            "states can be folded into its weights: sae.fold_activation_norm_scaling_factor(…)"
        )
    block, place = _parse_hook(hook)
    if place == "hook_resid_mid":
        raise ValueError(
            f"the autoencoder reads {hook}, a state in the middle of a block, and directions "
            "describe whole blocks or what their attention or MLP wrote; give one of "
            f"{', '.join(_UPDATES)}"
        )
    if place not in _UPDATES:
        raise ValueError(
            f"the autoencoder reads {hook}, which is neither a state of the stream nor what a "
            "block's attention or MLP adds to it, so its directions are not the stream's; give "
            f"one of {', '.join(_UPDATES)}"
        )
    return _UPDATES[place], block - (place == "hook_resid_pre")


def _parse_hook(hook: Any) -> tuple[int, str]:
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(hook))
    if found is None:
        raise ValueError(
            f"the autoencoder's configuration names the hook {hook!r}, expected a hook of a block, "
            "such as 'blocks.3.hook_resid_post'; if it reads there, set sae.cfg.metadata.hook_name "
            "to TransformerLens's name"
        )
    return int(found[1]), found[2]


def _check_encoder(encode: Callable[[Tensor], Tensor], vectors: Tensor) -> None:
    """Check that every state has coefficients of its own, whatever it is encoded with."""
    # BatchTopK gives nearly all of its coefficients to the longest states of a batch.
    lengths = torch.tensor([1.0, *[100.0] * 7])
    probe = lengths[:, None] * _random(torch.randn, (len(lengths), vectors.shape[1]))
    try:
        with torch.no_grad():
            together, alone = encode(probe)[0].float(), encode(probe[:1])[0].float()
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise ValueError(
            "the autoencoder cannot encode single states [row, d_model], as one that reads the "
            f"text before them cannot: {error}"
        ) from error
    # A state at a threshold may fall on either side of it by rounding, hence half and not 1e-4.
    if (together - alone).norm() > 0.5 * max(together.norm(), alone.norm()):
        raise ValueError(
            "the autoencoder's coefficients of a state depend on the other states in the batch, "
            "as those of BatchTopK do in training; give it as saved for inference"
        )


def _check_decoder(sae: Any, vectors: Float[Tensor, "feature d_model"]) -> None:
    """Check that what is decoded is a constant plus coefficients times vectors."""
    amounts = _random(torch.rand, (4, len(vectors))).to(vectors)
    amounts[-1] = 0
    with torch.no_grad():
        decoded, added = sae.decode(amounts), amounts @ vectors
    error = (decoded - decoded[-1:] - added).float().norm()
    scale = decoded.float().norm() + added.float().norm()
    tolerance = max(_TOLERANCE, 4 * torch.finfo(vectors.dtype).eps)
    if not error <= tolerance * scale:
        raise ValueError(
            "the autoencoder's coefficients times W_dec are not what it decodes: relative error "
            f"{error / scale:.1e}, accepted {tolerance:.1e}; if it scales them by the lengths of "
            "its directions (rescale_acts_by_decoder_norm), call sae.fold_W_dec_norm() first"
        )


def _random(draw: Callable[..., Tensor], shape: tuple[int, int]) -> Tensor:
    return draw(shape, generator=torch.Generator().manual_seed(0))


def _as_layers(layers: Any) -> tuple[int, ...]:
    if isinstance(layers, (str, int)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers must be a list of block numbers, got {layers!r}")
    chosen = tuple(layers)
    for layer in chosen:
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise TypeError(f"layers must be block numbers, got {layer!r}")
    if not chosen:
        raise ValueError("layers is empty; name at least one block")
    return tuple(int(layer) for layer in chosen)
