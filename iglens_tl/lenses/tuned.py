"""Tuned lens: what the model would predict after a layer, through a map trained for that layer.

A translator turns the state after every block into an estimate of the last state, which the model's
own final norm, unembedding and output transform read out (Belrose et al., "Eliciting latent
predictions from transformers with the tuned lens", 2023). Translator i reads the input of block i,
so segment "L3", the state after block 3, goes through translator 4, and "embed" through
translator 0. The last segment is the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from iglens_tl.arguments import Count
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.lenses.base import measure_prompt, state_point
from iglens_tl.lenses.chain import build_chain
from iglens_tl.lenses.level import LevelLens
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace
from iglens_tl.tuning import Translators, check_translators, resolve_translators
from iglens_tl.tuning.evaluation import warn_where_worse
from iglens_tl.tuning.hub import LensLike


@dataclass(frozen=True, kw_only=True)
class TunedLens(LevelLens):
    """Tuned lens: every state read out through a map that was trained for its layer.

    Its results hold levels, not credits: segment "L3" holds what is read out after block 3, "embed"
    what is read out of the embedding. Because every layer has its own map, their differences say
    nothing about single layers. `statistics` holds the "entropy" of each distribution and
    "kl_to_final", its KL divergence from the model's own, in nats. The model's weights must be
    neither folded nor centred.

    Attributes:
        value: What is read out, as in `LogitLens`.
        lens: `Translators`, a folder that holds some, the name of a published lens, or "auto": the
            lens that is shipped for the embedded model, or published for this one.
        top_k: How many of the most probable tokens to keep per state; 0 also skips the ranks.

    Example:
        >>> from iglens_tl import TunedLens, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> int(TunedLens()(trace).ranks[0, -1])
        1
    """

    lens: LensLike = "auto"

    name: ClassVar[str] = "tuned_lens"
    fitted: ClassVar[bool] = True
    label: ClassVar[str] = "tuned lens"
    measures: ClassVar[str] = (
        "What the model would predict after a layer, through a map trained for that layer. Every "
        "layer has its own map, so the change from one layer to the next belongs to no single one."
    )
    sums_to: ClassVar[str] = "nothing, and differences mix two maps"
    cost: ClassVar[str] = "1 forward pass, a map and a row of the unembedding per state"

    def bind(self, adapter: ModelAdapter) -> TunedLens:
        """Return the lens with its translators, checked against the model.

        Warns:
            TunedLensWarning: If the lens is worse than the logit lens on a sample text.
        """
        translators = resolve_translators(adapter, self.lens)
        check_translators(adapter, translators)
        warn_where_worse(adapter, translators)
        return replace(super().bind(adapter), lens=translators)

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the state after the embedding and after every block."""
        return Needs(build_chain(adapter).sites)

    def points(self, trace: Trace) -> list[Point]:
        """Return the translated states, then the last one as it is."""
        *points, last = [state_point(trace, site) for site in build_chain(trace.adapter).sites]
        translated = [
            # Other lenses may read the same state, untranslated or by other translators.
            replace(
                point,
                key=f"{point.key}, translator of {id(self._translators)}",
                states=self._translators.apply(layer, point.states),
            )
            for layer, point in enumerate(points)
        ]
        return [*translated, last]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep the levels."""
        chain, translators = build_chain(trace.adapter), self._translators
        *sites, last = chain.sites
        keys = [*(f"{site}, translator of {id(translators)}" for site in sites), last]
        return assemble_levels(
            trace,
            lens=self,
            segments=chain.segments,
            readings=[readings[key] for key in keys],
            options={
                "lens": translators.origin,
                "fingerprint": translators.fingerprint,
                "trained_for": translators.base_model,
            },
        )

    @property
    def _translators(self) -> Translators:
        assert isinstance(self.lens, Translators)
        return self.lens


def tuned_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Read every layer's state out through its translator; see `TunedLens`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Read these tokens after the prompt.
        generate: Read up to this many greedily generated tokens.
        targets: Read these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `TunedLens`.

    Returns:
        Levels, not credits.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
        ValueError: For arguments or a lens that do not fit the model.

    Warns:
        TunedLensWarning: If the lens is worse than the logit lens on a sample text.

    Example:
        >>> from iglens_tl import load_model, tuned_lens
        >>> result = tuned_lens(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> int(result.ranks[0, -1])
        1
    """
    choice = {"answer": answer, "generate": generate, "targets": targets}
    choice |= {"prepend_bos": prepend_bos}
    return measure_prompt(TunedLens, options, model, prompt, **choice)
