"""Comparing credits with effects, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.causal_agreement.changes import Changes
from experiments.common.items import Item
from iglens_tl import agreement_by_item, skip_curves
from iglens_tl.evaluation.agreement import SKIP_CURVES
from iglens_tl.models import ModelAdapter

WITHOUT_FIRST = " without L0"
"""What is added to the kind of segments where the first block is left out."""

_TARGET_COLUMNS = ["position", "token_id", "token"]


def compare_with_and_without_first(
    segments: str,
    credits: Mapping[str, Changes],
    effects: Mapping[str, Changes],
    items: Sequence[Item],
    *,
    shuffled: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Compare credits with effects on all segments, and on those of all blocks but the first.

    The first block is often unlike the others: without it no prompt is understood at all, and its
    effect is larger than all others together, whatever the prompt.

    Args:
        segments: What the segments are called.
        credits: Credits by name.
        effects: Effects by name.
        items: All items.
        shuffled: The names of effects that are also compared with the first credits, their
            segments permuted. What chance gives hardly depends on the credits: one is enough.
        seed: Seed of the permutations.

    Returns:
        As `compare`, with the column `segments`.
    """
    first = next(iter(credits))
    tables = []
    for name, left_out in ((segments, ()), (segments + WITHOUT_FIRST, (0,))):
        sides = [
            {measure: changes.without_layers(left_out) for measure, changes in side.items()}
            for side in (credits, effects)
        ]
        found = [compare(sides[0], sides[1], items)]
        against = {measure: sides[1][measure] for measure in shuffled if measure in sides[1]}
        if against:
            table = compare({first: sides[0][first]}, against, items, nulls=True, seed=seed)
            found.append(table.loc[table["credits"] != first])
        tables += [table.assign(segments=name) for table in found]
    return pd.concat(tables, ignore_index=True)


def compare(
    credits: Mapping[str, Changes],
    effects: Mapping[str, Changes],
    items: Sequence[Item],
    *,
    nulls: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare credits with effects item by item.

    Every credit is compared with the effects on the probability and with those in its own unit, on
    the items that the effects are known of.

    Returns:
        `credits`, `effects`, `item` and one column for each metric.
    """
    tables = []
    for name, effect in effects.items():
        fitting = {
            credit: changes.of_items(effect.items).to_result(credit, items)
            for credit, changes in credits.items()
            if effect.unit in ("probability", changes.unit)
        }
        if fitting and len(effect.segments) > 1:
            right = {name: effect.to_result(name, items)}
            tables.append(agreement_by_item(fitting, right, nulls=nulls, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    return table.drop(columns=_TARGET_COLUMNS).rename(columns={"prompt": "item"})


def curves(
    adapter: ModelAdapter, credits: Mapping[str, Changes], items: Sequence[Item], *, seed: int
) -> pd.DataFrame:
    """Return the areas of deletion and insertion curves, with random and oracle orders.

    Returns:
        `credits`, `effects` (always the same), `item` and one column for each area.
    """
    results = {name: changes.to_result(name, items) for name, changes in credits.items()}
    table = skip_curves(adapter.model, results, seed=seed).areas().drop(columns=_TARGET_COLUMNS)
    table = table.rename(columns={"order": "credits", "prompt": "item"})
    return table.assign(effects=SKIP_CURVES)
