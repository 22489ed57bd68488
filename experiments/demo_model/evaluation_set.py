"""Collects the held-out examples on which the model is scored."""

from random import Random

from experiments.demo_model.examples import Example, held_out_examples
from experiments.demo_model.families import FAMILIES

_SEED = 2024
_DRAWS = 60_000
# A family has few groups, but there are more than forty relations.
_PER_GROUP = {"facts": 60}
_PER_GROUP_ELSEWHERE = 250


def evaluation_set(share: float = 1.0) -> list[Example]:
    """Collect held-out examples of every family.

    Args:
        share: Fraction of the full evaluation set, for a quick look.
    """
    rng = Random(_SEED)
    return [
        example
        for name, family in FAMILIES.items()
        for example in held_out_examples(
            family,
            rng,
            per_group=round(share * _PER_GROUP.get(name, _PER_GROUP_ELSEWHERE)),
            draws=round(share * _DRAWS),
        )
    ]
