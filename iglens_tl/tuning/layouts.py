"""The names under which parameter files hold translators, and what else they may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# `{i}.weight`, as published since version 0.1 of the tuned-lens package.
_PLAIN = re.compile(r"(\d+)\.(weight|bias)")
# The state of a whole module. Translators were called probes and adapters before.
_OF_LAYERS = re.compile(r"layer_(?:translators|probes|adapters)\.(\d+)\.(weight|bias)")
_OF_INPUT = re.compile(r"input_(?:translator|probe|adapter)\.(weight|bias)")
# Copies of the model's own final norm and unembedding that whole modules carry along.
_OF_MODEL = re.compile(r"(?:layer_norm|unembedding|unembed)\.|(?:layer_norm|unembedding)$")


def to_state(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Return the published names and tensors of translators."""
    state = {f"{i}.weight": matrix.clone() for i, matrix in enumerate(weight.detach().cpu())}
    if bias is not None:
        state |= {f"{i}.bias": vector.clone() for i, vector in enumerate(bias.detach().cpu())}
    return state


def from_state(state: Any, n_layers: int | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of the translators in any known layout.

    Args:
        state: What a parameter file holds.
        n_layers: The model's number of blocks as the configuration says, or None.

    Raises:
        ValueError: With what is wrong, as a clause that follows "the file …".
    """
    if not isinstance(state, Mapping) or not state:
        raise ValueError("holds no parameters")
    named = _by_layer(state, n_layers)
    found = sorted({layer for layer, _ in named})
    if found != list(range(len(found))):
        missing = min(set(range(found[-1])) - set(found))
        raise ValueError(f"has translator {found[-1]} but no translator {missing}")
    weights = [named.get((layer, "weight")) for layer in found]
    biases = [named.get((layer, "bias")) for layer in found]
    if any(weight is None for weight in weights):
        raise ValueError(f"has no weight for translator {weights.index(None)}")
    if any(bias is None for bias in biases) and any(bias is not None for bias in biases):
        raise ValueError("has biases for some translators only")
    first = weights[0]
    assert first is not None
    if first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise ValueError(f"has a weight of shape {tuple(first.shape)} where a square is expected")
    _require_shape(weights, first.shape, "weight")
    _require_shape(biases, first.shape[:1], "bias")
    weight = torch.stack([w for w in weights if w is not None])
    bias = None if biases[0] is None else torch.stack([b for b in biases if b is not None])
    if not bool(torch.isfinite(weight).all()) or not bool(
        torch.isfinite(weight if bias is None else bias).all()
    ):
        raise ValueError("holds NaN or infinite parameters")
    return weight, bias


def _by_layer(state: Mapping[Any, Any], n_layers: int | None) -> dict[tuple[int, str], Tensor]:
    """Return the parameters by (translator, "weight" or "bias") in today's numbering."""
    of_layers: dict[tuple[int, str], Tensor] = {}
    of_input: dict[tuple[int, str], Tensor] = {}
    whole_module = False
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"holds {name!r}, which is no tensor")
        if match := _PLAIN.fullmatch(str(name)):
            of_layers[int(match[1]), match[2]] = tensor
        elif match := _OF_LAYERS.fullmatch(str(name)):
            of_layers[int(match[1]), match[2]] = tensor
            whole_module = True
        elif match := _OF_INPUT.fullmatch(str(name)):
            of_input[0, match[1]] = tensor
        elif not _OF_MODEL.match(str(name)):
            raise ValueError(f"holds {name!r}, which is no parameter of a linear tuned lens")
    if not of_layers and not of_input:
        raise ValueError("holds no translators")
    if of_input:
        # Older lenses counted the translators behind blocks and kept the embedding's apart.
        return of_input | {(layer + 1, kind): t for (layer, kind), t in of_layers.items()}
    n_found = len({layer for layer, _ in of_layers})
    if whole_module and n_layers is not None and n_found == n_layers - 1:
        raise ValueError(
            "has no translator for the embedding state, so its layers cannot be told apart"
        )
    return of_layers


def _require_shape(tensors: list[Tensor | None], shape: torch.Size, kind: str) -> None:
    for layer, tensor in enumerate(tensors):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"has a {kind} of shape {tuple(tensor.shape)} for translator {layer} where "
                f"{tuple(shape)} is expected"
            )
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"has a {kind} of type {tensor.dtype} for translator {layer}")
