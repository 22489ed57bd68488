"""Taking every unit of a kind out of a model, by a row of a batch for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.interventions.base import BoundEffectLens
from iglens_tl.interventions.replacements import (
    NoUpdate,
    Updates,
    mean_updates,
    sampled_updates,
)
from iglens_tl.interventions.units import Unit
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.base import state_point
from iglens_tl.lenses.orders.state_values import value_states
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.batching import TOKENS_PER_PASS, pad_right, shared_passes
from iglens_tl.models.branching import Branches, run_branches
from iglens_tl.prompts import Request
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Trace


@dataclass(frozen=True, kw_only=True)
class UnitAblation(BoundEffectLens):
    """Measures what every unit of a kind does to the final value.

    Attributes:
        intervention: "skip", "mean" or "resample".
        unit: The kind of unit.
        unit_name: Its name.
        segments: The labels of each layer's units.
        scope: "all" positions or the "last", the one where a target is read.
        reference: Token ids of reference texts.
        n_draws: Number of draws from them.
        seed: Seed of these draws.
        first_token: Whether the first token is touched.
    """

    intervention: str
    unit: Unit
    unit_name: str
    segments: Sequence[Sequence[str]]
    scope: str
    reference: tuple[tuple[int, ...], ...]
    n_draws: int
    seed: int
    first_token: bool

    def points(self, trace: Trace) -> list[Point]:
        """Return the last state, whose value the effects are taken from."""
        return [state_point(trace, self.adapter.post_site(self.adapter.n_layers - 1))]

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for every unit, draw and text, and for every reference text."""
        n_units = sum(len(labels) for labels in self.segments)
        return n_units * self._n_columns * len(trace.requests) + len(self.reference), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Take every unit out of every text."""
        final = levels_of(trace, self.resolved_value, [readings[p.key] for p in self.points(trace)])
        found = self._values(trace)
        levels, errors = self._summarize(found)
        result = assemble(
            trace,
            lens=self,
            unit=self.resolved_value.unit,
            kind="effect",
            segments=[label for labels in self.segments for label in labels],
            values=final - levels,
            levels=levels,
            baseline=final[:, 0],
            final=final[:, 0],
            options={
                "intervention": self.intervention,
                "by": self.unit_name,
                "scope": self.scope,
                **self.resolved_value.provenance(),
                "first_token": self.first_token,
                "n_reference": len(self.reference) or None,
                "n_draws": self.n_draws if self.reference else None,
                "seed": self.seed if self.reference else None,
            },
            notes=self._notes(trace),
        )
        return result if errors is None else replace(result, statistics={"standard_error": errors})

    @property
    def _n_columns(self) -> int:
        """Count how often each unit is taken out."""
        return {"mean": self.n_draws + 1, "resample": self.n_draws}.get(self.intervention, 1)

    def _summarize(
        self, found: Float[Tensor, "target unit draw"]
    ) -> tuple[Float[Tensor, "target unit"], np.ndarray | None]:
        """Return the value without each unit, and its standard error where there are draws."""
        if self.intervention == "mean":
            return found[..., 0], found[..., 1:].std(-1).numpy()
        if self.intervention == "resample":
            return found.mean(-1), (found.std(-1) / self.n_draws**0.5).numpy()
        return found[..., 0], None

    def _notes(self, trace: Trace) -> tuple[str, ...]:
        notes = [
            f"{self.intervention}: a value is the untouched model's value − the value without the "
            "unit; the values do not sum to anything"
        ]
        if not self.first_token and any(0 in request.positions for request in trace.requests):
            notes.append(
                "the first token is left alone, so targets that are read there have no effects"
            )
        return tuple(notes)

    def _values(self, trace: Trace) -> Float[Tensor, "target unit draw"]:
        """Return every target's value without every unit."""
        n_units = sum(len(labels) for labels in self.segments)
        shape = (len(trace.token_ids), n_units, self._n_columns)
        values = torch.empty(shape, dtype=torch.float64)
        updates, texts_of_draws = self._updates(trace.requests)
        first_targets = _first_targets(trace.requests)
        # Few texts at a time, which leave most rows of a pass to their copies.
        texts = [request.ids for request in trace.requests]
        for group in shared_passes(self.adapter, texts, tokens_per_pass=TOKENS_PER_PASS // 8):
            branches = self._branches(trace.requests, group)
            length = max(len(texts[index]) for index in group)
            size = max(1, TOKENS_PER_PASS // length - len(group))
            for first in range(0, len(branches), size):
                part = branches[first : first + size]
                states = self._run(trace.requests, group, part, updates, texts_of_draws)
                rows, targets = _read_targets(trace.requests, part, first_targets)
                branch_of_row = torch.tensor([i for i, b in enumerate(part) for _ in b.reads])
                units = torch.tensor([branch.unit for branch in part])[branch_of_row[rows]]
                draws = torch.tensor([branch.draw for branch in part])[branch_of_row[rows]]
                found = value_states(trace, self.resolved_value, states, rows, targets)
                values[targets, units, draws] = found
        return values

    def _branches(self, requests: Sequence[Request], group: Sequence[int]) -> list[_Branch]:
        """Return all copies of a group's texts, in order of the layers."""
        branches = []
        unit = 0
        for layer, labels in enumerate(self.segments):
            for index in range(len(labels)):
                for draw, text in product(range(self._n_columns), group):
                    for where, reads in self._places(requests[text]):
                        branches.append(_Branch(text, layer, index, unit, draw, where, reads))
                unit += 1
        return branches

    def _places(self, request: Request) -> list[tuple[range, list[int]]]:
        """Return at which positions a text's copies are edited, and at which they are read."""
        reads = sorted(set(request.positions))
        first = 0 if self.first_token else 1
        if self.scope == "all":
            return [(range(first, len(request.ids)), reads)]
        return [(range(max(first, read), read + 1), [read]) for read in reads]

    def _updates(self, requests: Sequence[Request]) -> tuple[Updates, list[list[int]]]:
        """Return what units write instead, and for every text the index of each of its draws."""
        same_for_all = [list(range(self._n_columns))] * len(requests)
        generator = torch.Generator().manual_seed(self.seed)
        if self.intervention == "mean":
            updates = mean_updates(
                self.adapter,
                self.unit,
                self.reference,
                n_draws=self.n_draws,
                generator=generator,
            )
            return updates, same_for_all
        if self.intervention == "resample":
            order = torch.randperm(len(self.reference), generator=generator).tolist()
            chosen = [self._other_texts(request, order) for request in requests]
            used = sorted({text for texts in chosen for text in texts})
            place = {text: index for index, text in enumerate(used)}
            texts = [self.reference[text] for text in used]
            return sampled_updates(self.adapter, self.unit, texts), [
                [place[text] for text in texts] for texts in chosen
            ]
        return NoUpdate(), same_for_all

    def _other_texts(self, request: Request, order: Sequence[int]) -> list[int]:
        """Return the first reference texts in an order that are not the text itself."""
        others = [index for index in order if not _overlap(self.reference[index], request.ids)]
        if len(others) < self.n_draws:
            raise ValueError(
                f"resampling needs {self.n_draws} reference texts (n_draws) that differ from the "
                f"prompt, got {len(others)}; give more, or lower n_draws"
            )
        return others[: self.n_draws]

    def _run(
        self,
        requests: Sequence[Request],
        group: Sequence[int],
        branches: Sequence[_Branch],
        updates: Updates,
        texts_of_draws: Sequence[Sequence[int]],
    ) -> Float[Tensor, "row d_model"]:
        """Run some copies and return their states where they are read."""
        tokens = pad_right([requests[text].ids for text in group])
        place = {text: index for index, text in enumerate(group)}
        by_layer: dict[int, list[_Branch]] = defaultdict(list)
        for branch in branches:
            by_layer[branch.layer].append(branch)
        plan = {}
        for layer, own in by_layer.items():
            where = torch.zeros(len(own), tokens.shape[1], dtype=torch.bool)
            for row, branch in enumerate(own):
                where[row, branch.where.start : branch.where.stop] = True
            edit = _Edit(
                adapter=self.adapter,
                unit=self.unit,
                updates=updates,
                layer=layer,
                draws=torch.tensor([texts_of_draws[b.text][b.draw] for b in own]),
                where=where,
                units=torch.tensor([branch.index for branch in own]),
            )
            parents = torch.tensor([place[branch.text] for branch in own])
            plan[layer] = Branches(parents, self.unit.site(self.adapter, layer), edit)
        return run_branches(self.adapter, tokens, plan, [branch.reads for branch in branches])


@dataclass(frozen=True)
class _Branch:
    """A copy of a text with one unit taken out.

    Attributes:
        text: The text's index.
        layer: The unit's block.
        index: The unit's number in its block.
        unit: The unit's number in the model.
        draw: Which of the draws replaces its update.
        where: The positions at which it is replaced.
        reads: The positions at which the copy is read.
    """

    text: int
    layer: int
    index: int
    unit: int
    draw: int
    where: range
    reads: list[int]


@dataclass(frozen=True)
class _Edit:
    """Edits the branches of one block; see `iglens_tl.models.branching.Edit`."""

    adapter: ModelAdapter
    unit: Unit
    updates: Updates
    layer: int
    draws: Int[Tensor, " branch"]
    where: Bool[Tensor, "branch pos"]
    units: Int[Tensor, " branch"]

    def __call__(self, activation: Tensor, inputs: Tensor) -> Tensor:
        """Return what takes the activation's place."""
        update = self.updates.updates(self.layer, self.draws, self.where.shape[1]).to(activation)
        where, units = self.where.to(activation.device), self.units.to(activation.device)
        return self.unit.replace(self.adapter, self.layer, activation, inputs, update, where, units)


def _first_targets(requests: Sequence[Request]) -> list[int]:
    """Return the index of every text's first target."""
    firsts = [0]
    for request in requests:
        firsts.append(firsts[-1] + len(request.target_ids))
    return firsts[:-1]


def _read_targets(
    requests: Sequence[Request], branches: Sequence[_Branch], first_targets: Sequence[int]
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Return for every target of every copy the row of its state, and the target."""
    rows, targets, row = [], [], 0
    for branch in branches:
        of_position = defaultdict(list)
        for offset, position in enumerate(requests[branch.text].positions):
            of_position[position].append(first_targets[branch.text] + offset)
        for position in branch.reads:
            rows += [row] * len(of_position[position])
            targets += of_position[position]
            row += 1
    return torch.tensor(rows), torch.tensor(targets)


def _overlap(first: Sequence[int], second: Sequence[int]) -> bool:
    """Return whether one of two texts begins with the other."""
    shorter = min(len(first), len(second))
    return tuple(first[:shorter]) == tuple(second[:shorter])
