"""What every figure is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.common.items import FAMILIES, SMALLEST_P, WRONG, Item, draw_all
from experiments.figures.two_hop_pairs import draw_pairs
from iglens_tl.cli.validate import PromptLine, read_lines
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts import Request, build_requests
from iglens_tl.views.figures import Figure

PROMPTS = Path(__file__).parent / "prompts.txt"
"""The prompts of figures that are made without a file of the user's."""

QUESTION = "What is the capital of Vietnam?"
GIVEN = "given prompts"
FIRST_HOP_GIVEN = "two hops, first given"
TWO_HOPS = "two hops"
ONE_HOP = "one hop"
_TWO_HOP = "two_hop"
_NAMES = {"facts": ONE_HOP}
_FEWEST = 5


@dataclass(frozen=True)
class Drawn:
    """A figure and its data.

    Attributes:
        tables: By file name, the data.
        figures: By file name, the pictures.
        notes: What whoever looks at them should know.
    """

    tables: Mapping[str, pd.DataFrame]
    figures: Mapping[str, Figure]
    notes: tuple[str, ...] = ()


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
        lines = self.lines or read_lines(PROMPTS)
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

    @property
    def groups(self) -> list[PromptGroup]:
        """The prompts of the user as one group, or drawn items by family.

        The items of `TWO_HOPS` and `FIRST_HOP_GIVEN` with the same number are the same question.
        """
        return self._drawn[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each family with fewer items than were asked for."""
        return self._drawn[1]

    @cached_property
    def _drawn(self) -> tuple[list[PromptGroup], tuple[str, ...]]:
        if self.lines is not None:
            return [self.prompts], ()
        families = [family for family in FAMILIES if family not in (WRONG, _TWO_HOP)]
        drawn = draw_all(
            self.adapter, self.number, families=families, fewest=_FEWEST, seed=self.seed
        )
        by_family: dict[str, list[Item]] = {}
        for item in drawn.items:
            by_family.setdefault(item.family, []).append(item)
        groups = [
            PromptGroup(
                _NAMES.get(family, family),
                [list(item.ids) for item in items],
                {"answer": [[item.answer_id] for item in items]},
            )
            for family, items in by_family.items()
        ]
        pairs, note = self._pairs()
        # They stand beside the facts, which are their single hops.
        place = sum(group.name == ONE_HOP for group in groups[:1])
        return [*groups[:place], *pairs, *groups[place:]], (*drawn.notes, *note)

    def _pairs(self) -> tuple[list[PromptGroup], list[str]]:
        """Return the two groups of two-hop questions, if there are enough, and a note if not."""
        pairs = draw_pairs(self.adapter, self.number, seed=self.seed)
        enough = len(pairs) >= min(self.number, _FEWEST)
        note = (
            f"{TWO_HOPS}: {self.adapter.name} answers {len(pairs)} of {self.number} questions in "
            f"both forms (one token, p > {SMALLEST_P}), "
            + ("all are used" if enough else "they are left out")
        )
        choice = {"answer": [pair.answer for pair in pairs]}
        groups = [
            PromptGroup(TWO_HOPS, [pair.bare for pair in pairs], choice),
            PromptGroup(FIRST_HOP_GIVEN, [pair.given for pair in pairs], choice),
        ]
        return groups if enough else [], [note] if len(pairs) < self.number else []
