"""How the depth of the residual stream is used.

After Csordás, Manning and Potts (2025), "Do Language Models Use Their Depth Efficiently?" (arXiv
2505.13898): what blocks write beside the state that they write into, what skipping a block changes
in later blocks and at later tokens, from which layer on the prediction stands, and the mean layer
of all effects, the depth score. The paper reports maxima over positions and prompts; here stand
means and quantiles beside them. The first token is left alone throughout.
"""

from __future__ import annotations

from dataclasses import asdict
from random import Random

import numpy as np
import pandas as pd
import torch

from experiments.figures.depth_charts import draw_skips, draw_use
from experiments.figures.depth_runs import (
    SkipEffects,
    contributions,
    depth_score,
    later_effects,
    predictions,
    skip_effects,
)
from experiments.figures.differences import paired_difference, unpaired_difference
from experiments.figures.setting import (
    FIRST_HOP_GIVEN,
    ONE_HOP,
    TWO_HOPS,
    Drawn,
    PromptGroup,
    Setting,
)
from iglens_tl import ig_lens
from iglens_tl.prompts import Request

_CUTS = 4
TEXTS = 15
"""Texts of each kind of prompts; all that is measured is measured on them."""
_QUANTILES = {"q10": 0.1, "median": 0.5, "q90": 0.9}
ALL, FUTURE = "all tokens", "future tokens"
SCORES = {
    "effect on later layers": "skipping a block, change of the blocks above it",
    "effect on the prediction": "skipping a block, change of the predicted distributions",
    "credit": "|IG-Lens credit| of p(answer)",
}
"""By what layers are weighted in depth scores."""

MEAN, MAX = "mean", "max"
"""How the effects at a text's positions become one number, which weights the layer."""


def depth(setting: Setting) -> Drawn:
    """Measure how all texts use the stream, and draw it."""
    tables = measure(setting)
    figures = {"depth": draw_use(tables), "depth_skips": draw_skips(tables["depth_skips"])}
    return Drawn(tables, figures, setting.notes)


def measure(setting: Setting) -> dict[str, pd.DataFrame]:
    """Return the tables of the figure.

    Returns:
        "depth_layers": by layer and quantity, mean, quantiles and maximum over positions and texts.
        "depth_skips": the same for the changes of every block under skips of every block, at all
        tokens and at those after the skipped ones. "depth_scores": a row for each text and score.
        "depth_differences": by how much those of two-hop questions are above those of one hop.
    """
    rng = Random(setting.seed)
    adapter = setting.adapter
    by_layer, predicted, scores = [], [], []
    changes: dict[str, list[np.ndarray]] = {ALL: [], FUTURE: []}
    outputs: dict[str, list[np.ndarray]] = {ALL: [], FUTURE: []}
    for group in setting.groups:
        requests = group.requests(adapter)[:TEXTS]
        credits = _credits(setting, group)[:TEXTS]
        for text, (request, credit) in enumerate(zip(requests, credits, strict=True)):
            by_layer.append(contributions(adapter, request.ids))
            predicted.append(predictions(adapter, request.ids))
            whole, *parts = skip_effects(adapter, request.ids, [None, *_cuts(request, rng)])
            for scope, effects in [(ALL, whole), *((FUTURE, part) for part in parts)]:
                changes[scope].append(effects.changes.numpy())
                outputs[scope].append(effects.predictions.numpy())
            about = {"group": group.name, "text": text}
            scores += [about | row for row in _scores(whole, credit)]
    written = pd.concat(by_layer).melt(["layer", "part"], ["ratio", "cosine"], "what")
    written["quantity"] = written["what"] + " of " + written["part"]
    layers = [
        _summary(written, ["quantity", "layer"], "value"),
        *(_outputs(outputs[scope], scope) for scope in outputs if outputs[scope]),
        _summary(pd.concat(predicted), ["quantity", "layer"], "value"),
    ]
    skips = [_skips(changes[scope], scope) for scope in changes if changes[scope]]
    found = pd.DataFrame(scores).assign(n_layers=adapter.n_layers)
    return {
        "depth_layers": pd.concat(layers, ignore_index=True),
        "depth_skips": pd.concat(skips, ignore_index=True),
        "depth_scores": found,
        "depth_differences": differences(found, seed=setting.seed),
    }


