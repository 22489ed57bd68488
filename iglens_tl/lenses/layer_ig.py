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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.arguments import Count, Layers, resolve_choice, resolve_count, resolve_layers
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.base import Lens, measure_prompt, state_point
from iglens_tl.lenses.chain import build_chain
from iglens_tl.lenses.input_paths import (
    POSITIONS,
    STEPS_ADVICE,
    Positions,
    completeness_note,
    parts_of_path,
    read_positions_only,
    targets_of,
    value_at,
)
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.models.gradients import recording, run_from_states
from iglens_tl.prompts import PromptLike, Request, Tokens
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace, of_whole_text, whole_texts

if TYPE_CHECKING:
    LayerBaseline: TypeAlias = Literal["mean", "zero", "input_mean", "input_zero"]
else:  # anything may arrive here; it is answered with a readable error
    LayerBaseline = Any

LAYER_BASELINES = {
    "mean": "the mean of the layer's own states over the text, later ones included",
    "zero": "the zero vector",
    "input_mean": "the layer's states when every embedding state is their mean over the text",
    "input_zero": "the layer's states when every embedding state is the zero vector",
}
"""The beginnings of a layer's path."""


@dataclass(frozen=True, kw_only=True)
class LayerIntegratedGradients(Lens):
    """Layer integrated gradients: each target's gradient along every layer's own path.

    Costs `n_steps + 1` forward passes per text and layer, and as many backward passes per target
    and layer, through the blocks above it. Its results hold integrated gradients, not credits:
    "embed" holds those of the embedding states, "L3" those of the states after block 3. A level is
    F(the layer's baseline) plus the value, so that over all positions every level is F(x) up to the
    integration error, and `levels − values` is what each layer's path begins with. `baseline` is F
    of the first layer's baseline, `final` F(x).

    Attributes:
        value: F: "prob", "logprob" (nats), "logit", another name of `VALUES`, or a `Value`.
        layers: Only after these blocks, and the last one; the embedding is always a layer.
        baseline: Where each layer's path begins, at every position: "mean" of the layer's own
            states over the text, "zero", or what the layer holds when the embedding states are
            replaced: "input_mean" by their mean, "input_zero" by zero. Under the last two every
            layer explains the same difference.
        positions: "read" sums over the neurons of the read position, "all" over all positions.
        n_steps: Nodes of the Gauss–Legendre rule.

    Warns:
        CompletenessWarning: If a total misses F(x) − F(the layer's baseline) by more than a tenth.

    Example:
        >>> from iglens_tl import LayerIntegratedGradients, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> LayerIntegratedGradients(layers=[3])(trace).segments
        ('embed', 'L3', 'L7')
    """

    layers: Layers | None = None
    baseline: LayerBaseline = "mean"
    positions: Positions = "read"
    n_steps: Count = 50

    name: ClassVar[str] = "layer_integrated_gradients"
    label: ClassVar[str] = "layer integrated gradients"
    measures: ClassVar[str] = (
        "The change from a layer's own baseline activation; every layer explains its own change."
    )
    sums_to: ClassVar[str] = "nothing: every layer explains a change of its own"
    additive: ClassVar[bool] = False
    cost: ClassVar[str] = "forward and backward passes for every layer"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        object.__setattr__(self, "layers", resolve_layers(self.layers))
        resolve_choice("baseline", self.baseline, LAYER_BASELINES)
        resolve_choice("positions", self.positions, POSITIONS)
        resolve_count("n_steps", self.n_steps, least=1, advice=STEPS_ADVICE)

    def bind(self, adapter: ModelAdapter) -> LayerIntegratedGradients:
        """Return the lens, checked against the model, which has its layers."""
        build_chain(adapter, layers=self.layers)
        return super().bind(adapter)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for every layer's states of whole texts, and for the last state."""
        sites = build_chain(adapter, layers=self.layers).sites
        return Needs(sites[-1:], whole_texts(sites))

    def points(self, trace: Trace) -> list[Point]:
        """Return the last state, for F(x)."""
        return [state_point(trace, self._sites(trace)[-1])]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every node of every layer's path: per text forward, per target back."""
        paths = (self.n_steps + 1) * len(self._sites(trace))
        per_text = paths + self.baseline.startswith("input_")  # the baseline input runs once
        return per_text * len(trace.requests), paths * len(trace)

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Let every layer fade in by itself."""
        of_texts = [self._text(trace, text) for text in range(len(trace.requests))]
        by_position = [torch.stack([i.by_position for i in text], dim=1) for text in of_texts]
        start = torch.cat([torch.stack([i.start for i in text], dim=1) for text in of_texts])
        value, (last,) = self.resolved_value, self.points(trace)
        final = levels_of(trace, value, [readings[last.key]])[:, 0]
        totals = torch.cat([integrals.sum(2) for integrals in by_position])
        values = totals
        if self.positions == "read":
            pairs = zip(by_position, trace.requests, strict=True)
            values = torch.cat([read_positions_only(*pair) for pair in pairs])
        change = final[:, None] - start
        return assemble(
            trace,
            lens=self,
            unit=value.unit,
            kind="value",
            segments=build_chain(trace.adapter, layers=self.layers).segments,
            values=values,
            levels=start + values,
            baseline=start[:, 0],
            final=final,
            options={
                "layers": self.layers,
                "baseline": self.baseline,
                "positions": self.positions,
                **value.provenance(),
                "n_steps": self.n_steps,
            },
            notes=(
                f"a value belongs to the layer's states at {POSITIONS[self.positions]}; over all "
                "positions a layer's values sum to final − F(its own baseline), and F(its own "
                "baseline) is its level − value",
                completeness_note(self.name, totals - change, change),
            ),
        )

    def _sites(self, trace: Trace) -> tuple[str, ...]:
        return build_chain(trace.adapter, layers=self.layers).sites

    def _text(self, trace: Trace, text: int) -> list[_Integral]:
        states = [trace.reduced[of_whole_text(site)][text] for site in self._sites(trace)]
        request = trace.requests[text]
        starts = self._starts(trace, request, states)
        final = trace.target_states(self._sites(trace)[-1])[text]
        paths = zip(self._sites(trace), starts, states, strict=True)
        return [self._integral(trace, request, final, *path) for path in paths]

    def _starts(self, trace: Trace, request: Request, states: list[Tensor]) -> list[Tensor]:
        if self.baseline == "mean":
            return [layer.mean(0, keepdim=True).expand_as(layer) for layer in states]
        if self.baseline == "zero":
            return [torch.zeros_like(layer) for layer in states]
        mean = self.baseline == "input_mean"
        replaced = states[0].mean(0, keepdim=True) if mean else torch.zeros_like(states[0][:1])
        sites = self._sites(trace)
        kept = run_from_states(
            trace.adapter,
            request.ids,
            replaced.expand_as(states[0])[None],
            start=sites[0],
            keep=sites,
        )
        return [kept[site].detach()[0].to(states[0]) for site in sites]

    @recording()
    def _integral(
        self,
        trace: Trace,
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
        adapter, last_site = trace.adapter, self._sites(trace)[-1]
        for part, states in parts_of_path(start, end, nodes):
            sites = list(dict.fromkeys([site, last_site]))
            kept = run_from_states(adapter, request.ids, states, start=site, keep=sites)
            # At the start, such as the zero vector, a norm may have no finite gradient.
            inside = weights[part] > 0
            for target, position, token in targets_of(request):
                read = kept[last_site][:, position]
                found = value_at(adapter.readout, self.resolved_value, read, token, final[target])
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


def layer_integrated_gradients(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Integrate each target's gradient along every layer's own path.

    See `LayerIntegratedGradients`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `LayerIntegratedGradients`.

    Returns:
        Integrated gradients, not credits: the layers do not sum to anything.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
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
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return measure_prompt(
        LayerIntegratedGradients, options, model, prompt, **choice, prepend_bos=prepend_bos
    )


@dataclass(frozen=True)
class _Integral:
    """One layer's integrated gradients for one text, with the value that its path begins with."""

    by_position: Float[Tensor, "target pos"]
    start: Float[Tensor, " target"]
