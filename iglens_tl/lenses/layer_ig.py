"""Layer integrated gradients: every layer on a path of its own, with the blocks above inside F.

For each layer the value's gradient is integrated while that layer's states, at all positions, move
on a straight line from a baseline of the layer to those of the text (Sundararajan, Taly, Yan,
"Axiomatic Attribution for Deep Networks", arXiv 1703.01365, with a layer's output as the input).
Every layer explains another difference, F(x) − F(the layer's baseline), and the layers' values do
not sum to anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.chain import Chain, build_chain
from iglens_tl.arguments import Count, Layers
from iglens_tl.lenses.input_paths import (
    completeness_note,
    of_whole_text,
    parts_of_path,
    read_positions_only,
    resolve_n_steps,
    targets_of,
    value_at,
    whole_texts,
)
from iglens_tl.lenses.base import Lens, run_lenses, state_point
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.models.gradients import recording, run_from_states
from iglens_tl.prompts import PromptLike, Request, Tokens, bind_value
from iglens_tl.readout import Point, Reading, Value, ValueLike

LAYER_BASELINES = {
    "mean": "the mean of the layer's own states over the text, later ones included",
    "zero": "the zero vector",
    "input_mean": "the layer's states when every embedding state is their mean over the text",
    "input_zero": "the layer's states when every embedding state is the zero vector",
}
"""Where a layer's path begins."""

LAYER_VIEWS = {
    "last": "the layer's state at the read position",
    "total": "the layer's states at all positions: F(x) − F(the layer's baseline)",
}
"""What the integrated gradients are summed over."""


