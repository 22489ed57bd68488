"""Layer conductance: how much of a value flows through each layer as the input fades in.

The conductance of a unit is the integral of its gradient over its own change while the embedding
states move on a straight line from a baseline to those of the text (Dhamdhere, Sundararajan, Yan,
"How Important Is a Neuron?", arXiv 1805.12233). All information passes through the residual stream
of every layer, so that over all positions every layer has the same total, F(x) − F(x'). What
differs between layers is where it flows: at the read position or elsewhere, through attention or
through the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.arguments import Count, resolve_choice, resolve_count
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.base import Lens, configure, measure_prompt, state_point
from iglens_tl.lenses.baselines import BaselineLike, check_baseline, resolve_baseline
from iglens_tl.lenses.chain import BY, By
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
from iglens_tl.prompts import PromptLike, Request, Tokens, token_string
from iglens_tl.readout import Point, Reading, Value
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace, begin_trace, of_whole_text, whole_texts


@dataclass(frozen=True)
class Flow:
    """The conductances of one text.

    Attributes:
        by_position: `[target, segment, pos]`, summed over the neurons of each position.
        start: `[target]`, F(x').
        end: `[target]`, F(x).
    """

    by_position: Float[Tensor, "target segment pos"]
    start: Float[Tensor, " target"]
    end: Float[Tensor, " target"]


@dataclass(frozen=True, kw_only=True)
class LayerConductance(Lens):
    """Layer conductance: how much of each target's value flows through every layer.

    Costs `n_steps + 1` forward passes per text and as many backward passes per target; each gives
    all layers at once. Its results hold conductances, not credits: "embed" holds the embedding
    states, "L3" the stream after block 3, "L3.attn" what its attention writes. A level is F(x')
    plus the conductance; at the read position it ends at F(x), because the last layer acts only
    through that position. `baseline` is F(x'), `final` is F(x).

    Attributes:
        value: F: "prob", "logprob" (nats), "logit", another name of `VALUES`, or a `Value`.
        baseline: The embedding states x' that the path starts from, at every position: "mean" of
            the text's embedding states (later ones included), "mean_causal", "zero", or a vector.
            Models whose blocks begin with a norm jump at the zero vector, so that "zero" converges
            slowly or not at all.
        by: "layer", the residual stream after every block; "sublayer", what attention and MLP of
            every block write.
        positions: "read" sums over the neurons of the read position, "all" over all positions. The
            stream at all positions has the same total, F(x) − F(x'), after every layer.
        n_steps: Steps of the trapezoid rule; its error falls with their square.

    Warns:
        CompletenessWarning: If the totals miss F(x) − F(x') by more than a tenth.

    Example:
        >>> from iglens_tl import LayerConductance, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> LayerConductance(n_steps=100)(trace).segments[:3]
        ('embed', 'L0', 'L1')
    """

    baseline: BaselineLike = "mean"
    by: By = "layer"
    positions: Positions = "read"
    n_steps: Count = 50

    name: ClassVar[str] = "layer_conductance"
    label: ClassVar[str] = "layer conductance"
    measures: ClassVar[str] = (
        "How much of the change from an input baseline passes through a layer; the values of "
        "different layers do not sum to anything."
    )
    sums_to: ClassVar[str] = "nothing: over all positions every layer passes all of the change"
    additive: ClassVar[bool] = False
    cost: ClassVar[str] = "forward and backward passes, 51 inputs per target"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        object.__setattr__(self, "baseline", check_baseline(self.baseline))
        if self.baseline == "embed":
            raise ValueError(
                "the baseline 'embed' is the text itself, so that nothing would flow; choose "
                "'mean', 'mean_causal', 'zero' or a vector"
            )
        resolve_choice("split by", self.by, BY)
        resolve_choice("positions", self.positions, POSITIONS)
        resolve_count("n_steps", self.n_steps, least=1, advice=STEPS_ADVICE)

    def bind(self, adapter: ModelAdapter) -> LayerConductance:
        """Return the lens, checked against the model."""
        resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        return super().bind(adapter)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the embedding states of whole texts, and for the last state."""
        last = adapter.post_site(adapter.n_layers - 1)
        return Needs((last,), whole_texts([adapter.embed_site]))

    def points(self, trace: Trace) -> list[Point]:
        """Return the last state, for F(x)."""
        return [state_point(trace, trace.adapter.post_site(trace.adapter.n_layers - 1))]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every node of the path: per text forward, per target backward."""
        nodes = self.n_steps + 1
        return nodes * len(trace.requests), nodes * len(trace)

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Let the texts fade in."""
        flows = self._flows(trace)
        start = torch.cat([flow.start for flow in flows])
        totals = torch.cat([flow.by_position.sum(2) for flow in flows])
        values = totals
        if self.positions == "read":
            of_texts = zip(flows, trace.requests, strict=True)
            values = torch.cat([read_positions_only(f.by_position, r) for f, r in of_texts])
        # What sublayers write is not passed by all information; only the embedding is.
        cuts = totals[:, :1] if self.by == "sublayer" else totals
        change = (torch.cat([flow.end for flow in flows]) - start)[:, None].expand_as(cuts)
        value, (last,) = self.resolved_value, self.points(trace)
        units = "what attention and MLP write" if self.by == "sublayer" else "the residual stream"
        return assemble(
            trace,
            lens=self,
            unit=value.unit,
            kind="value",
            segments=list(self._sites(trace.adapter)),
            values=values,
            levels=start[:, None] + values,
            baseline=start,
            final=levels_of(trace, value, [readings[last.key]])[:, 0],
            options={
                "baseline": self._baseline_name,
                "by": self.by,
                "positions": self.positions,
                **value.provenance(),
                "n_steps": self.n_steps,
            },
            notes=(
                f"a value is the conductance of {units} at {POSITIONS[self.positions]}; over all "
                "positions the stream has the same total, final − baseline, after every layer",
                completeness_note(self.name, cuts - change, change),
            ),
        )

    def by_position(self, trace: Trace) -> pd.DataFrame:
        """Measure through which positions of every layer each target's value flows.

        Returns:
            One row per target, segment and source position up to the read position: `prompt`,
            `position`, `token_id` and `token` name the target, then come `segment`, `source` (a
            position), `source_token` and `value`. Over the sources the values sum to those of
            positions="all"; those with `source == position` are those of positions="read".
        """
        bound, adapter = self.bind(trace.adapter), trace.adapter
        trace.collect([bound.needs(adapter)])
        flows, segments = bound._flows(trace), list(bound._sites(adapter))
        rows = []
        for text, (request, flow) in enumerate(zip(trace.requests, flows, strict=True)):
            sources = [token_string(adapter, token) for token in request.ids]
            for target, position, token in targets_of(request):
                name = (text, position, token, token_string(adapter, token))
                for segment, numbers in zip(segments, flow.by_position[target], strict=True):
                    values = numbers[: position + 1].tolist()
                    rows += [(*name, segment, s, sources[s], v) for s, v in enumerate(values)]
        columns = ["prompt", "position", "token_id", "token"]
        return pd.DataFrame(rows, columns=[*columns, "segment", "source", "source_token", "value"])

    def _sites(self, adapter: ModelAdapter) -> dict[str, str]:
        """Return the hook of each segment."""
        layers = range(adapter.n_layers)
        sites = {"embed": adapter.embed_site}
        if self.by == "layer":
            return sites | {f"L{layer}": adapter.post_site(layer) for layer in layers}
        for layer in layers:
            sites[f"L{layer}.attn"] = adapter.attn_site(layer)
            mlp = adapter.mlp_site(layer)
            if mlp is not None:
                sites[f"L{layer}.mlp"] = mlp
        return sites

    @property
    def _baseline_name(self) -> str:
        return self.baseline if isinstance(self.baseline, str) else "vector"

    def _flows(self, trace: Trace) -> list[Flow]:
        """Return the conductances of every text."""
        adapter = trace.adapter
        embeddings = trace.reduced[of_whole_text(adapter.embed_site)]
        final = trace.target_states(adapter.post_site(adapter.n_layers - 1))
        baseline = resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        sites, flows = list(self._sites(adapter).values()), []
        for request, states, last in zip(trace.requests, embeddings, final, strict=True):
            everywhere = list(range(len(states)))
            start = baseline.of_text(states, everywhere).expand_as(states)
            ends = (start, states)
            value = self.resolved_value
            flows.append(
                _measure_flow(adapter, value, request, ends, last, sites, n_steps=self.n_steps)
            )
        return flows


def layer_conductance(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Measure how much of each target's value flows through every layer; see `LayerConductance`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `LayerConductance`.

    Returns:
        Conductances, not credits: the layers do not sum to anything.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model.

    Warns:
        CompletenessWarning: If the totals miss F(x) − F(x') by more than a tenth.

    Example:
        >>> from iglens_tl import layer_conductance, load_model
        >>> result = layer_conductance(
        ...     load_model("demo"), "The capital of Vietnam is", answer=" Hanoi", n_steps=100
        ... )
        >>> result.segments[:3]
        ('embed', 'L0', 'L1')
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return measure_prompt(
        LayerConductance, options, model, prompt, **choice, prepend_bos=prepend_bos
    )


def conductance_by_position(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure through which positions of every layer each target's value flows.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `LayerConductance`.

    Returns:
        The table of `LayerConductance.by_position`.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model.

    Example:
        >>> from iglens_tl import conductance_by_position, load_model
        >>> table = conductance_by_position(
        ...     load_model("demo"), "The capital of Vietnam is", answer=" Hanoi", n_steps=100
        ... )
        >>> table.columns[-4:].tolist()
        ['segment', 'source', 'source_token', 'value']
    """
    lens = configure(LayerConductance, options)
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return lens.by_position(begin_trace(model, prompt, **choice, prepend_bos=prepend_bos))


@recording()
def _measure_flow(
    adapter: ModelAdapter,
    value: Value,
    request: Request,
    ends: tuple[Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"]],
    final: Float[Tensor, "target d_model"],
    sites: Sequence[str],
    *,
    n_steps: int,
) -> Flow:
    """Move the embedding states on a straight line and measure what flows through every site.

    The nodes run in parts of bounded size, whose results do not depend on that size. Each part
    costs one forward pass for all targets and a backward pass for each.

    Args:
        adapter: The model.
        value: What is differentiated.
        request: The text and its targets.
        ends: The embedding states at both ends of the line.
        final: The states from which the model itself predicts the targets.
        sites: The hooks whose activations are the units.
        n_steps: Steps of the trapezoid rule.
    """
    nodes = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    last_site = adapter.post_site(adapter.n_layers - 1)
    n_positions = len(request.ids)
    of_targets = [_Trapezoids(len(sites), n_positions) for _ in request.target_ids]
    values = torch.zeros(len(of_targets), len(nodes), dtype=torch.float64)
    for part, states in parts_of_path(*ends, nodes):
        kept = run_from_states(
            adapter,
            request.ids,
            states,
            start=adapter.embed_site,
            keep=list(dict.fromkeys([*sites, last_site])),
        )
        along, last = [kept[site] for site in sites], kept[last_site]
        activations = [activation.detach() for activation in along]
        for target, position, token in targets_of(request):
            found = value_at(adapter.readout, value, last[:, position], token, final[target])
            gradients = torch.autograd.grad(
                found.sum(),
                along,
                retain_graph=target + 1 < len(of_targets),
                allow_unused=True,
                materialize_grads=True,
            )
            of_targets[target].add(activations, gradients)
            values[target, part] = found.detach().double().cpu()
    by_position = torch.stack([sums.by_position for sums in of_targets])
    return Flow(by_position, values[:, 0], values[:, -1])


class _Trapezoids:
    """Running sums of ½ (g_k + g_{k+1}) · (y_{k+1} − y_k), over the nodes of one path."""

    def __init__(self, n_sites: int, n_positions: int) -> None:
        self.by_position = torch.zeros(n_sites, n_positions, dtype=torch.float64)
        self._before: list[tuple[Tensor, Tensor]] = []

    def add(self, activations: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
        """Add the next nodes: activations and gradients `[node, pos, d]` of every site."""
        before, self._before = self._before, []
        for site, (y, g) in enumerate(zip(activations, gradients, strict=True)):
            total = _steps(y[:-1], y[1:], g[:-1], g[1:])
            if before:
                total += _steps(before[site][0], y[:1], before[site][1], g[:1])
            self.by_position[site] += total.cpu()
            # Copies, so that the other nodes are not kept alive.
            self._before.append((y[-1:].clone(), g[-1:].clone()))


def _steps(y_from: Tensor, y_to: Tensor, g_from: Tensor, g_to: Tensor) -> Float[Tensor, " pos"]:
    slopes = g_from.float() + g_to.float() if g_from.dtype != torch.float64 else g_from + g_to
    return (slopes * (y_to - y_from)).sum(2).double().sum(0) / 2
