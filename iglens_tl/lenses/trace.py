"""What one forward pass leaves for the lenses: states at the read positions, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.batching import TOKENS_PER_PASS, cut_padding, pad_right, shared_passes
from iglens_tl.models.capture import capture
from iglens_tl.prompts.requests import Request

Reduction: TypeAlias = Callable[[Tensor, list[int]], Tensor]
"""Maps the activation of a whole text, such as `[pos, d_model]`, and its read positions to what to
keep, a new tensor."""


@dataclass(frozen=True)
class Needs:
    """What a lens wants of the forward pass.

    Attributes:
        sites: Hooks of which the states at the read positions are kept.
        reductions: By name, a hook and what is kept of its states over a whole text.
    """

    sites: tuple[str, ...] = ()
    reductions: Mapping[str, tuple[str, Reduction]] | None = None

    @property
    def any(self) -> bool:
        """Whether the lens needs the shared forward pass at all."""
        return bool(self.sites or self.reductions)


@dataclass(frozen=True)
class Trace:
    """The kept states of several texts.

    A row is one read position of one text; several targets may be read there.

    Attributes:
        adapter: The model.
        requests: The texts and their targets.
        token_ids: `[target]`, the target tokens.
        target_rows: `[target]`, the row at which each target is read.
        row_texts: The index of each row's text.
        states: By site, `[row, …]` activations in the readout's precision and on its device.
        reduced: By name, for each text what the reduction kept.
        n_forward_passes: How many batches the model ran.
        choice: How the targets were chosen, for the provenance.
    """

    adapter: ModelAdapter
    requests: tuple[Request, ...]
    token_ids: Int[Tensor, " target"]
    target_rows: Int[Tensor, " target"]
    row_texts: tuple[int, ...]
    states: Mapping[str, Tensor]
    reduced: Mapping[str, list[Tensor]]
    n_forward_passes: int
    choice: Mapping[str, Any]

    def target_states(self, site: str) -> list[Tensor]:
        """Return for each text the states of its targets at a site, `[target, …]`."""
        sizes = [len(request.target_ids) for request in self.requests]
        return list(self.states[site][self.target_rows].split(sizes))


def collect_trace(
    adapter: ModelAdapter,
    requests: Sequence[Request],
    needs: Sequence[Needs],
    choice: Mapping[str, Any],
) -> Trace:
    """Run the model once and keep what all lenses together need.

    Texts share forward passes as `iglens_tl.models.batching.shared_passes` decides, and the
    residual stream is kept only at the read positions.

    Raises:
        ValueError: If a state is NaN or infinite.
    """
    read = [sorted(set(request.positions)) for request in requests]
    sites = list(dict.fromkeys(site for need in needs for site in need.sites))
    reductions = {name: r for need in needs for name, r in (need.reductions or {}).items()}
    by_text: dict[str, dict[int, Tensor]] = {name: {} for name in [*sites, *reductions]}
    texts = [request.ids for request in requests]
    shared = bool(sites or reductions)
    batches = shared_passes(adapter, texts, tokens_per_pass=TOKENS_PER_PASS) if shared else []
    for batch in batches:
        kept = _run_batch(adapter, requests, read, batch, sites, reductions)
        for name, parts in kept.items():
            by_text[name].update(zip(batch, parts, strict=True))
    in_order = {name: [parts[i] for i in range(len(requests))] for name, parts in by_text.items()}
    states = {site: torch.cat(in_order.pop(site)) for site in sites}
    row_texts = tuple(text for text, positions in enumerate(read) for _ in positions)
    trace = Trace(
        adapter=adapter,
        requests=tuple(requests),
        token_ids=torch.tensor([token for request in requests for token in request.target_ids]),
        target_rows=_target_rows(requests, read),
        row_texts=row_texts,
        states=states,
        reduced=in_order,
        n_forward_passes=len(batches),
        choice=choice,
    )
    _require_finite(trace)
    return trace


def _run_batch(
    adapter: ModelAdapter,
    requests: Sequence[Request],
    read: list[list[int]],
    batch: list[int],
    sites: list[str],
    reductions: Mapping[str, tuple[str, Reduction]],
) -> dict[str, list[Tensor]]:
    """Return for every site and reduction what is kept of each text of a batch."""
    texts = [requests[index].ids for index in batch]
    rows = [row for row, index in enumerate(batch) for _ in read[index]]
    columns = [position for index in batch for position in read[index]]
    sizes = [len(read[index]) for index in batch]
    device, dtype = adapter.readout.device, adapter.readout.dtype
    kept: dict[str, list[Tensor]] = {}

    def reader(site: str) -> Callable[[Tensor], Tensor]:
        def take(activation: Tensor) -> Tensor:
            for name, (of_site, reduction) in reductions.items():
                if of_site == site:
                    whole = activation.to(device, dtype)
                    kept[name] = [
                        reduction(cut_padding(whole[row], len(texts[row]), site=site), read[index])
                        for row, index in enumerate(batch)
                    ]
            if site not in sites:
                return activation.new_empty(0)
            # Indexing makes a new tensor, so the whole activation is not kept alive.
            return activation[rows, columns].to(device, dtype)

        return take

    read_sites = dict.fromkeys([*sites, *(site for site, _ in reductions.values())])
    taken = capture(adapter, pad_right(texts), {site: reader(site) for site in read_sites})
    return kept | {site: list(taken[site].split(sizes)) for site in sites}


def _target_rows(requests: Sequence[Request], read: list[list[int]]) -> Tensor:
    rows, first = [], 0
    for request, positions in zip(requests, read, strict=True):
        place = {position: first + index for index, position in enumerate(positions)}
        rows += [place[position] for position in request.positions]
        first += len(positions)
    return torch.tensor(rows)


def _require_finite(trace: Trace) -> None:
    for site, states in trace.states.items():
        bad = ~torch.isfinite(states).flatten(1).all(1)
        if bool(bad.any()):
            text = trace.row_texts[int(bad.nonzero()[0])]
            raise ValueError(
                f"{trace.adapter.name}: the states at {site} are NaN or infinite in prompt {text}; "
                "check the model's weights, or load it in another dtype"
            )
