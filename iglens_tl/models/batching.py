"""Deciding which texts share a forward pass, and padding them on the right.

A causal model computes every position from the positions up to it, so whatever stands behind the
end of a text leaves its states as they are. Shorter texts are therefore filled up on the right with
any token and run as if they were longer; the states of that token are thrown away. No attention
mask is involved: a mask would change the kernels that a model runs, and from it some models derive
position ids.

Padding on the left would move the positions of a text, and is never done.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture

TOKENS_PER_PASS = 4096
"""How many tokens a forward pass has at most, padding included."""

PASS_OVERHEAD = 128
"""How many tokens a model computes in the time that a further forward pass costs of itself.

On one CPU core the embedded model takes 16 to 20 ms for a pass and 0.15 to 0.17 ms for a token,
which makes it 100 to 130, nearly all of it spent in TransformerLens. The total changes by less than
2 % for values between 60 and 200, as passes saved and tokens padded balance there."""

CAUSALITY_TOLERANCE = 1e-4
"""Largest accepted change of a state by the tokens behind it, relative to the state's norm."""

HALF_PRECISION_TOLERANCE = 1e-2
"""The same for float16 and bfloat16 models, whose kernels round differently by length."""

# No multiple of a block size, within which some models attend both ways.
_PREFIX_LENGTH = 7


def shared_passes(
    adapter: ModelAdapter,
    texts: Sequence[Sequence[int]],
    *,
    tokens_per_pass: int = TOKENS_PER_PASS,
) -> list[list[int]]:
    """Divide texts among forward passes.

    Texts of different length share a pass, to be padded by `pad_right`, where padding changes
    nothing but the rounding. Where it may, only texts of equal length do:

    - in models whose states depend on later tokens, or on how long the longest text of a pass is.
      This is measured, not looked up (`padding_is_harmless`). Of the architectures that the tests
      cover, all of them causal decoders with or without experts, ALiBi included, none is among
      them. A HookedTransformer with bidirectional attention is; so are rotary embeddings that are
      rescaled for long texts (dynamic NTK, LongRoPE) as soon as a text is long enough for that;
    - in models with hooks of the user's, which may look at the end or at the mean of every row.

    Args:
        adapter: The model.
        texts: The token ids of each text.
        tokens_per_pass: How many tokens a pass has at most, padding included; a longer text is
            alone.

    Returns:
        For each pass the indices of its texts; every text is in one pass.
    """
    lengths = [len(ids) for ids in texts]
    if len(set(lengths)) > 1 and padding_is_harmless(adapter, max(texts, key=len)):
        return batches_of_similar_length(lengths, tokens_per_pass)
    return batches_of_equal_length(lengths, tokens_per_pass)


def pad_right(texts: Sequence[Sequence[int]]) -> Int[Tensor, "batch pos"]:
    """Fill texts up to the length of the longest.

    The first token of the first text is used, because some models have no token of their own for
    this, and every model knows this one.
    """
    longest = max(len(ids) for ids in texts)
    return torch.tensor([[*ids, *[texts[0][0]] * (longest - len(ids))] for ids in texts])


def cut_padding(activation: Tensor, length: int, *, site: str) -> Tensor:
    """Return the activation of one text without the positions behind its end.

    Args:
        activation: One row of a batch: `[pos, …]`, or `[head, query, pos]` at the hooks of
            attention scores and patterns.
        length: How many tokens the text has.
        site: The hook.
    """
    if site.endswith(("hook_pattern", "hook_attn_scores")):
        return activation[..., :length, :length]
    return activation[:length]


