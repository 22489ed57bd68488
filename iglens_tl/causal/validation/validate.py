"""Whether lenses say the same as interventions, on a list of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from iglens_tl.causal.layer_effects import Scope, plan_layer_effects
from iglens_tl.causal.skip_curves import SkipCurves
from iglens_tl.causal.validation.options import (
    Names,
    Prompts,
    answers_of_prompts,
    check_counts,
    name_prompts,
    prompt_ids,
    resolve_effects,
    resolve_variants,
    settings_of,
)
from iglens_tl.causal.validation.runs import Measured, Report, Runs
from iglens_tl.causal.validation.tables import NULLS, agreement_tables
from iglens_tl.files import write_atomically
from iglens_tl.lens_result import LensResult
from iglens_tl.lenses.options import Count
from iglens_tl.lenses.registry import Lenses
from iglens_tl.models import Model, adapt
from iglens_tl.prompts import PromptLike, Request, Tokens, bind_value, build_requests
from iglens_tl.readout import ValueLike
from iglens_tl.results import Provenance
from iglens_tl.results.parts import Parts

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

DEFAULT_LENSES = ("ig_lens", "direct_logit_attribution")
DEFAULT_INTERVENTIONS = ("skip", "mean", "resample", "early_exit")
_PAGE_WIDTH = 1060


@dataclass(frozen=True, eq=False, repr=False)
class Validation:
    """How far lenses agree with interventions on some prompts.

    Attributes:
        table: One row per credits, effects and metric, as from `agreement`: `mean`, `low` and
            `high`, the ends of its 95 % interval, `items` and `note`. The nulls are rows whose
            credits end in ", layers shuffled", ", random target" or ", random weights".
        by_item: One row per credits, effects and target, as from `agreement_by_item`.
        curves: The value with layers skipped in the order of the credits.
        credits: By name, what the lenses measured.
        effects: By intervention, what taking each layer out does.
        provenance: Model, options, checks, versions and date.
    """

    table: pd.DataFrame
    by_item: pd.DataFrame
    curves: SkipCurves
    credits: Mapping[str, LensResult]
    effects: Mapping[str, LensResult]
    provenance: Provenance

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, in sentences."""
        return self.provenance.notes

    @property
    def nulls(self) -> tuple[str, ...]:
        """Names of credits that stand for chance."""
        return tuple(n for n in dict.fromkeys(self.table["credits"]) if n.endswith(NULLS))

    def figure(self, *, metric: str = "spearman") -> Figure:
        """Draw one metric for all credits; see `iglens_tl.views.figures.agreement_figure`."""
        from iglens_tl.views.figures import agreement_figure

        return agreement_figure(self.table, metric=metric, nulls=self.nulls)

    def curves_figure(self) -> Figure:
        """Draw the mean skip curves; see `iglens_tl.views.figures.skip_curves_figure`."""
        return self.curves.figure()

    def layers_figure(self) -> Figure:
        """Draw the mean credits beside the mean effects, layer by layer."""
        from iglens_tl.views.figures import layers_figure

        return layers_figure(self.credits, self.effects)

    def to_html(self) -> str:
        """Return a page that says what was compared, with tables and figures, self-contained."""
        from iglens_tl.views.validation import validation_page

        narrow = self.figure().update_layout(width=_PAGE_WIDTH)
        figures = [self.layers_figure(), narrow, self.curves_figure()]
        return validation_page(self.table, figures, self.provenance, nulls=NULLS).decode()

    def write_html(self, path: str | Path) -> Path:
        """Write the page; an interruption leaves no part of it.

        Raises:
            ValueError: If the path cannot be written.
        """
        page = self.to_html()
        return write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import validation_table

        return validation_table(self.table, self.provenance, NULLS)

    def __repr__(self) -> str:
        """Say what the validation holds in one line."""
        data = next(iter(self.credits.values()))
        return (
            f"Validation({', '.join(self.credits)} against {', '.join(self.effects)}: "
            f"{len(data.targets)} targets of {len(data.texts)} prompts, "
            f"{self.provenance.model.get('name', 'unnamed model')})"
        )


