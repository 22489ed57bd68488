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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from iglens_tl.arguments import (
    Count,
    Layers,
    resolve_choice,
    resolve_count,
    resolve_layers,
    resolve_top_k,
)
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.base import Lens, measure_prompt, state_point
from iglens_tl.lenses.baselines import BaselineLike, Start, check_baseline, resolve_baseline
from iglens_tl.lenses.chain import BY, By, Chain, build_chain
from iglens_tl.lenses.estimators import (
    ESTIMATORS,
    Estimator,
    EstimatorName,
    credit_segments,
    resolve_estimator,
)
from iglens_tl.lenses.orders.frozen import (
    FrozenChain,
    FrozenShapley,
    Reverse,
    StraightProjected,
    StraightUniform,
)
from iglens_tl.lenses.orders.recomputed import LeaveOneOut, SkipShapley
from iglens_tl.lenses.orders.shapley import check_sample
from iglens_tl.lenses.orders.straight import LayerParts, Straight
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import Point, Reading, read_levels
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace

if TYPE_CHECKING:
    PathName: TypeAlias = Literal[
        "hidden_states",
        "sublayers",
        "reverse",
        "straight",
        "straight_projected",
        "straight_uniform",
        "shapley_frozen",
        "shapley_skip",
        "leave_one_out",
    ]
else:  # anything may arrive here; it is answered with a readable error
    PathName = Any

ORDERS: dict[PathName, type[Lens]] = {
    "reverse": Reverse,
    "straight": Straight,
    "straight_projected": StraightProjected,
    "straight_uniform": StraightUniform,
    "shapley_frozen": FrozenShapley,
    "shapley_skip": SkipShapley,
    "leave_one_out": LeaveOneOut,
}
"""The credit orders other than that of the states themselves, as lenses of their own."""

PATHS: dict[PathName, str] = {
    "hidden_states": "the states that the model produced, in their order: early exit, each layer "
    "acting on exactly the input that it saw",
    "sublayers": "the same, with the state between attention and MLP of every block",
    **{path: order.measures for path, order in ORDERS.items()},
}
"""The credit orders. All but `leave_one_out` are additive: their credits sum to value(last state) −
value(baseline), whatever the model. For fixed break points the shape of a path between them is
irrelevant, because credits telescope; what remains to be chosen is the order of the break points,
how credit is shared where several components move together, and whether the layers above are
recomputed."""

_HIDDEN_STATE_PATHS = ("hidden_states", "sublayers")
FROZEN_CHAINS = tuple(path for path, order in ORDERS.items() if issubclass(order, FrozenChain))
"""The orders that are one chain of states over frozen updates."""

RECOMPUTED_PATHS = ("shapley_skip", "leave_one_out")
"""The orders that run the model again with some layers skipped."""

SHAPLEY_PATHS = ("shapley_frozen", "shapley_skip")
"""The orders that are means over many, and can be sampled."""

_PATHS_OF_ESTIMATORS = {
    "ps_ig": (*_HIDDEN_STATE_PATHS, "straight"),
    "idgi": ("straight",),
    "delta": tuple(path for path in PATHS if path != "straight"),
    "riemann": (*_HIDDEN_STATE_PATHS, *FROZEN_CHAINS),
    "gradient": (*_HIDDEN_STATE_PATHS, *FROZEN_CHAINS, "straight"),
}


