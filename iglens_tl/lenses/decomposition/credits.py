"""Credits of parts: how the change along chords is shared by what grows along them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.lenses.decomposition.splits import Group
from iglens_tl.lenses.estimators import DEFAULT_TOLERANCE, Estimator, chords_of
from iglens_tl.readout import (
    ROWS_PER_PASS,
    ChordIntegrals,
    Chords,
    Emphasis,
    Point,
    Readout,
    Value,
    integrate_adaptive,
    integrate_midpoint,
)

_SHARE_ENTRIES = 2**23
_DIRECTIONS, _MANY_PARTS = 4, 16
_SAFETY = 2.0


@dataclass(frozen=True)
class ChordGradients:
    """What moves the value along the chords of all targets.

    Attributes:
        start: `[target, chord]`, the value where each chord starts.
        end: `[target, chord]`, the value where it ends.
        means: `[target, chord]`, the mean of the value along it.
        gradients: `[target, chord, step, d_model]`, the integral of the gradient over each step.
        changes: `[target, chord, step]`, the change of the value over each step.
        errors: `[target, chord]`, an estimate of the length of the error of the gradients; None for
            "idgi", whose steps are its definition.
    """

    start: Float[Tensor, "target chord"]
    end: Float[Tensor, "target chord"]
    means: Float[Tensor, "target chord"]
    gradients: Float[Tensor, "target chord step d_model"]
    changes: Float[Tensor, "target chord step"]
    errors: Float[Tensor, "target chord"] | None


def follow_value(
    readout: Readout,
    points: Sequence[Point],
    token_ids: Int[Tensor, " target"],
    value: Value,
    estimator: Estimator,
) -> ChordGradients:
    """Integrate the gradient along every chord of every target's path.

    Under "idgi" every chord is cut into `n_steps` steps with one node each, otherwise it is one
    step that is integrated to the tolerance.

    Args:
        readout: The model's readout.
        points: The states that the paths visit, the baseline first and the model's own last.
        token_ids: The targets.
        value: What is followed.
        estimator: How.
    """
    n_chords = len(points) - 1
    n_steps = estimator.n_steps if estimator.name == "idgi" else 1
    assert n_steps is not None
    parts = []
    # A few targets at a time, so that the states are never copied as a whole.
    size = max(1, ROWS_PER_PASS // (len(points) * n_steps))
    for targets in torch.arange(len(token_ids)).split(size):
        chords = chords_of(points, token_ids, targets)
        if estimator.name == "idgi":
            cut = _cut(chords, n_steps)
            found = integrate_midpoint(readout, value, cut, n_steps=1, gradients=True)
        else:
            found = _integrate(readout, value, chords, n_chords, estimator)
        parts.append(_by_step(found, len(targets), n_chords))
    errors = [part.errors for part in parts if part.errors is not None]
    return ChordGradients(
        start=torch.cat([part.start for part in parts]),
        end=torch.cat([part.end for part in parts]),
        means=torch.cat([part.means for part in parts]),
        gradients=torch.cat([part.gradients for part in parts]),
        changes=torch.cat([part.changes for part in parts]),
        errors=torch.cat(errors) if errors else None,
    )


class PartCredits:
    """The credits of the parts of groups, for a few targets at a time."""

    def __init__(
        self, groups: Sequence[Group], slopes: ChordGradients, estimator: Estimator
    ) -> None:
        self.slopes, self.estimator = slopes, estimator
        # Parts of one chord stand together, because they may compete for its change.
        self.chords: dict[int, list[Group]] = {}
        for group in groups:
            self.chords.setdefault(group.chord, []).append(group)

    def __iter__(self) -> Iterator[tuple[Tensor, list[tuple[Group, list[Tensor]]]]]:
        """Yield the numbers of some targets and, for the groups of one chord after another, theirs.

        The credits of a group are those of its parts, `[target, part]` each in its order, and
        `[target, 1]` of what they leave.
        """
        for chord, targets in self._batches(self.slopes.changes.shape[2]):
            yield targets, self._of_chord(chord, targets)

    def errors(self) -> Float[Tensor, " target"] | None:
        """Estimate the largest error of a target's credits; None where the slopes have none.

        It is the length of the gradient's error times that of the longest part. The mean square of
        a vector's products with random directions is the square of its length, and of many parts
        the longest is found by one direction as well.
        """
        if self.slopes.errors is None:
            return None
        generator = torch.Generator().manual_seed(0)
        like = self.slopes.gradients
        largest = like.new_zeros(len(like), dtype=torch.float64)
        for chord, targets in self._batches(_DIRECTIONS):
            n_parts = sum(len(part.labels) for g in self.chords[chord] for part in g.parts)
            number = _DIRECTIONS if n_parts < _MANY_PARTS else 1
            directions = torch.randn(number, like.shape[3], generator=generator).to(like)
            repeated = directions.expand(len(targets), -1, -1)
            for products in itertools.chain.from_iterable(self._shares(chord, targets, repeated)):
                lengths = products.square().mean(1).sqrt().amax(1)
                errors = _SAFETY * lengths * self.slopes.errors[targets, chord].to(lengths)
                largest[targets] = torch.maximum(largest[targets], errors.to(largest))
        return largest.cpu()

    def _batches(self, n_gradients: int) -> Iterator[tuple[int, Tensor]]:
        """Yield every chord with a few targets at a time."""
        for chord, groups in self.chords.items():
            width = sum(len(part.labels) for group in groups for part in group.parts)
            size = max(1, _SHARE_ENTRIES // ((width + 1) * n_gradients))
            for targets in torch.arange(len(self.slopes.start)).split(size):
                yield chord, targets

    def _of_chord(self, chord: int, targets: Tensor) -> list[tuple[Group, list[Tensor]]]:
        gradients = self.slopes.gradients[targets, chord]
        shares = self._shares(chord, targets, gradients)
        if self.estimator.name == "idgi":
            shares = _by_squares(shares, self.slopes.changes[targets, chord].to(gradients.device))
        return [
            (group, [share.sum(1).cpu() for share in own])
            for group, own in zip(self.chords[chord], shares, strict=True)
        ]

    def _shares(
        self, chord: int, targets: Tensor, vectors: Float[Tensor, "target vector d_model"]
    ) -> list[list[Tensor]]:
        """Return each group's products with vectors, `[target, vector, part]`, the rest's last."""
        n_vectors = vectors.shape[1]
        repeated = targets.repeat_interleave(n_vectors)
        shares = []
        for group in self.chords[chord]:
            own = [part.shares(vectors.flatten(0, 1), repeated) for part in group.parts]
            whole = group.whole.shares(vectors.flatten(0, 1), repeated)
            for share in list(own):
                whole = whole - share.sum(1, keepdim=True)
            own.append(whole)
            shares.append([share.view(len(targets), n_vectors, -1) for share in own])
        return shares


def _by_squares(shares: list[list[Tensor]], changes: Tensor) -> list[list[Tensor]]:
    """Split every step's change by the squares of the slopes (IDGI, Yang et al. 2023)."""
    total = torch.zeros_like(changes)
    for share in itertools.chain.from_iterable(shares):
        total = total + share.square().sum(2)
    per_square = torch.where(total > 0, changes / total, 0)[:, :, None]
    return [[share.square() * per_square for share in own] for own in shares]


