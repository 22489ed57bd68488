"""Checking, once per model, that what the lenses assume of it is true."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture_with_logits

READOUT_TOLERANCE = 1e-5
"""Largest accepted difference between a probability read out here and the model's own."""

HALF_PRECISION_TOLERANCE = 5e-2
"""The same for float16 and bfloat16 models, which round their own logits."""

ADDITIVITY_TOLERANCE = 1e-4
"""Largest accepted |pre + attn + mlp − post|, relative to the largest entry of post."""

_POSITIONS = 32

_checked: weakref.WeakKeyDictionary[Any, tuple[Any, ReadoutCheck]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class ReadoutCheck:
    """How far a model is from what the lenses assume of it.

    Attributes:
        readout_error: Largest |p(readout of the last residual state) − p(model)|. For a half
            precision model this is the model's own rounding, because the readout is float32.
        additivity_error: Largest |pre + attn + mlp − post| relative to the largest entry of post;
            None where the user has hooks on the residual stream itself, which may edit it.
    """

    readout_error: float
    additivity_error: float | None


def check_model(adapter: ModelAdapter, tokens: Int[Tensor, " pos"]) -> ReadoutCheck:
    """Compare the readout and the residual stream with the model itself.

    The result is remembered until a weight of the model changes.

    Args:
        adapter: The model.
        tokens: A real text; its first 32 tokens are used.

    Raises:
        ValueError: If the model's probabilities or its residual stream disagree by more than the
            tolerances of this module.
    """
    state = _weights_state(adapter.model)
    known = _checked.get(adapter.model)
    if known is not None and known[0] == state:
        return known[1]
    check = _run_check(adapter, tokens[:_POSITIONS])
    _raise_on_disagreement(adapter, check)
    _checked[adapter.model] = (state, check)
    return check


def _run_check(adapter: ModelAdapter, tokens: Tensor) -> ReadoutCheck:
    layers = range(adapter.n_layers)
    names = [adapter.embed_site, *(adapter.post_site(layer) for layer in layers)]
    updates = [adapter.update_sites(layer) for layer in layers]
    logits, states = capture_with_logits(
        adapter, tokens[None], names + [name for update in updates for name in update]
    )
    own = torch.softmax(logits[0].to(adapter.readout.dtype), dim=-1)
    last = states[names[-1]][0]
    if last.shape[-1] != adapter.readout.d_model:
        raise ValueError(
            f"{adapter.name}: the residual stream has width {last.shape[-1]} but the unembedding "
            f"reads width {adapter.readout.d_model}; models that project before unembedding are "
            "not supported"
        )
    read = torch.softmax(adapter.readout.logits(last), dim=-1)
    readout_error = (own.to(read.device) - read).abs().max().item()
    if _stream_may_be_edited(adapter):
        return ReadoutCheck(readout_error, None)
    worst = 0.0
    for layer in layers:
        post = states[names[layer + 1]].double()
        total = states[names[layer]].double()
        for name in updates[layer]:
            total = total + states[name].to(total)
        worst = max(worst, _relative_error(total.to(post), post))
    return ReadoutCheck(readout_error, worst)


def _raise_on_disagreement(adapter: ModelAdapter, check: ReadoutCheck) -> None:
    half = adapter.dtype in (torch.float16, torch.bfloat16)
    readout_tolerance = HALF_PRECISION_TOLERANCE if half else READOUT_TOLERANCE
    # `not <=` and not `>`, so that NaN counts as a disagreement.
    if not check.readout_error <= readout_tolerance:
        raise ValueError(
            f"{adapter.name}: probabilities read out of the last residual state differ from the "
            f"model's own by up to {check.readout_error:.2g} (accepted: {readout_tolerance:g}), so "
            "credits would not sum to its probability. If hooks of yours edit the final norm or "
            "the logits, remove them; otherwise this architecture is not supported by the "
            "installed TransformerLens"
        )
    additivity_tolerance = HALF_PRECISION_TOLERANCE if half else ADDITIVITY_TOLERANCE
    if check.additivity_error is not None and not check.additivity_error <= additivity_tolerance:
        raise ValueError(
            f"{adapter.name}: a block's input plus its attention and MLP outputs differs from its "
            f"output by {check.additivity_error:.2g} of its size (accepted: "
            f"{additivity_tolerance:g}); this architecture is not supported by the installed "
            "TransformerLens"
        )


def _relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()


def _stream_may_be_edited(adapter: ModelAdapter) -> bool:
    points = adapter.model.hook_dict
    return any(
        points[f"blocks.{layer}.hook_resid_{place}"].fwd_hooks
        for layer in range(adapter.n_layers)
        for place in ("pre", "mid", "post")
        if f"blocks.{layer}.hook_resid_{place}" in points
    )


def _weights_state(model: Any) -> tuple[tuple[int, int], ...]:
    """Identify the current weights: where they lie, and how often each was written in place."""
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for weight in model.parameters()
    )
