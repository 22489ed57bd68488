"""`iglens compare`: several lenses on one prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from iglens_tl.cli.messages import (
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
    Format,
    FormatOption,
    GenerateOption,
    HtmlOption,
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
    from iglens_tl import LensComparison

_DEFAULT = "logit_lens,direct_logit_attribution,ig_lens"


def compare(
    prompt: PromptArgument,
    lenses: LensesOption = _DEFAULT,
    tuned_lens: TunedLensOption = None,
    model: ModelOption = "demo",
    answer: AnswerOption = None,
    generate: GenerateOption = None,
    target: TargetOption = None,
    chat: ChatOption = False,
    value: ValueOption = "prob",
    backend: BackendOption = "auto",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    format: FormatOption = Format.table,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the comparison to a .json file, or its tidy table to .csv."),
    ] = None,
    html: HtmlOption = None,
) -> None:
    """Measure the same tokens with several lenses, side by side.

    Without --answer, --generate or --target, every next token of the text is measured.
    """
    messages = new_messages()
    with readable_errors(messages):
        check_outputs(out, (".csv", ".json"), html)
        text = read_prompt(prompt, chat)
        plan = read_lenses(lenses, tuned_lens)
        with quiet_stdout():
            with messages.status(f"loading {model}"):
                from iglens_tl import compare as compare_lenses
                from iglens_tl import load_model
                from iglens_tl.lenses.registry import check_names

                check_names(plan)
                loaded = load_model(model, backend=backend, device=device, dtype=dtype)
            with messages.status("running the lenses"):
                comparison = compare_lenses(
                    loaded,
                    text,
                    lenses=plan,
                    answer=answer,
                    generate=generate,
                    targets=target or None,
                    value=value,
                )
        skipped = comparison.skipped.items()
        tell_notes(messages, [f"{name} left out: {reason}" for name, reason in skipped])
        _write_files(comparison, out, html, messages)
    _print_comparison(comparison, format)


def _write_files(
    comparison: LensComparison, out: Path | None, html: Path | None, messages: Console
) -> None:
    from iglens_tl.files import write_atomically
    from iglens_tl.views.html import write_html

    written = []
    if out is not None and out.suffix.lower() == ".csv":
        tidy = comparison.to_frame(tidy=True)
        written.append(write_atomically(out, lambda path: tidy.to_csv(path, index=False)))
    elif out is not None:
        written.append(comparison.save(out))
    if html is not None:
        written.append(write_html(comparison.figure(), html))
    tell_written(messages, written)


def _print_comparison(comparison: LensComparison, format: Format) -> None:
    if format is Format.json:
        typer.echo(comparison.to_json())
    elif format is Format.csv:
        typer.echo(comparison.to_frame(tidy=True).to_csv(index=False), nl=False)
    else:
        from iglens_tl.cli.table import print_comparison

        print_comparison(comparison)
