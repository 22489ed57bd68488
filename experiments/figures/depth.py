"""How the depth of the residual stream is used.

After Csordás, Manning and Potts (2025), "Do Language Models Use Their Depth Efficiently?" (arXiv
2505.13898): what blocks write beside the state that they write into, what skipping a block changes
in later blocks and at later tokens, from which layer on the prediction stands, and the mean layer
of all effects, the depth score. The paper reports maxima over positions and prompts; here stand
means and quantiles beside them.
"""

from __future__ import annotations

from random import Random

import numpy as np
import pandas as pd
import torch

from experiments.figures.depth_charts import draw_skips, draw_use
from experiments.figures.depth_runs import (
    contributions,
    depth_score,
    later_effects,
    overlap_of_top,
    skip_effects,
)
from experiments.figures.setting import Drawn, PromptGroup, Setting
from iglens_tl import ig_lens, logit_lens
from iglens_tl.prompts import Request

_CUTS = 4
TEXTS = 15
"""Texts of each kind of prompts; every one is run with every block skipped."""
_QUANTILES = {"q10": 0.1, "median": 0.5, "q90": 0.9}
ALL, FUTURE = "all tokens", "future tokens"
SCORES = {
    "effect on later layers": "skipping a block, change of the blocks above it",
    "effect on the prediction": "skipping a block, change of the predicted distributions",
    "credit": "|IG-Lens credit| of p(answer)",
}
"""By what layers are weighted in depth scores."""


def depth(setting: Setting) -> Drawn:
    """Measure how all texts use the stream, and draw it."""
    tables = measure(setting)
    return Drawn(
        tables, {"depth": draw_use(tables), "depth_skips": draw_skips(tables["depth_skips"])}
    )


def measure(setting: Setting) -> dict[str, pd.DataFrame]:
    """Return the tables of the figure.

    Returns:
        "depth_layers": by layer and quantity, mean, quantiles and maximum over positions and texts.
        "depth_skips": the same for the changes of every block under skips of every block, at all
        tokens and at those after the skipped ones. "depth_scores": a row for each text and score.
    """
    rng = Random(setting.seed)
    adapter = setting.adapter
    by_layer, scores = [], []
    changes: dict[str, list[np.ndarray]] = {ALL: [], FUTURE: []}
    outputs: dict[str, list[np.ndarray]] = {ALL: [], FUTURE: []}
    for group in setting.groups:
        requests = group.requests(adapter)[:TEXTS]
        credits = _credits(setting, group)[:TEXTS]
        for request, of_text in zip(requests, credits, strict=True):
            by_layer.append(contributions(adapter, request.ids))
            whole, *parts = skip_effects(adapter, request.ids, [None, *_cuts(request, rng)])
            for scope, effects in [(ALL, whole), *((FUTURE, part) for part in parts)]:
                changes[scope].append(effects.changes.numpy())
                outputs[scope].append(effects.predictions.numpy())
            found = {
                "effect on later layers": later_effects(whole.changes.mean(-1)),
                "effect on the prediction": whole.predictions.mean(-1),
                "credit": torch.from_numpy(of_text),
            }
            scores += [
                {"group": group.name, "score": name, "depth": depth_score(effects)}
                for name, effects in found.items()
            ]
    written = pd.concat(by_layer).melt(["layer", "part"], ["ratio", "cosine"], "what")
    written["quantity"] = written["what"] + " of " + written["part"]
    layers = [
        _summary(written, ["quantity", "layer"], "value"),
        *(_outputs(outputs[scope], scope) for scope in outputs if outputs[scope]),
        _predictions(setting),
    ]
    skips = [_skips(changes[scope], scope) for scope in changes if changes[scope]]
    return {
        "depth_layers": pd.concat(layers, ignore_index=True),
        "depth_skips": pd.concat(skips, ignore_index=True),
        "depth_scores": pd.DataFrame(scores).assign(n_layers=adapter.n_layers),
    }


def _credits(setting: Setting, group: PromptGroup) -> list[np.ndarray]:
    """Return by text the mean |credit| of every block over its targets."""
    result = ig_lens(setting.adapter, group.prompts, **group.choice, top_k=0)
    return [
        np.abs(result.for_prompt(text).values[:, 1:]).mean(0) for text in range(len(result.texts))
    ]


def _cuts(request: Request, rng: Random) -> list[int]:
    """Return the positions up to which blocks are skipped, to look at what comes after."""
    places = range(2, len(request.ids))
    return sorted(rng.sample(places, min(_CUTS, len(places))))


def _predictions(setting: Setting) -> pd.DataFrame:
    """Return how far each layer's prediction is from the model's, at every position."""
    texts = [list(r.ids) for group in setting.groups for r in group.requests(setting.adapter)]
    result = logit_lens(setting.adapter, texts, top_k=5)
    found = {
        "KL to the model": result.statistics["kl_to_final"],
        "top-5 overlap": overlap_of_top(result),
    }
    n_targets, n_segments = result.values.shape
    rows = [
        pd.DataFrame(
            {
                "quantity": name,
                "layer": np.tile(np.arange(n_segments) - 1, n_targets),
                "value": np.asarray(numbers).reshape(-1),
            }
        )
        for name, numbers in found.items()
    ]
    return _summary(pd.concat(rows), ["quantity", "layer"], "value")


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
