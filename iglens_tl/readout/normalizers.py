"""Log-normalisers of rows of logits, and the logits of some tokens, in as few steps as possible.

Where nothing else is wanted of a row, log Σ e^z takes an exponential and a sum for each entry. The
maximum, which is subtracted so that nothing overflows, takes three more steps, as many as a narrow
model's matrix product: so it is estimated from a few tokens, subtracted only where the estimate is
large, and whatever leaves the range of float32 all the same is computed anew with the maximum.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.readout import Readout
from iglens_tl.readout.tiles import SMALLEST_EXPONENT, Tile, vocabulary_tiles

_SAMPLED_TOKENS = 64
_LARGEST_UNSHIFTED = 40.0
# Sums within these are far from what float32 cannot hold.
_SMALLEST_TOTAL, _LARGEST_TOTAL = 1e-20, 1e30
# Below this width a product takes so little time that its rows are reduced while they are in cache.
_NARROW = 512
_ROWS_IN_CACHE = 256
_COLUMNS_IN_CACHE = 4096


class LogNormalizers:
    """Running sums of e^z over the vocabulary, for rows of which nothing else is wanted.

    Attributes:
        columns: How many columns of W_U a tile should have; None for any.
    """

    def __init__(
        self,
        readout: Readout,
        rows: Float[Tensor, "row d_model"],
        pair_rows: Int[Tensor, " pair"],
        pair_tokens: Int[Tensor, " pair"],
    ) -> None:
        """Begin the sums.

        Args:
            readout: The model's readout.
            rows: Normalised states.
            pair_rows: The rows of pairs of a row and a token.
            pair_tokens: The tokens whose logits are wanted there.
        """
        self.readout, self.rows = readout, rows
        # In the order of rows, so that the pairs of some rows stand together.
        self.order = pair_rows.argsort(stable=True)
        self.pair_rows, self.pair_tokens = pair_rows[self.order], pair_tokens[self.order]
        self.target_logits = rows.new_zeros(len(pair_rows), dtype=torch.float64)
        self.total = rows.new_zeros(len(rows), dtype=torch.float64)
        is_narrow = rows.device.type == "cpu" and readout.d_model < _NARROW
        self.rows_at_once = min(len(rows), _ROWS_IN_CACHE) if is_narrow else len(rows)
        self.columns = _COLUMNS_IN_CACHE if is_narrow and len(rows) else None
        self.shift: Tensor | None = None
        self.smallest: float | None = None
        if len(rows):
            self._choose_shift()
        self._buffer = rows.new_empty(0)

    def add(self, tile: Tile) -> None:
        """Add a tile's columns to all sums."""
        if not len(self.rows):
            return
        width = tile.stop - tile.start
        if len(self._buffer) < self.rows_at_once * width:
            self._buffer = self.rows.new_empty(self.rows_at_once * width)
        bias = self.readout.bias_columns(tile.start, tile.stop)
        found, columns = tile.find(self.pair_tokens)
        rows_found = self.pair_rows[found]
        starts = range(0, len(self.rows), self.rows_at_once)
        bounds = torch.tensor([*starts, len(self.rows)], device=rows_found.device)
        ends = torch.searchsorted(rows_found, bounds).tolist()
        for place, first in enumerate(starts):
            chosen = slice(first, first + self.rows_at_once)
            rows = self.rows[chosen]
            logits = self._buffer[: len(rows) * width].view(len(rows), width)
            torch.mm(rows, tile.unembed, out=logits)
            if bias is not None:
                logits.add_(bias)
            logits = self.readout.transform(logits)
            pairs = slice(ends[place], ends[place + 1])
            at_targets = logits[rows_found[pairs] - first, columns[pairs]]
            self.target_logits[found[pairs]] = at_targets.double()
            if self.shift is not None:
                logits.sub_(self.shift[chosen, None])
            if self.smallest is not None:
                logits.clamp_min_(self.smallest)
            self.total[chosen].add_(logits.exp_().sum(1))

    def finish(self) -> tuple[Float[Tensor, " pair"], Float[Tensor, " row"]]:
        """Return the logits of all pairs, in their order, and the log-normalisers of all rows."""
        target_logits = torch.empty_like(self.target_logits)
        target_logits[self.order] = self.target_logits
        log_normalizers = self.total.log()
        if self.shift is not None:
            log_normalizers += self.shift
        is_lost = ~((self.total > _SMALLEST_TOTAL) & (self.total < _LARGEST_TOTAL))
        if bool(is_lost.any()):
            log_normalizers[is_lost] = _with_maximum(self.readout, self.rows[is_lost])
        return target_logits, log_normalizers

    def _choose_shift(self) -> None:
        step = max(1, self.readout.d_vocab // _SAMPLED_TOKENS)
        logits = self.rows @ self.readout.unembed[:, ::step].to(self.rows.dtype)
        if self.readout.unembed_bias is not None:
            logits += self.readout.unembed_bias[::step].to(logits.dtype)
        low, high = torch.aminmax(self.readout.transform(logits), dim=1)
        if float(high.abs().max()) > _LARGEST_UNSHIFTED:
            self.shift = high
            low = low - high
        # Denormal numbers take a CPU a hundred times longer.
        if float(low.min()) < SMALLEST_EXPONENT / 2:
            self.smallest = SMALLEST_EXPONENT


def _with_maximum(readout: Readout, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Return log Σ e^z in float64, whatever the size of the logits."""
    found = rows.new_full((len(rows),), -torch.inf, dtype=torch.float64)
    for tile in vocabulary_tiles(readout, rows):
        bias = readout.bias_columns(tile.start, tile.stop)
        logits = tile.product if bias is None else tile.product.add_(bias)
        of_tile = readout.transform(logits).double().logsumexp(1)
        found = torch.logaddexp(found, of_tile)
    return found