def layer_integrated_gradients(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    layers: Layers | None = None,
    baseline: str = "mean",
    view: str = "last",
    value: ValueLike = "prob",
    n_steps: Count = 50,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Integrate each target's gradient along every layer's own path.

    Costs `n_steps + 1` forward passes per text and layer, and as many backward passes per target
    and layer, through the blocks above it.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        layers: Only after these blocks, and the last one; the embedding is always a layer.
        baseline: Where each layer's path begins, at every position: "mean" of the layer's own
            states over the text, "zero", or what the layer holds when the embedding states are
            replaced: "input_mean" by their mean, "input_zero" by zero. Under the last two every
            layer explains the same difference.
        view: "last" sums over the neurons of the read position, "total" over all positions.
        value: F: "prob", "logprob" (nats) or "logit", or a `Value`.
        n_steps: Nodes of the Gauss–Legendre rule.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Integrated gradients, not credits: "embed" holds those of the embedding states, "L3" those
        of the states after block 3. A level is F(the layer's baseline) plus the value, so that
        under "total" every level is F(x) up to the integration error, and `levels − values` is what
        each layer's path begins with. `baseline` is F of the first layer's baseline, `final` F(x).

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model.

    Warns:
        CompletenessWarning: If a total misses F(x) − F(the layer's baseline) by more than a tenth.

    Example:
        >>> from iglens_tl import layer_integrated_gradients, load_model
        >>> result = layer_integrated_gradients(
        ...     load_model("demo"), "The capital of Vietnam is", answer=" Hanoi", layers=[3]
        ... )
        >>> result.segments
        ('embed', 'L3', 'L7')
    """
    adapter = adapt(model)
    lens = plan_layer_integrated_gradients(
        adapter, layers=layers, baseline=baseline, view=view, value=value, n_steps=n_steps
    )
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [lens], prompt, **choice, prepend_bos=prepend_bos).results[0]


def plan_layer_integrated_gradients(
    adapter: ModelAdapter,
    *,
    layers: Layers | None = None,
    baseline: str = "mean",
    view: str = "last",
    value: ValueLike = "prob",
    n_steps: Count = 50,
) -> LayerIntegratedGradients:
    """Check the options of `layer_integrated_gradients` and return the lens, ready to measure."""
    if not isinstance(baseline, str) or baseline not in LAYER_BASELINES:
        raise ValueError(
            f"unknown baseline {baseline!r}; choose one of {', '.join(LAYER_BASELINES)}"
        )
    if view not in LAYER_VIEWS:
        raise ValueError(f"unknown view {view!r}; choose one of {', '.join(LAYER_VIEWS)}")
    return LayerIntegratedGradients(
        adapter=adapter,
        chain=build_chain(adapter, layers=layers),
        layers=None if layers is None else tuple(int(layer) for layer in layers),
        baseline=baseline,
        view=view,
        value=bind_value(adapter, value),
        n_steps=resolve_n_steps(n_steps),
    )


@dataclass(frozen=True)
class _Integral:
    """One layer's integrated gradients for one text, with the value that its path begins with."""

    by_position: Float[Tensor, "target pos"]
    start: Float[Tensor, " target"]


@dataclass(frozen=True, kw_only=True)
class LayerIntegratedGradients(Lens):
    """Layer integrated gradients with resolved options."""

    name = "layer_integrated_gradients"

    adapter: ModelAdapter
    chain: Chain
    layers: tuple[int, ...] | None
    baseline: str
    view: str
    value: Value
    n_steps: int

    def needs(self) -> Needs:
        """Ask for every layer's states of whole texts, and for the last state."""
        return Needs(self.chain.sites[-1:], whole_texts(self.chain.sites))

    def points(self, trace: Trace) -> list[Point]:
        """Return the last state, for F(x)."""
        return [state_point(trace, self.chain.sites[-1])]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every node of every layer's path: per text forward, per target back."""
        paths = (self.n_steps + 1) * len(self.chain.sites)
        per_text = paths + self.baseline.startswith("input_")  # the baseline input runs once
        return per_text * len(trace.requests), paths * len(trace.token_ids)

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Let every layer fade in by itself."""
        of_texts = [self._text(trace, text) for text in range(len(trace.requests))]
        by_position = [torch.stack([i.by_position for i in text], dim=1) for text in of_texts]
        start = torch.cat([torch.stack([i.start for i in text], dim=1) for text in of_texts])
        final = levels_of(trace, self.value, [readings[self.chain.sites[-1]]])[:, 0]
        totals = torch.cat([integrals.sum(2) for integrals in by_position])
        values = totals
        if self.view == "last":
            pairs = zip(by_position, trace.requests, strict=True)
            values = torch.cat([read_positions_only(*pair) for pair in pairs])
        change = final[:, None] - start
        return assemble(
            trace,
            lens=self.name,
            unit=self.value.unit,
            additive=False,
            segments=self.chain.segments,
            values=values,
            levels=start + values,
            baseline=start[:, 0],
            final=final,
            options={
                "layers": self.layers,
                "baseline": self.baseline,
                "view": self.view,
                **self.value.provenance(),
                "n_steps": self.n_steps,
            },
            notes=(
                f"a value belongs to {LAYER_VIEWS[self.view]}; over all positions a layer's values "
                "sum to final − F(its own baseline), and F(its own baseline) is its level − value",
                completeness_note(self.name, totals - change, change),
            ),
        )

    def _text(self, trace: Trace, text: int) -> list[_Integral]:
        states = [trace.reduced[of_whole_text(site)][text] for site in self.chain.sites]
        request = trace.requests[text]
        starts = self._starts(request, states)
        final = trace.target_states(self.chain.sites[-1])[text]
        paths = zip(self.chain.sites, starts, states, strict=True)
        return [self._integral(request, final, *path) for path in paths]

    def _starts(self, request: Request, states: list[Tensor]) -> list[Tensor]:
        if self.baseline == "mean":
            return [layer.mean(0, keepdim=True).expand_as(layer) for layer in states]
        if self.baseline == "zero":
            return [torch.zeros_like(layer) for layer in states]
        mean = self.baseline == "input_mean"
        replaced = states[0].mean(0, keepdim=True) if mean else torch.zeros_like(states[0][:1])
        kept = run_from_states(
            self.adapter,
            request.ids,
            replaced.expand_as(states[0])[None],
            start=self.chain.sites[0],
            keep=self.chain.sites,
        )
        return [kept[site].detach()[0].to(states[0]) for site in self.chain.sites]

    @recording()
    def _integral(
        self,
        request: Request,
        final: Float[Tensor, "target d_model"],
        site: str,
        start: Float[Tensor, "pos d_model"],
        end: Float[Tensor, "pos d_model"],
    ) -> _Integral:
        """Integrate along one layer's path. Its start is a node too, of weight 0, for its value."""
        points, weights = np.polynomial.legendre.leggauss(self.n_steps)
        nodes = torch.from_numpy(np.concatenate([[0.0], (points + 1) / 2]))
        weights = torch.from_numpy(np.concatenate([[0.0], weights / 2])).to(end.device)
        n_targets = len(request.target_ids)
        mean_gradients = torch.zeros(n_targets, *end.shape, dtype=torch.float64, device=end.device)
        values = torch.zeros(n_targets, len(nodes), dtype=torch.float64)
        last_site = self.chain.sites[-1]
        for part, states in parts_of_path(start, end, nodes):
            sites = list(dict.fromkeys([site, last_site]))
            kept = run_from_states(self.adapter, request.ids, states, start=site, keep=sites)
            # At the start, such as the zero vector, a norm may have no finite gradient.
            inside = weights[part] > 0
            for target, position, token in targets_of(request):
                read = kept[last_site][:, position]
                found = value_at(self.adapter.readout, self.value, read, token, final[target])
                values[target, part] = found.detach().double().cpu()
                (gradients,) = torch.autograd.grad(
                    found.sum(),
                    kept[site],
                    retain_graph=target + 1 < n_targets,
                    allow_unused=True,
                    materialize_grads=True,
                )
                at_nodes = gradients.to(end.device).double()[inside]
                mean_gradients[target] += torch.tensordot(weights[part][inside], at_nodes, dims=1)
        by_position = (mean_gradients * (end - start).double()).sum(2).cpu()
        return _Integral(by_position, values[:, 0])
