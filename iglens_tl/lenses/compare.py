"""Comparing lenses on one trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.arguments import Count
from iglens_tl.lenses.base import Lens, configure, measure
from iglens_tl.lenses.conductance import LayerConductance
from iglens_tl.lenses.decomposition.components import Components
from iglens_tl.lenses.dla import DirectLogitAttribution
from iglens_tl.lenses.ig import IGLens
from iglens_tl.lenses.jacobian import JacobianLens
from iglens_tl.lenses.layer_ig import LayerIntegratedGradients
from iglens_tl.lenses.logit import LogitLens
from iglens_tl.lenses.tuned import TunedLens
from iglens_tl.models.adapter import Model
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import ValueLike, resolve_value
from iglens_tl.results.comparison import LensComparison
from iglens_tl.trace import Trace, as_trace

LENSES: dict[str, type[Lens]] = {
    lens.name: lens
    for lens in (
        IGLens,
        LogitLens,
        TunedLens,
        DirectLogitAttribution,
        LayerConductance,
        LayerIntegratedGradients,
        JacobianLens,
        Components,
    )
}
"""The lenses by name."""

DEFAULT_LENSES = ("logit_lens", "direct_logit_attribution", "ig_lens")
"""The lenses that need nothing but one forward pass of any model."""

if TYPE_CHECKING:
    LensLike: TypeAlias = str | Lens
    Lenses: TypeAlias = Sequence[LensLike] | Mapping[str, LensLike | Mapping[str, Any]]
else:  # anything may arrive here; `resolve_lenses` answers with a readable error
    LensLike = Lenses = Any


def compare(
    model: Model | Trace,
    prompt: PromptLike | Lenses | None = None,
    lenses: Lenses | None = None,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    value: ValueLike = "prob",
    prepend_bos: bool | None = None,
) -> LensComparison:
    """Measure the same targets with several lenses.

    Lenses that need only states share one forward pass and one sweep over the vocabulary. What the
    lenses measure differs, and so does what their layers sum to: `LensResult.kind`, and the
    `measures` and `sums_to` of every lens, say so. Under its default estimator `IGLens` is the
    first difference of `LogitLens`.

    Args:
        model: A model, or a `Trace`, which already has its prompt and targets: `compare(trace,
            lenses)`.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        lenses: Lenses or names of lenses, such as `[IGLens(), IGLens(baseline="zero"),
            "logit_lens"]`; or a mapping from labels to lenses, such as `{"mean": IGLens(), "zero":
            IGLens(baseline="zero")}`, or from names of lenses to options. By default those that
            need nothing but one forward pass of any model.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        value: The value of lenses that are given by name and can measure it.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        The results side by side. A lens that does not apply to this architecture is left out, with
        the reason in `skipped`. The same lens may come more than once: without labels its options
        tell its results apart.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that a lens does not have.
        ValueError: For an unknown lens, two equal ones, arguments that do not fit the model, or if
            no lens applies.

    Example:
        >>> from iglens_tl import IGLens, compare, load_model
        >>> comparison = compare(
        ...     load_model("demo"),
        ...     "The capital of Vietnam is",
        ...     answer=" Hanoi",
        ...     lenses=[IGLens(), IGLens(baseline="zero")],
        ... )
        >>> comparison.names
        ('ig_lens', "ig_lens(baseline='zero')")
    """
    given: Any = prompt
    if isinstance(model, Trace) and lenses is None:
        given, lenses = None, given
    made = resolve_lenses(DEFAULT_LENSES if lenses is None else lenses, value=value)
    trace = as_trace(
        model,
        given,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    run = measure(trace, list(made.values()), skip_inapplicable=True)
    labels = list(made)
    skipped = {labels[index]: reason for index, reason in run.skipped.items()}
    if not run.results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ValueError(f"none of the lenses applies to {trace.adapter.name}: {reasons}")
    applied = [label for label in labels if label not in skipped]
    results = [
        result if label == result.lens else replace(result, label=label)
        for label, result in zip(applied, run.results, strict=True)
    ]
    return LensComparison(
        results=tuple(results),
        costs=dict(zip(applied, run.costs, strict=True)),
        shared_seconds=run.shared_seconds,
        forward_passes=run.n_forward_passes,
        skipped=skipped,
    )


def resolve_lenses(lenses: Lenses, *, value: ValueLike = "prob") -> dict[str, Lens]:
    """Return lenses by the labels under which their results stand.

    Args:
        lenses: As in `compare`.
        value: The value of lenses that are given by name and can measure it.

    Raises:
        TypeError: For anything but lenses, names and options, or an option that a lens lacks.
        ValueError: For an unknown lens, two equal ones, or none.
    """
    resolve_value(value)
    if isinstance(lenses, (str, Lens)) or not isinstance(lenses, (Sequence, Mapping)):
        raise TypeError(
            "lenses must be a list of lenses or names, or a mapping from labels to lenses, got "
            f"{lenses!r}"
        )
    if not lenses:
        raise ValueError(f"lenses is empty; choose from {', '.join(LENSES)}")
    if isinstance(lenses, Mapping):
        return {str(label): _labelled(label, lens, value) for label, lens in lenses.items()}
    made = [_made(lens, {}, value) for lens in lenses]
    names = [lens.name for lens in made]
    labels = [_told_apart(lens) if names.count(lens.name) > 1 else lens.name for lens in made]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"lens {label!r} is given twice with the same options")
    return dict(zip(labels, made, strict=True))


def _labelled(label: Any, lens: Any, value: ValueLike) -> Lens:
    if isinstance(lens, Mapping):
        return _made(label, lens, value)
    return _made(lens, {}, value)


def _made(lens: Any, options: Mapping[str, Any], value: ValueLike) -> Lens:
    if isinstance(lens, Lens):
        return lens
    if not isinstance(lens, str):
        raise TypeError(f"a lens must be an object such as IGLens(), or a name, got {lens!r}")
    if lens not in LENSES:
        raise ValueError(f"unknown lens {lens!r}; choose from {', '.join(LENSES)}")
    kind = LENSES[lens]
    chosen = {"value": value} if kind.accepts(value) else {}
    return configure(kind, {**chosen, **options})


def _told_apart(lens: Lens) -> str:
    options = lens.describe_options()
    return f"{lens.name}({options})" if options else lens.name
