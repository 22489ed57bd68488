"""What every figure is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.causal.items import FAMILIES, WRONG, Item, draw_all
from iglens_tl.cli.validate import PromptLine, read_prompts
from iglens_tl.figures import Figure
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts import Request, build_requests

PROMPTS = Path(__file__).parent / "prompts.txt"
"""The prompts of figures that are made without a file of the user's."""

QUESTION = "What is the capital of Vietnam?"
GIVEN = "given prompts"
FIRST_HOP_GIVEN = "two hops, first given"
NAMES = {"facts": "one hop", "two_hop": "two hops"}
_GIVEN_FORM = ", so "


@dataclass(frozen=True)
class Drawn:
    """A figure and its data.

    Attributes:
        tables: By file name, the data.
        figures: By file name, the pictures.
    """

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Figure]


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one kind, with what is attributed in them.

    Attributes:
        name: What they have in common.
        prompts: Texts or token ids.
        choice: The arguments `answer` or `generate` of the lenses.
    """

    name: str
    prompts: list[Any]
    choice: Mapping[str, Any]

    def requests(self, adapter: ModelAdapter) -> list[Request]:
        """Return the tokenised texts with their targets."""
        return build_requests(adapter, self.prompts, **self.choice)


@dataclass(frozen=True)
class Setting:
    """What a figure is made for.

    Attributes:
        adapter: The model.
        lines: The prompts that the user gave; None for those of the experiment.
        seed: Seed of everything that is drawn.
        number: How many items of each family are drawn.
    """

    adapter: ModelAdapter
    lines: tuple[PromptLine, ...] | None = None
    seed: int = 0
    number: int = 60

    @property
    def prompts(self) -> PromptGroup:
        """The prompts of the user, or those of `PROMPTS`.

        Without answers the model's own next token is attributed.
        """
        lines = self.lines or read_prompts(PROMPTS)
        answers = [line.answer for line in lines]
        choice = {"generate": 1} if answers[0] is None else {"answer": answers}
        return PromptGroup(GIVEN, [line.prompt for line in lines], choice)

    @property
    def question(self) -> Any:
        """The text that is answered greedily: the user's first question, or first prompt.

        A question is asked in the form of a chat where the model's tokenizer has one.
        """
        texts = [QUESTION] if self.lines is None else [line.prompt for line in self.lines]
        asked = next((text for text in texts if text.rstrip().endswith("?")), None)
        if asked is None or not getattr(self.adapter.tokenizer, "chat_template", None):
            return asked or texts[0]
        return [{"role": "user", "content": asked}]

    @cached_property
    def groups(self) -> list[PromptGroup]:
        """The prompts of the user as one group, or drawn items by family.

        Of two-hop items those are apart that say the first hop, so that one hop is left.
        """
        if self.lines is not None:
            return [self.prompts]
        families = [family for family in FAMILIES if family != WRONG]
        drawn = draw_all(self.adapter, self.number, families=families, seed=self.seed)
        by_name: dict[str, list[Item]] = {}
        for item in drawn.items:
            by_name.setdefault(_group_of(item), []).append(item)
        return [
            PromptGroup(
                name,
                [list(item.ids) for item in items],
                {"answer": [[item.answer_id] for item in items]},
            )
            for name, items in by_name.items()
        ]


def _group_of(item: Item) -> str:
    if item.family == "two_hop" and _GIVEN_FORM in item.prompt:
        return FIRST_HOP_GIVEN
    return NAMES.get(item.family, item.family)
