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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from iglens_tl.arguments import Count, resolve_choice
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.base import Lens, measure_prompt
from iglens_tl.models import split_heads
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import (
    LogitDifference,
    Reading,
    ValueLike,
    inverse_norms,
    norm_bias_logits,
    raw_logits,
    resolve_value,
    token_directions,
    unembed_bias_logits,
)
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace

if TYPE_CHECKING:
    DirectBy: TypeAlias = Literal["layer", "sublayer", "head"]
else:  # anything may arrive here; it is answered with a readable error
    DirectBy = Any

DIRECT_BY = {
    "layer": "one row for each block",
    "sublayer": "attention and MLP apart",
    "head": "every attention head, the attention's bias and the MLP apart",
}
"""The splits of a block."""


# Far above what rounding leaves of a sum of shares in float32, relative to their sizes.
_ACCEPTED = 1e-3


@dataclass(frozen=True, kw_only=True)
class DirectLogitAttribution(Lens):
    """Direct logit attribution: every component's direct share of each target token's logit.

    Its results hold shares in logits: "embed", then "L0" or "L0.attn", "L0.mlp" or "L0.H0", …,
    "L0.attn_bias", and "norm_bias" and "unembed_bias" where the model has them. They sum to the
    model's logit, or logit difference, before any softcap. A level is the sum of the shares so far.

    Attributes:
        value: "logit", or `LogitDifference(a, b)` of two tokens; nothing else is linear in the
            stream once the norm's scale is frozen.
        by: "layer", "sublayer" (attention and MLP, also of parallel blocks) or "head".

    Example:
        >>> from iglens_tl import DirectLogitAttribution, LogitDifference, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> result = DirectLogitAttribution(value=LogitDifference(" Hanoi", " Paris"))(trace)
        >>> bool(abs(result.completeness_error).max() < 1e-5)
        True
    """

    value: ValueLike = "logit"
    by: DirectBy = "layer"

    name: ClassVar[str] = "direct_logit_attribution"
    label: ClassVar[str] = "direct logit attribution"
    measures: ClassVar[str] = (
        "What each layer writes towards the logit, with the scale of the final norm frozen."
    )
    units: ClassVar[str] = "logit"
    sums_to: ClassVar[str] = "the logit before any softcap"
    additive: ClassVar[bool] = True
    cost: ClassVar[str] = "1 forward pass"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        resolve_choice("split by", self.by, DIRECT_BY)
        if not self.accepts(self.value):
            raise ValueError(
                f"direct logit attribution has no value {self.resolved_value.name!r}: with a "
                "frozen norm only logits are linear in what layers write; choose 'logit' or "
                "LogitDifference(a, b)"
            )

    @classmethod
    def accepts(cls, value: ValueLike) -> bool:
        """Return whether a value is linear in the logits of single tokens."""
        resolved = resolve_value(value)
        return resolved.name == "logit" or isinstance(resolved, LogitDifference)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the first and last state and for what every component wrote."""
        layers = range(adapter.n_layers)
        sites = [adapter.embed_site, adapter.post_site(adapter.n_layers - 1)]
        if self.by == "layer":
            sites += [adapter.post_site(layer) for layer in layers]
        else:
            sites += [site for layer in layers for site in adapter.update_sites(layer)]
        if self.by == "head":
            sites += [adapter.head_site(layer) for layer in layers]
        return Needs(tuple(dict.fromkeys(sites)))

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Multiply every component with the targets' directions."""
        del readings
        adapter, readout, rows = trace.adapter, trace.adapter.readout, trace.target_rows
        last = trace.states[adapter.post_site(adapter.n_layers - 1)]
        directions = self._of_value(trace, partial(token_directions, readout))
        directions = directions * inverse_norms(readout, last)[rows, None]
        shares = {"embed": _dot(trace.states[adapter.embed_site][rows], directions)}
        for layer in range(adapter.n_layers):
            shares |= self._shares_of_layer(trace, layer, directions)
        shares |= self._biases(trace)
        values = torch.stack(list(shares.values()), dim=1).cpu()
        final = self._of_value(trace, partial(raw_logits, readout, last[rows])).cpu()
        cap = readout.transform.softcap
        notes = [] if cap is None else [f"logits are those before the softcap at {cap:g}"]
        missed = float((values.sum(1) - final).abs().max())
        if missed > _ACCEPTED * max(1.0, float(values.abs().sum(1).max())):
            notes.append(
                f"the shares miss the logit by up to {missed:.2g} (column 'error'): the stream "
                f"holds something that no part of by={self.by!r} wrote, such as what a hook added "
                "to it; by='layer' counts it to the layer at which it enters"
            )
        return assemble(
            trace,
            lens=self,
            unit=self.resolved_value.unit,
            kind="credit",
            segments=list(shares),
            values=values,
            levels=values.cumsum(1),
            baseline=torch.zeros_like(final),
            final=final,
            options={"by": self.by, **self.resolved_value.provenance()},
            notes=tuple(notes),
        )

    def _shares_of_layer(self, trace: Trace, layer: int, directions: Tensor) -> dict[str, Tensor]:
        adapter, states, rows = trace.adapter, trace.states, trace.target_rows
        if self.by == "layer":
            before = adapter.post_site(layer - 1) if layer else adapter.embed_site
            written = states[adapter.post_site(layer)].double() - states[before].double()
            return {f"L{layer}": _dot(written[rows], directions)}
        attn_out, mlp = states[adapter.attn_site(layer)], adapter.mlp_site(layer)
        shares = {}
        if self.by == "sublayer":
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
        readout = trace.adapter.readout
        shares = {}
        if readout.norm is not None and readout.norm.bias is not None:
            shares["norm_bias"] = self._of_value(trace, partial(norm_bias_logits, readout))
        if readout.unembed_bias is not None:
            shares["unembed_bias"] = self._of_value(trace, partial(unembed_bias_logits, readout))
        return shares

    def _of_value(self, trace: Trace, of_tokens: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a function says of the targets, or of token a less what it says of b."""
        value = self.resolved_value
        if isinstance(value, LogitDifference):
            a, b = (torch.full_like(trace.token_ids, int(token)) for token in value.tokens)
            return of_tokens(a) - of_tokens(b)
        return of_tokens(trace.token_ids)


def _dot(written: Tensor, directions: Tensor) -> Tensor:
    return (written.double() * directions).sum(1)


def direct_logit_attribution(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Credit every component with its direct share of each target token's logit.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `DirectLogitAttribution`.

    Returns:
        Shares in logits, which sum to the model's logit before any softcap.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model.

    Example:
        >>> from iglens_tl import direct_logit_attribution, load_model
        >>> result = direct_logit_attribution(
        ...     load_model("demo"), "The capital of Vietnam is", answer=" Hanoi", by="head"
        ... )
        >>> bool(abs(result.completeness_error).max() < 1e-5)
        True
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return measure_prompt(
        DirectLogitAttribution, options, model, prompt, **choice, prepend_bos=prepend_bos
    )
