"""`iglens report`: several lenses, values and the heads of one prompt as one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iglens_tl.cli.messages import command_messages, tell_notes, tell_written
from iglens_tl.cli.options import (
    BackendOptions,
    LensOptions,
    ModelOption,
    PromptOptions,
    ValueOption,
    check_outputs,
    grouped,
)

if TYPE_CHECKING:
    from iglens_tl import Lens, LensComparison, LensResult, Trace

_DEFAULT = "ig_lens,logit_lens,tuned_lens,direct_logit_attribution"
_VALUES = ("prob", "logprob", "logit")
_MAX_TARGETS_OF_HEADS = 256


@grouped
def report(
    asked: PromptOptions,
    html: Annotated[Path, typer.Option(help="The page to write, an HTML file.")],
    lenses: LensOptions,
    backend: BackendOptions,
    heads: Annotated[
        bool | None,
        typer.Option(
            "--heads/--no-heads",
            help="Credit the heads and what they read. By default unless every next token of a "
            f"text of more than {_MAX_TARGETS_OF_HEADS} is measured.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = "demo",
    value: ValueOption = "prob",
) -> None:
    """Write a page to explore one prompt with: every lens and value, and the heads.

    The page needs no network and is below 6 MB. It shows --value first and has probabilities,
    log-probabilities and logits besides. Without --answer, --generate or --target, every next token
    of the text is measured.
    """
    with command_messages() as messages:
        check_outputs(None, (), html)
        text = asked.read()
        made = lenses.make(_DEFAULT, value)
        loaded = backend.load(model, messages)
        with messages.status("running the lenses"):
            from iglens_tl import trace_prompt

            trace = trace_prompt(loaded, text, **asked.choice)
            first, *others = _compare(trace, made, value)
        missing = _why_no_heads(first, heads, every_token=not any(asked.choice.values()))
        credits = None
        if missing is None:
            with messages.status("crediting the heads"):
                credits, missing = _credit_heads(trace, value, required=bool(heads))
        written = first.report(html, others=others, heads=credits, why_no_heads=missing or "")
        skipped = [f"{name} left out: {reason}" for name, reason in first.skipped.items()]
        tell_notes(messages, [*skipped, *([] if missing is None else [missing])])
        tell_written(messages, [written])


def _compare(trace: Trace, lenses: dict[str, Lens], value: str) -> list[LensComparison]:
    """Compare the lenses in the chosen value, then those that can in all others."""
    from iglens_tl import compare
    from iglens_tl.readout import resolve_value

    first = compare(trace, lenses)
    if resolve_value(value).sums_over_targets:
        return [_without_single_tokens(first, lenses, value)]
    others = []
    for other in _VALUES:
        able = {name: lenses[name] for name in first.names if lenses[name].accepts(other)}
        # What cannot measure the first value shows its own, once.
        again = {name: lens for name, lens in able.items() if lens.accepts(value)}
        if other != value and again:
            made = {name: replace(lens, value=other) for name, lens in again.items()}
            others.append(compare(trace, made))
    return [first, *others]


def _without_single_tokens(
    comparison: LensComparison, lenses: dict[str, Lens], value: str
) -> LensComparison:
    """Return a comparison of sums over tokens without the lenses that measure each token."""
    reason = "it measures single tokens, and the value is a sum over them"
    named = dict(zip(comparison.names, comparison.results, strict=True))
    others = {name: reason for name in named if not lenses[name].accepts(value)}
    return replace(
        comparison,
        results=tuple(result for name, result in named.items() if name not in others),
        skipped={**comparison.skipped, **others},
    )


def _why_no_heads(
    comparison: LensComparison, heads: bool | None, *, every_token: bool
) -> str | None:
    """Return why the heads are left out, or None if they are to be credited."""
    count = len(comparison.results[0].targets)
    if heads is None and every_token and count > _MAX_TARGETS_OF_HEADS:
        return (
            f"The heads are left out, because {count} tokens are measured, more than "
            f"{_MAX_TARGETS_OF_HEADS}; --heads credits them all the same, and --answer, --generate "
            "or --target choose fewer tokens."
        )
    return "The heads are left out, as asked (--no-heads)." if heads is False else None


def _credit_heads(
    trace: Trace, value: str, *, required: bool
) -> tuple[LensResult | None, str | None]:
    """Return the credits of the heads' reads, or None and why the model has none."""
    from iglens_tl import Components
    from iglens_tl.models.adapter import NotApplicableError

    try:
        return Components(by="head_source", value=value)(trace), None
    except NotApplicableError as error:
        if required:
            raise
        return None, f"The heads are left out: {error}."
