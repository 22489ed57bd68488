"""Activation patching: what one activation, taken from another run, does to an answer.

A clean prompt has the answer, a corrupted one of the same length does not. Putting an activation of
the clean run into the corrupted one (denoising) shows where what is enough for the answer lies; the
other way round (noising) shows what is needed for it (Meng et al. 2022; Wang et al. 2023;
Heimersheim and Nanda 2024, arXiv 2404.15255).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from iglens_tl.lenses.assembly import describe
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.models.loading import adapt
from iglens_tl.models.patching import patch_each, record
from iglens_tl.prompts import (
    PromptLike,
    Request,
    Tokens,
    bind_value,
    build_requests,
    token_string,
)
from iglens_tl.readout import Targets, Value, ValueLike
from iglens_tl.results import Target, Text
from iglens_tl.results.patching import (
    DIRECTIONS,
    PatchingResult,
    check_difference,
)
from iglens_tl.trace import Trace


def activation_patching(
    model: Model,
    clean: PromptLike,
    corrupted: PromptLike,
    *,
    answer: Tokens,
    direction: str = "denoising",
    site: str = "resid_post",
    value: ValueLike = "prob",
    prepend_bos: bool | None = None,
) -> PatchingResult:
    """Replace every activation of a run, one at a time, by that of another run.

    This takes one forward pass for each layer, in which every position at which the runs differ has
    a row of its own.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        clean: A text, chat messages or token ids.
        corrupted: Another one of exactly as many tokens.
        answer: The single token, as text or id, whose value is read after the prompts.
        direction: "denoising" puts activations of the clean run into the corrupted run, "noising"
            those of the corrupted run into the clean run.
        site: "resid_post", "resid_mid" or "resid_pre", the residual state after, inside or before
            each block; "attn_out" or "mlp_out", what attention or MLP add to it.
        value: "prob", "logprob" (nats) or "logit", or a `Value`, such as
            `LogitDifference(" Mary", " John")`. "kl_to_final" is the divergence from the clean run.
        prepend_bos: Whether text prompts start with the beginning-of-sequence token; None follows
            the model's default.

    Returns:
        The value under every patch, `[layer, pos]`, with the clean and the corrupted one.

    Raises:
        TypeError: For arguments of a wrong kind.
        NotApplicableError: If the architecture lacks the site.
        ValueError: For prompts of different length, equal prompts, an answer of several tokens, a
            value that the two prompts share, or other arguments that do not fit the model.

    Example:
        >>> from iglens_tl import load_model
        >>> result = activation_patching(
        ...     load_model("demo"),
        ...     "The capital of Vietnam is",
        ...     "The capital of France is",
        ...     answer=" Hanoi",
        ... )
        >>> bool(result.values[-1, -1] == result.clean_value)
        True
    """
    adapter = adapt(model)
    bound = bind_value(adapter, value)
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; choose one of {', '.join(DIRECTIONS)}")
    request, corrupted_ids = _matching_prompts(adapter, clean, corrupted, answer, prepend_bos)
    answer_id, last = request.target_ids[0], len(request.ids) - 1
    trace = Trace(adapter, [request], choice={"prepend_bos": prepend_bos})
    clean_run = record(adapter, request.ids, site)
    corrupted_run = record(adapter, corrupted_ids, site)
    measure = _measure(bound, answer_id, clean_run.logits)
    clean_value, corrupted_value = measure(clean_run.logits), measure(corrupted_run.logits)
    check_difference(clean_value, corrupted_value)
    denoising = direction == "denoising"
    run, donor = (corrupted_run, clean_run) if denoising else (clean_run, corrupted_run)
    values = patch_each(
        adapter,
        run,
        donor,
        site,
        measure,
        layers=range(adapter.n_layers),
        positions=range(last + 1),
    )
    embed_values = patch_each(
        adapter, run, donor, "resid_pre", measure, layers=[0], positions=[last]
    )
    options = {"direction": direction, "site": site, **bound.provenance()}
    return PatchingResult(
        site=site,
        direction=direction,
        unit=bound.unit,
        clean=_text(adapter, request.ids),
        corrupted=_text(adapter, corrupted_ids),
        target=Target(0, last, answer_id, token_string(adapter, answer_id)),
        values=values,
        clean_value=clean_value,
        corrupted_value=corrupted_value,
        embed_value=float(embed_values[0, 0]),
        provenance=describe(trace, options),
    )


def _matching_prompts(
    adapter: ModelAdapter,
    clean: PromptLike,
    corrupted: PromptLike,
    answer: Tokens,
    prepend_bos: bool | None,
) -> tuple[Request, tuple[int, ...]]:
    """Return the clean prompt with the answer as its target, and the corrupted prompt's ids."""
    answered = _single(
        build_requests(adapter, clean, answer=answer, prepend_bos=prepend_bos), "clean"
    )
    answer_ids = list(answered.target_ids)
    if len(answer_ids) > 1:
        parts = [token_string(adapter, token) for token in answer_ids]
        raise ValueError(
            f"the answer {answer!r} is {len(answer_ids)} tokens for {adapter.name}: {parts}; "
            "activation patching reads one token after the prompt, so name one, such as the first"
        )
    of_prompts = [
        _single(build_requests(adapter, prompt, targets=answer_ids, prepend_bos=prepend_bos), name)
        for name, prompt in (("clean", clean), ("corrupted", corrupted))
    ]
    ids, corrupted_ids = (request.ids for request in of_prompts)
    if len(ids) != len(corrupted_ids):
        raise ValueError(
            f"the clean prompt has {_tokens(adapter, ids)}, the corrupted one "
            f"{_tokens(adapter, corrupted_ids)}; an activation is replaced by that of the same "
            "position, so rephrase one of them until both have the same number of tokens"
        )
    if ids == corrupted_ids:
        raise ValueError(
            f"the clean and the corrupted prompt are the same {_tokens(adapter, ids)}; change what "
            "the answer depends on in the corrupted prompt"
        )
    return of_prompts[0], corrupted_ids


def _single(requests: list[Request], name: str) -> Request:
    if len(requests) > 1:
        raise ValueError(
            f"the {name} prompt is a batch of {len(requests)}; patch one pair of prompts at a time"
        )
    return requests[0]


def _tokens(adapter: ModelAdapter, ids: tuple[int, ...]) -> str:
    return f"{len(ids)} tokens {[token_string(adapter, token) for token in ids]}"


def _measure(value: Value, answer_id: int, clean_logits: Tensor) -> Callable[[Tensor], float]:
    """Return the function from predicted logits to the value, computed in float64."""
    targets = Targets(
        torch.tensor([answer_id], device=clean_logits.device),
        clean_logits[None].double() if value.needs_final else None,
    )

    def measure(logits: Tensor) -> float:
        number = float(value.evaluate(logits[None].double(), targets)[0])
        if not math.isfinite(number):
            raise ValueError(
                f"the {value.name} of a patched run is {number}; check the model's weights, load "
                "it in another dtype, or choose another value"
            )
        return number

    return measure


def _text(adapter: ModelAdapter, ids: tuple[int, ...]) -> Text:
    return Text(ids, tuple(token_string(adapter, token) for token in ids))
