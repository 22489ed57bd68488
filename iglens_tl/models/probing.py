"""Compare what TransformerLens makes of a model with Hugging Face's own model.

A text of a dozen tokens shows a wrong norm or a wrong rotation. It does not show that a sliding
window is ignored, or what a rotary embedding does beyond its original context: for that the text
has to be longer than every length that the configuration names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from iglens_tl.models.closeness import Tolerance, is_half, logit_distance

HF_TOLERANCE = Tolerance(probability=1e-4, logit=5e-4, mean_logit=None)
"""Largest accepted distance of a loaded model from Hugging Face's.

On random models of 60 configurations, rounding moves no logit by more than 3e-6 of their spread,
and the smallest error of a wrong rotary embedding, in an untrained model, is 1.9e-3.
"""

HF_HALF_TOLERANCE = Tolerance(probability=5e-2, logit=None, mean_logit=5e-2)
"""The same for float16 and bfloat16, of which two correct computations differ by up to 0.013 in the
mean on random models of three layers. Errors below that are seen in float32 only."""

_SHORT = 12
_BEYOND = 16
_NAMES_LENGTH = re.compile(r"window|chunk|original_max_position|local_attention|floor_scale")
_NAMES_NO_LENGTH = re.compile(r"layers?$|pattern$|types?$|feed_forward$")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")
_MOST_OPERATIONS = {"cpu": 2e12}
_MOST_OPERATIONS_ON_GPU = 5e13
_MOST_LOGITS = 2**27
_MOST_ATTENTION_WEIGHTS = 2**28


class Disagreement(Exception):
    """TransformerLens computes something else than Hugging Face, or cannot be compared with it."""


@dataclass(frozen=True)
class Probe:
    """Texts of random tokens, and the logits that Hugging Face's model gives them.

    Attributes:
        tokens: The texts, each `[1, pos]`.
        logits: Of each text the logits, `[pos, d_vocab]`.
        too_long: Lengths within the context that the configuration names, but that are too long to
            run here.
    """

    tokens: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    too_long: tuple[int, ...]


def probe(hf_model: Any, *, longest: int | None = None) -> Probe:
    """Run a Hugging Face model on texts that are longer than every length that it names.

    Args:
        hf_model: A causal language model, in evaluation mode.
        longest: Length that texts will not exceed, if it is shorter than the model's context.

    Raises:
        ValueError: If the model's own logits are NaN.
    """
    lengths, too_long = probe_lengths(hf_model, longest=longest)
    tokens = tuple(_random_text(hf_model, length) for length in lengths)
    logits = tuple(_run(hf_model, text) for text in tokens)
    if not all(bool(torch.isfinite(part).any()) and not part.isnan().any() for part in logits):
        raise ValueError(_why_nan(hf_model))
    return Probe(tokens, logits, too_long)


def probe_lengths(
    hf_model: Any, *, longest: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose how long the texts are that a model is compared on.

    Returns:
        The lengths, and those named lengths that no text exceeds because it would take too long.
    """
    context = _context(hf_model.config)
    if longest is not None:
        context = min(context, longest)
    named = sorted(length for length in named_lengths(hf_model.config) if length < context)
    affordable = _affordable_length(hf_model)
    within = [length for length in named if min(length + _BEYOND, context) <= affordable]
    lengths = [min(_SHORT, context)]
    if within and within[-1] + _BEYOND > _SHORT:
        lengths.append(min(within[-1] + _BEYOND, context))
    return tuple(lengths), tuple(length for length in named if length not in within)


def named_lengths(config: Any) -> set[int]:
    """Return the lengths at which a configuration lets the computation change.

    These are sliding windows, chunks of local attention, and contexts that a rotary embedding was
    made for, also where the configuration holds them for each kind of layer or of the text part.
    """
    return set(_named_lengths(config.to_dict()))


def require_agreement(model: Any, expected: Probe, *, name: str) -> None:
    """Compare a model of TransformerLens with Hugging Face's.

    Args:
        model: The model of TransformerLens, in evaluation mode.
        expected: What Hugging Face's model computes.
        name: The kind of model, for the message.

    Raises:
        Disagreement: If its logits or probabilities differ by more than rounding.
    """
    half = is_half(next(iter(model.parameters())).dtype)
    tolerance = HF_HALF_TOLERANCE if half else HF_TOLERANCE
    label = f"the {name} of transformer-lens {version('transformer-lens')}"
    for tokens, logits in zip(expected.tokens, expected.logits, strict=True):
        try:
            found = _run(model, tokens)
        except Exception as error:  # TransformerLens fails in whatever way its parts do
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise Disagreement(f"the forward pass of {label} fails ({reason})") from error
        distance = logit_distance(logits, found)
        if not tolerance.accepts(distance):
            raise Disagreement(
                f"{label} gives probabilities that differ from Hugging Face's by up to "
                f"{distance.probability:.2g}, and logits by {distance.logit:.2g} of their spread, "
                f"on a text of {tokens.shape[1]} tokens (accepted: {tolerance})"
            )


def _named_lengths(config: Mapping[Any, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _named_lengths(value)
        elif (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value > 1
            and _NAMES_LENGTH.search(str(key))
            and not _NAMES_NO_LENGTH.search(str(key))
        ):
            yield value


def _context(config: Any) -> int:
    """Return the longest text that a model takes; unbounded where it does not say."""
    values = config.to_dict()
    values = {**(values.get("text_config") or {}), **values}
    found = [values[key] for key in _CONTEXT if isinstance(values.get(key), int)]
    return min(found) if found else 2**31


def _affordable_length(hf_model: Any) -> int:
    """Return the longest text that may be run, by operations and by memory."""
    n_weights = sum(weight.numel() for weight in hf_model.parameters())
    operations = _MOST_OPERATIONS.get(hf_model.device.type, _MOST_OPERATIONS_ON_GPU)
    d_vocab = hf_model.get_input_embeddings().weight.shape[0]
    n_heads = getattr(hf_model.config.get_text_config(), "num_attention_heads", None)
    n_heads = n_heads if isinstance(n_heads, int) and n_heads > 0 else 32
    return int(
        min(
            operations / (2 * max(1, n_weights)),
            _MOST_LOGITS / d_vocab,
            (_MOST_ATTENTION_WEIGHTS / n_heads) ** 0.5,
        )
    )


def _random_text(hf_model: Any, length: int) -> Tensor:
    """Return tokens spread over the vocabulary in random order, the same every time."""
    d_vocab = hf_model.get_input_embeddings().weight.shape[0]
    order = torch.randperm(length, generator=torch.Generator().manual_seed(length))
    return torch.linspace(0, d_vocab - 1, length).long()[order][None].to(hf_model.device)


def _run(model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(tokens, attention_mask=torch.ones_like(tokens))
    return getattr(output, "logits", output)[0]


def _why_nan(hf_model: Any) -> str:
    for name, weight in hf_model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            return f"its weights are NaN or infinite (first in {name}); the file may be damaged"
    return (
        f"its own logits in {str(hf_model.dtype).removeprefix('torch.')} are NaN although its "
        "weights are not; load it with dtype='float32'"
    )
