"""Options that the commands share, and how they are read."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer


class Format(str, Enum):
    """How results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


PromptArgument: TypeAlias = Annotated[
    str, typer.Argument(help="The text, or - to read it from stdin.")
]
ModelOption: TypeAlias = Annotated[
    str, typer.Option(help="demo, a Hugging Face folder, or a hub name.")
]
AnswerOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Attribute the tokens of this continuation.")
]
GenerateOption: TypeAlias = Annotated[
    int | None, typer.Option(help="Attribute up to this many greedy tokens.")
]
TargetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="Attribute this candidate for the next token; may be repeated."),
]
ChatOption: TypeAlias = Annotated[
    bool, typer.Option("--chat", help="Send the prompt as a user's chat message.")
]
ValueOption: TypeAlias = Annotated[
    str, typer.Option(help="prob, logprob, logit, entropy, kl_to_final or sequence_logprob.")
]
LensesOption: TypeAlias = Annotated[
    str, typer.Option(help="Names of lenses, with commas between them.")
]
TunedLensOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Folder or published name of the tuned lens to use.")
]
BackendOption: TypeAlias = Annotated[str, typer.Option(help="auto, hooked or bridge.")]
DtypeOption: TypeAlias = Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")]
DeviceOption: TypeAlias = Annotated[str, typer.Option(help="For example cpu or cuda.")]
FormatOption: TypeAlias = Annotated[Format, typer.Option(help="What to print on stdout.")]
HtmlOption: TypeAlias = Annotated[
    Path | None, typer.Option(help="Write the token × layer figure to an HTML file.")
]


Plan: TypeAlias = dict[str, dict[str, Any]]
"""Names of lenses with their options."""


def read_lenses(lenses: str, tuned_lens: str | None) -> Plan:
    """Return the lenses that the command line names, with their options."""
    names = [name.strip() for name in lenses.split(",") if name.strip()]
    if tuned_lens is not None and "tuned_lens" not in names:
        raise ValueError("--tuned-lens is given but --lenses does not name tuned_lens")
    repeated = [name for index, name in enumerate(names) if name in names[:index]]
    if repeated:
        raise ValueError(f"lens {repeated[0]!r} is given twice")
    own = {} if tuned_lens is None else {"tuned_lens": {"lens": tuned_lens}}
    return {name: own.get(name, {}) for name in names}


def read_prompt(prompt: str, chat: bool) -> Any:
    """Return the text or chat message that the command line asks about."""
    if prompt == "-":
        try:
            prompt = sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"the text on stdin is not valid UTF-8: {error}") from error
    return [{"role": "user", "content": prompt}] if chat else prompt


def check_outputs(out: Path | None, endings: tuple[str, ...], html: Path | None) -> None:
    """Refuse a path that cannot be written before the model is loaded."""
    if out is not None and out.suffix.lower() not in endings:
        expected = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise ValueError(f"--out {str(out)!r} must end in {expected}")
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {str(html)!r} must end in .html")
    for path in (out, html):
        if path is not None:
            _check_place(path)


def _check_place(path: Path) -> None:
    try:
        has_folder, is_folder = path.parent.is_dir(), path.is_dir()
    except OSError as error:  # a name that is too long, for example
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from error
    if not has_folder:
        raise ValueError(f"the folder of {str(path)!r} does not exist; create it first")
    if is_folder:
        raise ValueError(f"{str(path)!r} is a folder; give the name of a file")
