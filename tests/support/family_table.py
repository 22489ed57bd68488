"""Print which families are measured by what, as Markdown (`python -m tests.support.family_table`).

The facts are those of the lists of families, which the tests of both TransformerLens versions hold
to be true.
"""

from __future__ import annotations

import sys

from tests.support.families import FAMILIES, Family
from tests.support.further_families import FURTHER_FAMILIES, REFUSED_FAMILIES

HEADER = (
    "Hugging Face class",
    "HookedTransformer (3.9)",
    "bridge (3.9)",
    "bridge (4.x)",
    "heads",
    "neurons",
)


def family_table() -> str:
    """Return the table, one row for each class and what differs among its configurations."""
    families = sorted((*FAMILIES, *FURTHER_FAMILIES), key=lambda family: family.architecture)
    rows = [HEADER, ("---",) * len(HEADER), *dict.fromkeys(map(_row, families))]
    refused = ", ".join(dict.fromkeys(family.architecture for family, _ in REFUSED_FAMILIES))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nRefused, at least in some configurations: {refused}.\n"


def _row(family: Family) -> tuple[str, ...]:
    facts = (
        family.hooked,
        "3" not in family.wrong_in,
        "4" not in family.wrong_in,
        "head" in family.splits,
        "neuron" in family.splits,
    )
    return (f"`{family.architecture}`", *("yes" if fact else "no" for fact in facts))


if __name__ == "__main__":
    sys.stdout.write(family_table())
