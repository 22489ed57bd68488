"""Direct logit attribution: what every component writes towards a token's logit.

With the statistics of the final norm held at those of the last state, the logit before the softcap
is linear in the residual stream, and the stream is the sum of what the embedding, the layers and
their heads wrote ("A Mathematical Framework for Transformer Circuits", Elhage et al. 2021). The
shares here are computed from unfolded weights as well as from folded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble
from iglens_tl.arguments import Count
from iglens_tl.lenses.base import Lens, run_lenses
from iglens_tl.trace import Needs, Trace
from iglens_tl.models import split_heads
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.prompts import PromptLike, Tokens, resolve_token
from iglens_tl.readout import (
    Point,
    Reading,
    Token,
    inverse_norms,
    norm_bias_logits,
    raw_logits,
    token_directions,
    unembed_bias_logits,
)

SPLITS = {
    "layer": "one row for each block",
    "sublayer": "attention and MLP apart",
    "head": "every attention head, the attention's bias and the MLP apart",
}
"""How finely blocks are split."""


def direct_logit_attribution(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    contrast: Token | None = None,
    split: str = "layer",
    prepend_bos: bool | None = None,
) -> LensResult:
    """Credit every component with its direct share of each target token's logit.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        contrast: A token, as text or id, whose logit is subtracted from every target's.
        split: "layer", "sublayer" (attention and MLP, also of parallel blocks) or "head".
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Shares in logits: "embed", then "L0" or "L0.attn", "L0.mlp" or "L0.H0", …, "L0.attn_bias",
        and "norm_bias" and "unembed_bias" where the model has them. They sum to the model's logit,
        or logit difference, before any softcap. A level is the sum of the shares so far.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model.

    Example:
        >>> from iglens_tl import direct_logit_attribution, load_model
        >>> result = direct_logit_attribution(
        ...     load_model("demo"), "The capital of Vietnam is", answer=" Hanoi", contrast=" Paris"
        ... )
        >>> bool(abs(result.completeness_error).max() < 1e-5)
        True
    """
    adapter = adapt(model)
    lens = plan_direct_logit_attribution(adapter, contrast=contrast, split=split)
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [lens], prompt, **choice, prepend_bos=prepend_bos).results[0]


def plan_direct_logit_attribution(
    adapter: ModelAdapter, *, contrast: Token | None = None, split: str = "layer"
) -> DirectLogitAttribution:
    """Check the options of `direct_logit_attribution` and return the lens, ready to measure."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return DirectLogitAttribution(adapter=adapter, contrast=contrast, split=split)


@dataclass(frozen=True, kw_only=True)
class DirectLogitAttribution(Lens):
    """Direct logit attribution with resolved options."""

    name = "direct_logit_attribution"

    adapter: ModelAdapter
    contrast: Token | None
    split: str

    def needs(self) -> Needs:
        """Ask for the first and last state and for what every component wrote."""
        adapter, layers = self.adapter, range(self.adapter.n_layers)
        sites = [adapter.embed_site, adapter.post_site(adapter.n_layers - 1)]
        if self.split == "layer":
            sites += [adapter.post_site(layer) for layer in layers]
        else:
            sites += [site for layer in layers for site in adapter.update_sites(layer)]
        if self.split == "head":
            sites += [adapter.head_site(layer) for layer in layers]
        return Needs(tuple(dict.fromkeys(sites)))

    def points(self, trace: Trace) -> list[Point]:
        """Ask for nothing: single logits need no sweep over the vocabulary."""
        del trace
        return []

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Multiply every component with the targets' directions."""
        del readings
        readout, rows = self.adapter.readout, trace.target_rows
        last = trace.states[self.adapter.post_site(self.adapter.n_layers - 1)]
        directions = self._difference(trace, partial(token_directions, readout))
        directions = directions * inverse_norms(readout, last)[rows, None]
        shares = {"embed": _dot(trace.states[self.adapter.embed_site][rows], directions)}
        for layer in range(self.adapter.n_layers):
            shares |= self._shares_of_layer(trace, layer, directions)
        shares |= self._biases(trace)
        values = torch.stack(list(shares.values()), dim=1).cpu()
        final = self._difference(trace, partial(raw_logits, readout, last[rows])).cpu()
        cap = readout.transform.softcap
        return assemble(
            trace,
            lens=self.name,
            unit="logit" if self.contrast is None else "logit difference",
            additive=True,
            segments=list(shares),
            values=values,
            levels=values.cumsum(1),
            baseline=torch.zeros_like(final),
            final=final,
            options={"split": self.split, "contrast": self.contrast},
            notes=() if cap is None else (f"logits are those before the softcap at {cap:g}",),
        )

    def _shares_of_layer(self, trace: Trace, layer: int, directions: Tensor) -> dict[str, Tensor]:
        adapter, states, rows = self.adapter, trace.states, trace.target_rows
        if self.split == "layer":
            before = adapter.post_site(layer - 1) if layer else adapter.embed_site
            written = states[adapter.post_site(layer)].double() - states[before].double()
            return {f"L{layer}": _dot(written[rows], directions)}
        attn_out, mlp = states[adapter.attn_site(layer)], adapter.mlp_site(layer)
        shares = {}
        if self.split == "sublayer":
            shares[f"L{layer}.attn"] = _dot(attn_out[rows], directions)
        else:
            z = states[adapter.head_site(layer)]
            heads = split_heads(adapter, layer, z, attn_out)
            directions_before = directions * heads.scale[rows].double()
            of_heads = torch.einsum("hdm,tm->thd", heads.weight.double(), directions_before)
            by_head = (z[rows].double() * of_heads).sum(2)
            shares |= {f"L{layer}.H{head}": share for head, share in enumerate(by_head.unbind(1))}
            if heads.bias is not None:
                shares[f"L{layer}.attn_bias"] = directions_before @ heads.bias.double()
        if mlp is not None:
            shares[f"L{layer}.mlp"] = _dot(states[mlp][rows], directions)
        return shares

    def _biases(self, trace: Trace) -> dict[str, Tensor]:
        readout = self.adapter.readout
        shares = {}
        if readout.norm is not None and readout.norm.bias is not None:
            shares["norm_bias"] = self._difference(trace, partial(norm_bias_logits, readout))
        if readout.unembed_bias is not None:
            shares["unembed_bias"] = self._difference(trace, partial(unembed_bias_logits, readout))
        return shares

    def _difference(self, trace: Trace, of_tokens: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a function says of the targets, less what it says of the contrast."""
        found = of_tokens(trace.token_ids)
        if self.contrast is None:
            return found
        contrasts = [resolve_token(self.adapter, r, self.contrast) for r in trace.requests]
        tokens = [contrasts[i] for i, r in enumerate(trace.requests) for _ in r.target_ids]
        return found - of_tokens(torch.tensor(tokens))


def _dot(written: Tensor, directions: Tensor) -> Tensor:
    return (written.double() * directions).sum(1)
