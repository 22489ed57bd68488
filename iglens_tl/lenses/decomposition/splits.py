"""Along which chords the value is followed, and into which parts each chord's change is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from iglens_tl.lenses.base import state_point
from iglens_tl.lenses.baselines import Baseline, Start
from iglens_tl.lenses.chain import build_chain
from iglens_tl.lenses.decomposition.directions import Directions
from iglens_tl.lenses.decomposition.parts import (
    Parts,
    head_parts,
    neuron_parts,
    source_parts,
    state_parts,
)
from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.components import embedding_sites
from iglens_tl.readout import Point
from iglens_tl.results import segments
from iglens_tl.trace import Needs, Reduction, Trace, whole_text

if TYPE_CHECKING:
    PartsBy: TypeAlias = Literal["layer", "sublayer", "head", "head_source", "neuron", "direction"]
    ComponentPath: TypeAlias = Literal["hidden_states", "sublayers", "straight"]
else:  # anything may arrive here; it is answered with a readable error
    PartsBy = ComponentPath = Any

SPLITS = {
    "layer": "every block as one part",
    "sublayer": "attention and MLP apart, also of parallel blocks",
    "head": "every attention head, the attention's bias and the MLP",
    "head_source": "what every head read at every position, the attention's bias and the MLP",
    "neuron": "the attention, the most credited MLP neurons, the others together, the MLP's bias",
    "direction": "the update's components along given directions, and what they leave",
}
"""Into which parts a block is split."""

COMPONENT_PATHS = {
    "hidden_states": "one straight line over every block, so that attention and MLP grow together",
    "sublayers": "two lines over every block, so that attention comes first",
    "straight": "one line from the baseline to the last state, along which all parts of all layers "
    "grow together (Aumann and Shapley 1974)",
}
"""The lines along which parts grow."""


@dataclass(frozen=True)
class Group:
    """Parts that grow together along one chord.

    Attributes:
        step: The number of the block, None for the embedding.
        chord: The chord.
        parts: The parts.
        whole: All that grows there, as one part.
    """

    step: int | None
    chord: int
    parts: Sequence[Parts]
    whole: Parts

    @property
    def rest(self) -> str:
        """The label of what the parts leave."""
        return segments.rest_label(self.step)


@dataclass(frozen=True)
class Split:
    """A division of a model's updates.

    Attributes:
        adapter: The model.
        by: One of `SPLITS`.
        path: One of `COMPONENT_PATHS`.
        baseline: The beginning of the path.
        directions: The directions of the split "direction".
    """

    adapter: ModelAdapter
    by: str
    path: str
    baseline: Baseline
    directions: Directions | None = None

    @property
    def start(self) -> Start:
        """Where the path begins."""
        return Start(self.adapter.embed_site, self.baseline)

    @property
    def states(self) -> tuple[str, ...]:
        """The hooks of the states between which the updates stand, the embedding's first."""
        return build_chain(self.adapter, sublayers=self.path == "sublayers").sites

    def needs(self) -> Needs:
        """Return what to keep of the forward pass."""
        adapter, layers = self.adapter, range(self.adapter.n_layers)
        sites = list(self.states)
        reductions: dict[str, tuple[str, Reduction]] = {}
        for _, site in embedding_sites(adapter):
            sites.append(site)
            reductions |= self._start_of_part(site).needs().reductions
        for layer in layers:
            if self.by != "layer":
                sites += adapter.update_sites(layer)
            if self.by in ("head", "head_source"):
                sites.append(adapter.head_site(layer))
            if self.by == "head_source":
                pattern, values = adapter.pattern_site(layer), adapter.value_site(layer)
                reductions[_patterns(layer)] = (pattern, _attention_of_reads)
                reductions[_values(layer)] = (values, whole_text)
            if self.by == "neuron":
                site = adapter.neuron_site(layer)
                sites += [] if site is None else [site]
        return Needs(tuple(dict.fromkeys(sites)), reductions) | self.start.needs()

    def points(self, trace: Trace) -> list[Point]:
        """Return the states between the chords, the baseline first."""
        sites = self.states[-1:] if self.path == "straight" else self.states
        return [self.start.point(trace), *(state_point(trace, site) for site in sites)]

    def groups(self, trace: Trace) -> list[Group]:
        """Return the parts of every chord, lowest first."""
        embedding = self._embedding(trace)
        groups = [Group(None, 0, embedding, self._move(trace, None, self.states[0]))]
        for layer in range(self.adapter.n_layers):
            groups += self._of_layer(trace, layer)
        return groups

    def _of_layer(self, trace: Trace, layer: int) -> list[Group]:
        adapter = self.adapter
        before = adapter.post_site(layer - 1) if layer else adapter.embed_site
        after = adapter.post_site(layer)
        if self.path != "sublayers" or adapter.block_kind == "attention_only":
            chord = 0 if self.path == "straight" else layer + 1
            parts = [*self._attention(trace, layer), *self._mlp(trace, layer)]
            if self.by == "layer":
                parts = [
                    state_parts(trace, f"L{layer}", trace.states[after] - trace.states[before])
                ]
            if self.directions is not None:
                parts = self.directions.parts(trace, layer, before)
            return [Group(layer, chord, parts, self._move(trace, before, after))]
        middle = adapter.mid_site(layer)
        attention, mlp = self._attention(trace, layer), self._mlp(trace, layer)
        return [
            Group(layer, 2 * layer + 1, attention, self._move(trace, before, middle)),
            Group(layer, 2 * layer + 2, mlp, self._move(trace, middle, after)),
        ]

    def _attention(self, trace: Trace, layer: int) -> list[Parts]:
        if self.by == "head":
            return head_parts(trace, layer)
        if self.by == "head_source":
            patterns, values = trace.reduced[_patterns(layer)], trace.reduced[_values(layer)]
            return source_parts(trace, layer, patterns, values)
        if self.by in ("layer", "direction"):
            return []
        written = trace.states[self.adapter.attn_site(layer)]
        return [state_parts(trace, segments.attention_label(layer), written)]

    def _mlp(self, trace: Trace, layer: int) -> list[Parts]:
        site = self.adapter.mlp_site(layer)
        if site is None or self.by in ("layer", "direction"):
            return []
        if self.by == "neuron":
            neurons = self.adapter.neuron_site(layer)
            assert neurons is not None
            return neuron_parts(trace, layer, neurons)
        return [state_parts(trace, segments.mlp_label(layer), trace.states[site])]

    def _embedding(self, trace: Trace) -> list[Parts]:
        return [
            state_parts(trace, label, trace.states[site] - self._start_of_part(site).states(trace))
            for label, site in embedding_sites(self.adapter)
        ]

    def _start_of_part(self, site: str) -> Start:
        # A given vector is no sum of a token's and a position's part: it stays a rest of its own.
        baseline = self.baseline
        if baseline.vector is not None and len(embedding_sites(self.adapter)) > 1:
            baseline = Baseline("zero")
        return Start(site, baseline)

    def _move(self, trace: Trace, before: str | None, after: str) -> Parts:
        """Return the displacement between two states, from the baseline for None."""
        start = self.start.states(trace) if before is None else trace.states[before]
        return state_parts(trace, "", trace.states[after] - start)


