"""Reading many states out in one sweep over the vocabulary.

This is all that the level lenses and the `delta` estimator need: one row of a matrix product per
state. Of each row only the log-normaliser, the targets' logits and, if asked for, ranks, most
probable tokens, entropy and divergence are kept. Whatever several lenses want to know is read in
one sweep, so that W_U is read from memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.normalizers import LogNormalizers
from iglens_tl.readout.points import Point, Reading
from iglens_tl.readout.readout import Readout
from iglens_tl.readout.tiles import (
    ROWS_PER_PASS,
    SMALLEST_EXPONENT,
    Tile,
    tile_columns,
    vocabulary_tiles,
)

_GROUP = 64


@torch.no_grad()
def read_points(
    readout: Readout,
    points: Sequence[Point],
    token_ids: Int[Tensor, " target"],
    *,
    top_k: int = 0,
    reference: str | None = None,
) -> dict[str, Reading]:
    """Read states out at the wanted tokens.

    Args:
        readout: The model's readout.
        points: What to read. With a `reference`, all ranked points have as many rows as it.
        token_ids: `[target]` the tokens.
        top_k: How many of the most probable tokens to keep; 0 skips them and the ranks.
        reference: Key of the ranked point that divergences are measured from; None skips entropies
            and divergences.

    Returns:
        The readings by key. Memory beyond them is bounded by `ROWS_PER_PASS` rows and three tiles.
    """
    top_k = min(top_k, readout.d_vocab)
    # Ranked points come first, so that their rows and pairs are a prefix in every pass.
    ordered = sorted(points, key=lambda point: not point.ranked)
    n_rows = sum(len(point) for point in ordered)
    n_passes = -(-n_rows // ROWS_PER_PASS)
    kept = [_Kept(len(token_ids)) for _ in ordered]
    for index in range(n_passes):
        parts = [_part(point, index, n_passes) for point in ordered]
        found = _Pass(readout, parts, token_ids, top_k, reference).run()
        for part, fields, keep in zip(parts, found, kept, strict=True):
            keep.store(part.targets, fields)
    return {
        point.key: Reading(point=point, **keep.fields)
        for point, keep in zip(ordered, kept, strict=True)
    }


def most_probable_token(readout: Readout, state: Float[Tensor, " d_model"]) -> int:
    """Return the token that a state makes most probable."""
    point = Point("state", state[None], torch.zeros(1, dtype=torch.long))
    reading = read_points(readout, [point], torch.zeros(1, dtype=torch.long), top_k=1)["state"]
    assert reading.top_ids is not None
    return int(reading.top_ids[0, 0])


@dataclass(frozen=True)
class _Part:
    """Some rows of a point: the rows, the targets read there, and at which of the rows."""

    point: Point
    first: int
    last: int
    targets: Tensor
    rows: Tensor


def _part(point: Point, index: int, n_parts: int) -> _Part:
    # Points of equal length are cut at the same rows, so that their parts stay aligned.
    first, last = (len(point) * bound // n_parts for bound in (index, index + 1))
    inside = (point.target_rows >= first) & (point.target_rows < last)
    targets = inside.nonzero().squeeze(-1)
    return _Part(point, first, last, targets, point.target_rows[targets] - first)


class _Kept:
    """The readings of one point's parts, put together."""

    def __init__(self, n_targets: int) -> None:
        self.n_targets = n_targets
        self.fields: dict[str, Tensor] = {}

    def store(self, targets: Tensor, fields: dict[str, Tensor]) -> None:
        for name, part in fields.items():
            if name not in self.fields:
                self.fields[name] = part.new_zeros(self.n_targets, *part.shape[1:], device="cpu")
            self.fields[name][targets] = part.cpu()


