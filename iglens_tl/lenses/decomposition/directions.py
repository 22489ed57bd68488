"""Directions of the residual stream, such as a sparse autoencoder's, as parts of updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.lenses.decomposition.parts import Parts
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.results import segments
from iglens_tl.trace import Trace

if TYPE_CHECKING:
    DirectionsLike: TypeAlias = "Directions | Tensor | np.ndarray | Sequence[Sequence[float]]"
else:  # anything may arrive here; `resolve_directions` answers with a readable error
    DirectionsLike = Any

UPDATES = {
    "layer": "the whole update of a block",
    "attn": "what the attention wrote",
    "mlp": "what the MLP wrote",
}
"""The updates that directions can describe."""


@dataclass(frozen=True, eq=False)
class Directions:
    """A dictionary of directions, and how much of each an update contains.

    Without `encode`, the coefficients are those of least squares, so that the rest is orthogonal to
    all directions.

    Attributes:
        vectors: `[feature, d_model]`, the directions. Their lengths matter only with `encode`; then
            some may be zero, as those of a sparse autoencoder's dead features are.
        update: What is described, one of `UPDATES`.
        layers: The blocks that are described; None for all.
        encode: Maps states or outputs `[row, d_model]` to coefficients `[row, feature]`, such as a
            sparse autoencoder's encoder. With update="layer" the coefficients of an update are the
            difference between those of the states after and before it.
    """

    vectors: Float[Tensor, "feature d_model"]
    update: str = "layer"
    layers: tuple[int, ...] | None = None
    encode: Callable[[Tensor], Tensor] | None = None

    def sites(self, adapter: ModelAdapter, layer: int, before: str) -> list[str]:
        """Return the hooks of what is described of a block that begins at the state `before`."""
        if self.layers is not None and layer not in self.layers:
            return []
        if self.update == "layer":
            return [before, adapter.post_site(layer)]
        site = adapter.attn_site(layer) if self.update == "attn" else adapter.mlp_site(layer)
        return [] if site is None else [site]

    def parts(self, trace: Trace, layer: int, before: str) -> list[Parts]:
        """Return the directions' parts in a block's update; all else is left as the rest."""
        sites = self.sites(trace.adapter, layer, before)
        if not sites:
            return []
        vectors = self.vectors.detach().to(trace.states[sites[0]])
        coefficients = self._coefficients(trace, sites, vectors)

        def shares(gradients: Tensor, targets: Tensor) -> Tensor:
            own = coefficients[trace.target_rows[targets]]
            return (own * (gradients @ vectors.T)).double()

        n_directions = len(vectors)
        labels = [segments.direction_label(layer, number) for number in range(n_directions)]
        return [Parts(labels, shares, rest=segments.rest_label(layer))]

    def _coefficients(
        self, trace: Trace, sites: list[str], vectors: Tensor
    ) -> Float[Tensor, "row feature"]:
        *before, described = [trace.states[site] for site in sites]
        if self.encode is None:
            update = described - before[0] if before else described
            solution = torch.linalg.lstsq(vectors.double().T, update.double().T).solution
            return solution.T.to(vectors)
        with torch.no_grad():
            codes = self.encode(described)
            if before:
                codes = codes - self.encode(before[0])
        expected = (len(described), len(vectors))
        if codes.shape != expected:
            raise ValueError(
                f"encode gave coefficients of shape {tuple(codes.shape)}, expected {expected}: one "
                "for each state and direction"
            )
        return codes.to(vectors)


def resolve_directions(directions: DirectionsLike, adapter: ModelAdapter) -> Directions:
    """Check a dictionary of directions.

    Raises:
        TypeError: For anything but `Directions` or an array of vectors.
        ValueError: For vectors of another width than d_model, NaN or infinite ones, without
            `encode` zero ones or more than least squares can tell apart, an unknown update or
            layers that the model lacks.
    """
    is_given = isinstance(directions, Directions)
    vectors = directions.vectors if is_given else _as_tensor(directions)
    d_model = adapter.readout.d_model
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != d_model:
        raise ValueError(
            f"directions have shape {tuple(vectors.shape)}, expected (number of directions, "
            f"{d_model}): one row of width d_model for each"
        )
    directions = directions if is_given else Directions(vectors)
    sizes = vectors.abs().amax(dim=1)
    bad = ~torch.isfinite(sizes)
    if directions.encode is None:
        bad |= sizes == 0
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(f"direction {first} is zero, NaN or infinite; leave such directions out")
    if directions.update not in UPDATES:
        raise ValueError(
            f"unknown update {directions.update!r} of directions; choose one of "
            f"{', '.join(UPDATES)}"
        )
    for layer in directions.layers or ():
        if not 0 <= layer < adapter.n_layers:
            raise ValueError(
                f"directions for layer {layer}, but {adapter.name} has layers 0 to "
                f"{adapter.n_layers - 1}"
            )
    if directions.encode is None:
        rank = int(torch.linalg.matrix_rank(vectors.double()))
        if rank < len(vectors):
            raise ValueError(
                f"the {len(vectors)} directions span only {rank} dimensions, so that least squares "
                "cannot tell how much of each an update contains; give fewer, or "
                "Directions(vectors, encode=…) with what computes the coefficients"
            )
    return directions


def _as_tensor(directions: Any) -> Tensor:
    if not isinstance(directions, (Tensor, np.ndarray, list, tuple)):
        raise TypeError(
            "directions must be Directions or vectors of shape (number of directions, d_model), "
            f"got {type(directions).__name__}"
        )
    if not isinstance(directions, Tensor):
        directions = np.asarray(directions)  # a list of numbers keeps its precision
    vectors = torch.as_tensor(directions).detach()
    return vectors if vectors.is_floating_point() else vectors.double()
