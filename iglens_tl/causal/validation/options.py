"""What a validation is asked for: its options checked, and written down for a later run."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.causal.layer_effects import INTERVENTIONS
from iglens_tl.causal.validation.runs import Variant, fingerprint
from iglens_tl.lenses.registry import Lenses, check_names
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts import PromptLike, Tokens, as_prompts
from iglens_tl.readout import Value

if TYPE_CHECKING:
    Names: TypeAlias = Sequence[str]
    Prompts: TypeAlias = Sequence[PromptLike]
else:  # anything may arrive here; it is answered with a readable error
    Names = Prompts = Any

_WITH_TEXTS = ("mean", "resample")


def resolve_variants(lenses: Lenses) -> list[Variant]:
    """Return the lenses with their options, and with the names they have in tables."""
    if isinstance(lenses, (list, tuple, Mapping)) and len(lenses):
        check_names(list(dict.fromkeys(str(name).partition(":")[0] for name in lenses)))
        repeated = [name for name, count in Counter(map(str, lenses)).items() if count > 1]
        if repeated:
            raise ValueError(f"lens {repeated[0]!r} is given twice")
    else:
        check_names(lenses)
    variants = []
    for name in lenses:
        lens, _, label = name.partition(":")
        options = dict(lenses[name]) if isinstance(lenses, Mapping) else {}
        if label and not options:
            options = {"path": label}
        variants.append(Variant(name, lens, options))
    return variants


def resolve_effects(
    interventions: Names,
    scope: str,
    n_draws: int,
    reference: PromptLike | None,
    prepend_bos: bool | None,
) -> dict[str, dict[str, Any]]:
    """Return the options of every intervention."""
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
    common = {"scope": scope, "n_draws": n_draws, "prepend_bos": prepend_bos}
    return {
        name: {**common, "reference": reference} if name in with_texts else common
        for name in interventions
    }


def name_prompts(prompts: Prompts, names: Names | None) -> list[str]:
    """Return what errors call the prompts."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise TypeError(f"prompts must be a list of prompts, got {type(prompts).__name__}")
    if not prompts:
        raise ValueError("prompts is empty; give at least one")
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


def answers_of_prompts(answer: Tokens | None, n_prompts: int) -> list[Any]:
    """Return one answer for each prompt."""
    if not isinstance(answer, (list, tuple)):
        return [answer] * n_prompts
    if len(answer) != n_prompts:
        raise ValueError(f"got {n_prompts} prompts but {len(answer)} answers")
    return list(answer)


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
