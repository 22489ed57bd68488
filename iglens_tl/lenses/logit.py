"""Logit lens: what the model would predict if it stopped after a layer.

Every state goes through the model's own final norm, unembedding and output transform
(nostalgebraist, "interpreting GPT: the logit lens", 2020). The norm's statistics are those of the
state itself; the frozen-norm variant keeps those of the last state, which makes the logits linear
in the state and differs from the lens proper by an effective temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from iglens_tl.arguments import Count, Layers, resolve_choice, resolve_layers
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.lenses.base import measure_prompt, state_point
from iglens_tl.lenses.chain import BY, By, Chain, build_chain
from iglens_tl.lenses.level import LevelLens
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace

if TYPE_CHECKING:
    Norm: TypeAlias = Literal["own", "frozen"]
else:  # anything may arrive here; it is answered with a readable error
    Norm = Any

NORMS = {
    "own": "the final norm takes its statistics from the state itself",
    "frozen": "the final norm keeps the statistics of the last state",
}
"""The statistics that the final norm takes for an intermediate state."""


@dataclass(frozen=True, kw_only=True)
class LogitLens(LevelLens):
    """Logit lens: every state read out as if it were the last.

    Its results hold levels, not credits: segment "L3" holds what is read out after block 3, "embed"
    what is read out of the embedding. Their differences are `IGLens`'s credits. `statistics` holds
    the "entropy" of each distribution and "kl_to_final", its KL divergence from the model's own, in
    nats.

    Attributes:
        value: What is read out: "prob", "logprob" (nats), "logit", another name of `VALUES`, or a
            `Value`.
        by: "layer", or "sublayer" to read also between attention and MLP of every block.
        layers: Only after these blocks, and the last one.
        norm: "own" takes the final norm's statistics from each state, "frozen" from the last one.
        top_k: How many of the most probable tokens to keep per state; 0 also skips the ranks.

    Example:
        >>> from iglens_tl import LogitLens, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> int(LogitLens()(trace).ranks[0, -1])
        1
    """

    by: By = "layer"
    layers: Layers | None = None
    norm: Norm = "own"

    name: ClassVar[str] = "logit_lens"
    label: ClassVar[str] = "logit lens"
    measures: ClassVar[str] = (
        "What the model would predict if it stopped after a layer: levels, which sum to nothing."
    )
    cost: ClassVar[str] = "1 forward pass, a row of the unembedding per state"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        resolve_choice("split by", self.by, BY)
        resolve_choice("norm", self.norm, NORMS)
        object.__setattr__(self, "layers", resolve_layers(self.layers))

    def bind(self, adapter: ModelAdapter) -> LogitLens:
        """Return the lens, checked against the model, which has its states."""
        self._chain(adapter)
        return super().bind(adapter)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the states."""
        return Needs(self._chain(adapter).sites)

    def points(self, trace: Trace) -> list[Point]:
        """Return the states, with the last one's norm where it is frozen."""
        points = [state_point(trace, site) for site in self._chain(trace.adapter).sites]
        final_norm = trace.adapter.readout.norm
        if self.norm == "own" or final_norm is None:
            return points
        scale = final_norm.scale(points[-1].states)
        frozen = [replace(p, key=f"{p.key}, frozen norm", scale=scale) for p in points[:-1]]
        return [*frozen, points[-1]]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep the levels."""
        return assemble_levels(
            trace,
            lens=self,
            segments=self._chain(trace.adapter).segments,
            readings=[readings[point.key] for point in self.points(trace)],
            options={"by": self.by, "layers": self.layers, "norm": self.norm},
        )

    def _chain(self, adapter: ModelAdapter) -> Chain:
        return build_chain(adapter, layers=self.layers, sublayers=self.by == "sublayer")


def logit_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Read every layer's state out as if it were the last; see `LogitLens`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Read these tokens after the prompt.
        generate: Read up to this many greedily generated tokens.
        targets: Read these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `LogitLens`.

    Returns:
        Levels, not credits.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments that do not fit the model.

    Example:
        >>> from iglens_tl import load_model, logit_lens
        >>> result = logit_lens(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> int(result.ranks[0, -1])
        1
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    choice |= {"prepend_bos": prepend_bos}
    return measure_prompt(LogitLens, options, model, prompt, **choice)
