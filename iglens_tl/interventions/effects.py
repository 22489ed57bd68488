"""Causal effects: the loss of the final value when a part of the model is taken out.

IG-Lens credits a layer with what the readout gains between two states that the model produced. That
is the effect of running one more layer and stopping there; what a layer prepares for later ones is
credited to those that read it. Effects measure the whole of it: the part is taken out, everything
above runs on what is then there, and the value changes by the effect. Credits and effects agree
exactly for the last layer, and where they disagree below it, that is routing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.arguments import Count, resolve_choice, resolve_count
from iglens_tl.interventions.replacements import (
    NoUpdate,
    Updates,
    mean_updates,
    reference_ids,
    sampled_updates,
)
from iglens_tl.interventions.units import UNITS, Unit
from iglens_tl.lenses.assembly import assemble, levels_of
from iglens_tl.lenses.base import Lens, state_point
from iglens_tl.lenses.orders.state_values import value_coalitions, value_states
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.models.batching import TOKENS_PER_PASS, pad_right, shared_passes
from iglens_tl.models.branching import Branches, run_branches
from iglens_tl.models.skipping import run_skipping
from iglens_tl.prompts import PromptLike, Request, Tokens, bind_value
from iglens_tl.readout import Point, Reading, ValueLike
from iglens_tl.results.lens import LensResult
from iglens_tl.results.segments import layer_label
from iglens_tl.trace import Needs, Trace, begin_trace

if TYPE_CHECKING:
    InterventionName: TypeAlias = Literal["skip", "mean", "resample", "early_exit"]
    UnitName: TypeAlias = Literal["layer", "attn", "mlp", "head"]
    Scope: TypeAlias = Literal["all", "last"]
else:  # anything may arrive here; it is answered with a readable error
    InterventionName = UnitName = Scope = Any

INTERVENTIONS: Mapping[str, str] = {
    "skip": "it writes nothing: the residual stream passes it unchanged",
    "mean": "it writes what it writes on average in reference texts",
    "resample": "it writes what it writes in another text; the mean over several of them",
    "early_exit": "the model stops before it, and after it",
}
"""The interventions, and what happens to the unit."""

SCOPES: Mapping[str, str] = {
    "all": "at every position",
    "last": "only at the position where the target is read",
}
"""The positions at which units are intervened on."""


def layer_effects(
    model: Model,
    prompt: PromptLike,
    *,
    intervention: InterventionName = "skip",
    by: UnitName = "layer",
    scope: Scope = "all",
    value: ValueLike = "prob",
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    reference: PromptLike | None = None,
    n_draws: Count = 16,
    seed: Count = 0,
    first_token: bool = False,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Measure what each layer, sublayer or head does to the final value, by taking it out.

    Many interventions share a forward pass: each is a row of the batch that leaves its text where
    the unit stands.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`. Its hooks stay active; none is left
            behind, also after an interruption.
        prompt: As for `ig_lens`.
        intervention: What happens to the unit.
            "skip": it writes nothing, so that the residual stream passes it unchanged. For a layer
            this is skipping it, for attention, an MLP or a head it is what the literature calls
            zero ablation; there is no other "zero", because what a unit writes is all of it.
            "mean": it writes its mean over all tokens of the reference texts but their first.
            "resample": it writes what it writes at the same position of another text (shorter
            texts begin again after their first token), averaged over `n_draws` reference texts
            (Chan et al. 2022, Causal scrubbing).
            "early_exit": the model stops after the layer; the effect is value(stopping after it) −
            value(stopping before it), and `levels` is the logit lens. Only for by="layer".
        by: The units: "layer", "attn", "mlp", or "head" (what it passes to W_O).
        scope: "all": at all positions, so that what a unit writes for other positions to read
            counts too. "last": only at the position where the target is read.
        value: What is measured, as for `ig_lens`.
        answer: As for `ig_lens`.
        generate: As for `ig_lens`.
        targets: As for `ig_lens`.
        reference: Texts for "mean" and "resample"; None for the package's own short English ones
            (`embedded_reference_texts`). Of a text, those are left out that it begins with or that
            begin with it.
        n_draws: How many texts "resample" averages over, and how many sets of texts, drawn with
            replacement, tell how certain the mean of "mean" is. Both standard errors are in
            `statistics["standard_error"]`.
        seed: Seed of these draws.
        first_token: Whether the unit is intervened on at the first token too. Models keep large
            states there on which idle heads rest, and few texts survive without them.
        prepend_bos: As for `ig_lens`.

    Returns:
        `values`: value of the untouched model − value under the intervention; they do not sum to
        anything, but for "early_exit". `levels`: the value under the intervention. Segments "L0",
        …, or "L0.attn", "L0.mlp", "L0.H0".

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For unknown names, a unit that the architecture lacks, or fewer reference texts
            than draws.

    Example:
        >>> from iglens_tl import layer_effects, load_model
        >>> model = load_model("demo")
        >>> effects = layer_effects(model, "The capital of Vietnam is", answer=" Hanoi")
        >>> effects.segments[:2], effects.values.shape
        (('L0', 'L1'), (1, 8))
    """
    lens = LayerEffects(
        intervention=intervention,
        by=by,
        scope=scope,
        value=value,
        reference=reference,
        n_draws=n_draws,
        seed=seed,
        first_token=first_token,
        prepend_bos=prepend_bos,
    )
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return lens(begin_trace(model, prompt, **choice, prepend_bos=prepend_bos))


@dataclass(frozen=True, kw_only=True)
class _Effects(Lens):
    name: ClassVar[str] = "layer_effects"
    label: ClassVar[str] = "layer effects"
    measures: ClassVar[str] = (
        "What the final value loses when a unit is taken out and everything above it recomputed: "
        "separate effects, which sum to nothing."
    )
    sums_to: ClassVar[str] = "nothing: separate effects"
    additive: ClassVar[bool] = False
    cost: ClassVar[str] = "a row of a forward pass for every unit, text and draw"


