"""Products with the unembedding, one vocabulary tile at a time.

A row of logits has d_vocab entries, so whole rows for all layers and tokens do not fit in memory
(1,024 tokens × 17 states × 128,256 entries are 9 GB). A tile is small enough to stay in cache while
everything that is wanted of it is reduced, and every column of W_U is still read only once for
`ROWS_PER_PASS` rows, so that the matrix product stays as fast as an undivided one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout.readout import Readout

ROWS_PER_PASS = 2048
"""How many rows share one sweep over W_U."""

SMALLEST_EXPONENT = -60.0
"""Exponents below the maximum are clamped here: a vocabulary of e^-60 vanishes beside a sum of at
least one even in float64, while smaller results, or their products with weights, are denormal,
which takes a CPU a hundred times longer."""

_TILE_BYTES = {"cpu": 32 * 2**20}
_TILE_BYTES_ON_ACCELERATORS = 256 * 2**20


@dataclass(frozen=True)
class Tile:
    """The columns `start:stop` of a product with W_U.

    Attributes:
        start: The first token id of the tile.
        stop: One past its last token id.
        unembed: These columns of W_U.
        product: Rows times columns. The memory is reused for the next tile: reduce it, do not
            keep it.
    """

    start: int
    stop: int
    unembed: Float[Tensor, "d_model tile"]
    product: Float[Tensor, "row tile"]

    def find(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return which of the token ids lie in the tile, as (their indices, their columns)."""
        inside = ((token_ids >= self.start) & (token_ids < self.stop)).nonzero().squeeze(-1)
        return inside, token_ids[inside] - self.start


def vocabulary_tiles(
    readout: Readout, rows: Float[Tensor, "row d_model"], *, columns: int | None = None
) -> Iterator[Tile]:
    """Multiply rows with W_U tile by tile.

    Args:
        readout: Gives W_U; no bias, norm or transform is applied.
        rows: `[row, d_model]` in the readout's precision and on its device.
        columns: Width of a tile; by default as many as keep it in cache.

    Yields:
        The tiles in order of token id.
    """
    if columns is None:
        columns = tile_columns(readout, len(rows))
    columns = min(columns, readout.d_vocab)
    buffer = torch.empty(len(rows) * columns, dtype=rows.dtype, device=rows.device)
    for start in range(0, readout.d_vocab, columns):
        stop = min(start + columns, readout.d_vocab)
        unembed = readout.unembed_columns(start, stop)
        product = buffer[: len(rows) * (stop - start)].view(len(rows), stop - start)
        torch.mm(rows, unembed, out=product)
        yield Tile(start, stop, unembed, product)


def tile_columns(readout: Readout, n_rows: int) -> int:
    """Return how many vocabulary columns a tile of `n_rows` rows may have."""
    budget = _TILE_BYTES.get(readout.device.type, _TILE_BYTES_ON_ACCELERATORS)
    columns = budget // (max(n_rows, 1) * readout.dtype.itemsize)
    return max(1024, columns - columns % 1024)
