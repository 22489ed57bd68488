"""Comparing lenses on one forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from iglens_tl.results.comparison import LensComparison
from iglens_tl.arguments import Count
from iglens_tl.lenses.registry import LENSES, Lenses, check_names
from iglens_tl.lenses.base import Lens, run_lenses
from iglens_tl.models.adapter import Model, ModelAdapter, NotApplicableError, adapt
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import ValueLike

DEFAULT_LENSES = ("logit_lens", "direct_logit_attribution", "ig_lens")
"""The lenses that need nothing but one forward pass of any model."""


def compare(
    model: Model,
    prompt: PromptLike,
    *,
    lenses: Lenses = DEFAULT_LENSES,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    value: ValueLike = "prob",
    prepend_bos: bool | None = None,
) -> LensComparison:
    """Measure the same targets with several lenses.

    Lenses that need only states share one forward pass and one sweep over the vocabulary. What the
    lenses measure differs, and so does what their layers sum to:

    | lens | measures | sums to | costs alone |
    |---|---|---|---|
    | logit_lens | level read out after a layer | nothing | 1 forward pass, 1 row per state |
    | tuned_lens | the same through a trained map | nothing | the same, a map per state |
    | ig_lens | change of the level over a layer | p(final) − p(baseline) | as logit_lens |
    | direct_logit_attribution | share of the logit, frozen norm | the logit | 1 forward pass |
    | layer_conductance | change that passes through a layer | all of it in every layer | passes |
    | layer_integrated_gradients | change from a layer's own baseline | that change | passes |
    | jacobian_lens | level through an average Jacobian | nothing | fitting, then as logit_lens |

    Under its default estimator ig_lens is the first difference of logit_lens.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        lenses: Names of lenses, or a mapping from names to options, such as
            `{"ig_lens": {"baseline": "embed"}, "logit_lens": {}}`.
        answer: Measure these tokens after the prompt.
        generate: Measure up to this many greedily generated tokens.
        targets: Measure these candidates for the position after the prompt.
        value: The value of all lenses that have one and whose options do not name another.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        The results side by side. A lens that does not apply to this architecture is left out, with
        the reason in `skipped`.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that a lens does not have.
        ValueError: For an unknown or repeated lens, arguments that do not fit the model, or if no
            lens applies.

    Example:
        >>> from iglens_tl import compare, load_model
        >>> comparison = compare(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> comparison.to_frame().shape
        (1, 27)
    """
    adapter = adapt(model)
    bind_value(adapter, value)
    planned, skipped = _plan(adapter, lenses, value)
    run = run_lenses(
        adapter,
        planned,
        prompt,
        skip_inapplicable=True,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    skipped.update(run.skipped)
    if not run.results:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise ValueError(f"none of the lenses applies to {adapter.name}: {reasons}")
    return LensComparison(
        results=run.results,
        costs={r.lens: cost for r, cost in zip(run.results, run.costs, strict=True)},
        shared_seconds=run.shared_seconds,
        forward_passes=run.n_forward_passes,
        skipped=skipped,
    )


def _plan(
    adapter: ModelAdapter, lenses: Lenses, value: ValueLike
) -> tuple[list[Lens], dict[str, str]]:
    """Return the lenses that apply, and why the others do not."""
    planned: list[Lens] = []
    skipped: dict[str, str] = {}
    for name in check_names(lenses):
        plan = LENSES[name]
        options = dict(lenses[name]) if isinstance(lenses, Mapping) else {}
        known = inspect.signature(plan).parameters
        unknown = [option for option in options if option not in known]
        if unknown:
            raise TypeError(
                f"{name} has no option {unknown[0]!r}; it has "
                f"{', '.join(option for option in known if option != 'adapter')}"
            )
        if "value" in known:
            options.setdefault("value", value)
        try:
            planned.append(plan(adapter, **options))
        except NotApplicableError as error:
            skipped[name] = str(error)
    return planned, skipped