@dataclass(frozen=True, kw_only=True)
class LayerEffects(_Effects):
    """Layer effects: what each layer, sublayer or head does to the final value.

    Attributes:
        value: What is measured, as in `IGLens`.
        intervention: What happens to the unit, as in `layer_effects`.
        by: The units: "layer", "attn", "mlp" or "head".
        scope: "all" or "last".
        reference: Texts for "mean" and "resample".
        n_draws: How many texts or sets of texts are drawn.
        seed: Seed of the draws.
        first_token: Whether the unit is intervened on at the first token too.
        prepend_bos: Whether reference texts start with the beginning-of-sequence token.
    """

    intervention: InterventionName = "skip"
    by: UnitName = "layer"
    scope: Scope = "all"
    reference: PromptLike | None = None
    n_draws: Count = 16
    seed: Count = 0
    first_token: bool = False
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.intervention == "zero":
            raise ValueError(
                "there is no intervention 'zero': a unit whose output is zero writes nothing, "
                "which is intervention='skip'"
            )
        resolve_choice("intervention", self.intervention, INTERVENTIONS)
        resolve_choice("split by", self.by, UNITS)
        resolve_choice("scope", self.scope, SCOPES)
        resolve_count("n_draws", self.n_draws, least=2)
        resolve_count("seed", self.seed, least=0)
        if self.reference is not None and not self._needs_texts:
            raise ValueError(
                "reference texts are for intervention 'mean' and 'resample', not "
                f"{self.intervention!r}"
            )
        if self.intervention == "early_exit" and self.by != "layer":
            raise ValueError(f"early_exit stops between layers; use by='layer', got {self.by!r}")

    def bind(self, adapter: ModelAdapter) -> Lens:
        """Return what measures the effects of a model's units, its reference texts tokenised."""
        unit, value = UNITS[self.by], bind_value(adapter, self.value)
        segments = [unit.labels(adapter, layer) for layer in range(adapter.n_layers)]
        if self.intervention == "early_exit":
            return EarlyExit(adapter=adapter, value=value)
        texts = []
        if self._needs_texts:
            texts = reference_ids(adapter, self.reference, prepend_bos=self.prepend_bos)
        return Intervention(
            adapter=adapter,
            value=value,
            intervention=self.intervention,
            unit=unit,
            unit_name=self.by,
            segments=segments,
            scope=self.scope,
            reference=tuple(texts),
            n_draws=self.n_draws,
            seed=self.seed,
            first_token=self.first_token,
        )

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the last state."""
        return Needs((adapter.post_site(adapter.n_layers - 1),))

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Measure what the lens is bound to."""
        return self.bind(trace.adapter).measure(trace, readings)

    @property
    def _needs_texts(self) -> bool:
        return self.intervention in ("mean", "resample")


@dataclass(frozen=True, kw_only=True)
class Intervention(_Effects):
    """Measures what every unit of a kind does to the final value.

    Attributes:
        adapter: The model.
        value: What is measured.
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

    adapter: ModelAdapter
    intervention: str
    unit: Unit
    unit_name: str
    segments: Sequence[Sequence[str]]
    scope: str
    reference: tuple[tuple[int, ...], ...]
    n_draws: int
    seed: int
    first_token: bool

    def bind(self, adapter: ModelAdapter) -> Lens:
        """Return the lens, which is bound to a model already."""
        del adapter
        return self

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the last state."""
        return Needs((adapter.post_site(adapter.n_layers - 1),))

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


_NOTE = (
    "early_exit: value(stopping after the layer) − value(stopping before it); the values sum to "
    "the final value − that of the embedding state"
)


@dataclass(frozen=True, kw_only=True)
class EarlyExit(_Effects):
    """Runs the model with all layers above each one skipped."""

    additive: ClassVar[bool] = True

    adapter: ModelAdapter

    def bind(self, adapter: ModelAdapter) -> Lens:
        """Return the lens, which is bound to a model already."""
        del adapter
        return self

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the last state."""
        return Needs((adapter.post_site(adapter.n_layers - 1),))

    def points(self, trace: Trace) -> list[Point]:
        """Read nothing of the untouched run."""
        del trace
        return []

    def passes(self, trace: Trace) -> tuple[int, int]:
        """Count a pass for each layer of every text, and one for the embedding."""
        return (self.adapter.n_layers + 1) * len(trace.requests), 0

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Stop after every layer of every text."""
        del readings
        n_layers = self.adapter.n_layers
        first_layers = torch.ones(n_layers + 1, n_layers).tril(-1).bool()
        levels = torch.empty(len(trace.token_ids), n_layers + 1, dtype=torch.float64)
        first_target, first_row = 0, 0
        for request in trace.requests:
            positions = sorted(set(request.positions))
            targets = torch.arange(first_target, first_target + len(request.target_ids))
            levels[targets] = value_coalitions(
                trace,
                self.resolved_value,
                targets,
                first_layers,
                partial(run_skipping, self.adapter, request.ids, positions=positions),
                trace.target_rows[targets] - first_row,
            )
            first_target += len(targets)
            first_row += len(positions)
        return assemble(
            trace,
            lens=self,
            unit=self.resolved_value.unit,
            kind="credit",
            segments=[layer_label(layer) for layer in range(n_layers)],
            values=levels.diff(dim=1),
            levels=levels[:, 1:],
            baseline=levels[:, 0],
            final=levels[:, -1],
            options={
                "intervention": "early_exit",
                "by": "layer",
                "scope": "all",
                **self.resolved_value.provenance(),
            },
            notes=(_NOTE,),
        )