def differences(scores: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Compare two-hop questions with both kinds of one hop; without two hops there are no rows.

    Those with the first hop given are the same questions, and compared pair by pair.
    """
    rows = []
    for names, found in scores.groupby(["score", "statistic"], sort=False):
        assert isinstance(names, tuple)
        score, statistic = names
        depths = {name: of_group["depth"].tolist() for name, of_group in found.groupby("group")}
        for control, compare in (
            (FIRST_HOP_GIVEN, paired_difference),
            (ONE_HOP, unpaired_difference),
        ):
            if {TWO_HOPS, control} <= set(depths):
                found_difference = compare(depths[TWO_HOPS], depths[control], seed=seed)
                about = {"score": score, "statistic": statistic, "control": control}
                counts = {"n": len(depths[TWO_HOPS]), "n_control": len(depths[control])}
                rows.append(about | asdict(found_difference) | counts)
    columns = ["score", "statistic", "control", "mean", "low", "high", "n", "n_control"]
    return pd.DataFrame(rows, columns=columns)


def _scores(effects: SkipEffects, credit: np.ndarray) -> list[dict[str, object]]:
    """Return the depth scores of a text by every weight, by mean and maximum over positions."""
    at_positions = {
        "effect on later layers": effects.changes,
        "effect on the prediction": effects.predictions,
        "credit": torch.from_numpy(credit),
    }
    rows = []
    for name, numbers in at_positions.items():
        for statistic, weights in ((MEAN, numbers.mean(-1)), (MAX, numbers.amax(-1))):
            weights = later_effects(weights) if weights.ndim > 1 else weights
            rows.append({"score": name, "statistic": statistic, "depth": depth_score(weights)})
    return rows


def _credits(setting: Setting, group: PromptGroup) -> list[np.ndarray]:
    """Return by text the |credit| of every block for each of its targets."""
    result = ig_lens(setting.adapter, group.prompts, **group.choice, top_k=0)
    return [np.abs(result.for_prompt(text).values[:, 1:]).T for text in range(len(result.texts))]


def _cuts(request: Request, rng: Random) -> list[int]:
    """Return the positions up to which blocks are skipped, to look at what comes after."""
    places = range(2, len(request.ids))
    return sorted(rng.sample(places, min(_CUTS, len(places))))


def _outputs(moved: list[np.ndarray], scope: str) -> pd.DataFrame:
    """Sum up what skipping each block does to the predictions."""
    together = np.concatenate(moved, axis=1)
    layers = np.repeat(np.arange(len(together)), together.shape[1])
    rows = pd.DataFrame({"layer": layers, "value": together.reshape(-1)})
    rows["quantity"] = f"prediction, {scope}"
    return _summary(rows, ["quantity", "layer"], "value")


def _skips(changes: list[np.ndarray], scope: str) -> pd.DataFrame:
    """Sum up the changes of every block under the skip of every block below it."""
    together = np.concatenate(changes, axis=2)
    numbers = {
        "mean": together.mean(2),
        "max": together.max(2),
        "n": np.full(together.shape[:2], together.shape[2]),
    }
    numbers |= {name: np.quantile(together, q, axis=2) for name, q in _QUANTILES.items()}
    skipped, layer = np.triu_indices(len(together), k=1)
    columns = {name: of_pairs[skipped, layer] for name, of_pairs in numbers.items()}
    return pd.DataFrame({"scope": scope, "skipped": skipped, "layer": layer, **columns})


def _summary(rows: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Return mean, quantiles and maximum of each group of rows."""
    groups = rows.groupby(by, sort=False)[column]
    found = groups.agg(mean="mean", max="max", n="size")
    for name, q in _QUANTILES.items():
        found[name] = groups.quantile(q)
    return found.reset_index()
