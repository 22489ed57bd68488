"""The orders in which credit can be given, and which options each of them has.

For fixed break points the shape of a path between them is irrelevant, because credits telescope.
What remains to be chosen is the order of the break points, how credit is shared where several
components move together, and whether the layers above are recomputed. These are the answers on
offer; `path_sensitivity` measures how much they differ.

An order is additive if its credits sum to value(last state) − value(baseline), whatever the model.
"""

from __future__ import annotations

from typing import Any

from iglens_tl.lenses.baselines import Baseline
from iglens_tl.lenses.chain import build_chain
from iglens_tl.lenses.estimators import resolve_estimator
from iglens_tl.lenses.orders.frozen import FrozenChain, FrozenShapley
from iglens_tl.arguments import Count, Layers
from iglens_tl.lenses.orders.order import OrderLens
from iglens_tl.lenses.orders.shapley import resolve_shapley_rule
from iglens_tl.lenses.orders.recomputed import LeaveOneOut, SkipShapley
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.readout import Value

PATHS = {
    "hidden_states": "the states that the model produced, in their order: early exit, each layer "
    "acting on exactly the input that it saw",
    "sublayers": "the same, with the state between attention and MLP of every block",
    "reverse": "the layers' frozen updates added last layer first, the embedding's step at the end",
    "straight": "the straight line from baseline to last state, on which all updates grow together "
    "(Aumann and Shapley 1974)",
    "straight_projected": "the straight line from baseline to last state, cut at the projections "
    "of the states; the cuts may run backwards",
    "straight_uniform": "the straight line cut into equal steps, without regard to the layers",
    "shapley_frozen": "each frozen update's mean credit over all orders of adding them (Shapley "
    "1953)",
    "shapley_skip": "each layer's mean credit over all orders of adding layers to a model that "
    "skips the others, recomputed (Shapley 1953)",
    "leave_one_out": "what skipping each layer alone takes from the final value, recomputed; not "
    "additive",
}
"""The credit orders. All but `leave_one_out` are additive."""

HIDDEN_STATE_PATHS = ("hidden_states", "sublayers")
FROZEN_CHAINS = ("reverse", "straight_projected", "straight_uniform")
SHAPLEY_PATHS = ("shapley_frozen", "shapley_skip")
RECOMPUTED_PATHS = ("shapley_skip", "leave_one_out")
_PATHS_OF_ESTIMATORS = {
    "ps_ig": (*HIDDEN_STATE_PATHS, "straight"),
    "idgi": ("straight",),
    "delta": tuple(path for path in PATHS if path != "straight"),
    "riemann": (*HIDDEN_STATE_PATHS, *FROZEN_CHAINS),
    "gradient": (*HIDDEN_STATE_PATHS, *FROZEN_CHAINS, "straight"),
}


def resolve_path(
    path: str,
    *,
    layers: Layers | None,
    sublayers: bool,
    estimator: str,
    n_permutations: Count | None,
    reference_compat: bool,
) -> str:
    """Check a credit order's name, and that the order has the options that were asked for.

    Raises:
        ValueError: For an unknown name, or an option that the order does not have.
    """
    if not isinstance(path, str) or path not in PATHS:
        raise ValueError(f"unknown path {path!r}; choose one of {', '.join(PATHS)}")
    if sublayers and path not in HIDDEN_STATE_PATHS:
        raise ValueError(f"path={path!r} credits whole layers; leave out sublayers=True")
    if reference_compat and path not in HIDDEN_STATE_PATHS:
        raise ValueError(
            f"the paper's public code has no path={path!r}; leave out reference_compat=True"
        )
    by_layer = path in (*RECOMPUTED_PATHS, "straight") or estimator == "ps_ig"
    if layers is not None and by_layer:
        raise ValueError(
            f"path={path!r} with estimator={estimator!r} credits every layer by itself; leave out "
            "layers, and add the credits of layers if they are to be one"
        )
    if path not in _PATHS_OF_ESTIMATORS.get(estimator, PATHS):
        having = [name for name, paths in _PATHS_OF_ESTIMATORS.items() if path in paths]
        raise ValueError(
            f"path={path!r} has no estimator={estimator!r}, only {', '.join(having)}: where layers "
            "come one after another there are differences to take, and only what grows together "
            "is split"
        )
    if n_permutations is not None and path not in SHAPLEY_PATHS:
        raise ValueError(
            f"path={path!r} samples no permutations; leave out n_permutations, or choose one of "
            f"{', '.join(SHAPLEY_PATHS)}"
        )
    return "sublayers" if sublayers else path


def plan_credit_order(
    adapter: ModelAdapter,
    path: str,
    *,
    layers: Layers | None,
    baseline: Baseline,
    value: Value,
    estimator: str,
    n_steps: Count | None,
    tolerance: float | None,
    top_k: int,
    n_permutations: Count | None,
    seed: Count,
) -> OrderLens:
    """Return the lens of any order but `HIDDEN_STATE_PATHS` and "straight", its options checked."""
    chain = build_chain(adapter, layers=layers)
    common: dict[str, Any] = {
        "adapter": adapter,
        "path": path,
        "value": value,
        "baseline": baseline,
        "chain": chain,
        "layers": None if layers is None else tuple(int(layer) for layer in layers),
    }
    along = resolve_estimator(estimator, n_steps=n_steps, tolerance=tolerance)
    if path in FROZEN_CHAINS:
        return FrozenChain(**common, estimator=along)
    if path == "leave_one_out":
        return LeaveOneOut(**common, top_k=top_k)
    game = {"shapley_frozen": FrozenShapley, "shapley_skip": SkipShapley}[path]
    n_players = len(chain.segments) if path == "shapley_frozen" else adapter.n_layers
    rule = resolve_shapley_rule(n_players, n_permutations=n_permutations, seed=seed)
    return game(**common, rule=rule)
