"""The numbers of the IG-Lens paper's public code, for comparison only.

The code published with the paper (arXiv 2606.29693, anhnda/IGLens) reads the last of Hugging Face's
hidden states, which the final norm has passed already, and applies the norm again; it has no logit
transform and no segment for the embedding. Its last level is therefore not the model's probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from iglens_tl.arguments import Count, Layers, resolve_layers
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.base import Lens, measure_prompt, state_point
from iglens_tl.lenses.baselines import BaselineLike, Start, check_baseline, resolve_baseline
from iglens_tl.lenses.chain import Chain, build_chain
from iglens_tl.lenses.estimators import (
    ChainEstimator,
    Estimator,
    credit_segments,
    resolve_estimator,
)
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import (
    OutputTransform,
    Point,
    Reading,
    Readout,
    read_levels,
    read_points,
)
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace

_NOTE = (
    "reference_ig_lens: the final norm is applied a second time to the last state, as in the "
    "public reference code, so 'final' is not the model's probability; for comparison only"
)


@dataclass(frozen=True, kw_only=True)
class ReferenceIGLens(Lens):
    """IG-Lens as its paper's public code computes it.

    Attributes:
        value: What is attributed, as in `IGLens`.
        layers: Only these blocks end a segment, and the last block.
        baseline: Where the path begins; the mean is taken at the first chosen layer.
        estimator: "delta", "gradient" or "riemann", as in `IGLens`.
        n_steps: As in `IGLens`.
        tolerance: As in `IGLens`.
    """

    layers: Layers | None = None
    baseline: BaselineLike = "mean"
    estimator: ChainEstimator = "delta"
    n_steps: Count | None = None
    tolerance: float | None = None

    name: ClassVar[str] = "reference_ig_lens"
    label: ClassVar[str] = "IG-Lens, public code"
    measures: ClassVar[str] = (
        "What the paper's public code prints: the final norm is applied a second time to the last "
        "state."
    )
    sums_to: ClassVar[str] = "its own final − baseline, which is not the model's"
    additive: ClassVar[bool] = True
    cost: ClassVar[str] = "1 forward pass, a row per state and one for the baseline"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        object.__setattr__(self, "layers", resolve_layers(self.layers))
        object.__setattr__(self, "baseline", check_baseline(self.baseline))
        self._rule()

    def bind(self, adapter: ModelAdapter) -> ReferenceIGLens:
        """Return the lens, checked against the model."""
        self._start(adapter)
        return super().bind(adapter)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the chain's states, and for what the baseline is made of."""
        chain, start = self._chain(adapter), self._start(adapter)
        if len(chain.sites) > 1:
            return Needs(chain.sites) | start.needs()

        def of_normed(states: Tensor, positions: list[int]) -> Tensor:
            # The lowest state is the last one too, which the reference reads normed.
            return start.baseline.of_text(adapter.readout.normalize(states), positions)

        return Needs(chain.sites, {start.key: (start.site, of_normed)})

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Read the states out as the reference does, and credit the segments."""
        del readings
        readout: Readout = replace(trace.adapter.readout, transform=OutputTransform())
        points, rule, value = self._path(trace, readout), self._rule(), self.resolved_value
        visited = read_points(readout, points, trace.token_ids)
        levels = read_levels(
            readout, value, [visited[point.key] for point in points], trace.token_ids
        )
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
            options={
                "layers": self.layers,
                "baseline": self._start(trace.adapter).baseline.name,
                **value.provenance(),
                "estimator": rule.name,
                "n_steps": rule.n_steps,
                "tolerance": rule.tolerance,
            },
            notes=(_NOTE,),
        )

    def _path(self, trace: Trace, readout: Readout) -> list[Point]:
        sites = self._chain(trace.adapter).sites
        *states, last = [state_point(trace, site) for site in sites]
        normed = replace(last, key=f"{last.key}, normed", states=readout.normalize(last.states))
        return [self._start(trace.adapter).point(trace), *states, normed]

    def _rule(self) -> Estimator:
        return resolve_estimator(self.estimator, n_steps=self.n_steps, tolerance=self.tolerance)

    def _chain(self, adapter: ModelAdapter) -> Chain:
        return build_chain(adapter, layers=self.layers, embed=False)

    def _start(self, adapter: ModelAdapter) -> Start:
        lowest = self._chain(adapter).sites[0]
        baseline = resolve_baseline(self.baseline, d_model=adapter.readout.d_model)
        if len(self._chain(adapter).sites) > 1:
            return Start(lowest, baseline)
        return Start(lowest, replace(baseline, suffix=" of normed states"))


def reference_ig_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Reproduce the numbers of the IG-Lens paper's public code; see `ReferenceIGLens`.

    For comparison only: the probabilities are not the model's.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Attribute these tokens after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `ReferenceIGLens`.

    Returns:
        The credits that the public code prints.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model.
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return measure_prompt(
        ReferenceIGLens, options, model, prompt, **choice, prepend_bos=prepend_bos
    )
