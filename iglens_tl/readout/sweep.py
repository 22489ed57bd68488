"""Reading many states out in one sweep over the vocabulary.

This is all that the `delta` estimator needs: one row of a matrix product per state. Of each row
only the log-normaliser, the targets' logits and, if asked for, the targets' ranks and the most
probable tokens are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.readout import Readout
from iglens_tl.readout.tiles import ROWS_PER_PASS, SMALLEST_EXPONENT, Tile, vocabulary_tiles

_GROUP = 64


@dataclass(frozen=True)
class Reading:
    """What a sweep keeps of every state, in float64.

    A pair is one (state, target token) whose value is wanted; several pairs may share a state.

    Attributes:
        target_logits: `[pair]`, the targets' logits.
        log_normalizers: `[state]`, logsumexp of the logits.
        ranks: `[ranked_pair]`, 1 for the most probable token; None if `top_k` was 0.
        top_ids: `[ranked_state, top]`, the most probable tokens, best first; None if `top_k` was 0.
        top_probs: `[ranked_state, top]`, their probabilities; None if `top_k` was 0.
    """

    target_logits: Float[Tensor, " pair"]
    log_normalizers: Float[Tensor, " state"]
    ranks: Int[Tensor, " ranked_pair"] | None = None
    top_ids: Int[Tensor, "ranked_state top"] | None = None
    top_probs: Float[Tensor, "ranked_state top"] | None = None


@torch.no_grad()
def read_states(
    readout: Readout,
    states: Float[Tensor, "state d_model"],
    *,
    pair_states: Int[Tensor, " pair"],
    pair_tokens: Int[Tensor, " pair"],
    top_k: int = 0,
    n_ranked: int | None = None,
) -> Reading:
    """Read states out at the wanted tokens.

    Args:
        readout: The model's readout.
        states: `[state, d_model]` residual states, any precision.
        pair_states: `[pair]` the state of each wanted pair, in ascending order.
        pair_tokens: `[pair]` the token of each wanted pair.
        top_k: How many of the most probable tokens to keep; 0 skips them and the ranks.
        n_ranked: Ranks and most probable tokens are kept for the first `n_ranked` states only; by
            default for all.

    Returns:
        The reading. Memory beyond it is bounded by `ROWS_PER_PASS` rows and two tiles.
    """
    top_k = min(top_k, readout.d_vocab)
    n_ranked = len(states) if n_ranked is None else n_ranked
    passes = []
    for first in range(0, len(states), ROWS_PER_PASS):
        last = min(first + ROWS_PER_PASS, len(states))
        low, high = torch.searchsorted(pair_states, torch.tensor([first, last])).tolist()
        passes.append(
            _Pass(
                readout,
                readout.normalize(states[first:last]),
                (pair_states[low:high] - first).to(readout.device),
                pair_tokens[low:high].to(readout.device),
                top_k,
                max(0, min(n_ranked, last) - first),
            ).run()
        )
    return _join(passes)


def most_probable_token(readout: Readout, state: Float[Tensor, " d_model"]) -> int:
    """Return the token that a state makes most probable."""
    none = torch.empty(0, dtype=torch.long)
    reading = read_states(readout, state[None], pair_states=none, pair_tokens=none, top_k=1)
    assert reading.top_ids is not None
    return int(reading.top_ids[0, 0])


def _join(passes: list[Reading]) -> Reading:
    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in passes]).cpu()

    names = ["target_logits", "log_normalizers"]
    if passes[0].ranks is not None:
        names += ["ranks", "top_ids", "top_probs"]
    return Reading(**{name: joined(name) for name in names})


class _Pass:
    """The running reductions of one sweep over the vocabulary."""

    def __init__(
        self,
        readout: Readout,
        rows: Tensor,
        pair_rows: Tensor,
        pair_tokens: Tensor,
        top_k: int,
        n_ranked: int,
    ) -> None:
        self.readout, self.rows, self.top_k = readout, rows, top_k
        self.pair_rows, self.pair_tokens = pair_rows, pair_tokens
        self.target_logits = rows.new_zeros(len(pair_rows), dtype=torch.float64)
        self.maximum = rows.new_full((len(rows),), -torch.inf)
        self.total = rows.new_zeros(len(rows), dtype=torch.float64)
        if top_k:
            self.n_ranked = n_ranked
            self.ranked_rows = pair_rows[pair_rows < n_ranked]
            # With one pair per row, in order, no tile has to be gathered by pair.
            self.one_pair_per_row = torch.equal(
                self.ranked_rows, torch.arange(n_ranked, device=pair_rows.device)
            )
            self.estimates = self._target_logits_ahead()
            self.larger = rows.new_zeros(len(self.ranked_rows), dtype=torch.long)
            self.top_logits = rows.new_zeros(n_ranked, 0)
            self.top_ids = rows.new_zeros(n_ranked, 0, dtype=torch.long)

    def run(self) -> Reading:
        scratch = None
        for tile in vocabulary_tiles(self.readout, self.rows):
            logits = _to_logits(self.readout, tile)
            if scratch is None or scratch.shape != logits.shape:
                scratch = torch.empty_like(logits)
            found, columns = tile.find(self.pair_tokens)
            at_targets = logits[self.pair_rows[found], columns]
            self.target_logits[found] = at_targets.double()
            if self.top_k:
                self._count_larger(logits, scratch, found, at_targets)
                self._merge_top(logits[: self.n_ranked], tile.start)
            self._add_exponentials(logits, scratch)
        log_normalizers = self.maximum.double() + self.total.log()
        if not self.top_k:
            return Reading(self.target_logits, log_normalizers)
        normalizers = log_normalizers[: self.n_ranked, None]
        top_probs = torch.exp(self.top_logits.double() - normalizers)
        return Reading(
            self.target_logits, log_normalizers, self.larger + 1, self.top_ids, top_probs
        )

    def _add_exponentials(self, logits: Tensor, scratch: Tensor) -> None:
        maximum = torch.maximum(self.maximum, logits.amax(1))
        self.total.mul_(torch.exp(self.maximum.double() - maximum.double()))
        self.maximum = maximum
        torch.sub(logits, maximum[:, None], out=scratch)
        self.total.add_(scratch.clamp_min_(SMALLEST_EXPONENT).exp_().sum(1))

    def _count_larger(
        self, logits: Tensor, scratch: Tensor, found: Tensor, at_targets: Tensor
    ) -> None:
        if self.one_pair_per_row:
            by_pair, flags = logits[: self.n_ranked], scratch[: self.n_ranked]
        else:
            by_pair = logits[self.ranked_rows]
            flags = torch.empty_like(by_pair)
        torch.gt(by_pair, self.estimates[:, None], out=flags)
        self.larger.add_(flags.sum(1).long())
        # The estimate and the tile round differently: a token is never larger than itself.
        ranked = found < len(self.ranked_rows)
        found, at_targets = found[ranked], at_targets[ranked]
        self.larger[found] -= (at_targets > self.estimates[found]).long()

    def _merge_top(self, logits: Tensor, start: int) -> None:
        values, columns = _top_of_tile(logits, self.top_k)
        values = torch.cat([self.top_logits, values], dim=1)
        ids = torch.cat([self.top_ids, columns + start], dim=1)
        self.top_logits, best = values.topk(min(self.top_k, values.shape[1]), dim=1)
        self.top_ids = ids.gather(1, best)

    def _target_logits_ahead(self) -> Tensor:
        """Compute the targets' logits before the sweep, because ranks need them in every tile."""
        tokens = self.pair_tokens[: len(self.ranked_rows)]
        columns = self.readout.unembed[:, tokens].to(self.readout.dtype)
        logits = torch.einsum("pd,dp->p", self.rows[self.ranked_rows], columns)
        if self.readout.unembed_bias is not None:
            logits = logits + self.readout.unembed_bias[tokens].to(logits.dtype)
        return self.readout.transform(logits)


def _to_logits(readout: Readout, tile: Tile) -> Tensor:
    bias = readout.bias_columns(tile.start, tile.stop)
    if bias is not None:
        tile.product.add_(bias)
    return readout.transform(tile.product)


def _top_of_tile(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return the largest entries of each row and their columns.

    The largest k of a row lie in the k groups with the largest maxima, and finding those first is
    several times faster than `topk` over the whole row.
    """
    n_groups = logits.shape[1] // _GROUP
    if logits.shape[1] % _GROUP or n_groups < 4 * top_k:
        values, columns = logits.topk(min(top_k, logits.shape[1]), dim=1)
        return values, columns
    groups = logits.view(len(logits), n_groups, _GROUP)
    best_groups = groups.amax(2).topk(top_k, dim=1).indices
    candidates = groups.gather(1, best_groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    values, index = candidates.topk(top_k, dim=1)
    return values, best_groups.gather(1, index // _GROUP) * _GROUP + index % _GROUP
