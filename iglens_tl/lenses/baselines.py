"""Baselines: the states at which a path through the hidden states begins."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout import Point
from iglens_tl.trace import Needs, Reduction, Trace

BaselineName: TypeAlias = Literal["mean", "mean_causal", "zero", "embed"]

BASELINES = {
    "mean": "mean of the lowest state over all positions of the text, later ones included",
    "mean_causal": "mean of the lowest state over the positions up to the one that is read",
    "zero": "the zero vector",
    "embed": "the lowest state itself, so that the embedding gets no credit",
}
"""The named baselines. Only the first segment depends on the choice."""

if TYPE_CHECKING:
    BaselineLike: TypeAlias = "BaselineName | Baseline | Tensor | np.ndarray | list[float]"
else:  # anything may arrive here; `resolve_baseline` answers with a readable error
    BaselineLike = Any


@dataclass(frozen=True, eq=False)
class Baseline:
    """A resolved baseline.

    Attributes:
        name: One of the names, or "vector".
        vector: The vector of "vector".
        suffix: What its key ends in, where the states that it is made of are not those of a hook.
    """

    name: str
    vector: Float[Tensor, " d_model"] | None = None
    suffix: str = ""

    @property
    def fingerprint(self) -> str:
        """A text that tells the baseline from others, also in another process."""
        if self.vector is None:
            return self.name
        return sha256(self.vector.cpu().double().numpy().tobytes()).hexdigest()

    @property
    def key(self) -> str:
        """A name that no other baseline has."""
        return self.fingerprint + self.suffix

    def of_text(
        self, states: Float[Tensor, "pos d_model"], positions: list[int]
    ) -> Float[Tensor, "baseline d_model"]:
        """Return one baseline state for a text, or one for each read position.

        Args:
            states: The lowest state at every position of the text.
            positions: The read positions.
        """
        if self.vector is not None:
            return self.vector[None].to(states)
        if self.name == "zero":
            return torch.zeros_like(states[:1])
        if self.name == "mean":
            return states.mean(0, keepdim=True)
        if self.name == "mean_causal":
            counts = torch.arange(1, len(states) + 1, device=states.device)
            return (states.cumsum(0) / counts[:, None])[positions]
        return states[positions]


def check_baseline(baseline: BaselineLike) -> str | Baseline:
    """Check a baseline as far as that can be done without a model; a vector becomes a `Baseline`.

    Raises:
        TypeError: For anything but a name or a vector.
        ValueError: For an unknown name, or a vector with NaN or infinity.
    """
    if isinstance(baseline, Baseline):
        return baseline
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(
                f"unknown baseline {baseline!r}; choose one of {', '.join(BASELINES)}, or give a "
                "vector of width d_model"
            )
        return baseline
    if not isinstance(baseline, (Tensor, np.ndarray, list, tuple)):
        raise TypeError(f"baseline must be a name or a vector, got {type(baseline).__name__}")
    vector = torch.as_tensor(baseline).detach()
    if vector.ndim != 1:
        raise ValueError(
            f"the baseline vector has shape {tuple(vector.shape)}, expected (d_model,)"
        )
    if not torch.isfinite(vector).all():
        raise ValueError("the baseline vector has entries that are NaN or infinite")
    return Baseline("vector", vector)


def resolve_baseline(baseline: BaselineLike, *, d_model: int) -> Baseline:
    """Return the baseline of a name or vector, for states of a width.

    Raises:
        TypeError: For anything but a name or a vector.
        ValueError: For an unknown name, or a vector of another width or with NaN or infinity.
    """
    checked = check_baseline(baseline)
    resolved = Baseline(checked) if isinstance(checked, str) else checked
    if resolved.vector is not None and resolved.vector.shape != (d_model,):
        raise ValueError(
            f"the baseline vector has shape {tuple(resolved.vector.shape)}, expected ({d_model},)"
        )
    return resolved


@dataclass(frozen=True)
class Start:
    """The beginning of a path: a baseline that is made of the states at a hook.

    Attributes:
        site: The hook of the lowest state of the path.
        baseline: The baseline.
    """

    site: str
    baseline: Baseline

    @property
    def key(self) -> str:
        """The name of these baselines among what a trace has reduced, and of their point."""
        return f"{self.site}, baseline {self.baseline.key}"

    def needs(self) -> Needs:
        """Return what to keep of the forward pass."""
        of_text: Reduction = self.baseline.of_text
        return Needs(reductions={self.key: (self.site, of_text)})

    def point(self, trace: Trace) -> Point:
        """Return the baselines as a point."""
        states = torch.cat(trace.reduced[self.key])
        rows = self._baseline_of_row(trace)[trace.target_rows]
        return Point(self.key, states, rows, ranked=False)

    def states(self, trace: Trace) -> Float[Tensor, "row d_model"]:
        """Return the baseline of every row of the trace."""
        return torch.cat(trace.reduced[self.key])[self._baseline_of_row(trace)]

    def _baseline_of_row(self, trace: Trace) -> Int[Tensor, " row"]:
        """Return which baseline each row begins at: the text's only one, or the position's own."""
        n_positions = Counter(trace.row_texts)
        chosen, first = [], 0
        for text, baselines in enumerate(trace.reduced[self.key]):
            shared = len(baselines) == 1
            chosen += [first + (0 if shared else place) for place in range(n_positions[text])]
            first += len(baselines)
        return torch.tensor(chosen)
