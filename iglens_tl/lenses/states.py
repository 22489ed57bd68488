"""Collecting the states of a chain for many texts, in as few forward passes as possible."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.lenses.baselines import Baseline
from iglens_tl.lenses.chain import Chain
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture
from iglens_tl.prompts.requests import Request

_TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Paths:
    """For every target the states that its path visits.

    Attributes:
        states: `[state, d_model]`, each state once; those of the chain come first.
        n_chain_states: How many of them belong to the chain and not to a baseline.
        visits: `[target, point]`, indices of the visited states: the baseline, then the chain.
        token_ids: `[target]`, the target tokens.
    """

    states: Float[Tensor, "state d_model"]
    n_chain_states: int
    visits: Int[Tensor, "target point"]
    token_ids: Int[Tensor, " target"]


def collect_paths(
    adapter: ModelAdapter,
    requests: Sequence[Request],
    chain: Chain,
    baseline: Baseline,
    *,
    map_last: Callable[[Tensor], Tensor] | None = None,
) -> Paths:
    """Run the model and collect the states of all requests.

    Texts of equal length share a forward pass, so nothing is padded, and the residual stream is
    kept only at the read positions.

    Args:
        adapter: The model.
        requests: The texts and their targets.
        chain: Which states.
        baseline: Where the paths begin.
        map_last: Applied to the last state wherever it is read.

    Raises:
        ValueError: If a state is NaN or infinite.
    """
    read = [sorted(set(request.positions)) for request in requests]
    chain_states: dict[int, Tensor] = {}
    baseline_states: dict[int, Tensor] = {}
    for batch in _batches_of_equal_length(requests):
        whole, parts = _run_batch(adapter, requests, read, batch, chain, baseline, map_last)
        for row, index in enumerate(batch):
            chain_states[index] = parts[row]
            text = None if whole is None else whole[row]
            baseline_states[index] = baseline.states(parts[row][:, 0], text, read[index])
    visits = _visits(requests, read, baseline_states, len(chain.sites))
    stacked = [chain_states[index].flatten(0, 1) for index in range(len(requests))]
    n_chain_states = sum(len(states) for states in stacked)
    stacked += [baseline_states[index] for index in range(len(requests))]
    states = torch.cat(stacked)
    _require_finite(adapter, chain, chain_states, states)
    token_ids = torch.tensor([token for request in requests for token in request.target_ids])
    return Paths(states, n_chain_states, visits, token_ids)


def _run_batch(
    adapter: ModelAdapter,
    requests: Sequence[Request],
    read: list[list[int]],
    batch: list[int],
    chain: Chain,
    baseline: Baseline,
    map_last: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the lowest state at every position, if needed, and each text's chain states."""
    rows = [row for row, index in enumerate(batch) for _ in read[index]]
    columns = [position for index in batch for position in read[index]]
    device, dtype = adapter.readout.device, adapter.readout.dtype
    whole: list[Tensor] = []

    def reader(site: str) -> Callable[[Tensor], Tensor]:
        def take(activation: Tensor) -> Tensor:
            if map_last is not None and site == chain.sites[-1]:
                activation = map_last(activation)
            if site == chain.sites[0] and baseline.needs_whole_text:
                whole.append(activation.to(device, dtype, copy=True))
            return activation[rows, columns].to(device, dtype)

        return take

    tokens = torch.tensor([requests[index].ids for index in batch])
    kept = capture(adapter, tokens, {site: reader(site) for site in chain.sites})
    states = torch.stack([kept[site] for site in chain.sites], dim=1)
    parts = list(states.split([len(read[index]) for index in batch]))
    return (whole[0] if whole else None), parts


def _batches_of_equal_length(requests: Sequence[Request]) -> list[list[int]]:
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        by_length[len(request.ids)].append(index)
    batches = []
    for length, indices in by_length.items():
        size = max(1, _TOKENS_PER_PASS // length)
        batches += [indices[first : first + size] for first in range(0, len(indices), size)]
    return batches


def _visits(
    requests: Sequence[Request],
    read: list[list[int]],
    baseline_states: dict[int, Tensor],
    n_sites: int,
) -> Tensor:
    next_chain = 0
    next_baseline = sum(len(positions) for positions in read) * n_sites
    visits = []
    for index, request in enumerate(requests):
        n_baselines = len(baseline_states[index])
        for position in request.positions:
            place = read[index].index(position)
            start = next_chain + place * n_sites
            own = next_baseline + (place if n_baselines > 1 else 0)
            visits.append([own, *range(start, start + n_sites)])
        next_chain += len(read[index]) * n_sites
        next_baseline += n_baselines
    return torch.tensor(visits)


def _require_finite(
    adapter: ModelAdapter, chain: Chain, chain_states: dict[int, Tensor], states: Tensor
) -> None:
    if bool(torch.isfinite(states).all()):
        return
    for index, parts in chain_states.items():
        for site, segment in enumerate(chain.segments):
            if not bool(torch.isfinite(parts[:, site]).all()):
                raise ValueError(
                    f"{adapter.name}: the residual state after {segment} is NaN or infinite in "
                    f"prompt {index}; check the model's weights, or load it in another dtype"
                )
    raise ValueError(f"{adapter.name}: the baseline state is NaN or infinite")
