"""Who inside the layer: exact credit for attention, MLP, heads, neurons, sources and directions.

The integral of the value's gradient along the chord of a layer's update, multiplied with any part
of that update, is the part's share of the layer's credit; the shares of all parts add up to it,
softmax included. That is the credit of Aumann and Shapley (1974) inside the layer: all its parts
grow together, none before another (the integrated gradients of Sundararajan et al. 2017,
arXiv 1703.01365, with the parts as inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.baselines import BaselineLike, resolve_baseline
from iglens_tl.lenses.decomposition.credits import PartCredits, Slopes, follow_value
from iglens_tl.lenses.decomposition.table import credit_table
from iglens_tl.lenses.decomposition.directions import DirectionsLike, resolve_directions
from iglens_tl.lenses.estimators import (
    DEFAULT_TOLERANCE,
    Estimator,
    resolve_estimator,
    warn_if_incomplete,
)
from iglens_tl.arguments import Count
from iglens_tl.lenses.base import Lens, run_lenses
from iglens_tl.lenses.decomposition.splits import Split, check_split
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import Point, Reading, Value, ValueLike

COMPONENT_ESTIMATORS = ("gradient", "ps_ig", "idgi")


def components(
    model: Model,
    prompt: PromptLike,
    *,
    by: str = "sublayer",
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    directions: DirectionsLike | None = None,
    keep: Count = 20,
    path: str = "hidden_states",
    baseline: BaselineLike = "mean",
    value: ValueLike = "prob",
    estimator: str = "gradient",
    n_steps: Count | None = None,
    tolerance: float | None = None,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Split every layer's credit over the parts of its update.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets`, `baseline`, `value` and
            `prepend_bos`.
        by: "layer"; "sublayer" (attention and MLP, also of parallel blocks); "head"; "head_source"
            (what every head read at every position); "neuron" (MLP neurons); "direction".
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        directions: For by="direction", vectors `[feature, d_model]` or `Directions`.
        keep: How many neurons or directions, in all layers together, have a segment of their own:
            those of the largest |credit| for each target. The others stand together as a rest.
        path: "hidden_states", one line over every block, on which all its parts grow together;
            "sublayers", attention first; or "straight", one line from the baseline to the last
            state, on which the parts of all layers grow together (Aumann–Shapley).
        baseline: Where the path begins.
        value: What is attributed.
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
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Credits of "embed" (and "pos_embed"), "L0.attn", "L0.H3", "L0.H3<pos 2", "L0.attn_bias",
        "L0.mlp", "L0.mlp.n117", "L0.mlp.rest", "L0.mlp_bias", "L0.f12", and "L0.rest" where the
        parts leave something of the update. They sum to `final − baseline`, and those of a layer to
        its credit; what the integration misses stands in the `error` column.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model, or parts that it does not have.

    Example:
        >>> from iglens_tl import components, load_model
        >>> result = components(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(abs(result.completeness_error).max() < 1e-5)
        True
    """
    adapter = adapt(model)
    lens = plan_components(
        adapter,
        by=by,
        directions=directions,
        keep=keep,
        path=path,
        baseline=baseline,
        value=value,
        estimator=estimator,
        n_steps=n_steps,
        tolerance=tolerance,
    )
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [lens], prompt, **choice, prepend_bos=prepend_bos).results[0]


def plan_components(
    adapter: ModelAdapter,
    *,
    by: str = "sublayer",
    directions: DirectionsLike | None = None,
    keep: Count = 20,
    path: str = "hidden_states",
    baseline: BaselineLike = "mean",
    value: ValueLike = "prob",
    estimator: str = "gradient",
    n_steps: Count | None = None,
    tolerance: float | None = None,
    name: str = "components",
) -> Components:
    """Check the options of `components` and return the lens, ready to measure."""
    check_split(adapter, by, path)
    if (directions is not None) != (by == "direction"):
        raise ValueError("give directions together with by='direction', and only then")
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep must be an integer of at least 1, got {keep!r}")
    if estimator not in COMPONENT_ESTIMATORS:
        raise ValueError(
            f"estimator {estimator!r} does not split a layer's change over its parts; choose one "
            f"of {', '.join(COMPONENT_ESTIMATORS)}"
        )
    return Components(
        adapter=adapter,
        name=name,
        value=bind_value(adapter, value),
        estimator=resolve_estimator(estimator, n_steps=n_steps, tolerance=tolerance),
        split=Split(
            adapter,
            by,
            path,
            resolve_baseline(baseline, d_model=adapter.readout.d_model),
            None if directions is None else resolve_directions(directions, adapter),
        ),
        keep=keep,
    )


@dataclass(frozen=True, kw_only=True)
class Components(Lens):
    """Credits of components with resolved options."""

    adapter: ModelAdapter
    name: str
    value: Value
    estimator: Estimator
    split: Split
    keep: int

    def needs(self) -> Needs:
        """Ask for the states and for what the parts are made of."""
        return self.split.needs()

    def points(self, trace: Trace) -> list[Point]:
        """Ask for nothing: the integration reads the ends of its chords itself."""
        del trace
        return []

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Follow the value along the chords and share its changes out."""
        del readings
        readout, points = self.adapter.readout, self.split.points(trace)
        slopes = follow_value(readout, points, trace.token_ids, self.value, self.estimator)
        credits = PartCredits(self.split.groups(trace), slopes, self.estimator)
        tolerance = self.estimator.tolerance or DEFAULT_TOLERANCE[readout.dtype]
        table = credit_table(credits, keep=self.keep, negligible=tolerance / 10)
        final = slopes.end[:, -1]
        baseline = slopes.means.mean(1) if self.estimator.name == "ps_ig" else slopes.start[:, 0]
        error = table.values.sum(1) - (final - baseline)
        scale = max(1.0, slopes.changes.abs().max().item())
        warn_if_incomplete(
            self.estimator,
            error,
            10 * tolerance * scale,
            from_zero=not bool(points[0].states.any()),
            advice="raise n_steps",
        )
        return assemble(
            trace,
            lens=self.name,
            unit=self.value.unit,
            additive=True,
            segments=table.segments,
            values=table.values,
            levels=self._levels(slopes, table.values, table.steps, baseline),
            baseline=baseline,
            final=final,
            options={
                "by": self.split.by,
                "path": self.split.path,
                "baseline": self.split.baseline.name,
                **self.value.provenance(),
                "estimator": self.estimator.name,
                "n_steps": self.estimator.n_steps,
                "tolerance": self.estimator.tolerance,
                "keep": self.keep if self.split.by in ("neuron", "direction") else None,
            },
        )

    def _levels(
        self,
        slopes: Slopes,
        values: Float[Tensor, "target segment"],
        steps: list[int],
        baseline: Float[Tensor, " target"],
    ) -> Float[Tensor, "target segment"]:
        """Add the credits up; at the end of every step that is a state, take the level there."""
        levels = baseline[:, None] + values.cumsum(1)
        if self.split.path == "straight" or self.estimator.name == "ps_ig":
            return levels
        ends = slopes.end[:, ::2] if self._is_halved(slopes) else slopes.end
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

    def _is_halved(self, slopes: Slopes) -> bool:
        return slopes.end.shape[1] == 2 * self.adapter.n_layers + 1
