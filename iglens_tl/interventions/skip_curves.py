"""Skip curves: values when layers are skipped in the order of their credits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.arguments import Count
from iglens_tl.interventions.named_results import (
    Results,
    changes_of_layers,
    check_same_targets,
    named_results,
)
from iglens_tl.lenses.orders.shapley import antithetic_permutations, prefix_coalitions
from iglens_tl.lenses.orders.state_values import STATE_BYTES, value_states
from iglens_tl.models import Model, ModelAdapter, adapt
from iglens_tl.models.skipping import run_skipping
from iglens_tl.prompts import Request, bind_value, token_string
from iglens_tl.readout import Value, ValueLike
from iglens_tl.results import LensData
from iglens_tl.results.curves import ORACLE, RANDOM, SkipCurves
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace


def skip_curves(
    model: Model,
    credits: Results,
    effects: LensResult | None = None,
    *,
    value: ValueLike = "prob",
    first_token: bool = False,
    n_random: Count = 8,
    seed: Count = 0,
) -> SkipCurves:
    """Skip layers in the order of their credits, the most credited first, and read the value.

    Credits that name the layers that matter lose the value early when those layers are skipped
    (deletion), and have it early when only those layers run (insertion). All runs of a text share
    their forward passes.

    Args:
        model: The model of the credits.
        credits: Credits of whole layers, one result or several by name. Of equal credits the lower
            layer comes first.
        effects: Effects of single layers that give the order "oracle"; by default those of skipping
            each layer alone are computed. No order is known to be the best: layers work together.
        value: What is read; it need not be the value of the credits.
        first_token: Whether layers are skipped at the first token too.
        n_random: How many random orders are averaged, even: each comes with its reverse. The
            targets of a text share them.
        seed: Seed of the random orders.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For credits of other parts than whole layers, of another model, or of a whole
            continuation; for results of different targets, a credit called "random" or "oracle", or
            a number of random orders that is not even.
    """
    adapter = adapt(model)
    of_value = _single_token_value(bind_value(adapter, value))
    _check_counts(n_random, seed)
    by_name = named_results(credits, "credits")
    reserved = {RANDOM, ORACLE} & set(by_name)
    if reserved:
        raise ValueError(f"credits may not be called {reserved.pop()!r}, as an order here is")
    quoted = {f"credits {name!r}": result for name, result in by_name.items()}
    check_same_targets(quoted if effects is None else {**quoted, "effects": effects})
    data = next(iter(by_name.values()))
    orders = {
        name: _descending(changes_of_layers(result, adapter.n_layers, f"credits {name!r}"))
        for name, result in by_name.items()
    }
    if effects is not None:
        orders[ORACLE] = _descending(changes_of_layers(effects, adapter.n_layers, "effects"))
    requests, rows_of_text = _requests(adapter, data)
    last_site = adapter.post_site(adapter.n_layers - 1)
    trace = Trace(adapter, requests)
    trace.collect([Needs((last_site,))])
    found: list[Tensor] = []
    names = [*by_name, ORACLE]
    for text, of_request in enumerate(_targets_of_requests(requests)):
        skipping = TextSkipping(trace, of_value, text, of_request, first_token)
        of_text = {name: order[rows_of_text[text]] for name, order in orders.items()}
        if effects is None:
            of_text[ORACLE] = (-skipping.single_effects()).argsort(dim=1, stable=True)
        drawn = antithetic_permutations(adapter.n_layers, n_random, seed + text)
        shared = drawn.expand(len(of_request), -1, -1)
        stacked = torch.stack([of_text[name] for name in names], dim=1)
        values = skipping.along(torch.cat([stacked, shared], dim=1))
        random = values[:, len(names) :].mean(dim=1, keepdim=True)
        found.append(torch.cat([values[:, : len(names)], random], dim=1))
    # The targets of the credits may stand in another order than those of the texts.
    curves = torch.cat(found)[np.argsort(np.concatenate(rows_of_text))].numpy()
    return SkipCurves(
        unit=of_value.unit,
        targets=data.targets,
        deletion={name: curves[:, i, 0] for i, name in enumerate([*names, RANDOM])},
        insertion={name: curves[:, i, 1] for i, name in enumerate([*names, RANDOM])},
    )


def _requests(
    adapter: ModelAdapter, data: LensData
) -> tuple[list[Request], list[Int[np.ndarray, " target"]]]:
    """Return the texts that have targets, and the rows of their targets in the result.

    Raises:
        ValueError: For targets that are no single tokens of the model.
    """
    for target in data.targets:
        token = target.token_id
        if token >= adapter.readout.d_vocab or token_string(adapter, token) != target.token:
            raise ValueError(
                f"the target {target.token!r} is no single token of {adapter.name}: give the model "
                "that the credits were measured on, and credits of single tokens"
            )
    prompts = np.array([target.prompt for target in data.targets])
    requests, rows = [], []
    for prompt in np.unique(prompts):
        of_text = np.flatnonzero(prompts == prompt)
        targets = [data.targets[row] for row in of_text]
        positions = tuple(target.position for target in targets)
        token_ids = tuple(target.token_id for target in targets)
        requests.append(Request(data.texts[prompt].ids, positions, token_ids))
        rows.append(of_text)
    return requests, rows


def _targets_of_requests(requests: Sequence[Request]) -> list[Tensor]:
    sizes = [len(request.target_ids) for request in requests]
    return list(torch.arange(sum(sizes)).split(sizes))


def _descending(changes: Float[np.ndarray, "target layer"]) -> Int[Tensor, "target layer"]:
    return torch.from_numpy(np.argsort(-changes, axis=1, kind="stable"))


def _single_token_value(value: Value) -> Value:
    if value.sums_over_targets:
        raise ValueError(
            f"the value {value.name} adds up a continuation, and curves are read for each token; "
            "use logprob"
        )
    return value


def _check_counts(n_random: Count, seed: Count) -> None:
    for name, number in (("n_random", n_random), ("seed", seed)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an integer, got {type(number).__name__}")
    if n_random < 2 or n_random % 2:
        raise ValueError(
            f"n_random must be even and at least 2, got {n_random}: every random order comes with "
            "its reverse"
        )
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


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
