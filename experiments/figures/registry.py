"""The figures by name."""

from __future__ import annotations

from collections.abc import Callable

from experiments.figures.answer_map import answer_map
from experiments.figures.completeness import completeness
from experiments.figures.costs import costs
from experiments.figures.depth import depth
from experiments.figures.heads import heads
from experiments.figures.lenses import lenses
from experiments.figures.onsets import onsets
from experiments.figures.reference import reference
from experiments.figures.setting import Drawn, Setting

FIGURES: dict[str, tuple[str, Callable[[Setting], Drawn]]] = {
    "completeness": ("how far credits miss their total, by estimator and steps", completeness),
    "answer_map": ("tokens of an answer by layers, with their onsets", answer_map),
    "lenses": ("several lenses on one answer; level against credit", lenses),
    "onsets": ("in which layers answers of each kind are produced", onsets),
    "costs": ("time and memory of estimators and lenses", costs),
    "reference": ("the public reference's numbers beside the model's probabilities", reference),
    "heads": ("probability credit of heads and tokens beside logit attribution", heads),
    "depth": ("how the residual stream's depth is used", depth),
}
"""What each figure asks, and what makes it."""