@dataclass(frozen=True, kw_only=True)
class IGLens(Lens):
    """IG-Lens: every layer's part of each target token's probability.

    Its results hold credits, with segments "embed", "L0", … (TransformerLens block numbers). They
    sum to `final − baseline`, where `final` is the model's own probability; what an estimator
    misses stands in the `error` column.

    Attributes:
        value: What is attributed: "prob", "logprob" (nats), "logit", another name of `VALUES`, or a
            `Value`.
        by: "layer", or "sublayer" to split every block into attention and MLP (through
            `resid_mid`); another spelling of path="sublayers".
        layers: Only these blocks end a segment, and the last block. The credits are the sums of
            the finer ones.
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
        estimator: "delta" is exact, and the default but for path="straight", where "gradient" is;
            "gradient" integrates to a tolerance; "riemann" is the paper's midpoint rule. "ps_ig"
            (paths "hidden_states", "sublayers" and "straight") and "idgi" (path "straight") are
            those of `Components`.
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

    Example:
        >>> from iglens_tl import IGLens, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(abs(IGLens()(trace).completeness_error).max() < 1e-6)
        True
    """

    by: By = "layer"
    layers: Layers | None = None
    path: PathName = "hidden_states"
    baseline: BaselineLike = "mean"
    estimator: EstimatorName | None = None
    n_steps: Count | None = None
    tolerance: float | None = None
    n_permutations: Count | None = None
    seed: Count = 0
    top_k: Count = 5

    name: ClassVar[str] = "ig_lens"
    label: ClassVar[str] = "IG-Lens"
    measures: ClassVar[str] = (
        "What each layer adds to the level; the credits of all layers sum to final − baseline. "
        "Under the default estimator, delta, a credit is the change of the logit lens."
    )
    sums_to: ClassVar[str] = "p(final) − p(baseline), exactly"
    additive: ClassVar[bool] = True
    cost: ClassVar[str] = "1 forward pass, a row per state and one for the baseline"

    def __post_init__(self) -> None:
        """Check the options, and that the credit order has them."""
        super().__post_init__()
        resolve_choice("split by", self.by, BY)
        object.__setattr__(self, "layers", resolve_layers(self.layers))
        object.__setattr__(self, "baseline", check_baseline(self.baseline))
        resolve_top_k(self.top_k)
        resolve_count("seed", self.seed, least=0)
        resolve_choice("path", self.path, PATHS)
        self._check_order()
        self._rule()
        self._order()

    def bind(self, adapter: ModelAdapter) -> Lens:
        """Return the lens of the credit order, checked against the model."""
        order = self._order()
        if order is not None:
            return order.bind(adapter)
        resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        self._chain(adapter)
        return super().bind(adapter)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the chain's states, and for what the baseline is made of."""
        return Needs(self._chain(adapter).sites) | self._start(adapter).needs()

    def points(self, trace: Trace) -> list[Point]:
        """Return the path: the baseline, then the chain."""
        states = [state_point(trace, site) for site in self._chain(trace.adapter).sites]
        return [self._start(trace.adapter).point(trace), *states]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Credit the segments."""
        points, rule, value = self.points(trace), self._rule(), self.resolved_value
        readout, visited = trace.adapter.readout, [readings[point.key] for point in points]
        levels = read_levels(readout, value, visited, trace.token_ids)
        return assemble(
            trace,
            lens=self,
            unit=value.unit,
            kind="credit",
            segments=self._chain(trace.adapter).segments,
            values=credit_segments(readout, points, trace.token_ids, levels, value, rule),
            levels=levels[:, 1:],
            baseline=levels[:, 0],
            final=levels[:, -1],
            readings=visited[1:],
            top_k=self.top_tokens,
            options={
                "path": "sublayers" if self._by_sublayer else "hidden_states",
                "layers": self.layers,
                "baseline": self._start(trace.adapter).baseline.name,
                **value.provenance(),
                "estimator": rule.name,
                "n_steps": rule.n_steps,
                "tolerance": rule.tolerance,
            },
        )

    @property
    def _by_sublayer(self) -> bool:
        return self.by == "sublayer" or self.path == "sublayers"

    @property
    def _estimator(self) -> str:
        return self.estimator or ("gradient" if self.path == "straight" else "delta")

    def _rule(self) -> Estimator:
        return resolve_estimator(self._estimator, n_steps=self.n_steps, tolerance=self.tolerance)

    def _chain(self, adapter: ModelAdapter) -> Chain:
        return build_chain(adapter, layers=self.layers, sublayers=self._by_sublayer)

    def _start(self, adapter: ModelAdapter) -> Start:
        baseline = resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        return Start(adapter.embed_site, baseline)

    def _order(self) -> Lens | None:
        """Return the credit order as a lens of its own; None for the states as they are."""
        common: dict[str, Any] = {"value": self.value, "baseline": self.baseline}
        steps = {"n_steps": self.n_steps, "tolerance": self.tolerance}
        sampled = {"n_permutations": self.n_permutations, "seed": self.seed}
        if self._estimator == "ps_ig" and self.path in _HIDDEN_STATE_PATHS:
            parts = {"by": "sublayer", "path": "sublayers"} if self._by_sublayer else {}
            return LayerParts(**common, **parts, estimator="ps_ig", **steps)
        if self.path in _HIDDEN_STATE_PATHS:
            return None
        if self.path in ("straight", *FROZEN_CHAINS):
            common |= {"estimator": self._estimator, **steps}
        if self.path in (*FROZEN_CHAINS, "shapley_frozen"):
            common["layers"] = self.layers
        if self.path in SHAPLEY_PATHS:
            common |= sampled
        if self.path == "leave_one_out":
            common["top_k"] = self.top_k
        return ORDERS[self.path](**common)

    def _check_order(self) -> None:
        path, estimator = self.path, resolve_choice("estimator", self._estimator, ESTIMATORS)
        if self.by == "sublayer" and path not in _HIDDEN_STATE_PATHS:
            raise ValueError(f"path={path!r} credits whole layers; leave out by='sublayer'")
        by_layer = path in (*RECOMPUTED_PATHS, "straight") or estimator == "ps_ig"
        if self.layers is not None and by_layer:
            raise ValueError(
                f"path={path!r} with estimator={estimator!r} credits every layer by itself; leave "
                "out layers, and add the credits of layers if they are to be one"
            )
        if self.layers is not None and self._by_sublayer:
            raise ValueError("give layers or by='sublayer', not both: sublayers split every block")
        if path not in _PATHS_OF_ESTIMATORS[estimator]:
            having = [name for name, paths in _PATHS_OF_ESTIMATORS.items() if path in paths]
            raise ValueError(
                f"path={path!r} has no estimator={estimator!r}, only {', '.join(having)}: where "
                "layers come one after another there are differences to take, and only what grows "
                "together is split"
            )
        if self.n_permutations is not None and path not in SHAPLEY_PATHS:
            raise ValueError(
                f"path={path!r} samples no permutations; leave out n_permutations, or choose one "
                f"of {', '.join(SHAPLEY_PATHS)}"
            )
        check_sample(self.n_permutations, self.seed)


def ig_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Credit every layer with its part of each target token's probability; see `IGLens`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `IGLens`.

    Returns:
        The credits, which sum to `final − baseline`.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model, or a model whose readout disagrees with
            its own probabilities.

    Example:
        >>> from iglens_tl import ig_lens, load_model
        >>> model = load_model("demo")
        >>> result = ig_lens(model, "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(abs(result.completeness_error).max() < 1e-6)
        True
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    choice |= {"prepend_bos": prepend_bos}
    return measure_prompt(IGLens, options, model, prompt, **choice)
