"""Reading many tokens through the logit lens and a tuned lens, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture
from iglens_tl.readout import Point, read_points
from iglens_tl.tuning.packing import NO_TOKEN
from iglens_tl.tuning.translators import Translators

TOKENS_PER_PASS = 4096
"""How many tokens share a forward pass, and are held with all their states, at most; one sequence
at least."""


def lens_sites(adapter: ModelAdapter) -> list[str]:
    """Return the hooks of the states: the inputs of all blocks, then the output of the last."""
    posts = [adapter.post_site(layer) for layer in range(adapter.n_layers)]
    return [adapter.embed_site, *posts]


def lens_segments(adapter: ModelAdapter) -> tuple[str, ...]:
    """Return the segments at whose ends those states are."""
    return ("embed", *(f"L{layer}" for layer in range(adapter.n_layers)))


def state_batches(
    adapter: ModelAdapter, sequences: Int[Tensor, "batch pos"]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Run the model over sequences and yield ids and states of some at a time.

    Yields:
        Token ids `[batch, pos]` and by hook the states `[row, d_model]` of all their tokens, in the
        readout's precision and on its device.
    """
    device, dtype = adapter.readout.device, adapter.readout.dtype
    for batch in sequences.split(max(1, TOKENS_PER_PASS // sequences.shape[1])):
        present = batch != NO_TOKEN
        batch = batch[:, : int(present.sum(1).max())]
        present = present[:, : batch.shape[1]].flatten()
        rows = present.nonzero().squeeze(-1)

        def keep(activation: Tensor, rows: Tensor = rows) -> Tensor:
            # A copy, because later blocks may write into what they were given.
            return activation.flatten(0, 1)[rows.to(activation.device)].to(device, dtype)

        readers: dict[str, Callable[[Tensor], Tensor]] = dict.fromkeys(lens_sites(adapter), keep)
        # Whatever stands behind the end of a sequence is seen by no token of it.
        yield batch, capture(adapter, batch.clamp_min(0), readers)


def mean_losses(
    adapter: ModelAdapter, translators: Translators, sequences: Int[Tensor, "batch pos"]
) -> dict[str, Float[Tensor, " segment"]]:
    """Return what both lenses lose at every state, in nats per token with a successor.

    Returns:
        By name `kl_logit_lens`, `kl_tuned_lens` (from the model's own distribution) and
        `ce_logit_lens`, `ce_tuned_lens` (of the next token), `[segment]` each. At the last state
        both lenses are the model itself.
    """
    sites = lens_sites(adapter)
    sums: dict[str, Tensor] = {}
    n_tokens = 0
    for batch, states in state_batches(adapter, sequences):
        present = batch != NO_TOKEN
        row_of = (present.flatten().cumsum(0) - 1).view(batch.shape)
        has_successor = present[:, 1:]
        rows, following = row_of[:, :-1][has_successor], batch[:, 1:][has_successor]
        n_tokens += len(rows)
        points = [Point(site, states[site], rows) for site in sites]
        points += [
            Point(f"tuned {site}", translators.apply(layer, states[site]), rows)
            for layer, site in enumerate(sites[:-1])
        ]
        readings = read_points(adapter.readout, points, following, reference=sites[-1])
        for lens in ("logit_lens", "tuned_lens"):
            tuned = "tuned " if lens == "tuned_lens" else ""
            chosen = [readings[f"{tuned}{site}"] for site in sites[:-1]] + [readings[sites[-1]]]
            divergences, entropies = [], []
            for reading in chosen:
                assert reading.divergences is not None
                divergences.append(reading.divergences.sum())
                entropies.append((reading.log_normalizers - reading.target_logits).sum())
            for name, parts in (("kl", divergences), ("ce", entropies)):
                key = f"{name}_{lens}"
                sums[key] = sums.get(key, 0) + torch.stack(parts)
    return {name: total / n_tokens for name, total in sums.items()}
