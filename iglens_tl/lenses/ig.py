"""IG-Lens (arXiv 2606.29693): between which two layers was a token's probability produced?

One path leads from a baseline through the hidden states of a token's position to the last one. The
integral of the readout's gradient along each segment of that path is the segment's credit, and the
credits telescope: they sum to value(last state) − value(baseline), softmax included.

Under the default estimator a layer's credit is therefore the first difference of the logit lens,
value(h_l) − value(h_{l−1}). It has an exact causal reading, the effect of running one more layer
and leaving the model there; it does not measure what a layer prepares for later layers to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.baselines import Baseline, BaselineLike, resolve_baseline
from iglens_tl.lenses.chain import Chain, build_chain
from iglens_tl.lenses.decomposition.components import plan_components
from iglens_tl.lenses.credit_orders import HIDDEN_STATE_PATHS, plan_credit_order, resolve_path
from iglens_tl.lenses.estimators import Estimator, credit_segments, resolve_estimator
from iglens_tl.arguments import Count, Layers, resolve_top_k
from iglens_tl.lenses.path_start import start_needs, start_point
from iglens_tl.lenses.base import Lens, run_lenses, state_point
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import (
    OutputTransform,
    Point,
    Reading,
    Readout,
    Value,
    ValueLike,
    read_levels,
)

_REFERENCE_NOTE = (
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
    path: str = "hidden_states",
    baseline: BaselineLike = "mean",
    value: ValueLike = "prob",
    estimator: str | None = None,
    n_steps: Count | None = None,
    tolerance: float | None = None,
    n_permutations: Count | None = None,
    seed: Count = 0,
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
        sublayers: Split every block into attention and MLP (through `resid_mid`); another spelling
            of path="sublayers".
        path: The order in which credit is given, one of `PATHS`. All orders but "leave_one_out"
            are additive: they share out the same `final − baseline`.
            "hidden_states" and "sublayers": the states that the model produced (early exit).
            "reverse": each layer's update as it was in the whole run, added last layer first.
            "straight": all updates grow together on the line from baseline to last state (Aumann
            and Shapley 1974). "straight_projected", "straight_uniform": that line, cut at the
            projections of the states, or evenly.
            "shapley_frozen": each update's mean credit over all orders of adding them.
            "shapley_skip": each layer's mean credit over all orders of adding layers to a model
            that skips the others, recomputed: 2^n_layers forward passes for each text.
            "leave_one_out": what skipping each layer alone takes from the final value, recomputed.
        baseline: Where the path begins: "mean" of the embedding states over the text (the paper's;
            it sees later tokens), "mean_causal" over the positions up to the one that is read,
            "zero", "embed" (no credit for the embedding) or a vector of width d_model. Only the
            first segment depends on it, but for paths over frozen updates and straight lines.
        value: "prob", "logprob" (nats) or "logit", or a `Value`.
        estimator: "delta" is exact, and the default but for path="straight", where "gradient" is;
            "gradient" integrates to a tolerance; "riemann" is the paper's midpoint rule. "ps_ig"
            (paths "hidden_states", "sublayers" and "straight") and "idgi" (path "straight") are
            those of `components`.
        n_steps: Steps per segment of "riemann" (default 64, as in the reference code), or nodes of
            "gradient" before bisection (default 32).
        tolerance: Accepted error of "gradient" per segment; default 1e-5, or 1e-10 in float64.
        n_permutations: Orders that the Shapley paths sample, in pairs of opposite order, with
            standard errors in `statistics`; 0 values all coalitions, None does so for at most 14
            players and samples 100 orders of more.
        seed: Seed of these orders.
        top_k: How many of the most probable tokens to keep per state for figures; 0 also skips the
            ranks and saves about a tenth of the time. Only paths whose levels are those of the
            model's own states have any.
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
    lens: Lens = plan_ig_lens(
        adapter,
        layers=layers,
        sublayers=sublayers,
        path=path,
        baseline=baseline,
        value=value,
        estimator=estimator,
        n_steps=n_steps,
        tolerance=tolerance,
        n_permutations=n_permutations,
        seed=seed,
        top_k=top_k,
        reference_compat=reference_compat,
    )
    run = run_lenses(
        adapter,
        [lens],
        prompt,
        readout=lens.readout if isinstance(lens, IGLens) else None,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    return run.results[0]


def plan_ig_lens(
    adapter: ModelAdapter,
    *,
    layers: Layers | None = None,
    sublayers: bool = False,
    path: str = "hidden_states",
    baseline: BaselineLike = "mean",
    value: ValueLike = "prob",
    estimator: str | None = None,
    n_steps: Count | None = None,
    tolerance: float | None = None,
    n_permutations: Count | None = None,
    seed: Count = 0,
    top_k: Count = 5,
    reference_compat: bool = False,
) -> Lens:
    """Check the options of `ig_lens` and return the lens, ready to measure."""
    value, top_k = bind_value(adapter, value), resolve_top_k(top_k)
    start = resolve_baseline(baseline, d_model=adapter.readout.d_model)
    if estimator is None:
        estimator = "gradient" if path == "straight" else "delta"
    path = resolve_path(
        path,
        layers=layers,
        sublayers=sublayers,
        estimator=estimator,
        n_permutations=n_permutations,
        reference_compat=reference_compat,
    )
    if path == "straight" or estimator == "ps_ig":
        return plan_components(
            adapter,
            by="sublayer" if path == "sublayers" else "layer",
            path=path,
            baseline=baseline,
            value=value,
            estimator=estimator,
            n_steps=n_steps,
            tolerance=tolerance,
            name="ig_lens",
        )
    if path not in HIDDEN_STATE_PATHS:
        return plan_credit_order(
            adapter,
            path,
            layers=layers,
            baseline=start,
            value=value,
            estimator=estimator,
            n_steps=n_steps,
            tolerance=tolerance,
            top_k=top_k,
            n_permutations=n_permutations,
            seed=seed,
        )
    sublayers = path == "sublayers"
    return IGLens(
        adapter=adapter,
        value=value,
        baseline=start,
        estimator=resolve_estimator(estimator, n_steps=n_steps, tolerance=tolerance),
        top_k=top_k,
        chain=build_chain(adapter, layers=layers, sublayers=sublayers, embed=not reference_compat),
        layers=None if layers is None else tuple(int(layer) for layer in layers),
        path=path,
        reference_compat=reference_compat,
    )


@dataclass(frozen=True, kw_only=True)
class IGLens(Lens):
    """IG-Lens with resolved options."""

    name = "ig_lens"

    adapter: ModelAdapter
    value: Value
    baseline: Baseline
    estimator: Estimator
    top_k: int
    chain: Chain
    layers: tuple[int, ...] | None
    path: str
    reference_compat: bool

    @property
    def readout(self) -> Readout:
        """The model's readout; the reference code's has no logit transform."""
        readout = self.adapter.readout
        return replace(readout, transform=OutputTransform()) if self.reference_compat else readout

    def needs(self) -> Needs:
        """Ask for the chain's states, and for what the baseline is made of."""
        lowest = self.chain.sites[0]
        return Needs(self.chain.sites, start_needs(lowest, self._baseline_of_text))

    def points(self, trace: Trace) -> list[Point]:
        """Return the path: the baseline, then the chain."""
        points = [start_point(trace), *(state_point(trace, site) for site in self.chain.sites)]
        if self.reference_compat:
            normed = self.readout.normalize(points[-1].states)
            points[-1] = replace(points[-1], key=f"{points[-1].key}, normed", states=normed)
        return points

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Credit the segments."""
        points = self.points(trace)
        visited = [readings[point.key] for point in points]
        levels = read_levels(self.readout, self.value, visited, trace.token_ids)
        return assemble(
            trace,
            lens=self.name,
            unit=self.value.unit,
            additive=True,
            segments=self.chain.segments,
            values=credit_segments(
                self.readout, points, trace.token_ids, levels, self.value, self.estimator
            ),
            levels=levels[:, 1:],
            baseline=levels[:, 0],
            final=levels[:, -1],
            readings=visited[1:],
            top_k=self.top_k,
            options={
                "path": self.path,
                "layers": self.layers,
                "baseline": self.baseline.name,
                **self.value.provenance(),
                "estimator": self.estimator.name,
                "n_steps": self.estimator.n_steps,
                "tolerance": self.estimator.tolerance,
                "reference_compat": self.reference_compat,
            },
            notes=(_REFERENCE_NOTE,) if self.reference_compat else (),
        )

    def _baseline_of_text(self, states: Tensor, positions: list[int]) -> Tensor:
        if self.reference_compat and len(self.chain.sites) == 1:
            states = self.readout.normalize(states)  # the lowest state is the last one too
        return self.baseline.of_text(states, positions)
