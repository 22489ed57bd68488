"""Causal effects: the loss of the final value when a part of the model is taken out.

IG-Lens credits a layer with what the readout gains between two states that the model produced. That
is the effect of running one more layer and stopping there; what a layer prepares for later ones is
credited to those that read it. Effects measure the whole of it: the part is taken out, everything
above runs on what is then there, and the value changes by the effect. Credits and effects agree
exactly for the last layer, and where they disagree below it, that is routing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from iglens_tl.arguments import Count, resolve_choice, resolve_count
from iglens_tl.interventions.ablation import UnitAblation
from iglens_tl.interventions.base import EffectLens
from iglens_tl.interventions.early_exit import EarlyExit
from iglens_tl.interventions.replacements import (
    reference_ids,
)
from iglens_tl.interventions.units import UNITS
from iglens_tl.lenses.base import Lens
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import Reading, ValueLike
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Trace, begin_trace

if TYPE_CHECKING:
    InterventionName: TypeAlias = Literal["skip", "mean", "resample", "early_exit"]
    UnitName: TypeAlias = Literal["layer", "attn", "mlp", "head"]
    Scope: TypeAlias = Literal["all", "last"]
else:  # anything may arrive here; it is answered with a readable error
    InterventionName = UnitName = Scope = Any

INTERVENTIONS: Mapping[str, str] = {
    "skip": "it writes nothing: the residual stream passes it unchanged",
    "mean": "it writes what it writes on average in reference texts",
    "resample": "it writes what it writes in another text; the mean over several of them",
    "early_exit": "the model stops before it, and after it",
}
"""The interventions, and what happens to the unit."""

SCOPES: Mapping[str, str] = {
    "all": "at every position",
    "last": "only at the position where the target is read",
}
"""The positions at which units are intervened on."""


def layer_effects(
    model: Model,
    prompt: PromptLike,
    *,
    intervention: InterventionName = "skip",
    by: UnitName = "layer",
    scope: Scope = "all",
    value: ValueLike = "prob",
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    reference: PromptLike | None = None,
    n_draws: Count = 16,
    seed: Count = 0,
    first_token: bool = False,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Measure what each layer, sublayer or head does to the final value, by taking it out.

    Many interventions share a forward pass: each is a row of the batch that leaves its text where
    the unit stands.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`. Its hooks stay active; none is left
            behind, also after an interruption.
        prompt: As for `ig_lens`.
        intervention: What happens to the unit.
            "skip": it writes nothing, so that the residual stream passes it unchanged. For a layer
            this is skipping it, for attention, an MLP or a head it is what the literature calls
            zero ablation; there is no other "zero", because what a unit writes is all of it.
            "mean": it writes its mean over all tokens of the reference texts but their first.
            "resample": it writes what it writes at the same position of another text (shorter
            texts begin again after their first token), averaged over `n_draws` reference texts
            (Chan et al. 2022, Causal scrubbing).
            "early_exit": the model stops after the layer; the effect is value(stopping after it) −
            value(stopping before it), and `levels` is the logit lens. Only for by="layer".
        by: The units: "layer", "attn", "mlp", or "head" (what it passes to W_O).
        scope: "all": at all positions, so that what a unit writes for other positions to read
            counts too. "last": only at the position where the target is read.
        value: What is measured, as for `ig_lens`.
        answer: As for `ig_lens`.
        generate: As for `ig_lens`.
        targets: As for `ig_lens`.
        reference: Texts for "mean" and "resample"; None for the package's own short English ones
            (`embedded_reference_texts`). Of a text, those are left out that it begins with or that
            begin with it.
        n_draws: How many texts "resample" averages over, and how many sets of texts, drawn with
            replacement, tell how certain the mean of "mean" is. Both standard errors are in
            `statistics["standard_error"]`.
        seed: Seed of these draws.
        first_token: Whether the unit is intervened on at the first token too. Models keep large
            states there on which idle heads rest, and few texts survive without them.
        prepend_bos: As for `ig_lens`.

    Returns:
        `values`: value of the untouched model − value under the intervention; they do not sum to
        anything, but for "early_exit". `levels`: the value under the intervention. Segments "L0",
        …, or "L0.attn", "L0.mlp", "L0.H0".

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For unknown names, a unit that the architecture lacks, or fewer reference texts
            than draws.

    Example:
        >>> from iglens_tl import layer_effects, load_model
        >>> model = load_model("demo")
        >>> effects = layer_effects(model, "The capital of Vietnam is", answer=" Hanoi")
        >>> effects.segments[:2], effects.values.shape
        (('L0', 'L1'), (1, 8))
    """
    lens = LayerEffects(
        intervention=intervention,
        by=by,
        scope=scope,
        value=value,
        reference=reference,
        n_draws=n_draws,
        seed=seed,
        first_token=first_token,
        prepend_bos=prepend_bos,
    )
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return lens(begin_trace(model, prompt, **choice, prepend_bos=prepend_bos))


@dataclass(frozen=True, kw_only=True)
class LayerEffects(EffectLens):
    """Layer effects: what each layer, sublayer or head does to the final value.

    Attributes:
        value: What is measured, as in `IGLens`.
        intervention: What happens to the unit, as in `layer_effects`.
        by: The units: "layer", "attn", "mlp" or "head".
        scope: "all" or "last".
        reference: Texts for "mean" and "resample".
        n_draws: How many texts or sets of texts are drawn.
        seed: Seed of the draws.
        first_token: Whether the unit is intervened on at the first token too.
        prepend_bos: Whether reference texts start with the beginning-of-sequence token.
    """

    intervention: InterventionName = "skip"
    by: UnitName = "layer"
    scope: Scope = "all"
    reference: PromptLike | None = None
    n_draws: Count = 16
    seed: Count = 0
    first_token: bool = False
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.intervention == "zero":
            raise ValueError(
                "there is no intervention 'zero': a unit whose output is zero writes nothing, "
                "which is intervention='skip'"
            )
        resolve_choice("intervention", self.intervention, INTERVENTIONS)
        resolve_choice("split by", self.by, UNITS)
        resolve_choice("scope", self.scope, SCOPES)
        resolve_count("n_draws", self.n_draws, least=2)
        resolve_count("seed", self.seed, least=0)
        if self.reference is not None and not self._needs_texts:
            raise ValueError(
                "reference texts are for intervention 'mean' and 'resample', not "
                f"{self.intervention!r}"
            )
        if self.intervention == "early_exit" and self.by != "layer":
            raise ValueError(f"early_exit stops between layers; use by='layer', got {self.by!r}")

    def bind(self, adapter: ModelAdapter) -> Lens:
        """Return what measures the effects of a model's units, its reference texts tokenised."""
        unit, value = UNITS[self.by], bind_value(adapter, self.value)
        segments = [unit.labels(adapter, layer) for layer in range(adapter.n_layers)]
        if self.intervention == "early_exit":
            return EarlyExit(adapter=adapter, value=value)
        texts = []
        if self._needs_texts:
            texts = reference_ids(adapter, self.reference, prepend_bos=self.prepend_bos)
        return UnitAblation(
            adapter=adapter,
            value=value,
            intervention=self.intervention,
            unit=unit,
            unit_name=self.by,
            segments=segments,
            scope=self.scope,
            reference=tuple(texts),
            n_draws=self.n_draws,
            seed=self.seed,
            first_token=self.first_token,
        )

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Measure what the lens is bound to."""
        return self.bind(trace.adapter).measure(trace, readings)

    @property
    def _needs_texts(self) -> bool:
        return self.intervention in ("mean", "resample")
