"""`iglens report`: several lenses, values and the heads of one prompt as one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iglens_tl.cli.messages import (
    kept_warnings,
    new_messages,
    quiet_stdout,
    readable_errors,
    tell_notes,
    tell_written,
)
from iglens_tl.cli.options import (
    AnswerOption,
    BackendOption,
    ChatOption,
    DeviceOption,
    DtypeOption,
    GenerateOption,
    LensesOption,
    ModelOption,
    PromptArgument,
    TargetOption,
    TunedLensOption,
    ValueOption,
    check_outputs,
    read_lenses,
    read_prompt,
)

if TYPE_CHECKING:
    from iglens_tl import LensComparison, LensResult
    from iglens_tl.cli.options import Plan

_DEFAULT = "ig_lens,logit_lens,tuned_lens,direct_logit_attribution"
_VALUES = ("prob", "logprob", "logit")
_MAX_TARGETS_OF_HEADS = 64


def report(
    prompt: PromptArgument,
    html: Annotated[Path, typer.Option(help="The page to write, an HTML file.")],
    lenses: LensesOption = _DEFAULT,
    tuned_lens: TunedLensOption = None,
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
    answer: AnswerOption = None,
    generate: GenerateOption = None,
    target: TargetOption = None,
    chat: ChatOption = False,
    value: ValueOption = "prob",
    backend: BackendOption = "auto",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
) -> None:
    """Write a page to explore one prompt with: every lens and value, and the heads.

    The page needs no network and is below 6 MB. It shows --value first and has probabilities,
    log-probabilities and logits besides. Without --answer, --generate or --target, every next token
    of the text is measured.
    """
    messages = new_messages()
    with readable_errors(messages):
        check_outputs(None, (), html)
        text = read_prompt(prompt, chat)
        plan = read_lenses(lenses, tuned_lens)
        with kept_warnings() as caught, quiet_stdout():
            with messages.status(f"loading {model}"):
                from iglens_tl import load_model
                from iglens_tl.lenses.registry import check_names

                check_names(plan)
                loaded = load_model(model, backend=backend, device=device, dtype=dtype)
            choice = {"answer": answer, "generate": generate, "targets": target or None}
            with messages.status("running the lenses"):
                first, *others = _compare(loaded, text, plan, value, choice)
            missing = _why_no_heads(first, heads, every_token=not any(choice.values()))
            credits = None
            if missing is None:
                text, choice = _same_targets(first, text, choice)
                with messages.status("crediting the heads"):
                    credits, missing = _credit_heads(loaded, text, value, choice, bool(heads))
        notes = [] if missing is None else [missing]
        written = first.report(html, others=others, heads=credits, why_no_heads=missing or "")
        skipped = [f"{name} left out: {reason}" for name, reason in first.skipped.items()]
        tell_notes(messages, [*skipped, *notes], caught)
    tell_written(messages, [written])


def _compare(
    model: Any, text: Any, plan: Plan, value: str, choice: dict[str, Any]
) -> list[LensComparison]:
    """Compare the lenses in the chosen value, then those that can in all others."""
    from iglens_tl import compare
    from iglens_tl.readout import resolve_value

    first = compare(model, text, lenses=plan, value=value, **choice)
    choosing = [r.lens for r in first.results if "value" in r.provenance.options]
    if not choosing:
        return [first]
    if resolve_value(value).sums_over_targets:
        return [_without_single_tokens(first, choosing)]
    again = {name: plan[name] for name in choosing}
    text, choice = _same_targets(first, text, choice)
    return [
        first,
        *(
            compare(model, text, lenses=again, value=other, **choice)
            for other in _VALUES
            if other != value
        ),
    ]


def _without_single_tokens(comparison: LensComparison, summed: list[str]) -> LensComparison:
    """Return a comparison of sums over tokens without the lenses that measure each token."""
    reason = "it measures single tokens, and the value is a sum over them"
    others = {r.lens: reason for r in comparison.results if r.lens not in summed}
    return replace(
        comparison,
        results=tuple(r for r in comparison.results if r.lens in summed),
        skipped={**comparison.skipped, **others},
    )


def _same_targets(
    comparison: LensComparison, text: Any, choice: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return a prompt and choice for the same targets that generate no tokens again."""
    if choice["generate"] is None:
        return text, choice
    ids = list(comparison.results[0].texts[0].ids)
    start = comparison.results[0].targets[0].position + 1
    return ids[:start], {"answer": ids[start:]}


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
    model: Any, text: Any, value: str, choice: dict[str, Any], required: bool
) -> tuple[LensResult | None, str | None]:
    """Return the credits of the heads' reads, or None and why the model has none."""
    from iglens_tl import components
    from iglens_tl.models.adapter import NotApplicableError

    try:
        return components(model, text, by="head_source", value=value, **choice), None
    except NotApplicableError as error:
        if required:
            raise
        return None, f"The heads are left out: {error}."
