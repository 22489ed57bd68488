"""The credits of many parts as one table: which have a column, and what stands together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.lenses.decomposition.credits import PartCredits


@dataclass(frozen=True)
class CreditTable:
    """Credits by segment.

    Attributes:
        segments: The labels.
        steps: For each segment the number of its block, −1 for the embedding.
        values: `[target, segment]`, float64.
    """

    segments: list[str]
    steps: list[int]
    values: Float[Tensor, "target segment"]


def credit_table(credits: PartCredits, *, keep: int, negligible: float) -> CreditTable:
    """Put the credits of all parts into one table.

    Args:
        credits: The credits of the parts.
        keep: Of parts that are too many to be shown all, how many are kept for each target.
        negligible: What parts leave of an update has a segment only if it exceeds this for some
            target; otherwise it is part of the completeness error.
    """
    table = _Columns(len(credits.slopes.start))
    kept = _largest(credits, keep)
    rests: set[str] = set()
    for targets, groups in credits:
        for group, (*of_parts, left) in groups:
            for parts, numbers in zip(group.parts, of_parts, strict=True):
                if parts.rest is None:
                    table.add(group.step, parts.labels, targets, numbers)
                    continue
                shown = [i for i, label in enumerate(parts.labels) if label in kept]
                labels = [parts.labels[i] for i in shown]
                others = numbers.sum(1, keepdim=True) - numbers[:, shown].sum(1, keepdim=True)
                table.add(group.step, labels, targets, numbers[:, shown])
                table.add(group.step, [parts.rest], targets, others, last=True)
                rests.add(parts.rest)
            table.add(group.step, [group.rest], targets, left, last=True)
            rests.add(group.rest)
    return table.result(negligible, may_be_negligible=rests)


class _Columns:
    """Blocks of columns, filled for a few targets at a time."""

    def __init__(self, n_targets: int) -> None:
        self.n_targets = n_targets
        self.blocks: dict[str, _Block] = {}

    def add(
        self,
        step: int | None,
        labels: Sequence[str],
        targets: Tensor,
        numbers: Tensor,
        *,
        last: bool = False,
    ) -> None:
        """Add numbers to the columns of some labels, which always come together."""
        if not labels:
            return
        if labels[0] not in self.blocks:
            values = numbers.new_zeros(self.n_targets, len(labels))
            self.blocks[labels[0]] = _Block(-1 if step is None else step, last, labels, values)
        self.blocks[labels[0]].values[targets] += numbers

    def result(self, negligible: float, *, may_be_negligible: set[str]) -> CreditTable:
        """Return the columns in the order of the model, rests last in their step."""
        blocks = [
            block
            for label, block in self.blocks.items()
            if label not in may_be_negligible or bool(block.values.abs().max() > negligible)
        ]
        blocks.sort(key=lambda block: (block.step, block.last))
        return CreditTable(
            segments=[label for block in blocks for label in block.labels],
            steps=[block.step for block in blocks for _ in block.labels],
            values=torch.cat([block.values for block in blocks], dim=1),
        )


@dataclass(frozen=True)
class _Block:
    step: int
    last: bool
    labels: Sequence[str]
    values: Tensor


def _largest(credits: PartCredits, keep: int) -> set[str]:
    """Return the labels of the parts that some target credits most, among those with a rest."""
    n_targets = len(credits.slopes.start)
    best: list[list[tuple[float, str]]] = [[] for _ in range(n_targets)]
    everything = [parts for own in credits.chords.values() for g in own for parts in g.parts]
    if all(parts.rest is None for parts in everything):
        return set()
    for targets, groups in credits:
        for group, (*of_parts, _) in groups:
            for parts, numbers in zip(group.parts, of_parts, strict=True):
                if parts.rest is None:
                    continue
                sizes, places = numbers.abs().topk(min(keep, numbers.shape[1]), dim=1)
                for row, target in enumerate(targets.tolist()):
                    labels = [parts.labels[place] for place in places[row].tolist()]
                    best[target] += zip(sizes[row].tolist(), labels, strict=True)
    return {label for found in best for _, label in sorted(found, reverse=True)[:keep]}