class _Pass:
    """One sweep over the vocabulary: the ranked rows' reductions, and the others' normalisers."""

    def __init__(
        self,
        readout: Readout,
        parts: list[_Part],
        token_ids: Tensor,
        top_k: int,
        reference: str | None,
    ) -> None:
        self.readout, self.parts, self.top_k, device = readout, parts, top_k, readout.device
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + part.last - part.first)
        pairs = [part.rows + start for part, start in zip(parts, starts, strict=False)]
        ranked = [part.point for part in parts if part.point.ranked]
        self.n_ranked = starts[len(ranked)]
        self.n_ranked_pairs = sum(len(rows) for rows in pairs[: len(ranked)])
        rows = torch.cat([_normalized_rows(readout, part) for part in parts])
        pair_rows = torch.cat(pairs).to(device)
        pair_tokens = torch.cat([token_ids[part.targets] for part in parts]).to(device)
        self.rows = rows[: self.n_ranked]
        self.pair_rows = pair_rows[: self.n_ranked_pairs]
        self.pair_tokens = pair_tokens[: self.n_ranked_pairs]
        self.others_rows = pair_rows[self.n_ranked_pairs :] - self.n_ranked
        self.others = LogNormalizers(
            readout,
            rows[self.n_ranked :],
            self.others_rows,
            pair_tokens[self.n_ranked_pairs :],
        )
        self.target_logits = rows.new_zeros(self.n_ranked_pairs, dtype=torch.float64)
        self.maximum = rows.new_full((self.n_ranked,), -torch.inf)
        self.total = rows.new_zeros(self.n_ranked, dtype=torch.float64)
        self.divergence = None
        if reference is not None and self.n_ranked:
            place = [point.key for point in ranked].index(reference)
            self.divergence = _DivergenceSums(self.n_ranked, len(ranked), place, self.rows)
        if top_k:
            self._prepare_ranks()

    def run(self) -> list[dict[str, Tensor]]:
        scratch = None
        n_rows = len(self.rows) + len(self.others.rows)
        columns = self.others.columns or tile_columns(self.readout, n_rows)
        for tile in vocabulary_tiles(self.readout, self.rows, columns=columns):
            if self.n_ranked:
                if scratch is None or scratch.shape[1] != tile.product.shape[1]:
                    scratch = torch.empty_like(tile.product)
                self._reduce(tile, scratch)
            self.others.add(tile)
        return self._readings()

    def _reduce(self, tile: Tile, scratch: Tensor) -> None:
        logits = _to_logits(self.readout, tile)
        found, columns = tile.find(self.pair_tokens)
        at_targets = logits[self.pair_rows[found], columns]
        self.target_logits[found] = at_targets.double()
        if self.top_k:
            self._count_larger(logits, scratch, found, at_targets)
            self._merge_top(logits, tile.start)
        self._add_exponentials(logits, scratch)

    def _add_exponentials(self, logits: Tensor, scratch: Tensor) -> None:
        maximum = torch.maximum(self.maximum, logits.amax(1))
        rise = maximum.double() - self.maximum.double()
        decay = torch.exp(-rise)
        if self.divergence is not None:
            known_rise = torch.where(rise.isfinite(), rise, 0)
            self.divergence.rescale(self.total, decay, known_rise)
        self.total.mul_(decay)
        self.maximum = maximum
        shifted = torch.sub(logits, maximum[:, None], out=logits)
        if self.divergence is None:
            # Further memory would cost more than the arithmetic.
            weights = shifted.clamp_min_(SMALLEST_EXPONENT).exp_()
        else:
            weights = torch.clamp_min(shifted, SMALLEST_EXPONENT, out=scratch).exp_()
            self.divergence.add(shifted, weights)
        self.total.add_(weights.sum(1))

    def _readings(self) -> list[dict[str, Tensor]]:
        """Return the fields of every part's reading, with a row for each of its targets."""
        log_normalizers = self.maximum.double() + self.total.log()
        of_others, others_normalizers = self.others.finish()
        of_all = {
            "target_logits": torch.cat([self.target_logits, of_others]),
            "log_normalizers": torch.cat(
                [log_normalizers[self.pair_rows], others_normalizers[self.others_rows]]
            ),
        }
        of_ranked = {}
        if self.top_k:
            top_probs = torch.exp(self.top_logits.double() - log_normalizers[:, None])
            of_ranked["ranks"] = self.larger + 1
            of_ranked["top_ids"] = self.top_ids[self.pair_rows]
            of_ranked["top_probs"] = top_probs[self.pair_rows]
        if self.divergence is not None:
            entropies, divergences = self.divergence.finish(self.total)
            of_ranked["entropies"] = entropies[self.pair_rows]
            of_ranked["divergences"] = divergences[self.pair_rows]
        readings = []
        first = 0
        for part in self.parts:
            pairs = slice(first, first + len(part.targets))
            first = pairs.stop
            fields = of_all | of_ranked if part.point.ranked else of_all
            readings.append({name: field[pairs] for name, field in fields.items()})
        return readings

    def _prepare_ranks(self) -> None:
        # With one pair per row, in order, no tile has to be gathered by pair.
        in_order = torch.arange(self.n_ranked, device=self.pair_rows.device)
        self.one_pair_per_row = torch.equal(self.pair_rows, in_order)
        self.estimates = self._target_logits_ahead()
        self.larger = torch.zeros_like(self.pair_rows)
        self.top_logits = self.rows.new_zeros(self.n_ranked, 0)
        self.top_ids = self.pair_rows.new_zeros(self.n_ranked, 0)

    def _count_larger(
        self, logits: Tensor, scratch: Tensor, found: Tensor, at_targets: Tensor
    ) -> None:
        if self.one_pair_per_row:
            by_pair, flags = logits, scratch
        else:
            by_pair = logits[self.pair_rows]
            flags = torch.empty_like(by_pair)
        torch.gt(by_pair, self.estimates[:, None], out=flags)
        self.larger.add_(flags.sum(1).long())
        # The estimate and the tile round differently: a token is never larger than itself.
        self.larger[found] -= (at_targets > self.estimates[found]).long()

    def _merge_top(self, logits: Tensor, start: int) -> None:
        values, columns = _top_of_tile(logits, self.top_k)
        values = torch.cat([self.top_logits, values], dim=1)
        ids = torch.cat([self.top_ids, columns + start], dim=1)
        self.top_logits, best = values.topk(min(self.top_k, values.shape[1]), dim=1)
        self.top_ids = ids.gather(1, best)

    def _target_logits_ahead(self) -> Tensor:
        """Compute the targets' logits before the sweep, because ranks need them in every tile."""
        columns = self.readout.unembed[:, self.pair_tokens].to(self.readout.dtype)
        logits = torch.einsum("pd,dp->p", self.rows[self.pair_rows], columns)
        if self.readout.unembed_bias is not None:
            logits = logits + self.readout.unembed_bias[self.pair_tokens].to(logits.dtype)
        return self.readout.transform(logits)