def validate(
    model: Model,
    prompts: Prompts,
    *,
    lenses: Lenses = DEFAULT_LENSES,
    interventions: Names = DEFAULT_INTERVENTIONS,
    scope: Scope | str = "all",
    value: ValueLike = "prob",
    answer: Tokens | None = None,
    generate: Count | None = None,
    nulls: bool = True,
    reference: PromptLike | None = None,
    n_draws: Count = 16,
    seed: Count = 0,
    prepend_bos: bool | None = None,
    folder: str | Path | None = None,
    chunk_size: Count = 32,
    names: Names | None = None,
    report: Report | None = None,
) -> Validation:
    """Compare what lenses credit layers with to what happens when the layers are taken out.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`. With `nulls` its weights are random for
            a while; they are put back, also after an interruption.
        prompts: A list of texts, chats or token ids. Equal ones count each.
        lenses: Names of lenses, or a mapping from names to options, as in `compare`. A lens may
            stand there several times: "ig_lens:reverse" is `ig_lens` with `path="reverse"`, and
            what follows the colon of a name with options of its own is only a label, as in
            `{"ig_lens": {}, "ig_lens:from the mean": {"baseline": "mean"}}`. Components of layers
            are added up.
        interventions: Names of interventions, as in `layer_effects`.
        scope: "all" or "last", as in `layer_effects`; skip curves always skip at all positions.
        value: What is measured, of single tokens: on both sides, and along skip curves. Options of
            a lens may name another one.
        answer: The continuation of every prompt whose tokens are measured, or a list with one entry
            for each prompt.
        generate: Measure up to this many greedily generated tokens instead. Without both, the
            model's own next token is measured.
        nulls: Also measure what chance gives: the credits with their layers shuffled, credits of
            another token, drawn at random, in place of the target, and credits and effects both in
            the model with random weights. Lenses that were fitted to the model are left out of the
            last.
        reference: Texts for "mean" and "resample"; None for the package's own.
        n_draws: As in `layer_effects`.
        seed: Seed of everything that is drawn.
        prepend_bos: As for `ig_lens`.
        folder: Where finished parts are kept, so that the same call goes on after an interruption,
            to the same numbers. Use one for each call.
        chunk_size: How many prompts are measured together, and lost by an interruption.
        names: What errors call the prompts, by default "prompt 0", …
        report: Called before each step with the number of steps done, that of all steps, and what
            comes now.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For unknown names, prompts that do not fit the model, a value of whole
            continuations, or a folder of another run.

    Example:
        >>> from iglens_tl import load_model, validate
        >>> capitals = ["The capital of Vietnam is", "The capital of France is"]
        >>> found = validate(load_model("demo"), capitals, interventions=["skip"], nulls=False)
        >>> sorted(found.credits)
        ['direct_logit_attribution', 'ig_lens']
    """
    adapter = adapt(model)
    of_value = bind_value(adapter, value)
    if of_value.sums_over_targets:
        raise ValueError(f"the value {of_value.name} adds up a continuation; use logprob")
    variants = resolve_variants(lenses)
    check_counts(chunk_size=(chunk_size, 1), n_draws=(n_draws, 2), seed=(seed, 0))
    effect_options = resolve_effects(interventions, scope, n_draws, reference, prepend_bos)
    for name, options in effect_options.items():
        plan_layer_effects(adapter, intervention=name, value=of_value, seed=seed, **options)
    called = name_prompts(prompts, names)
    ids = [prompt_ids(adapter, *pair, prepend_bos) for pair in zip(prompts, called, strict=True)]
    answers = answers_of_prompts(answer, len(prompts))
    if answer is not None and generate is not None:
        raise ValueError("give only one of answer and generate")
    if answer is None and generate is None:
        generate = 1
    options = {
        "lenses": {variant.name: dict(variant.options) for variant in variants},
        "interventions": list(effect_options),
        "scope": scope,
        **of_value.provenance(),
        "generate": generate,
        "nulls": nulls,
        "n_draws": n_draws,
        "seed": seed,
        "chunk_size": chunk_size,
    }
    parts = None
    if folder is not None:
        texts = {"prompts": ids, "answer": answers, "reference": reference}
        parts = Parts(folder, settings_of(adapter, of_value, options, texts))

    def request(index: int) -> Request:
        choice = {"answer": answers[index], "generate": generate, "prepend_bos": prepend_bos}
        try:
            return build_requests(adapter, prompts[index], **choice)[0]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{called[index]}: {error}") from error

    runs = Runs(
        adapter=adapter,
        variants=variants,
        effect_options=effect_options,
        value=of_value,
        seed=seed,
        nulls=nulls,
        chunk_size=chunk_size,
        parts=parts,
        report=report or _tell_nobody,
    )
    requests = runs.targets(len(prompts), request)
    measured = runs.measure(requests)
    measured, notes = _without_equal_targets(measured)
    table, by_item = agreement_tables(measured, nulls=nulls, seed=seed)
    return Validation(
        table=table,
        by_item=by_item,
        curves=measured.curves,
        credits=measured.credits,
        effects=measured.effects,
        provenance=_provenance(measured, options, _repeats(requests) + notes),
    )


def _tell_nobody(done: int, total: int, what: str) -> None:
    del done, total, what


def _without_equal_targets(measured: Measured) -> tuple[Measured, tuple[str, ...]]:
    """Leave out random targets where the value is the same for every target."""
    other = {
        name: result
        for name, result in measured.random_targets.items()
        if not np.allclose(result.final, measured.credits[name].final, rtol=1e-3)
    }
    same = [name for name in measured.random_targets if name not in other]
    notes = (f"no random targets of {', '.join(same)}: the value has no target",) if same else ()
    return replace(measured, random_targets=other), notes


def _repeats(requests: Sequence[Request]) -> tuple[str, ...]:
    n_repeated = len(requests) - len(set(requests))
    if not n_repeated:
        return ()
    return (f"{n_repeated} of {len(requests)} prompts repeat an earlier one and count again",)


def _provenance(measured: Measured, options: dict[str, Any], notes: tuple[str, ...]) -> Provenance:
    results = {**measured.credits, **measured.effects}
    described = next(iter(results.values())).provenance
    of_results = [note for result in results.values() for note in result.provenance.notes]
    lenses = {
        name: measured.credits[name].provenance.options
        for name in options["lenses"]
        if name in measured.credits
    }
    return replace(
        described,
        options={**options, "lenses": lenses},
        notes=tuple(dict.fromkeys((*notes, *measured.notes, *of_results))),
    )
