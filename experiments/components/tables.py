"""The tables of the experiment, as data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.components.ablation import EFFECTS, KINDS, SCOPES, Ablation, top_heads
from experiments.components.credits import CREDIT, MEASURES, HeadCredits
from experiments.components.statistics import (
    mean_and_error,
    mean_rank_correlation,
    rank_correlation_of_means,
)
from iglens_tl.results.segments import head_label

NUMBERS = (1, 2, 4, 8)
_RANDOM_DRAWS = 3

SingleEffects = Mapping[tuple[str, str], Float[np.ndarray, "case layer head effect"]]
"""By kind and scope of ablation."""


def single_effects(ablation: Ablation) -> SingleEffects:
    """Ablate every head alone, in every way."""
    return {
        (kind, scope): ablation.single_heads(kind=kind, scope=scope)
        for kind, scope in product(KINDS, SCOPES)
    }


def head_table(credits: HeadCredits, effects: SingleEffects) -> pd.DataFrame:
    """Return for every head the mean of each measure and of each effect on p, largest credit first.

    Every mean is followed by its standard error over cases.
    """
    columns: dict[str, np.ndarray] = {}
    found = dict(credits.measures)
    for (kind, scope), effect in effects.items():
        found[f"Δp, {kind}, {scope}"] = effect[..., EFFECTS.index("p")]
    for name, numbers in found.items():
        mean, error = mean_and_error(numbers)
        columns |= {name: mean.ravel(), f"±{name}": error.ravel()}
    n_layers, n_heads = found[CREDIT].shape[1:]
    labels = [head_label(*pair) for pair in product(range(n_layers), range(n_heads))]
    table = pd.DataFrame(columns, index=pd.Index(labels, name="head"))
    return table.sort_values(CREDIT, ascending=False)


def mean_credit(credits: Float[np.ndarray, " case"]) -> tuple[float, float]:
    """Return the mean over cases and its standard error, as numbers."""
    mean, error = mean_and_error(credits)
    return float(mean), float(error)


def role_table(credits: HeadCredits, roles: Sequence[str], heads: Sequence[str]) -> pd.DataFrame:
    """Return what heads are credited with by the role of the token they read, in the mean."""
    mean, error = mean_and_error(credits.by_role)
    labels = [head_label(*pair) for pair in product(*map(range, mean.shape[:2]))]
    rows = {"all heads": credits.by_role.sum((1, 2))}
    rows |= {
        label: credits.by_role.reshape(len(credits.by_role), len(labels), -1)[:, i]
        for i, label in enumerate(labels)
    }
    records = {}
    for label in ["all heads", *heads]:
        mean, error = mean_and_error(rows[label])
        records[label] = {
            name: number
            for i, role in enumerate(roles)
            for name, number in ((role, mean[i]), (f"±{role}", error[i]))
        }
    return pd.DataFrame.from_dict(records, orient="index").rename_axis("head")


def ablation_table(
    ablation: Ablation, credits: HeadCredits, *, numbers: Sequence[int] = NUMBERS, seed: int = 0
) -> pd.DataFrame:
    """Return what is left when the first heads of several orders are ablated.

    Every case has its own order; of random heads, several sets are drawn for each case.
    """
    shape = credits.measures[CREDIT].shape
    rng = np.random.default_rng(seed)
    orders = {
        "most credited": [credits.measures[CREDIT]],
        "most credited, log p": [credits.measures["credit of log p"]],
        "most credited, logit difference": [credits.measures["credit of logit difference"]],
        "most credited, straight path": [credits.measures["credit of p, straight path"]],
        "largest DLA": [credits.measures["DLA"]],
        "largest DLA, logit difference": [credits.measures["DLA of logit difference"]],
        "random": [rng.random(shape) for _ in range(_RANDOM_DRAWS)],
        "smallest absolute credit": [-abs(credits.measures[CREDIT])],
        "most negative credit": [-credits.measures[CREDIT]],
    }
    records = []
    for kind, scope, (order, scores), number in product(KINDS, SCOPES, orders.items(), numbers):
        runs = [ablation.run(top_heads(score, number), kind=kind, scope=scope) for score in scores]
        mean, error = mean_and_error(np.mean(runs, axis=0))
        record = {"kind": kind, "scope": scope, "order": order, "heads": number}
        for i, effect in enumerate(EFFECTS):
            record |= {effect: mean[i], f"±{effect}": error[i]}
        records.append(record)
    return pd.DataFrame(records)


def correlation_table(credits: HeadCredits, effects: SingleEffects) -> pd.DataFrame:
    """Compare every measure of a head with the effects of ablating it.

    Returns:
        Spearman's rank correlation over heads of the means over cases (`of means`, with the ends of
        its interval) and its mean over cases (`of cases`, with its standard error).
    """
    records = []
    for measure, ((kind, scope), effect), (i, name) in product(
        MEASURES, effects.items(), enumerate(EFFECTS)
    ):
        left = credits.measures[measure].reshape(len(effect), -1)
        right = effect[..., i].reshape(len(effect), -1)
        found, low, high = rank_correlation_of_means(left, right)
        each, error = mean_rank_correlation(left, right)
        records.append(
            {
                "measure": measure,
                "kind": kind,
                "scope": scope,
                "effect": name,
                "of means": found,
                "low": low,
                "high": high,
                "of cases": each,
                "±of cases": error,
            }
        )
    return pd.DataFrame(records)
