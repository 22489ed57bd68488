"""Validation of lenses against interventions, on a list of prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from iglens_tl.arguments import Count
from iglens_tl.evaluation.runs import Measured, Report, Runs, fingerprint
from iglens_tl.evaluation.tables import agreement_tables
from iglens_tl.interventions.effects import INTERVENTIONS, LayerEffects, Scope
from iglens_tl.lenses.compare import Lenses, resolve_lenses
from iglens_tl.models import Model, ModelAdapter, adapt
from iglens_tl.prompts import (
    PromptLike,
    Request,
    Tokens,
    as_plain_list,
    as_prompts,
    bind_value,
    build_requests,
    per_prompt,
)
from iglens_tl.readout import Value, ValueLike
from iglens_tl.results import Provenance
from iglens_tl.results.validation import Validation
from iglens_tl.resume import Parts

DEFAULT_LENSES = ("ig_lens", "direct_logit_attribution")
DEFAULT_INTERVENTIONS = ("skip", "mean", "resample", "early_exit")


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
        prompts: Any iterable of texts, chats or token ids. Equal ones count each.
        lenses: Lenses or names of lenses, or a mapping from labels to lenses, as in `compare`.
            Components of layers are added up.
        interventions: Names of interventions, as in `layer_effects`.
        scope: "all" or "last", as in `layer_effects`; skip curves always skip at all positions.
        value: What is measured, of single tokens: on both sides, and along skip curves. Options of
            a lens may name another one.
        answer: The continuation of every prompt whose tokens are measured, or an iterable with one
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
    if adapter.n_layers < 2:
        raise ValueError(
            f"{adapter.name} has one layer, so there is no order of layers to compare; compare its "
            "parts with agreement(components(…, by='head'), layer_effects(…, by='head'))"
        )
    made = resolve_lenses(lenses, value=of_value)
    check_counts(chunk_size=(chunk_size, 1), n_draws=(n_draws, 2), seed=(seed, 0))
    common = {"scope": scope, "n_draws": n_draws, "prepend_bos": prepend_bos}
    common |= {"value": of_value, "seed": seed}
    effects = resolve_effects(interventions, reference, common)
    for effect in effects.values():
        effect.bind(adapter)
    prompts = list_prompts(prompts)
    called = name_prompts(prompts, names)
    ids = [prompt_ids(adapter, *pair, prepend_bos) for pair in zip(prompts, called, strict=True)]
    answers = per_prompt(answer, len(prompts), "answer", True)
    if answer is not None and generate is not None:
        raise ValueError("give only one of answer and generate")
    if answer is None and generate is None:
        generate = 1
    options = {
        "lenses": {name: {"lens": lens.name, **vars(lens)} for name, lens in made.items()},
        "interventions": list(effects),
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
        lenses=made,
        effects=effects,
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


if TYPE_CHECKING:
    Names: TypeAlias = Sequence[str]
    Prompts: TypeAlias = Iterable[PromptLike]
else:  # anything may arrive here; it is answered with a readable error
    Names = Prompts = Any

_WITH_TEXTS = ("mean", "resample")


def resolve_effects(
    interventions: Names, reference: PromptLike | None, common: Mapping[str, Any]
) -> dict[str, LayerEffects]:
    """Return what measures the effects of every intervention, with the options of all."""
    if isinstance(interventions, str) or not isinstance(interventions, Sequence):
        raise TypeError(f"interventions must be a list of names, got {interventions!r}")
    known = ", ".join(INTERVENTIONS)
    if not interventions:
        raise ValueError(f"interventions is empty; choose from {known}")
    for name in interventions:
        if name not in INTERVENTIONS:
            raise ValueError(f"unknown intervention {name!r}; choose from {known}")
        if list(interventions).count(name) > 1:
            raise ValueError(f"intervention {name!r} is given twice")
    with_texts = [name for name in interventions if name in _WITH_TEXTS]
    if reference is not None and not with_texts:
        raise ValueError(
            f"reference texts are for {' and '.join(_WITH_TEXTS)}, which are not among the "
            "interventions"
        )
    effects = {}
    for name in interventions:
        texts = reference if name in with_texts else None
        options: dict[str, Any] = {**common, "intervention": name, "reference": texts}
        effects[name] = LayerEffects(**options)
    return effects


def list_prompts(prompts: Prompts) -> list[Any]:
    """Return the prompts that an iterable holds, of which there has to be one."""
    plain = as_plain_list(prompts)
    if plain is None:
        raise TypeError(f"prompts must be a list of prompts, got {type(prompts).__name__}")
    if not plain:
        raise ValueError("prompts is empty; give at least one")
    return plain


def name_prompts(prompts: Sequence[Any], names: Names | None) -> list[str]:
    """Return what errors call the prompts."""
    called = [f"prompt {i}" for i in range(len(prompts))] if names is None else list(names)
    if len(called) != len(prompts):
        raise ValueError(f"got {len(prompts)} prompts but {len(called)} names")
    return called


def prompt_ids(
    adapter: ModelAdapter, prompt: PromptLike, called: str, prepend_bos: bool | None
) -> list[int]:
    """Return the token ids of one prompt."""
    try:
        found, is_batch = as_prompts(adapter, prompt, prepend_bos=prepend_bos)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{called}: {error}") from error
    if is_batch:
        raise TypeError(f"{called} is a batch; give one text, chat or list of token ids each")
    return list(found[0].ids)


def check_counts(**counts: tuple[Any, int]) -> None:
    """Refuse numbers that are no integers of at least the given size."""
    for name, (number, least) in counts.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {number!r}")


def settings_of(
    adapter: ModelAdapter, value: Value, options: Mapping[str, Any], texts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all that the numbers depend on."""
    plain = {**options, **_digests(texts), "value": [value.name, vars(value)]}
    model = {
        "model": adapter.name,
        "backend": adapter.backend,
        "dtype": str(adapter.dtype),
        "device": str(adapter.device),
        "weights": fingerprint(adapter),
    }
    return {**model, **json.loads(json.dumps(plain, default=_plain))}


def _digests(texts: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: hashlib.sha256(json.dumps(content, default=_plain).encode()).hexdigest()
        for name, content in texts.items()
    }


def _plain(option: Any) -> Any:
    """Return what stands for an option that JSON cannot hold."""
    if hasattr(option, "tolist"):
        return option.tolist()
    return getattr(option, "fingerprint", None) or repr(option)
