"""Every measure of every item, and how far credits and effects agree on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from experiments.causal_agreement import measures as m
from experiments.causal_agreement.changes import Changes
from experiments.causal_agreement.comparison import compare_with_and_without_first, curves
from experiments.causal_agreement.measures import Measure
from experiments.common.items import Item
from experiments.common.processes import map_processes
from iglens_tl import load_model, reinitialized
from iglens_tl.models import ModelAdapter, adapt
from iglens_tl.resume import Parts

TRAINED = "trained"
RANDOM_TOKEN = "random token"
RANDOM_MODEL = "random model"
RANDOM_CREDITS = "random model, credits only"
CONDITIONS = {
    TRAINED: "credits and effects of the right answer",
    RANDOM_TOKEN: "credits of a random token, effects of the right answer",
    RANDOM_MODEL: "credits and effects of a model with random weights",
    RANDOM_CREDITS: "credits of a model with random weights, effects of the trained one",
}
"""What is compared: the question itself, then the nulls."""


@dataclass(frozen=True)
class Kind:
    """A kind of segments with the measures of it."""

    name: str
    credits: tuple[Measure, ...]
    effects: tuple[Measure, ...]


LAYERS = "layers"
KINDS = (
    Kind(LAYERS, m.CREDITS, (*m.EFFECTS, *m.EFFECTS_OF_OTHER_VALUES)),
    Kind("sublayers", m.SUBLAYER_CREDITS, m.SUBLAYER_EFFECTS),
    Kind("heads", m.HEAD_CREDITS, m.HEAD_EFFECTS),
)
NULL_CREDITS = (
    m.IG_LENS,
    "IG-Lens, log p",
    "IG-Lens, logit",
    "straight line, p",
    "Shapley, frozen, p",
    m.DLA,
    "update norm",
)
NULL_EFFECTS = (m.SKIP, m.SKIP_LAST, m.RESAMPLE, m.EARLY_EXIT)
"""What is measured under the nulls as well."""


@dataclass(frozen=True)
class Task:
    """One family's part of the study; everything a process needs to know.

    Attributes:
        model: What `load_model` takes.
        family: The family.
        items: Its items.
        folder: Where the parts are kept.
        settings: All that the parts depend on.
        seed: Seed of tokens, weights and shuffles.
        kinds: What is measured.
    """

    model: str
    family: str
    items: tuple[Item, ...]
    folder: Path
    settings: Mapping[str, Any]
    seed: int = 0
    kinds: tuple[Kind, ...] = field(default=KINDS)


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        changes: One row per family, condition, kind of segments, measure, item and segment.
        scores: One row per family, condition, kind of segments, credits, effects and item, with one
            column for each metric.
    """

    changes: pd.DataFrame
    scores: pd.DataFrame


def study(tasks: Sequence[Task], *, processes: int = 1) -> Outcome:
    """Measure and compare all families; what other runs have finished is read from the parts."""
    return _joined(map_processes(study_family, tasks, processes=processes))


def study_family(task: Task) -> Outcome:
    """Measure and compare one family."""
    parts = Parts(task.folder, task.settings)
    changes, scores = [], []
    for kind in task.kinds:
        found = _measure_kind(task, parts, kind)
        for (condition, side, name), frame in found.items():
            about = {"family": task.family, "condition": condition, "kind": kind.name}
            changes.append(frame.assign(**about, side=side, measure=name))
        compute = partial(_compare_kind, task, kind, found)
        part = parts.frame(f"{task.family} {kind.name} scores", compute)
        scores.append(part.assign(family=task.family))
    return Outcome(pd.concat(changes, ignore_index=True), pd.concat(scores, ignore_index=True))


def available(
    adapter: ModelAdapter, kinds: Sequence[Kind] = KINDS
) -> tuple[tuple[Kind, ...], list[str]]:
    """Return what applies to a model, and a sentence for each measure that does not."""
    notes = []

    def kept(measures: Sequence[Measure]) -> tuple[Measure, ...]:
        reasons = {measure: measure.reason_against(adapter) for measure in measures}
        notes.extend(f"{o.name} is left out: {why}" for o, why in reasons.items() if why)
        return tuple(measure for measure, why in reasons.items() if not why)

    found = [Kind(kind.name, kept(kind.credits), kept(kind.effects)) for kind in kinds]
    return tuple(kind for kind in found if kind.credits and kind.effects), notes


