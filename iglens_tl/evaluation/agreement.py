"""Agreement of credits with the effects of interventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.arguments import Count
from iglens_tl.evaluation.metrics import Metric, metrics
from iglens_tl.interventions.named_results import (
    Results,
    check_same_targets,
    named_results,
    shorten,
)
from iglens_tl.interventions.skip_curves import skip_curves
from iglens_tl.lenses.compare import Lenses, compare
from iglens_tl.models import Model
from iglens_tl.readout import ValueLike
from iglens_tl.results.agreement import SHUFFLED, common_changes
from iglens_tl.results.comparison import LensComparison
from iglens_tl.results.curves import RANDOM
from iglens_tl.results.frames import TARGET_COLUMNS, target_index
from iglens_tl.results.lens import LensResult
from iglens_tl.results.segments import parse_segment
from iglens_tl.results.statistics import average
from iglens_tl.trace import Trace

if TYPE_CHECKING:
    Counts: TypeAlias = Sequence[int]
else:  # anything may arrive here; `agreement` answers with a readable error
    Counts = Any

SKIP_CURVES = "skip curves"
"""The name that stands for the effects in rows of curve metrics."""

_N_SHUFFLES = 20
_REASONS_OF_CURVES = {
    "share_of_oracle": "skipping layers in the order of their own effects gains nothing"
}


def agreement(
    credits: Results | Lenses,
    effects: Results | Lenses,
    *,
    trace: Trace | None = None,
    model: Model | None = None,
    value: ValueLike = "prob",
    overlaps: Counts = (1, 3, 5),
    nulls: bool = False,
    first_token: bool = False,
    n_random: Count = 8,
    n_resamples: Count = 2000,
    seed: Count = 0,
) -> pd.DataFrame:
    """Average over targets how far credits agree with causal effects.

    Every result of one side is compared with every result of the other, target by target, on the
    segments that both have. Those of no block, such as "embed", are left out: nothing intervenes
    there. A level lens is compared by the differences of its levels.

    | metric | measures | perfect |
    |---|---|---|
    | spearman, kendall (tau-b) | equal order | 1 |
    | pearson | signed values on a line | 1 |
    | sign_agreement | share of segments with equal sign | 1 |
    | top_k_overlap | share of the k largest that both have | 1 |
    | ndcg | effects that the ranking by credit finds first | 1 |
    | routing_gap | Σ|effect − credit| / Σ|effect| | 0 |
    | calibration_slope | effect per credit | 1 |

    With a model, the curves of `skip_curves` add the areas that its `areas` describes.

    Args:
        credits: What is put to the test: one result, several by name, or a comparison; with a
            trace also lenses, as `compare` takes them.
        effects: What it is tested against, from `layer_effects`: one result or several by name;
            with a trace also lenses, such as `[LayerEffects(), LayerEffects(intervention="mean")]`.
        trace: What lenses among the credits and effects measure.
        model: The model of the credits; adds the curve metrics, with the name "skip curves" in
            place of the effects.
        value: What the curves read.
        overlaps: For which numbers of segments the overlap is measured.
        nulls: Add rows for every credits with its segments permuted at random within each target,
            the mean over 20 permutations ("…, layers shuffled"): what agreement chance gives. For
            the curves these are random orders.
        first_token: Whether the curves skip layers at the first token too.
        n_random: How many random orders the curves average.
        n_resamples: How many bootstrap samples give the intervals.
        seed: Seed of permutations, random orders and bootstrap samples.

    Returns:
        One row per credits, effects and metric: `mean` over the targets for which it is defined,
        `low` and `high`, the ends of its 95 % bootstrap interval, `items`, the number of these
        targets, and `note`. Prompts are drawn, with all their targets, because targets of one text
        are not independent. What cannot be computed is missing, and `note` says why.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: If the results have different targets or fewer than two segments in common, for
            options out of range, and as `skip_curves` does.

    Example:
        >>> from iglens_tl import ig_lens, layer_effects, load_model
        >>> model = load_model("demo")
        >>> prompts = ["The capital of Vietnam is", "The capital of Japan is"]
        >>> asked = {"prompt": prompts, "answer": [" Hanoi", " Tokyo"]}
        >>> stopping = layer_effects(model, **asked, intervention="early_exit")
        >>> table = agreement(ig_lens(model, **asked), stopping)
        >>> table.set_index("metric").loc[["kendall", "routing_gap"], "mean"].round(4).tolist()
        [1.0, 0.0]
    """
    _check_options(overlaps, n_resamples, seed)
    options = {"value": value, "first_token": first_token, "n_random": n_random}
    sides = _measured(credits, trace), _measured(effects, trace)
    scores = _all_scores(*sides, model, metrics(overlaps), nulls, seed, **options)
    parts = []
    for score in scores:
        prompts = score.index["prompt"].to_numpy()
        for name, numbers in score.numbers.items():
            row = average(
                numbers,
                prompts,
                reason=score.reasons.get(name, ""),
                n_resamples=n_resamples,
                seed=seed,
            )
            named = {"credits": score.credits, "effects": score.effects, "metric": name}
            parts.append({**named, **row})
    columns = dict.fromkeys(("mean", "low", "high"), "Float64")
    return pd.DataFrame(parts).astype(columns)


def agreement_by_item(
    credits: Results | Lenses,
    effects: Results | Lenses,
    *,
    trace: Trace | None = None,
    model: Model | None = None,
    value: ValueLike = "prob",
    overlaps: Counts = (1, 3, 5),
    nulls: bool = False,
    first_token: bool = False,
    n_random: Count = 8,
    seed: Count = 0,
) -> pd.DataFrame:
    """Compare credits with causal effects target by target.

    Args:
        credits: As in `agreement`, as are all others.
        effects: What the credits are tested against.
        trace: What lenses among the credits and effects measure.
        model: The model of the credits, for the curve metrics.
        value: What the curves read.
        overlaps: For which numbers of segments the overlap is measured.
        nulls: Add rows for permuted segments.
        first_token: Whether the curves skip layers at the first token too.
        n_random: How many random orders the curves average.
        seed: Seed of permutations and random orders.

    Returns:
        One row per credits, effects and target (prompt, position, token_id, token) with one column
        for each metric; missing where a metric is undefined. Curve metrics have rows of their own,
        with "skip curves" in place of the effects.

    Raises:
        TypeError: As `agreement`.
        ValueError: As `agreement`.
    """
    _check_options(overlaps, 1, seed)
    options = {"value": value, "first_token": first_token, "n_random": n_random}
    sides = _measured(credits, trace), _measured(effects, trace)
    scores = _all_scores(*sides, model, metrics(overlaps), nulls, seed, **options)
    parts = []
    for score in scores:
        part = score.index.assign(**score.numbers)
        part.insert(0, "credits", score.credits)
        part.insert(1, "effects", score.effects)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    names = [name for name in table.columns[2:] if name not in TARGET_COLUMNS]
    return table.astype(dict.fromkeys(names, "Float64"))


def _measured(side: Any, trace: Trace | None) -> Any:
    """Return the results of one side, which may be lenses where there is a trace to measure."""
    is_results = isinstance(side, (LensResult, LensComparison))
    if isinstance(side, Mapping):
        is_results = any(isinstance(result, LensResult) for result in side.values())
    return side if trace is None or is_results else compare(trace, side)


@dataclass(frozen=True)
class _Scores:
    """The metrics of one pair, for every target.

    Attributes:
        credits: The name of the credits.
        effects: The name of the effects.
        index: One row per target: what names it.
        numbers: By metric, `[target]`; NaN where undefined.
        reasons: By metric, why it may be undefined.
    """

    credits: str
    effects: str
    index: pd.DataFrame
    numbers: dict[str, Float[np.ndarray, " target"]]
    reasons: dict[str, str] = field(default_factory=dict)


def _all_scores(
    credits: Results,
    effects: Results,
    model: Model | None,
    wanted: list[Metric],
    nulls: bool,
    seed: int,
    **curve_options: Any,
) -> list[_Scores]:
    of_credits, of_effects = named_results(credits, "credits"), named_results(effects, "effects")
    scores = [
        score
        for credit in of_credits.items()
        for effect in of_effects.items()
        for score in _scores_of_pair(credit, effect, wanted, nulls, seed)
    ]
    if model is None:
        return scores
    curves = skip_curves(model, of_credits, seed=seed, **curve_options)
    for name, credit in of_credits.items():
        orders = {name: name} | ({name + SHUFFLED: RANDOM} if nulls else {})
        index = target_index(credit).to_frame(index=False)
        scores += [
            _Scores(shown, SKIP_CURVES, index, curves.areas_of(order), _REASONS_OF_CURVES)
            for shown, order in orders.items()
        ]
    return scores


def _scores_of_pair(
    credit: tuple[str, LensResult],
    effect: tuple[str, LensResult],
    wanted: list[Metric],
    nulls: bool,
    seed: int,
) -> list[_Scores]:
    """Compare two results, and the effects with permuted credits."""
    names = f"credits {credit[0]!r}", f"effects {effect[0]!r}"
    check_same_targets({names[0]: credit[1], names[1]: effect[1]})
    left, right = _comparable_changes(credit[1], effect[1], names)
    units = credit[1].unit, effect[1].unit
    reasons = {metric.name: metric.undefined for metric in wanted}
    if units[0] != units[1]:
        other = f"credits in {units[0]}, effects in {units[1]}"
        reasons |= {metric.name: other for metric in wanted if metric.same_unit}

    def measure(changes: np.ndarray, metric: Metric) -> np.ndarray:
        if metric.same_unit and units[0] != units[1]:
            return np.full(len(changes), np.nan)
        return metric.measure(changes, right)

    index = target_index(credit[1]).to_frame(index=False)
    found = {metric.name: measure(left, metric) for metric in wanted}
    scores = [_Scores(credit[0], effect[0], index, found, reasons)]
    if nulls:
        rng = np.random.default_rng(seed)
        drawn = [rng.permuted(left, axis=1) for _ in range(_N_SHUFFLES)]
        found = {
            metric.name: _mean_of_defined(np.stack([measure(one, metric) for one in drawn]))
            for metric in wanted
        }
        scores.append(_Scores(credit[0] + SHUFFLED, effect[0], index, found, reasons))
    return scores


def _comparable_changes(
    credits: LensResult, effects: LensResult, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    segments, left, right = common_changes(credits, effects)
    of_blocks = [i for i, label in enumerate(segments) if parse_segment(label).layer is not None]
    if len(of_blocks) < 2:
        raise ValueError(
            f"{names[0]} and {names[1]} can be compared on {len(of_blocks)} segments of blocks, "
            f"and an order needs two: {names[0]} has {shorten(credits.segments)}; {names[1]} has "
            f"{shorten(effects.segments)}; measure the same unit on both sides"
        )
    return left[:, of_blocks], right[:, of_blocks]


def _mean_of_defined(
    numbers: Float[np.ndarray, "draw target"],
) -> Float[np.ndarray, " target"]:
    defined = ~np.isnan(numbers)
    count = defined.sum(axis=0)
    total = np.where(defined, numbers, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _check_options(overlaps: Counts, n_resamples: Count, seed: Count) -> None:
    if isinstance(overlaps, str) or not isinstance(overlaps, Sequence):
        raise TypeError(f"overlaps must be a list of numbers of segments, got {overlaps!r}")
    smallest = [("overlaps", k, 1) for k in overlaps]
    for name, number, least in [*smallest, ("n_resamples", n_resamples, 1), ("seed", seed, 0)]:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an integer, got {number!r}")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
