"""Credits and effects of items, in all conditions."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.common.items import Item
from experiments.path_study.conditions import (
    BREAKPOINTS,
    CORPUS,
    DEFAULT,
    DIFFERENCE,
    ORDERS,
    STEPS,
    VALUES,
    Condition,
    all_conditions,
    of_order,
)
from iglens_tl import IGLens, LensResult, embedded_reference_texts, layer_effects
from iglens_tl.lenses import CompletenessWarning
from iglens_tl.lenses.base import Lens, Run, measure
from iglens_tl.models import ModelAdapter, NotApplicableError, capture
from iglens_tl.prompts.tokenization import encode_text
from iglens_tl.readout import Targets, Value, ValueLike
from iglens_tl.trace import begin_trace

EFFECTS: dict[str, dict[str, Any]] = {
    "skip, all positions": {"intervention": "skip", "scope": "all"},
    "skip, last position": {"intervention": "skip", "scope": "last"},
    "mean, all positions": {"intervention": "mean", "scope": "all", "n_draws": 2},
    "resample, all positions": {"intervention": "resample", "scope": "all", "n_draws": 8},
}
EARLY_EXIT = "early exit"


@dataclass(frozen=True, eq=False)
class DifferenceFromOther(Value):
    """The logit of the answer less that of the other answer, which depends on the answer.

    Attributes:
        others: `[d_vocab]`, for every answer the other one.
    """

    others: Tensor

    name = DIFFERENCE
    unit = "logit difference"

    def evaluate(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return the difference of the two logits."""
        pair = logits.gather(-1, self._columns(targets))
        return pair[..., 0] - pair[..., 1]

    def gradient(self, logits: Tensor, targets: Targets) -> Tensor:
        """Return 1 for the answer's logit and −1 for the other's."""
        columns = self._columns(targets)
        signs = torch.tensor([1.0, -1.0]).to(logits).expand(columns.shape)
        return torch.zeros_like(logits).scatter(-1, columns, signs)

    def _columns(self, targets: Targets) -> Tensor:
        return torch.stack([targets.token_ids, self.others[targets.token_ids]], dim=-1)


def credits_frame(adapter: ModelAdapter, items: Sequence[Item]) -> pd.DataFrame:
    """Credit the layers of every item in every condition that the model has.

    Returns:
        One row per condition, item (its place among the items) and segment, with its `credit`.
    """

    def shared(condition: Condition) -> tuple[str, str, bool]:
        # Points of lenses that run together must not carry one name for different states, and the
        # other answer is one for each answer.
        return condition.baseline, condition.breakpoints, condition.value == DIFFERENCE

    parts = []
    for _, group in groupby(sorted(all_conditions(), key=shared), key=shared):
        conditions = _that_apply(adapter, group)
        value = conditions[0].value if conditions else DEFAULT.value
        for batch in _batches(items, value):
            found = _run(adapter, conditions, [items[place] for place in batch])
            for condition, result in zip(conditions, found.results, strict=True):
                part = _frame(result, batch, "credit")
                parts.append(part.assign(**asdict(condition)))
    return pd.concat(parts, ignore_index=True)


def effects_frame(adapter: ModelAdapter, items: Sequence[Item]) -> pd.DataFrame:
    """Take every layer out of every item, in several ways.

    Returns:
        One row per intervention, value, item and segment, with its `effect`; "early exit" with
        the default value only.
    """
    ways = [(name, value) for name in EFFECTS for value in VALUES] + [(EARLY_EXIT, DEFAULT.value)]
    parts = []
    for name, value in ways:
        for batch in _batches(items, value):
            chosen = [items[place] for place in batch]
            answers: Any = [[item.answer_id] for item in chosen]
            result = layer_effects(
                adapter,
                [list(item.ids) for item in chosen],
                answer=answers,
                value=_value(adapter, value, chosen),
                **EFFECTS.get(name, {"intervention": "early_exit"}),
            )
            parts.append(_frame(result, batch, "effect").assign(intervention=name, value=value))
    return pd.concat(parts, ignore_index=True)


