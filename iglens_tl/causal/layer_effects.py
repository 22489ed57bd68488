"""What the final value loses when a part of the model is taken out: causal effects of layers.

IG-Lens credits a layer with what the readout gains between two states that the model produced. That
is the effect of running one more layer and stopping there; what a layer prepares for later ones is
credited to those that read it. Effects measure the whole of it: the part is taken out, everything
above runs on what is then there, and the value changes by the effect. Credits and effects agree
exactly for the last layer, and where they disagree below it, that is routing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from iglens_tl.arguments import Count
from iglens_tl.causal.early_exit import EarlyExit
from iglens_tl.causal.interventions import Intervention
from iglens_tl.causal.reference_texts import reference_ids
from iglens_tl.causal.units import UNITS
from iglens_tl.lenses.base import Lens, run_lenses
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import ValueLike
from iglens_tl.results.lens import LensResult

InterventionName: TypeAlias = Literal["skip", "zero", "mean", "resample", "early_exit"]
UnitName: TypeAlias = Literal["layer", "attn", "mlp", "head"]
Scope: TypeAlias = Literal["all", "last"]

INTERVENTIONS: Mapping[str, str] = {
    "skip": "its input is passed on unchanged",
    "zero": "it writes nothing",
    "mean": "it writes what it writes on average in reference texts",
    "resample": "it writes what it writes in another text; the mean over several of them",
    "early_exit": "the model stops before it, and after it",
}
"""The interventions, and what happens to the unit."""

SCOPES: Mapping[str, str] = {
    "all": "at every position",
    "last": "only at the position where the target is read",
}
"""Where units are intervened on."""


def layer_effects(
    model: Model,
    prompt: PromptLike,
    *,
    intervention: InterventionName | str = "skip",
    unit: UnitName | str = "layer",
    scope: Scope | str = "all",
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
            "skip": its input is passed on unchanged.
            "zero": it writes nothing; for every unit here the same as "skip".
            "mean": it writes its mean over all tokens of the reference texts but their first.
            "resample": it writes what it writes at the same position of another text (shorter
            texts begin again after their first token), averaged over `n_draws` reference texts
            (Chan et al. 2022, Causal scrubbing).
            "early_exit": the model stops after the layer; the effect is value(stopping after it) −
            value(stopping before it), and `levels` is the logit lens. Only for unit="layer".
        unit: "layer", "attn", "mlp", or "head" (what it passes to W_O).
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
    adapter = adapt(model)
    lens = plan_layer_effects(
        adapter,
        intervention=intervention,
        unit=unit,
        scope=scope,
        value=value,
        reference=reference,
        n_draws=n_draws,
        seed=seed,
        first_token=first_token,
        prepend_bos=prepend_bos,
    )
    run = run_lenses(
        adapter,
        [lens],
        prompt,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    return run.results[0]


def plan_layer_effects(
    adapter: ModelAdapter,
    *,
    intervention: str = "skip",
    unit: str = "layer",
    scope: str = "all",
    value: ValueLike = "prob",
    reference: PromptLike | None = None,
    n_draws: Count = 16,
    seed: Count = 0,
    first_token: bool = False,
    prepend_bos: bool | None = None,
) -> Lens:
    """Check the options of `layer_effects` and return them as a lens, ready to measure."""
    _choose("intervention", intervention, INTERVENTIONS)
    _choose("unit", unit, UNITS)
    _choose("scope", scope, SCOPES)
    _require_count("n_draws", n_draws, 2)
    _require_count("seed", seed, 0)
    needs_texts = intervention in ("mean", "resample")
    if reference is not None and not needs_texts:
        raise ValueError(
            f"reference texts are for intervention 'mean' and 'resample', not {intervention!r}"
        )
    of_unit, resolved = UNITS[unit], bind_value(adapter, value)
    segments = [of_unit.labels(adapter, layer) for layer in range(adapter.n_layers)]
    if intervention == "early_exit":
        if unit != "layer":
            raise ValueError(f"early_exit stops between layers; use unit='layer', got {unit!r}")
        return EarlyExit(adapter=adapter, value=resolved)
    texts = reference_ids(adapter, reference, prepend_bos=prepend_bos) if needs_texts else []
    return Intervention(
        adapter=adapter,
        value=resolved,
        intervention=intervention,
        unit=of_unit,
        unit_name=unit,
        segments=segments,
        scope=scope,
        reference=tuple(texts),
        n_draws=n_draws,
        seed=seed,
        first_token=first_token,
    )


def _choose(name: str, given: Any, known: Mapping[str, Any]) -> None:
    if given not in known:
        raise ValueError(f"unknown {name} {given!r}; choose one of {', '.join(known)}")


def _require_count(name: str, given: Any, smallest: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or given < smallest:
        raise ValueError(f"{name} must be an integer of at least {smallest}, got {given!r}")