def check_names(by: str, path: str) -> None:
    """Check the names of a split and of its path.

    Raises:
        ValueError: For an unknown name, or a split that the path does not have.
    """
    if by not in SPLITS:
        raise ValueError(f"unknown split by={by!r}; choose one of {', '.join(SPLITS)}")
    if path not in COMPONENT_PATHS:
        raise ValueError(
            f"components grow along path {', '.join(COMPONENT_PATHS)}, got {path!r}; ig_lens has "
            "the other orders, for whole layers"
        )
    if path == "sublayers" and by in ("layer", "direction"):
        raise ValueError(
            f"by={by!r} splits the update of a whole block, which path='sublayers' divides; use "
            "path='hidden_states'"
        )


def check_parts(adapter: ModelAdapter, by: str, path: str) -> None:
    """Check that a model has the parts and states of a split.

    Raises:
        NotApplicableError: For parts or states that the model does not have.
    """
    build_chain(adapter, sublayers=path == "sublayers")
    for layer in range(adapter.n_layers):
        if by == "head_source":
            adapter.pattern_site(layer)
            adapter.value_site(layer)
        if by == "neuron":
            adapter.neuron_site(layer)
    if by == "neuron" and adapter.block_kind == "attention_only":
        raise NotApplicableError(f"{adapter.name} has no MLPs, so it has no neurons; use by='head'")


def _attention_of_reads(pattern: Tensor, positions: list[int]) -> Tensor:
    return pattern[:, positions].transpose(0, 1).contiguous()


def _patterns(layer: int) -> str:
    return f"attention patterns of layer {layer}"


def _values(layer: int) -> str:
    return f"attention values of layer {layer}"
