"""One number for a whole continuation."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np

from iglens_tl.results.data import LensData, Target

_Data = TypeVar("_Data", bound=LensData)


def sum_over_targets(data: _Data) -> _Data:
    """Add up the values of each text's targets, as log-probabilities of a continuation may be.

    Each text keeps one target, which prints as the whole continuation and stands at the position
    and token id of its first token. Ranks, top tokens and statistics belong to single tokens and
    are left out.

    Raises:
        ValueError: If two targets are read at the same position, so that they are alternatives.
    """
    prompts = sorted({target.prompt for target in data.targets})
    rows = [[i for i, t in enumerate(data.targets) if t.prompt == prompt] for prompt in prompts]
    return replace(
        data,
        targets=tuple(_continuation([data.targets[i] for i in of_text]) for of_text in rows),
        values=np.stack([data.values[of_text].sum(0) for of_text in rows]),
        levels=np.stack([data.levels[of_text].sum(0) for of_text in rows]),
        baseline=np.array([data.baseline[of_text].sum() for of_text in rows]),
        final=np.array([data.final[of_text].sum() for of_text in rows]),
        ranks=None,
        top=None,
        statistics={},
        provenance=replace(
            data.provenance,
            notes=(
                *data.provenance.notes,
                "values are sums over the tokens of each continuation; position and token id are "
                "those of its first token; what belongs to single tokens is left out",
            ),
        ),
    )


def _continuation(targets: list[Target]) -> Target:
    positions = [target.position for target in targets]
    if len(set(positions)) < len(positions):
        raise ValueError(
            "a sequence's log-probability adds up one token at each position, and these targets "
            "are alternatives for the same one; give the continuation as answer"
        )
    return replace(targets[0], token="".join(target.token for target in targets))
