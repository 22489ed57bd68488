"""IG-Lens (arXiv 2606.29693): between which two layers was a token's probability produced?

One path leads from a baseline through the hidden states of a token's position to the last one. The
integral of the readout's gradient along each segment of that path is the segment's credit, and the
credits telescope: they sum to value(last state) − value(baseline), softmax included.

Under the default estimator a layer's credit is therefore the first difference of the logit lens,
value(h_l) − value(h_{l−1}). It has an exact causal reading, the effect of running one more layer
and leaving the model there; it does not measure what a layer prepares for later layers to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from iglens_tl.lens_result import LensResult
from iglens_tl.lenses.baselines import BaselineLike, resolve_baseline
from iglens_tl.lenses.chain import build_chain
from iglens_tl.lenses.estimators import Credits, estimate_credits, resolve_estimator
from iglens_tl.lenses.provenance import describe
from iglens_tl.lenses.states import collect_paths
from iglens_tl.models import Model, ModelAdapter, adapt, check_model
from iglens_tl.prompts import PromptLike, Request, Tokens, build_requests, token_string
from iglens_tl.readout import OutputTransform, ValueLike, resolve_value
from iglens_tl.results import Target, Text, TopTokens

if TYPE_CHECKING:
    Layers: TypeAlias = Sequence[int]
    Count: TypeAlias = int
else:  # anything may arrive here; it is answered with a readable error
    Layers = Count = Any

REFERENCE_NOTE = (
    "reference_compat: the final norm is applied a second time to the last state, as in the public "
    "reference code, so 'final' is not the model's probability; for comparison only"
)


def ig_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    layers: Layers | None = None,
    sublayers: bool = False,
    baseline: BaselineLike = "mean",
    value: ValueLike = "prob",
    estimator: str = "delta",
    n_steps: Count | None = None,
    tolerance: float | None = None,
    top_k: Count = 5,
    prepend_bos: bool | None = None,
    reference_compat: bool = False,
) -> LensResult:
    """Credit every layer with its part of each target token's probability.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        prompt: A text, chat messages, token ids, or a list of these. A batch gives the same
            numbers as its prompts one by one; nothing is padded.
        answer: Attribute these tokens, given as text or ids, after the prompt.
        generate: Attribute up to this many greedily generated tokens. Generation stops before an
            end-of-sequence token.
        targets: Attribute these candidates, single tokens as text or ids, for the position after
            the prompt. Without `answer`, `generate` or `targets`, every next token of the text is
            attributed.
        layers: Only these blocks end a segment, and the last block. The credits are the sums of
            the finer ones.
        sublayers: Split every block into attention and MLP (through `resid_mid`).
        baseline: Where the path begins: "mean" of the embedding states over the text (the paper's;
            it sees later tokens), "mean_causal" over the positions up to the one that is read,
            "zero", "embed" (no credit for the embedding) or a vector of width d_model. Only the
            first segment depends on it.
        value: "prob", "logprob" (nats) or "logit", or a `Value`.
        estimator: "delta" is exact; "gradient" integrates to a tolerance; "riemann" is the paper's
            midpoint rule.
        n_steps: Steps per segment of "riemann" (default 64, as in the reference code), or nodes of
            "gradient" before bisection (default 32).
        tolerance: Accepted error of "gradient" per segment; default 1e-5, or 1e-10 in float64.
        top_k: How many of the most probable tokens to keep per state for figures; 0 also skips the
            ranks and saves about a tenth of the time.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token; None follows
            the model's default.
        reference_compat: Reproduce the numbers of the paper's public code: the final norm applied
            twice to the last state, no logit transform, no segment for the embedding, and the mean
            baseline taken at the first chosen layer. For comparison only.

    Returns:
        The credits, with segments "embed", "L0", … (TransformerLens block numbers). They sum to
        `final − baseline`, where `final` is the model's own probability; what an estimator misses
        stands in the `error` column.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model, or a model whose readout disagrees with
            its own probabilities.

    Example:
        >>> from iglens_tl import ig_lens, load_model
        >>> model = load_model("demo")
        >>> result = ig_lens(model, "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(abs(result.completeness_error).max() < 1e-6)
        True
    """
    adapter = adapt(model)
    value = resolve_value(value)
    resolved = resolve_baseline(baseline, d_model=adapter.readout.d_model)
    method = resolve_estimator(estimator, n_steps=n_steps, tolerance=tolerance)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k must be an integer of at least 0, got {top_k!r}")
    chain = build_chain(adapter, layers=layers, sublayers=sublayers, embed=not reference_compat)
    requests = build_requests(
        adapter,
        prompt,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    check = check_model(adapter, torch.tensor(requests[0].ids))
    readout, map_last = adapter.readout, None
    if reference_compat:
        map_last = readout.normalize
        readout = replace(readout, transform=OutputTransform())
    paths = collect_paths(adapter, requests, chain, resolved, map_last=map_last)
    credits = estimate_credits(readout, paths, value, method, top_k=top_k)
    options = {
        "layers": None if layers is None else [int(layer) for layer in layers],
        "sublayers": sublayers,
        "baseline": resolved.name,
        "value": value.name,
        "estimator": method.name,
        "n_steps": method.n_steps,
        "tolerance": method.tolerance,
        "generate": generate,
        "prepend_bos": prepend_bos,
        "reference_compat": reference_compat,
    }
    notes = (REFERENCE_NOTE,) if reference_compat else ()
    return LensResult(
        lens="ig_lens",
        unit=value.unit,
        additive=True,
        segments=chain.segments,
        texts=_texts(adapter, requests),
        targets=_targets(adapter, requests),
        values=credits.credits.numpy(),
        levels=credits.levels[:, 1:].numpy(),
        baseline=credits.levels[:, 0].numpy(),
        final=credits.levels[:, -1].numpy(),
        ranks=None if credits.ranks is None else credits.ranks.numpy(),
        top=_top_tokens(adapter, credits),
        provenance=describe(adapter, check, options, notes),
    )


def _texts(adapter: ModelAdapter, requests: list[Request]) -> tuple[Text, ...]:
    return tuple(
        Text(request.ids, tuple(token_string(adapter, token) for token in request.ids))
        for request in requests
    )


def _targets(adapter: ModelAdapter, requests: list[Request]) -> tuple[Target, ...]:
    return tuple(
        Target(index, position, token, token_string(adapter, token))
        for index, request in enumerate(requests)
        for position, token in zip(request.positions, request.target_ids, strict=True)
    )


def _top_tokens(adapter: ModelAdapter, credits: Credits) -> TopTokens | None:
    if credits.top_ids is None or credits.top_probs is None:
        return None
    tokens = {int(i): token_string(adapter, int(i)) for i in credits.top_ids.unique()}
    return TopTokens(credits.top_ids.numpy(), credits.top_probs.numpy(), tokens)
