"""Defines the example: a prompt, the answer that follows it, and how it is scored."""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from experiments.demo_model.markup import is_chat


@dataclass(frozen=True)
class Example:
    """Holds one prompt with its answer.

    Attributes:
        family: Name of the family, such as "ioi".
        group: Part of the family that gets its own row in the accuracy table.
        prompt: Text before the answer, without a trailing space.
        answer: Text right after the prompt, with its leading space if it has one.
        tail: Text that completes the document after the answer.
        accepted: Every next token that counts as right, where more than one does.
    """

    family: str
    group: str
    prompt: str
    answer: str
    tail: str = ""
    accepted: tuple[str, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Tell whether the example is a conversation."""
        return is_chat(self.prompt)


@dataclass(frozen=True)
class Draw:
    """Holds a random example and the side of the split on which it falls."""

    example: Example
    held_out: bool


class Family(Protocol):
    """Describes a module of `families`: it can draw random examples of one kind."""

    NAME: str

    def draw(self, rng: Random) -> Draw:
        """Draw one example from either side of the split."""
        ...


def training_example(family: Family, rng: Random) -> Example:
    """Draw an example that the model may see in training."""
    while (drawn := family.draw(rng)).held_out:
        pass
    return drawn.example


def held_out_examples(family: Family, rng: Random, per_group: int, draws: int) -> list[Example]:
    """Collect distinct held-out examples, at most `per_group` of each group.

    Args:
        family: The family to draw from.
        rng: Source of randomness.
        per_group: Largest number of examples of one group.
        draws: Number of draws to try; small groups are found nearly completely.
    """
    groups: dict[str, dict[str, Example]] = {}
    for _ in range(draws):
        drawn = family.draw(rng)
        group = groups.setdefault(drawn.example.group, {})
        if drawn.held_out and len(group) < per_group:
            group.setdefault(drawn.example.prompt, drawn.example)
    return [example for name in sorted(groups) for example in groups[name].values()]
