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

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.lenses.chain import Chain, build_chain
from iglens_tl.arguments import Count, resolve_top_k
from iglens_tl.lenses.base import Lens, run_lenses, state_point
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import Point, Reading, Value, ValueLike
from iglens_tl.tuning import Translators, check_translators, resolve_translators
from iglens_tl.tuning.lookup import LensLike
from iglens_tl.tuning.validation import warn_where_worse


def tuned_lens(
    model: Model,
    prompt: PromptLike,
    *,
    lens: LensLike = "auto",
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    value: ValueLike = "prob",
    top_k: Count = 5,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Read every layer's state out through its translator.

    Args:
        model: A `HookedTransformer` or `TransformerBridge` with its weights neither folded nor
            centred. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        lens: `Translators`, a folder that holds some, the name of a published lens, or "auto": the
            lens that is shipped for the embedded model, or published for this one.
        answer: Read these tokens after the prompt.
        generate: Read up to this many greedily generated tokens.
        targets: Read these candidates for the position after the prompt.
        value: "prob", "logprob" (nats) or "logit", or a `Value`.
        top_k: How many of the most probable tokens to keep per state; 0 also skips the ranks.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Levels, not credits: segment "L3" holds what is read out after block 3, "embed" what is read
        out of the embedding. They do not sum to anything, and because every layer has its own map,
        their differences say nothing about single layers. `statistics` holds the "entropy" of each
        distribution and "kl_to_final", its KL divergence from the model's own, in nats.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments or a lens that do not fit the model.

    Warns:
        TunedLensWarning: If the lens is worse than the logit lens on a sample text.

    Example:
        >>> from iglens_tl import load_model, tuned_lens
        >>> result = tuned_lens(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> int(result.ranks[0, -1])
        1
    """
    adapter = adapt(model)
    planned = plan_tuned_lens(adapter, lens=lens, value=value, top_k=top_k)
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [planned], prompt, **choice, prepend_bos=prepend_bos).results[0]


def plan_tuned_lens(
    adapter: ModelAdapter,
    *,
    lens: LensLike = "auto",
    value: ValueLike = "prob",
    top_k: Count = 5,
) -> TunedLens:
    """Check the options of `tuned_lens` and return the lens, ready to measure."""
    value, top_k = bind_value(adapter, value), resolve_top_k(top_k)
    translators = resolve_translators(adapter, lens)
    check_translators(adapter, translators)
    warn_where_worse(adapter, translators)
    return TunedLens(
        adapter=adapter,
        value=value,
        top_k=top_k,
        chain=build_chain(adapter),
        translators=translators,
    )


@dataclass(frozen=True, kw_only=True)
class TunedLens(Lens):
    """Tuned lens with resolved options."""

    name = "tuned_lens"
    statistics = True

    adapter: ModelAdapter
    value: Value
    top_k: int
    chain: Chain
    translators: Translators

    def needs(self) -> Needs:
        """Ask for the state after the embedding and after every block."""
        return Needs(self.chain.sites)

    def points(self, trace: Trace) -> list[Point]:
        """Return the translated states, then the last one as it is."""
        *points, last = [state_point(trace, site) for site in self.chain.sites]
        translated = [
            replace(point, key=key, states=self.translators.apply(layer, point.states))
            for layer, (point, key) in enumerate(zip(points, self._keys()[:-1], strict=True))
        ]
        return [*translated, last]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep the levels."""
        return assemble_levels(
            trace,
            lens=self.name,
            value=self.value,
            segments=self.chain.segments,
            readings=[readings[key] for key in self._keys()],
            top_k=self.top_k,
            options={
                "lens": self.translators.origin,
                "fingerprint": self.translators.fingerprint,
                "trained_for": self.translators.base_model,
            },
        )

    def _keys(self) -> list[str]:
        *sites, last = self.chain.sites
        # Other lenses may read the same state, untranslated or by other translators.
        return [*(f"{site}, translator of {id(self.translators)}" for site in sites), last]
