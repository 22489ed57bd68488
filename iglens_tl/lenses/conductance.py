"""Layer conductance: how much of a value flows through each layer as the input fades in.

The conductance of a unit is the integral of its gradient over its own change while the embedding
states move on a straight line from a baseline to those of the text (Dhamdhere, Sundararajan, Yan,
"How Important Is a Neuron?", arXiv 1805.12233). All information passes through the residual stream
of every layer, so that over all positions every layer has the same total, F(x) − F(x'). What
differs between layers is where it flows: at the read position or elsewhere, through attention or
through the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.baselines import Baseline, BaselineLike, resolve_baseline
from iglens_tl.lenses.conductance_flow import Flow, measure_flow
from iglens_tl.arguments import Count
from iglens_tl.lenses.input_paths import (
    completeness_note,
    of_whole_text,
    read_positions_only,
    resolve_n_steps,
    targets_of,
    whole_texts,
)
from iglens_tl.lenses.base import Lens, run_lenses, state_point
from iglens_tl.trace import Needs, Trace, collect_trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.models.checks import check_model
from iglens_tl.prompts import (
    PromptLike,
    Request,
    Tokens,
    bind_value,
    build_requests,
    token_string,
)
from iglens_tl.readout import Point, Reading, Value, ValueLike

VIEWS = {
    "last": "the residual stream at the read position, after every layer",
    "total": "the residual stream at all positions, after every layer: F(x) − F(x') for each",
    "sublayer": "what attention and MLP of every layer write at all positions",
}
"""What of a layer the conductance is summed over."""


def layer_conductance(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    baseline: BaselineLike = "mean",
    view: str = "last",
    value: ValueLike = "prob",
    n_steps: Count = 50,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Measure how much of each target's value flows through every layer.

    Costs `n_steps + 1` forward passes per text and as many backward passes per target; each gives
    all layers at once.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        baseline: The embedding states x' that the path starts from, at every position: "mean" of
            the text's embedding states (later ones included), "mean_causal", "zero", or a vector.
            Models whose blocks begin with a norm jump at the zero vector, so that "zero" converges
            slowly or not at all.
        view: "last" sums over the neurons of the read position, "total" over all positions, which
            is F(x) − F(x') for every layer, "sublayer" over what attention and MLP write at all
            positions.
        value: F: "prob", "logprob" (nats) or "logit", or a `Value`.
        n_steps: Steps of the trapezoid rule; its error falls with their square.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Conductances, not credits: the layers do not sum to anything. "embed" holds the embedding
        states, "L3" the stream after block 3, "L3.attn" what its attention writes. A level is
        F(x') plus the conductance; under "last" it ends at F(x), because the last layer acts only
        through the read position. `baseline` is F(x'), `final` is F(x).

    Raises:
        TypeError: For arguments of a wrong kind.
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
    adapter = adapt(model)
    lens = plan_layer_conductance(
        adapter, baseline=baseline, view=view, value=value, n_steps=n_steps
    )
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [lens], prompt, **choice, prepend_bos=prepend_bos).results[0]


def conductance_by_position(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    baseline: BaselineLike = "mean",
    sublayers: bool = False,
    value: ValueLike = "prob",
    n_steps: Count = 50,
    prepend_bos: bool | None = None,
) -> pd.DataFrame:
    """Measure through which positions of every layer each target's value flows.

    Args:
        model: As in `layer_conductance`, as are all arguments but `sublayers`.
        prompt: The text or texts.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        baseline: The embedding states that the path starts from.
        sublayers: What attention and MLP write, instead of the residual stream.
        value: "prob", "logprob" or "logit", or a `Value`.
        n_steps: Steps of the trapezoid rule.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        One row per target, segment and source position up to the read position: `prompt`,
        `position`, `token_id` and `token` name the target, then come `segment`, `source` (a
        position), `source_token` and `value`. Over the sources the values sum to the view "total"
        (or "sublayer"); those with `source == position` are the view "last".

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model.

    Example:
        >>> from iglens_tl import conductance_by_position, load_model
        >>> table = conductance_by_position(
        ...     load_model("demo"), "The capital of Vietnam is", answer=" Hanoi", n_steps=100
        ... )
        >>> table.columns[-4:].tolist()
        ['segment', 'source', 'source_token', 'value']
    """
    adapter = adapt(model)
    lens = plan_layer_conductance(
        adapter,
        baseline=baseline,
        view="sublayer" if sublayers else "total",
        value=value,
        n_steps=n_steps,
    )
    requests = build_requests(
        adapter,
        prompt,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    check_model(adapter, torch.tensor(requests[0].ids))
    trace = collect_trace(adapter, requests, [lens.needs()], {})
    rows = []
    for text, (request, flow) in enumerate(zip(requests, lens.flows(trace), strict=True)):
        sources = [token_string(adapter, token) for token in request.ids]
        for target, position, token in targets_of(request):
            name = (text, position, token, token_string(adapter, token))
            for segment, numbers in zip(lens.segments, flow.by_position[target], strict=True):
                values = numbers[: position + 1].tolist()
                rows += [(*name, segment, s, sources[s], v) for s, v in enumerate(values)]
    columns = ["prompt", "position", "token_id", "token"]
    return pd.DataFrame(rows, columns=[*columns, "segment", "source", "source_token", "value"])


def plan_layer_conductance(
    adapter: ModelAdapter,
    *,
    baseline: BaselineLike = "mean",
    view: str = "last",
    value: ValueLike = "prob",
    n_steps: Count = 50,
) -> LayerConductance:
    """Check the options of `layer_conductance` and return the lens, ready to measure."""
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}; choose one of {', '.join(VIEWS)}")
    resolved = resolve_baseline(baseline, d_model=adapter.readout.d_model)
    if resolved.name == "embed":
        raise ValueError(
            "the baseline 'embed' is the text itself, so that nothing would flow; choose 'mean', "
            "'mean_causal', 'zero' or a vector"
        )
    return LayerConductance(
        adapter=adapter,
        baseline=resolved,
        view=view,
        value=bind_value(adapter, value),
        n_steps=resolve_n_steps(n_steps),
    )


@dataclass(frozen=True, kw_only=True)
class LayerConductance(Lens):
    """Layer conductance with resolved options."""

    name = "layer_conductance"

    adapter: ModelAdapter
    baseline: Baseline
    view: str
    value: Value
    n_steps: int

    @property
    def sites(self) -> dict[str, str]:
        """The hook of each segment."""
        adapter, layers = self.adapter, range(self.adapter.n_layers)
        sites = {"embed": adapter.embed_site}
        if self.view != "sublayer":
            return sites | {f"L{layer}": adapter.post_site(layer) for layer in layers}
        for layer in layers:
            sites[f"L{layer}.attn"] = adapter.attn_site(layer)
            mlp = adapter.mlp_site(layer)
            if mlp is not None:
                sites[f"L{layer}.mlp"] = mlp
        return sites

    @property
    def segments(self) -> list[str]:
        """The labels of the segments."""
        return list(self.sites)

    @property
    def _last_site(self) -> str:
        return self.adapter.post_site(self.adapter.n_layers - 1)

    def needs(self) -> Needs:
        """Ask for the embedding states of whole texts, and for the last state."""
        return Needs((self._last_site,), whole_texts([self.adapter.embed_site]))

    def points(self, trace: Trace) -> list[Point]:
        """Return the last state, for F(x)."""
        return [state_point(trace, self._last_site)]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every node of the path: per text forward, per target backward."""
        nodes = self.n_steps + 1
        return nodes * len(trace.requests), nodes * len(trace.token_ids)

    def flows(self, trace: Trace) -> list[Flow]:
        """Return the conductances of every text."""
        embeddings = trace.reduced[of_whole_text(self.adapter.embed_site)]
        final = trace.target_states(self._last_site)
        return [self._flow(*text) for text in zip(trace.requests, embeddings, final, strict=True)]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Let the texts fade in."""
        flows = self.flows(trace)
        start = torch.cat([flow.start for flow in flows])
        totals = torch.cat([flow.by_position.sum(2) for flow in flows])
        values = totals
        if self.view == "last":
            of_texts = zip(flows, trace.requests, strict=True)
            values = torch.cat([read_positions_only(f.by_position, r) for f, r in of_texts])
        # Under "sublayer" only the embedding is passed by all information.
        cuts = totals[:, :1] if self.view == "sublayer" else totals
        change = (torch.cat([flow.end for flow in flows]) - start)[:, None].expand_as(cuts)
        return assemble(
            trace,
            lens=self.name,
            unit=self.value.unit,
            additive=False,
            segments=self.segments,
            values=values,
            levels=start[:, None] + values,
            baseline=start,
            final=levels_of(trace, self.value, [readings[self._last_site]])[:, 0],
            options={
                "baseline": self.baseline.name,
                "view": self.view,
                **self.value.provenance(),
                "n_steps": self.n_steps,
            },
            notes=(
                f"a value is the conductance of {VIEWS[self.view]}; over all positions the stream "
                "has the same total, final − baseline, after every layer",
                completeness_note(self.name, cuts - change, change),
            ),
        )

    def _flow(
        self,
        request: Request,
        embeddings: Float[Tensor, "pos d_model"],
        final: Float[Tensor, "target d_model"],
    ) -> Flow:
        everywhere = list(range(len(embeddings)))
        start = self.baseline.of_text(embeddings, everywhere).expand_as(embeddings)
        sites = list(self.sites.values())
        ends = (start, embeddings)
        return measure_flow(
            self.adapter, self.value, request, ends, final, sites, n_steps=self.n_steps
        )
