"""Who inside the layer: exact credit for attention, MLP, heads, neurons, sources and directions.

The integral of the value's gradient along the chord of a layer's update, multiplied with any part
of that update, is the part's share of the layer's credit; the shares of all parts add up to it,
softmax included. That is the credit of Aumann and Shapley (1974) inside the layer: all its parts
grow together, none before another (the integrated gradients of Sundararajan et al. 2017,
arXiv 1703.01365, with the parts as inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.arguments import Count
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.base import Lens, measure_prompt
from iglens_tl.lenses.baselines import BaselineLike, check_baseline, resolve_baseline
from iglens_tl.lenses.decomposition.credits import ChordGradients, PartCredits, follow_value
from iglens_tl.lenses.decomposition.directions import (
    Directions,
    DirectionsLike,
    resolve_directions,
)
from iglens_tl.lenses.decomposition.splits import (
    ComponentPath,
    PartsBy,
    Split,
    check_names,
    check_parts,
)
from iglens_tl.lenses.decomposition.table import credit_table
from iglens_tl.lenses.estimators import (
    DEFAULT_TOLERANCE,
    Estimator,
    resolve_estimator,
    warn_if_incomplete,
    warn_if_uncertain,
)
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace

if TYPE_CHECKING:
    ComponentEstimator: TypeAlias = Literal["gradient", "ps_ig", "idgi"]
else:  # anything may arrive here; it is answered with a readable error
    ComponentEstimator = Any

COMPONENT_ESTIMATORS = ("gradient", "ps_ig", "idgi")

_PARTS_BESIDE_SUM = 100
"""What is accepted of the estimated error of single credits, beside that of their sum: it is a
bound, which rounding alone may bring to a hundred times the error that the sum shows."""


@dataclass(frozen=True, kw_only=True)
class Components(Lens):
    """Components: every layer's credit split over the parts of its update.

    Its results hold credits of "embed" (and "pos_embed"), "L0.attn", "L0.H3", "L0.H3<pos 2",
    "L0.attn_bias", "L0.mlp", "L0.mlp.n117", "L0.mlp.rest", "L0.mlp_bias", "L0.f12", and "L0.rest"
    where the parts leave something of the update. They sum to `final − baseline`, and those of a
    layer to its credit; what the integration misses stands in the `error` column.

    Attributes:
        value: What is attributed: "prob", "logprob" (nats), "logit", another name of `VALUES`, or a
            `Value`.
        by: "layer"; "sublayer" (attention and MLP, also of parallel blocks); "head"; "head_source"
            (what every head read at every position); "neuron" (MLP neurons); "direction".
        path: "hidden_states", one line over every block, on which all its parts grow together;
            "sublayers", attention first; or "straight", one line from the baseline to the last
            state, on which the parts of all layers grow together (Aumann–Shapley).
        baseline: Where the path begins, as in `IGLens`.
        estimator: "gradient" integrates to the tolerance. "ps_ig" weights every place of the path
            by its distance from the start, as baselines drawn evenly from the path do (PS-IG,
            arXiv 2604.14338); its credits sum to final − the mean value along the path, which
            stands as `baseline`. "idgi" splits the change over each of `n_steps` steps by the
            squares of the parts' slopes (IDGI, Yang et al. 2023): also complete, but within a step
            all parts get the sign of its change.
        n_steps: Nodes of "gradient" and "ps_ig" before bisection (default 32), or steps of "idgi"
            (default 16).
        tolerance: Accepted error of "gradient" and "ps_ig" for each chord; default 1e-5, or 1e-10
            in float64.
        directions: For by="direction", vectors `[feature, d_model]` or `Directions`.
        keep: How many neurons or directions, in all layers together, have a segment of their own:
            those of the largest |credit| for each target. The others stand together as a rest.

    Example:
        >>> from iglens_tl import Components, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(abs(Components(by="head")(trace).completeness_error).max() < 1e-5)
        True
    """

    by: PartsBy = "sublayer"
    path: ComponentPath = "hidden_states"
    baseline: BaselineLike = "mean"
    estimator: ComponentEstimator = "gradient"
    n_steps: Count | None = None
    tolerance: float | None = None
    directions: DirectionsLike | None = None
    keep: Count = 20

    name: ClassVar[str] = "components"
    label: ClassVar[str] = "components"
    measures: ClassVar[str] = (
        "What each part of a layer adds to the level; the credits of a layer's parts sum to its "
        "own, and all of them to final − baseline."
    )
    sums_to: ClassVar[str] = "p(final) − p(baseline), exactly"
    additive: ClassVar[bool] = True
    cost: ClassVar[str] = "1 forward pass, a few rows of the unembedding per state and layer"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_names(self.by, self.path)
        object.__setattr__(self, "baseline", check_baseline(self.baseline))
        if (self.directions is not None) != (self.by == "direction"):
            raise ValueError("give directions together with by='direction', and only then")
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1:
            raise ValueError(f"keep must be an integer of at least 1, got {self.keep!r}")
        if self.estimator not in COMPONENT_ESTIMATORS:
            raise ValueError(
                f"estimator {self.estimator!r} does not split a layer's change over its parts; "
                f"choose one of {', '.join(COMPONENT_ESTIMATORS)}"
            )
        self._rule()

    def bind(self, adapter: ModelAdapter) -> Components:
        """Return the lens with its directions checked against the model, which has its parts."""
        check_parts(adapter, self.by, self.path)
        resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        bound = super().bind(adapter)
        if self.directions is None:
            return bound
        return replace(bound, directions=resolve_directions(self.directions, adapter))

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the states and for what the parts are made of."""
        return self._split(adapter).needs()

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Follow the value along the chords and share its changes out."""
        del readings
        split, estimator, value = self._split(trace.adapter), self._rule(), self.resolved_value
        readout, points = trace.adapter.readout, split.points(trace)
        slopes = follow_value(readout, points, trace.token_ids, value, estimator)
        credits = PartCredits(split.groups(trace), slopes, estimator)
        tolerance = estimator.tolerance or DEFAULT_TOLERANCE[readout.dtype]
        table = credit_table(credits, keep=self.keep, negligible=tolerance / 10)
        final = slopes.end[:, -1]
        baseline = slopes.means.mean(1) if estimator.name == "ps_ig" else slopes.start[:, 0]
        scale = slopes.changes.abs().amax((1, 2)).clamp_min(1.0)
        from_zero = not bool(points[0].states.any())
        missing = table.values.sum(1) - (final - baseline)
        accepted = 10 * tolerance * scale
        warn_if_incomplete(
            estimator, missing, accepted, from_zero=from_zero, advice="raise n_steps"
        )
        errors = credits.errors()
        if errors is not None:
            warn_if_uncertain(estimator, errors, _PARTS_BESIDE_SUM * accepted)
        n_layers = trace.adapter.n_layers
        result = assemble(
            trace,
            lens=self,
            unit=value.unit,
            kind="credit",
            segments=table.segments,
            values=table.values,
            levels=self._levels(n_layers, slopes, table.values, table.steps, baseline),
            baseline=baseline,
            final=final,
            options={
                "by": self.by,
                "path": self.path,
                "baseline": split.baseline.name,
                **value.provenance(),
                "estimator": estimator.name,
                "n_steps": estimator.n_steps,
                "tolerance": estimator.tolerance,
                "keep": self.keep if self.by in ("neuron", "direction") else None,
            },
        )
        if errors is None:
            return result
        of_segments = errors[:, None].expand_as(table.values).contiguous()
        return replace(result, statistics={"credit_error": of_segments.numpy()})

    def _rule(self) -> Estimator:
        return resolve_estimator(self.estimator, n_steps=self.n_steps, tolerance=self.tolerance)

    def _split(self, adapter: ModelAdapter) -> Split:
        directions = self.directions if isinstance(self.directions, Directions) else None
        baseline = resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        return Split(adapter, self.by, self.path, baseline, directions)

    def _levels(
        self,
        n_layers: int,
        slopes: ChordGradients,
        values: Float[Tensor, "target segment"],
        steps: list[int],
        baseline: Float[Tensor, " target"],
    ) -> Float[Tensor, "target segment"]:
        """Add the credits up; at the end of every step that is a state, take the level there."""
        levels = baseline[:, None] + values.cumsum(1)
        if self.path == "straight" or self.estimator == "ps_ig":
            return levels
        ends = slopes.end[:, ::2] if slopes.end.shape[1] == 2 * n_layers + 1 else slopes.end
        numbers = torch.tensor(steps) + 1
        last = torch.cat([numbers.diff() > 0, torch.tensor([True])])
        # Within a step the levels start from the true one before it.
        correction = torch.zeros_like(levels)
        true = ends[:, numbers[last]] - levels[:, last]
        correction[:, last] = true
        before = torch.cat([torch.zeros(len(values), 1, dtype=values.dtype), true[:, :-1]], dim=1)
        place = torch.cumsum(last, 0) - last.long()
        inside = ~last
        correction[:, inside] = before[:, place[inside]]
        return levels + correction


def components(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Split every layer's credit over the parts of its update; see `Components`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `Components`.

    Returns:
        Credits of the parts, which sum to `final − baseline`.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model, or parts that it does not have.

    Example:
        >>> from iglens_tl import components, load_model
        >>> result = components(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(abs(result.completeness_error).max() < 1e-5)
        True
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    choice |= {"prepend_bos": prepend_bos}
    return measure_prompt(Components, options, model, prompt, **choice)