def costs_frame(adapter: ModelAdapter, items: Sequence[Item], *, repeats: int = 2) -> pd.DataFrame:
    """Measure what each order and estimator costs alone, per item: the fastest of several runs."""
    conditions = [of_order(order) for order in ORDERS]
    conditions += [Condition(estimator="riemann", n_steps=n_steps) for n_steps in STEPS]
    conditions += [Condition(estimator="gradient")]
    rows = []
    for condition in _that_apply(adapter, conditions):
        seconds, passes = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            passes.append(_run(adapter, [condition], items).n_forward_passes / len(items))
            seconds.append((time.perf_counter() - start) / len(items))
        cost = {"seconds": min(seconds), "forward_passes": passes[0]}
        rows.append(asdict(condition) | cost)
    return pd.DataFrame(rows)


def _that_apply(adapter: ModelAdapter, conditions: Iterable[Condition]) -> list[Condition]:
    """Return the conditions that the architecture has, and that differ for its depth."""
    found = []
    for condition in conditions:
        if BREAKPOINTS[condition.breakpoints] > max(1, adapter.n_layers // 2):
            continue
        try:
            _lens(adapter, replace(condition, value=DEFAULT.value), ()).bind(adapter)
        except NotApplicableError:
            continue
        found.append(condition)
    return found


def _run(adapter: ModelAdapter, conditions: Sequence[Condition], items: Sequence[Item]) -> Run:
    lenses = [_lens(adapter, condition, items) for condition in conditions]
    with warnings.catch_warnings():
        # What few steps miss is measured here.
        warnings.simplefilter("ignore", CompletenessWarning)
        trace = begin_trace(
            adapter,
            [list(item.ids) for item in items],
            answer=[[item.answer_id] for item in items],
        )
        return measure(trace, lenses)


def _lens(adapter: ModelAdapter, condition: Condition, items: Sequence[Item]) -> Lens:
    every = BREAKPOINTS[condition.breakpoints]
    layers = None if every == 1 else list(range(every - 1, adapter.n_layers, every))
    is_corpus = condition.baseline == CORPUS
    names: dict[str, Any] = {"path": condition.order, "estimator": condition.estimator}
    names["baseline"] = corpus_mean(adapter) if is_corpus else condition.baseline
    return IGLens(
        layers=layers,
        value=_value(adapter, condition.value, items),
        n_steps=condition.n_steps or None,
        top_k=0,
        **names,
    )


def _value(adapter: ModelAdapter, name: str, items: Sequence[Item]) -> ValueLike:
    if name != DIFFERENCE:
        return name
    others = torch.zeros(adapter.readout.d_vocab, dtype=torch.long, device=adapter.readout.device)
    for item in items:
        others[item.answer_id] = item.other_id
    return DifferenceFromOther(others)


def _batches(items: Sequence[Item], value: str) -> list[list[int]]:
    """Return places of items that can run together: with one other answer for each answer."""
    if value != DIFFERENCE:
        return [list(range(len(items)))]
    batches: list[tuple[dict[int, int], list[int]]] = []
    for place, item in enumerate(items):
        for others, places in batches:
            if others.setdefault(item.answer_id, item.other_id) == item.other_id:
                places.append(place)
                break
        else:
            batches.append(({item.answer_id: item.other_id}, [place]))
    return [places for _, places in batches]


@cache
def corpus_mean(adapter: ModelAdapter) -> Float[Tensor, " d_model"]:
    """Return the mean embedding state over the reference texts, without their first tokens."""
    total, number = torch.zeros(adapter.readout.d_model, dtype=torch.float64), 0
    for text in embedded_reference_texts():
        ids = encode_text(adapter, text, prepend_bos=None)[: adapter.n_ctx]
        site = adapter.embed_site
        readers = {site: lambda states: states[0, 1:].double().sum(0).cpu()}
        total += capture(adapter, torch.tensor([ids]), readers)[site]
        number += len(ids) - 1
    return (total / number).float()


def _frame(result: LensResult, places: Sequence[int], column: str) -> pd.DataFrame:
    """Return what changes in each segment as a table; the items are the texts, in order."""
    changes = pd.DataFrame(result.changes, columns=list(result.segments))
    changes.insert(0, "item", [places[target.prompt] for target in result.targets])
    return changes.melt("item", var_name="segment", value_name=column)
