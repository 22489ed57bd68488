"""Every lens on every planted model: the scores one by one, and summed up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from experiments.common.processes import map_processes
from experiments.planted.lenses import EVEN, IG_LENS, Finding, measure_all
from experiments.planted.localisation import localise
from experiments.planted.models import PlantedModel
from iglens_tl.models import adapt
from iglens_tl.results.segments import layer_label


def study(models: Iterable[PlantedModel], *, processes: int = 1) -> pd.DataFrame:
    """Score every lens on every model.

    Args:
        models: The models.
        processes: Over how many processes they are spread; 1 for the one that asks.

    Returns:
        One row per model, lens and question that has a true segment: `kind`, `place`, `seed`,
        `prompt`, `answer` and its probability `p`; `lens`, `question`, `truth`; `mass`, `evenness`,
        `top`, `top_is_true` and `total` of `Localisation`; and `silent`, whether the lens says so
        little of all blocks together that the scores mean nothing.
    """
    found = map_processes(score_model, models, processes=processes)
    return pd.DataFrame([record for records in found for record in records])


def score_model(model: PlantedModel) -> list[dict[str, Any]]:
    """Return the rows of one model."""
    adapter = adapt(model.load())
    findings = measure_all(adapter, model.prompt, model.answer)
    about = {name: getattr(model, name) for name in ("kind", "place", "seed", "prompt", "answer")}
    about["p"] = findings[IG_LENS].final
    records = []
    for lens, finding in ({EVEN: _even(adapter.n_layers)} | findings).items():
        for question, truth in model.truths.items():
            if truth:
                found = localise(finding.changes, finding.segments, truth)
                what = {"lens": lens, "question": question, "truth": ", ".join(truth)}
                records.append(
                    about | what | asdict(found) | {"silent": finding.is_silent(found.total)}
                )
    return records


def summarise(scores: pd.DataFrame, question: str, score: str) -> pd.DataFrame:
    """Return one score of one question by lens and kind, over all places and seeds.

    Returns:
        One row per lens and kind, in the order of the study: `mean`, `low` and `high` over the
        models on which the lens is not silent, the number `n` of models, and on how many of them
        the lens is `silent`. Where it is silent on all, there is no mean.
    """
    here = scores[scores["question"] == question]
    records = []
    for names, group in here.groupby(["lens", "kind"], sort=False):
        assert isinstance(names, tuple)
        lens, kind = names
        heard = group.loc[~group["silent"], score].astype(float)
        found = {"mean": heard.mean(), "low": heard.min(), "high": heard.max()}
        counts = {"n": len(group), "silent": int(group["silent"].sum())}
        records.append({"lens": lens, "kind": kind, **(found if len(heard) else {}), **counts})
    return pd.DataFrame(records, columns=["lens", "kind", "mean", "low", "high", "n", "silent"])


def _even(n_layers: int) -> Finding:
    segments = tuple(layer_label(layer) for layer in range(n_layers))
    return Finding(segments, np.ones(n_layers), baseline=0.0, final=1.0)
