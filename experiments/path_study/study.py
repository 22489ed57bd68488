"""The measurements of a model, computed in parts, and gathered condition by condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from experiments.common.items import FAMILIES, WRONG, DrawnItems, Item, draw_all
from experiments.path_study.conditions import FACTORS, Condition, all_conditions
from experiments.path_study.curves import curves_frame
from experiments.path_study.measuring import EFFECTS, costs_frame, credits_frame, effects_frame
from iglens_tl.models import ModelAdapter
from iglens_tl.resume import Parts

RIGHT = "right answers"
_ITEMS_OF_COSTS = 8
_NAMES = ("segment", "order", "breakpoints", "baseline", "value", "estimator")


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured of a model.

    Attributes:
        items: One row for each item: `family`, `prompt`, `answer`, `other`, `p`.
        credits: By condition, a table with a row for each item and a column for each segment.
        effects: By intervention and value, the same for layers.
        curves: What `curves_frame` returns.
        costs: What `costs_frame` returns.
    """

    items: pd.DataFrame
    credits: dict[Condition, pd.DataFrame]
    effects: dict[tuple[str, str], pd.DataFrame]
    curves: pd.DataFrame
    costs: pd.DataFrame

    def layer_credits(self, condition: Condition) -> pd.DataFrame:
        """Return the credits of whole layers, without the embedding's."""
        table = self.credits[condition]
        of_segment = [label.split(".")[0] for label in table.columns]
        layers = [name for name in dict.fromkeys(of_segment) if name != "embed"]
        belongs = [[float(own == layer) for layer in layers] for own in of_segment]
        return pd.DataFrame(values_of(table) @ np.array(belongs), table.index, columns=layers)

    def tidy_credits(self) -> pd.DataFrame:
        """Return all credits as one table with a row per condition, item and segment."""
        parts = [
            table.reset_index().melt("item", value_name="credit").assign(**asdict(condition))
            for condition, table in self.credits.items()
        ]
        return pd.concat(parts, ignore_index=True).astype(dict.fromkeys(_NAMES, "category"))

    def groups(self) -> dict[str, Bool[np.ndarray, " item"]]:
        """Return which items have right answers, and which belong to each family."""
        family = self.items["family"].to_numpy()
        groups = {RIGHT: family != WRONG}
        return groups | {name: family == name for name in dict.fromkeys(family)}


def measure(
    adapter: ModelAdapter,
    folder: Path,
    *,
    number: int,
    seed: int,
    say: Callable[[str], Any],
    families: Sequence[str] = FAMILIES,
) -> Study:
    """Draw items and measure all of them; finished parts are taken from the folder.

    Args:
        adapter: The model.
        folder: Where the parts are kept.
        number: How many items of each family are wanted.
        seed: Seed of the draws.
        say: Is told in sentences what was left out, and what is being done.
        families: Families of items.

    Raises:
        ValueError: If the folder holds parts of another run, and as `draw_all` does.
    """
    settings = {
        "model": adapter.name,
        "items": number,
        "seed": seed,
        "families": list(families),
        "conditions": [list(astuple(condition)) for condition in all_conditions()],
        "effects": EFFECTS,
    }
    parts = Parts(folder, settings)

    def draw() -> pd.DataFrame:
        drawn: DrawnItems = draw_all(adapter, number, families=families, seed=seed)
        for note in drawn.notes:
            say(note)
        return pd.DataFrame([asdict(item) for item in drawn.items])

    table = parts.frame("items", draw)
    items = [Item(**{**row, "ids": tuple(map(int, row["ids"]))}) for row in _records(table)]
    credits, effects = [], []
    for family in dict.fromkeys(item.family for item in items):
        own = [place for place, item in enumerate(items) if item.family == family]
        chosen = [items[place] for place in own]
        say(f"{family}: {len(own)} items")
        for kind, compute, into in (
            ("credits", credits_frame, credits),
            ("effects", effects_frame, effects),
        ):
            frame = parts.frame(f"{kind} of {family}", partial(compute, adapter, chosen))
            into.append(frame.assign(item=np.array(own)[frame["item"].to_numpy()]))
    first = table.drop_duplicates("family").index
    return Study(
        items=table.drop(columns=["ids", "answer_id", "other_id"]),
        credits={
            Condition(**dict(zip(FACTORS, key, strict=True))): found
            for key, found in _tables(pd.concat(credits), FACTORS, "credit").items()
        },
        effects=_tables(pd.concat(effects), ["intervention", "value"], "effect"),
        curves=parts.frame("curves", lambda: curves_frame(adapter, [items[i] for i in first])),
        costs=parts.frame("costs", lambda: costs_frame(adapter, items[:_ITEMS_OF_COSTS])),
    )


def values_of(table: pd.DataFrame) -> Float[np.ndarray, "item layer"]:
    """Return a table's numbers in float64."""
    return table.to_numpy(dtype=np.float64)


def _tables(frame: pd.DataFrame, by: list[str], column: str) -> dict[Any, pd.DataFrame]:
    tables = {}
    for key, rows in frame.groupby(by, sort=False):
        segments = list(dict.fromkeys(rows["segment"]))
        wide = rows.pivot(index="item", columns="segment", values=column)
        tables[key] = wide[segments].sort_index()
    return tables


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): x for name, x in row.items()} for row in table.to_dict("records")]
