"""Check that what the lenses assume of a model is true."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture_with_logits
from iglens_tl.models.closeness import Distance, Tolerance, is_half, logit_distance
from iglens_tl.models.refusals import architecture_of, refuse_architecture
from iglens_tl.models.sharing import functions_state, user_functions, weights_state

READOUT_TOLERANCE = 1e-5
"""Largest accepted difference between a probability read out here and the model's own."""

LOGIT_TOLERANCE = 1e-4
"""Largest accepted difference between a logit read out here and the model's own, both without their
means over the vocabulary, relative to the logits' spread. Rounding stays below 3e-6 on all tested
families."""

HALF_PRECISION_TOLERANCE = 5e-2
"""The same for float16 and bfloat16 models, which round their own logits; of the logits, the root
mean square counts there."""

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
        logit_error: Largest difference of their logits, without the means over the vocabulary,
            relative to the spread of the model's. It tells also where all probabilities are small.
        additivity_error: Largest |pre + attn + mlp − post| relative to the largest entry of post;
            None where the user has hooks on the residual stream itself, which may edit it.
    """

    readout_error: float
    logit_error: float
    additivity_error: float | None


def check_model(adapter: ModelAdapter, tokens: Int[Tensor, " pos"]) -> ReadoutCheck:
    """Compare the readout and the residual stream with the model itself.

    The result is remembered until a weight, a hook or a `forward` function of the model changes.
    While functions of the user's act beside or after the blocks, which may do something else at
    every call, the model is checked at every call, and on the whole text.

    Args:
        adapter: The model.
        tokens: A real text; its first 32 tokens are used.

    Raises:
        ValueError: If the model's probabilities or its residual stream disagree by more than the
            tolerances of this module.
    """
    model = adapter.model
    if user_functions(model):
        check, distance = _run_check(adapter, tokens)
        _raise_on_disagreement(adapter, check, distance)
        return check
    state = _state(adapter)
    known = _checked.get(model)
    if known is not None and known[0] == state:
        return known[1]
    check, distance = _run_check(adapter, tokens[:_POSITIONS])
    _raise_on_disagreement(adapter, check, distance)
    # Taken anew, because TransformerLens adds hooks of its own in the first forward pass.
    _checked[model] = (_state(adapter), check)
    return check


def refuse_unmeasurable(adapter: ModelAdapter, tokens: Int[Tensor, " pos"]) -> None:
    """Compare the readout and the residual stream with the model once, without remembering it.

    A model is checked so as it is loaded, on a text of random tokens, of which no result should
    report the rounding.

    Args:
        adapter: The model.
        tokens: Any text.

    Raises:
        ValueError: As `check_model`.
    """
    _raise_on_disagreement(adapter, *_run_check(adapter, tokens))


def _run_check(adapter: ModelAdapter, tokens: Tensor) -> tuple[ReadoutCheck, Distance]:
    layers = range(adapter.n_layers)
    names = [adapter.embed_site, *(adapter.post_site(layer) for layer in layers)]
    updates = [adapter.update_sites(layer) for layer in layers]
    logits, states = capture_with_logits(
        adapter, tokens[None], names + [name for update in updates for name in update]
    )
    for site in names:
        if not bool(torch.isfinite(states[site]).all()):
            raise ValueError(
                f"{adapter.name}: the states at {site} are NaN or infinite; check the model's "
                "weights and hooks, or load it in another dtype"
            )
    last = states[names[-1]][0]
    if last.shape[-1] != adapter.readout.d_model:
        raise ValueError(
            f"{adapter.name}: the residual stream has width {last.shape[-1]} but the unembedding "
            f"reads width {adapter.readout.d_model}; models that project before unembedding are "
            "not supported"
        )
    distance = logit_distance(logits[0], adapter.readout.logits(last))
    if _stream_may_be_edited(adapter):
        return ReadoutCheck(distance.probability, distance.logit, None), distance
    worst = 0.0
    for layer in layers:
        post = states[names[layer + 1]].double()
        total = states[names[layer]].double()
        for name in updates[layer]:
            total = total + states[name].to(total)
        worst = max(worst, _relative_error(total.to(post), post))
    return ReadoutCheck(distance.probability, distance.logit, worst), distance


def _raise_on_disagreement(adapter: ModelAdapter, check: ReadoutCheck, distance: Distance) -> None:
    half = is_half(adapter.dtype)
    accepted = (
        Tolerance(HALF_PRECISION_TOLERANCE, None, HALF_PRECISION_TOLERANCE)
        if half
        else Tolerance(READOUT_TOLERANCE, LOGIT_TOLERANCE, None)
    )
    if not accepted.accepts(distance):
        raise _refusal(
            adapter,
            "probabilities read out of the last residual state differ from the model's own by up "
            f"to {distance.probability:.2g}, and logits by {distance.logit:.2g} of their spread "
            f"(accepted: {accepted}), so credits would not sum to its probability",
        )
    # `not <=` and not `>`, so that NaN counts as a disagreement.
    additivity_tolerance = HALF_PRECISION_TOLERANCE if half else ADDITIVITY_TOLERANCE
    if check.additivity_error is not None and not check.additivity_error <= additivity_tolerance:
        raise _refusal(
            adapter,
            "a block's input plus its attention and MLP outputs differs from its output by "
            f"{check.additivity_error:.2g} of its size (accepted: {additivity_tolerance:g})",
        )


def _refusal(adapter: ModelAdapter, reason: str) -> ValueError:
    if user_functions(adapter.model):
        return ValueError(
            f"{adapter.name} cannot be measured with hooks or functions of yours at its modules, "
            f"final norm or unembedding: {reason}; remove them"
        )
    return refuse_architecture(adapter.name, architecture_of(adapter.model), reason)


def _relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()


def _stream_may_be_edited(adapter: ModelAdapter) -> bool:
    points = adapter.hook_points
    return any(
        points[f"blocks.{layer}.hook_resid_{place}"].fwd_hooks
        for layer in range(adapter.n_layers)
        for place in ("pre", "mid", "post")
        if f"blocks.{layer}.hook_resid_{place}" in points
    )


def _state(adapter: ModelAdapter) -> tuple[Any, ...]:
    """Return what the result of a check depends on."""
    norm = adapter.readout.norm
    return (
        weights_state(adapter.model),
        functions_state(adapter.model),
        None if norm is None else norm.eps,
        adapter.readout.transform,
        tuple(tuple(adapter.update_sites(layer)) for layer in range(adapter.n_layers)),
    )