def random_tokens(items: Sequence[Item], d_vocab: int, *, seed: int) -> list[int]:
    """Draw for every item a token that is not its answer."""
    rng = Random(seed)
    drawn = [rng.randrange(d_vocab - 1) for _ in items]
    return [token + (token >= item.answer_id) for token, item in zip(drawn, items, strict=True)]


def _measure_kind(task: Task, parts: Parts, kind: Kind) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Return the changes by condition, side and measure."""
    adapter = _adapter(task.model)
    answers = [item.answer_id for item in task.items]
    others = random_tokens(task.items, adapter.readout.d_vocab, seed=task.seed)
    sides = {"credits": kind.credits, "effects": kind.effects}
    wanted = [(TRAINED, side, measure) for side, group in sides.items() for measure in group]
    if kind.name == LAYERS:
        of_nulls = {"credits": NULL_CREDITS, "effects": NULL_EFFECTS}
        wanted += [
            (condition, side, measure)
            for condition in (RANDOM_TOKEN, RANDOM_MODEL)
            for side, group in sides.items()
            for measure in group
            if measure.name in of_nulls[side] and (condition, side) != (RANDOM_TOKEN, "effects")
        ]
    found = {}
    for condition, side, measure in wanted:
        tokens = others if condition == RANDOM_TOKEN else answers
        compute = partial(_take, task, measure, tokens, random=condition == RANDOM_MODEL)
        part = parts.frame(f"{task.family} {kind.name} {condition} {side} {measure.name}", compute)
        if len(part):
            found[condition, side, measure.name] = part
    return found


def _take(task: Task, measure: Measure, tokens: Sequence[int], *, random: bool) -> pd.DataFrame:
    adapter = _adapter(task.model)
    context = reinitialized(adapter, seed=task.seed) if random else nullcontext(adapter)
    with context as used:
        changes = measure.take(used, task.items, tokens)
    if changes is None:
        columns = {"item": np.int64, "segment": object, "change": float, "unit": object}
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
    return changes.to_frame()


def _compare_kind(
    task: Task, kind: Kind, found: Mapping[tuple[str, str, str], pd.DataFrame]
) -> pd.DataFrame:
    def side(condition: str, wanted: str) -> dict[str, Changes]:
        return {
            name: Changes.from_frame(frame)
            for (of, which, name), frame in found.items()
            if (of, which) == (condition, wanted)
        }

    credits, effects = side(TRAINED, "credits"), side(TRAINED, "effects")
    pairs = {TRAINED: (credits, effects)}
    if kind.name == LAYERS:
        of_trained = {name: effects[name] for name in NULL_EFFECTS if name in effects}
        of_random = side(RANDOM_MODEL, "credits")
        pairs[RANDOM_TOKEN] = (side(RANDOM_TOKEN, "credits"), of_trained)
        pairs[RANDOM_MODEL] = (of_random, side(RANDOM_MODEL, "effects"))
        pairs[RANDOM_CREDITS] = (of_random, of_trained)
    tables = []
    for condition, (left, right) in pairs.items():
        if left and right:
            table = compare_with_and_without_first(
                kind.name,
                left,
                right,
                task.items,
                shuffled=NULL_EFFECTS if condition == TRAINED else (),
                seed=task.seed,
            )
            tables.append(table.assign(condition=condition))
    if kind.name == LAYERS:
        areas = curves(_adapter(task.model), credits, task.items, seed=task.seed)
        tables.append(areas.assign(condition=TRAINED, segments=LAYERS))
    return pd.concat(tables, ignore_index=True)


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        pd.concat([outcome.changes for outcome in outcomes], ignore_index=True),
        pd.concat([outcome.scores for outcome in outcomes], ignore_index=True),
    )


@lru_cache(maxsize=1)
def _adapter(model: str) -> ModelAdapter:
    return adapt(load_model(model))