def _integrate(
    readout: Readout, value: Value, chords: Chords, n_chords: int, estimator: Estimator
) -> ChordIntegrals:
    emphasis = None
    if estimator.name == "ps_ig":
        ends = torch.arange(n_chords + 1, dtype=torch.float64) / n_chords
        places = torch.stack([ends[:-1], ends[1:]], dim=1)
        # The distribution function of an even density: the place itself.
        emphasis = Emphasis(places.repeat(len(chords) // n_chords, 1), lambda place: place)
    assert estimator.n_steps is not None
    return integrate_adaptive(
        readout,
        value,
        chords,
        n_nodes=estimator.n_steps,
        tolerance=estimator.tolerance or DEFAULT_TOLERANCE[readout.dtype],
        gradients=True,
        emphasis=emphasis,
    )


def _cut(chords: Chords, n_steps: int) -> Chords:
    """Return every chord as `n_steps` chords."""
    at = torch.arange(n_steps + 1, device=chords.states.device) / n_steps
    start, end = chords.states[chords.start], chords.states[chords.end]
    cuts = torch.lerp(start[:, None], end[:, None], at[:, None].to(start))
    n_ends = n_steps + 1
    first = torch.arange(len(chords))[:, None] * n_ends + torch.arange(n_steps)
    return Chords(
        torch.cat([cuts.flatten(0, 1), chords.states]),
        start=first.flatten(),
        end=first.flatten() + 1,
        final=len(chords) * n_ends + chords.final.repeat_interleave(n_steps),
        tokens=chords.tokens.repeat_interleave(n_steps),
    )


def _by_step(found: ChordIntegrals, n_targets: int, n_chords: int) -> ChordGradients:
    assert found.gradients is not None
    start, end, means = (
        field.view(n_targets, n_chords, -1) for field in (found.start, found.end, found.means)
    )
    return ChordGradients(
        start=start[:, :, 0],
        end=end[:, :, -1],
        means=means.mean(2),
        gradients=found.gradients.view(*start.shape, -1),
        changes=end - start,
        errors=None if found.errors is None else found.errors.view(n_targets, n_chords),
    )