class _DivergenceSums:
    """Running sums for the entropy of every row and its divergence from a reference row.

    The rows are several points of equal length, one after the other; row i of each is compared with
    row i of the reference point. With u = z − max z and weights e^u, both numbers need only sums of
    weights times u, so that nothing of the size of the vocabulary is kept:
    entropy = log Σ e^u − Σ e^u u / Σ e^u, and KL(r ‖ i) = Σ p_r log p_r − Σ p_r log p_i.
    """

    def __init__(self, n_rows: int, n_points: int, reference: int, like: Tensor) -> None:
        self.shape = (n_points, n_rows // n_points)
        self.reference = reference
        self.own = like.new_zeros(n_rows, dtype=torch.float64)
        self.cross = like.new_zeros(self.shape, dtype=torch.float64)

    def rescale(self, total: Tensor, decay: Tensor, rise: Tensor) -> None:
        """Move the sums to new maxima.

        Args:
            total: `[row]` Σ e^u so far, for the old maxima.
            decay: `[row]` e^(old − new maximum).
            rise: `[row]` new − old maximum, 0 before the first tile.
        """
        self.own = decay * (self.own - rise * total)
        of_reference = total.view(self.shape)[self.reference]
        self.cross -= rise.view(self.shape) * of_reference
        self.cross *= decay.view(self.shape)[self.reference]

    def add(self, shifted: Tensor, weights: Tensor) -> None:
        """Add a tile: `[row, column]` u and e^u."""
        self.own += torch.linalg.vecdot(weights, shifted).double()
        by_point = shifted.view(*self.shape, -1)
        of_reference = weights.view(*self.shape, -1)[self.reference]
        self.cross += torch.einsum("pc,npc->np", of_reference, by_point).double()

    def finish(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entropies and divergences `[row]`, given all of Σ e^u."""
        entropies = total.log() - self.own / total
        totals = total.view(self.shape)
        crossed = self.cross / totals[self.reference] - totals.log()
        divergences = crossed[self.reference] - crossed
        # Rounding may leave a hair below zero, which no divergence is.
        return entropies.clamp_min(0), divergences.clamp_min(0).reshape(-1)


def _normalized_rows(readout: Readout, part: _Part) -> Tensor:
    scale = part.point.scale
    chosen = slice(part.first, part.last)
    return readout.normalize(part.point.states[chosen], None if scale is None else scale[chosen])


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
