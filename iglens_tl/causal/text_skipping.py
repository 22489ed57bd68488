"""The values of one text's targets when only some of the layers run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.lenses.orders.shapley import prefix_coalitions
from iglens_tl.lenses.orders.state_values import STATE_BYTES, value_states
from iglens_tl.models.skipping import run_skipping
from iglens_tl.readout import Value
from iglens_tl.trace import Trace


@dataclass(frozen=True)
class TextSkipping:
    """The targets of one text, to be valued with some of the layers skipped.

    Attributes:
        trace: All texts.
        value: What is read.
        text: The number of the text in the trace.
        targets: Its targets in the trace.
        first_token: Whether layers are skipped at the first token too.
    """

    trace: Trace
    value: Value
    text: int
    targets: Int[Tensor, " target"]
    first_token: bool

    def single_effects(self) -> Float[Tensor, "target layer"]:
        """Return what skipping each layer alone takes from the value."""
        n_layers = self.trace.adapter.n_layers
        keep = torch.cat([~torch.eye(n_layers, dtype=torch.bool), torch.ones(1, n_layers).bool()])
        values = self.values(keep.expand(len(self.targets), -1, -1))
        return values[:, -1:] - values[:, :-1]

    def along(
        self, orders: Int[Tensor, "target order layer"]
    ) -> Float[Tensor, "target order way step"]:
        """Return the values of deletion and insertion along orders of each target."""
        prefixes = prefix_coalitions(orders.flatten(0, 1)).unflatten(0, orders.shape[:2])
        ways = torch.stack([~prefixes, prefixes], dim=2)
        return self.values(ways.flatten(1, 3)).unflatten(1, ways.shape[1:4])

    def values(
        self, keep: Bool[Tensor, "target coalition layer"]
    ) -> Float[Tensor, "target coalition"]:
        """Return each target's values when only some layers run, a few coalitions at a time."""
        trace, request = self.trace, self.trace.requests[self.text]
        positions = sorted(set(request.positions))
        columns = torch.tensor([positions.index(position) for position in request.positions])
        coalitions, place = keep.flatten(0, 1).unique(dim=0, return_inverse=True)
        n_targets, n_columns = len(self.targets), len(positions)
        own = torch.arange(n_targets)[:, None].expand(keep.shape[:2]).flatten()
        # A target meets some coalitions several times: all layers, none, and shared prefixes.
        pairs, meeting = (place * n_targets + own).unique(return_inverse=True)
        of_pair, target = pairs // n_targets, pairs % n_targets
        readout = trace.adapter.readout
        size = max(1, STATE_BYTES // (n_columns * readout.d_model * readout.dtype.itemsize))
        values = []
        for first in range(0, len(coalitions), size):
            part = coalitions[first : first + size]
            states = run_skipping(
                trace.adapter, request.ids, part, positions, first_token=self.first_token
            )
            chosen = (of_pair >= first) & (of_pair < first + size)
            rows = (of_pair[chosen] - first) * n_columns + columns[target[chosen]]
            used, rows = rows.unique(return_inverse=True)
            read = states.flatten(0, 1)[used.to(states.device)]
            pair_targets = self.targets[target[chosen]]
            values.append(value_states(trace, self.value, read, rows, pair_targets))
        return torch.cat(values)[meeting].view(keep.shape[:2])