def batches_of_equal_length(lengths: Sequence[int], tokens_per_pass: int) -> list[list[int]]:
    """Return the indices of texts that share a forward pass without any padding.

    Args:
        lengths: The length of each text.
        tokens_per_pass: How many tokens a batch has at most; a longer text is alone.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    batches = []
    for length, indices in by_length.items():
        batches += _split(indices, max(1, tokens_per_pass // length))
    return batches


def batches_of_similar_length(
    lengths: Sequence[int], tokens_per_pass: int, *, overhead: int = PASS_OVERHEAD
) -> list[list[int]]:
    """Return the indices of texts that share a forward pass, so that all passes cost the least.

    Texts are sorted by length and cut where that minimises the number of tokens, padding included,
    plus an overhead for every pass. Padding thus never costs more than the passes that it saves.

    Args:
        lengths: The length of each text.
        tokens_per_pass: How many tokens a batch has at most, padding included; a longer text is
            alone.
        overhead: The cost of a pass of itself, in tokens.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[length].append(index)
    distinct = sorted(by_length)
    # cost[i] is that of the i smallest lengths, the last of which run together with those from
    # first_of[i] on.
    cost = [0]
    first_of = [0]
    for last, longest in enumerate(distinct):
        rows_per_pass = max(1, tokens_per_pass // longest)
        n_texts, best = 0, (float("inf"), last)
        for first in range(last, -1, -1):
            # Each text of that length would be padded by more than a pass costs.
            if longest - distinct[first] > overhead:
                break
            n_texts += len(by_length[distinct[first]])
            n_passes = -(-n_texts // rows_per_pass)
            total = cost[first] + n_texts * longest + n_passes * overhead
            best = min(best, (total, first))
        cost.append(int(best[0]))
        first_of.append(best[1])
    batches: list[list[int]] = []
    end = len(distinct)
    while end:
        first = first_of[end]
        # The longest first, so that a pass which is not full is one of short texts.
        indices = [i for length in reversed(distinct[first:end]) for i in by_length[length]]
        batches += _split(indices, max(1, tokens_per_pass // distinct[end - 1]))
        end = first
    return batches


def padding_is_harmless(adapter: ModelAdapter, ids: Sequence[int]) -> bool:
    """Return whether what stands behind a text leaves its states as they are.

    The first tokens of a long text run alone and as part of it. If the last residual states are the
    same to rounding, texts up to that length may be padded. What was found is remembered for the
    model, with the lengths up to which padding is harmless and from which it is not, until a
    module's forward function is replaced or a PyTorch hook added. Models with hooks of the user's
    are not measured: what a hook does may change from call to call, so padding counts as harmful.

    Args:
        adapter: The model.
        ids: The longest text that is to share a pass with shorter ones.
    """
    if _has_hooks(adapter.model):
        return False
    state = _state(adapter.model)
    known = _measured.get(adapter.model)
    if known is None or known.state != state:
        known = _Causality(state)
    if len(ids) <= known.harmless_up_to:
        return True
    if known.harmful_from is not None and len(ids) >= known.harmful_from:
        return False
    harmless = _change_by_later_tokens(adapter, ids) <= _tolerance(adapter)
    if harmless:
        known = _Causality(state, len(ids), known.harmful_from)
    else:
        known = _Causality(state, known.harmless_up_to, len(ids))
    _measured[adapter.model] = known
    return harmless


@dataclass(frozen=True)
class _Causality:
    """What was measured of a model.

    Attributes:
        state: What `_state` returned then.
        harmless_up_to: The longest text whose end did not matter to its beginning.
        harmful_from: The shortest text whose end did, if any.
    """

    state: tuple[int, ...]
    harmless_up_to: int = 0
    harmful_from: int | None = None


_measured: weakref.WeakKeyDictionary[Any, _Causality] = weakref.WeakKeyDictionary()


def _change_by_later_tokens(adapter: ModelAdapter, ids: Sequence[int]) -> float:
    """Return by how much the first states of a text change when the rest of it follows."""
    n_first = max(1, min(_PREFIX_LENGTH, len(ids) - 1))
    site = adapter.post_site(adapter.n_layers - 1)
    readers = {site: lambda states: states[0, :n_first].clone()}
    alone, followed = (
        capture(adapter, torch.tensor([list(text)]), readers)[site].double()
        for text in (ids[:n_first], ids)
    )
    change = (followed - alone).norm(dim=-1) / alone.norm(dim=-1).clamp_min(1e-30)
    return float(change.max())


def _tolerance(adapter: ModelAdapter) -> float:
    half = adapter.dtype in (torch.float16, torch.bfloat16)
    return HALF_PRECISION_TOLERANCE if half else CAUSALITY_TOLERANCE


def _has_hooks(model: Any) -> bool:
    """Return whether there are hooks on hook points of TransformerLens, other than its own.

    Its own, such as those for OPT's positions, are permanent ones.
    """
    return any(
        not hook.is_permanent
        for module in model.modules()
        for hook in getattr(module, "fwd_hooks", ())
    )


def _state(model: Any) -> tuple[int, ...]:
    """Identify what may change a forward pass, beside weights and hooks that `_has_hooks` finds.

    These are permanent hooks, PyTorch's own, of which bridges have some, and forward functions that
    stand on a module itself and not on its class.
    """
    state = []
    for module in model.modules():
        state += [id(hook) for hook in module._forward_hooks.values()]
        state += [id(hook) for hook in module._forward_pre_hooks.values()]
        if "forward" in vars(module):
            state.append(id(vars(module)["forward"]))
    return tuple(state)


def _split(indices: list[int], size: int) -> list[list[int]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]
