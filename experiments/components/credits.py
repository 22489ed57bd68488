"""Credits of every head for every case, and of what the heads read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.components.prompts import Case
from iglens_tl import LensResult, components, direct_logit_attribution
from iglens_tl.models import ModelAdapter
from iglens_tl.results.segments import parse_segment

CREDIT = "credit of p"
MEASURES = {
    CREDIT: "what `components` credits of the answer's probability",
    "credit of log p": "of its log-probability",
    "credit of logit difference": "of the difference of its logit and the wrong answer's",
    "credit of p, straight path": "of its probability along one line over all layers",
    "DLA": "direct logit attribution to the answer's logit",
    "DLA of logit difference": "to the difference of the two logits",
}
"""The measures of a head, and what they are."""


@dataclass(frozen=True)
class HeadCredits:
    """What the heads are credited with.

    Attributes:
        measures: By the names of `MEASURES`, the heads' numbers.
        by_role: The credit of p by the role of the token that the heads read.
        mlps: The credit of p of all MLPs together.
    """

    measures: Mapping[str, Float[np.ndarray, "case layer head"]]
    by_role: Float[np.ndarray, "case layer head role"]
    mlps: Float[np.ndarray, " case"]


def head_credits(adapter: ModelAdapter, cases: Sequence[Case], roles: Sequence[str]) -> HeadCredits:
    """Measure every head for the answers of all cases."""
    prompts = [list(case.ids) for case in cases]
    answers = [[case.answer_id] for case in cases]
    both = [[case.answer_id, case.other_id] for case in cases]
    sources = components(adapter, prompts, by="head_source", answer=answers)
    logprob = components(adapter, prompts, by="head", answer=answers, value="logprob")
    logits = components(adapter, prompts, by="head", targets=both, value="logit")
    straight = components(adapter, prompts, by="head", answer=answers, path="straight")
    direct = direct_logit_attribution(adapter, prompts, targets=both, by="head")
    # The logit is linear, so the credits of a difference are the difference of the credits.
    of_logits, of_direct = of_heads(logits), of_heads(direct)
    found = (
        of_heads(sources.by_head()),
        of_heads(logprob),
        of_logits[::2] - of_logits[1::2],
        of_heads(straight),
        of_direct[::2],
        of_direct[::2] - of_direct[1::2],
    )
    mlp = [parse_segment(label).part == "mlp" for label in sources.segments]
    return HeadCredits(
        dict(zip(MEASURES, found, strict=True)),
        by_role(sources, cases, roles),
        sources.values[:, mlp].sum(1),
    )


def of_heads(result: LensResult) -> Float[np.ndarray, "target layer head"]:
    """Return the values of heads as one array."""
    segments = [parse_segment(label) for label in result.segments]
    places = [i for i, segment in enumerate(segments) if segment.part == "head"]
    n_layers = 1 + max(segments[i].layer or 0 for i in places)
    return result.values[:, places].reshape(len(result.targets), n_layers, -1)


def by_role(
    result: LensResult, cases: Sequence[Case], roles: Sequence[str]
) -> Float[np.ndarray, "case layer head role"]:
    """Sum the credits of heads over the tokens of each role that they read."""
    shape = of_heads(result.by_head()).shape
    found = np.zeros((*shape, len(roles)))
    for place, segment in enumerate(map(parse_segment, result.segments)):
        if segment.source is None:
            continue
        for row, case in enumerate(cases):
            if segment.source < len(case.roles):
                role = roles.index(case.roles[segment.source])
                found[row, segment.layer, segment.head, role] += result.values[row, place]
    return found
