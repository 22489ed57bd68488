"""Options that several commands share, and how they are read.

What belongs together is a dataclass whose fields are the options; `grouped` spreads it over the
command line.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer
from rich.console import Console

if TYPE_CHECKING:
    from iglens_tl import Lens


class Format(str, Enum):
    """The formats in which results are printed."""

    table = "table"
    csv = "csv"
    json = "json"


ModelOption: TypeAlias = Annotated[
    str, typer.Option(help="demo, a Hugging Face folder, or a hub name.")
]
ValueOption: TypeAlias = Annotated[
    str, typer.Option(help="prob, logprob, logit, entropy, kl_to_final or sequence_logprob.")
]
BaselineOption: TypeAlias = Annotated[str, typer.Option(help="mean, mean_causal, zero or embed.")]
FormatOption: TypeAlias = Annotated[Format, typer.Option(help="What to print on stdout.")]


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """Options of loading a model."""

    backend: Annotated[str, typer.Option(help="auto, hooked or bridge.")] = "auto"
    dtype: Annotated[str, typer.Option(help="float32, float64, float16 or bfloat16.")] = "float32"
    device: Annotated[str, typer.Option(help="For example cpu or cuda.")] = "cpu"

    def load(self, model: str, messages: Console) -> Any:
        """Load a model by name or from its folder."""
        with messages.status("loading the model"):
            from iglens_tl import load_model

            return load_model(model, backend=self.backend, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Options of the prompt and its targets."""

    prompt: Annotated[str, typer.Argument(help="The text, or - to read it from stdin.")]
    answer: Annotated[
        str | None, typer.Option(help="Attribute the tokens of this continuation.")
    ] = None
    generate: Annotated[
        int | None, typer.Option(help="Attribute up to this many greedy tokens.")
    ] = None
    target: Annotated[
        list[str] | None,
        typer.Option(help="Attribute this candidate for the next token; may be repeated."),
    ] = None
    chat: Annotated[
        bool, typer.Option("--chat", help="Send the prompt as a user's chat message.")
    ] = False

    def read(self) -> Any:
        """Return the text or chat message.

        Raises:
            ValueError: For a text on stdin that is not UTF-8.
        """
        prompt = self.prompt
        if prompt == "-":
            try:
                prompt = sys.stdin.read().removesuffix("\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"the text on stdin is not valid UTF-8: {error}") from error
        return [{"role": "user", "content": prompt}] if self.chat else prompt

    @property
    def choice(self) -> dict[str, Any]:
        """The choice of targets, as `iglens_tl.trace_prompt` takes it."""
        return {"answer": self.answer, "generate": self.generate, "targets": self.target or None}


@dataclass(frozen=True, kw_only=True)
class LensOptions:
    """Options of the compared lenses; the commands have their own defaults."""

    lenses: Annotated[
        str | None,
        typer.Option(
            help="Names of lenses, with commas between them; ig_lens:reverse has a path. `iglens "
            "lenses` tells what each is."
        ),
    ] = None
    tuned_lens: Annotated[
        str | None, typer.Option(help="Folder or published name of the tuned lens to use.")
    ] = None

    def make(self, default: str, value: str) -> dict[str, Lens]:
        """Return the lenses by their names; those that can measure a value measure it.

        Raises:
            ValueError: For an unknown or repeated lens, an unknown value or path, or a tuned lens
                that is not among the lenses.
            TypeError: For a path of a lens that has none.
        """
        from iglens_tl.lenses.compare import resolve_lenses

        names = split_names(default if self.lenses is None else self.lenses)
        if self.tuned_lens is not None and "tuned_lens" not in names:
            raise ValueError("--tuned-lens is given but --lenses does not name tuned_lens")
        made: dict[str, Lens] = {}
        for label in names:
            name, colon, path = label.partition(":")
            options = {"path": path} if colon else {}
            if name == "tuned_lens" and self.tuned_lens is not None:
                options["lens"] = self.tuned_lens
            if label in made:
                raise ValueError(f"lens {label!r} is given twice")
            made[label] = resolve_lenses({name: options}, value=value)[name]
        return made


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: the fields of its parameters that are dataclasses."""
    groups: dict[str, type] = {}
    spread: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        group = hints[name]
        if is_dataclass(group) and isinstance(group, type):
            groups[name] = group
            spread += _parameters(group)
        else:
            spread.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=group))

    def run(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    run.__dict__["__signature__"] = inspect.Signature(spread)
    return run


def split_names(listed: str) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def check_outputs(out: Path | None, endings: tuple[str, ...], html: Path | None) -> None:
    """Refuse a path that cannot be written before the model is loaded.

    Raises:
        ValueError: For a path of another ending, or in no folder.
    """
    if out is not None and out.suffix.lower() not in endings:
        expected = f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise ValueError(f"--out {str(out)!r} must end in {expected}")
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html {str(html)!r} must end in .html")
    for path in (out, html):
        if path is not None:
            _check_place(path)


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


def _check_place(path: Path) -> None:
    try:
        has_folder, is_folder = path.parent.is_dir(), path.is_dir()
    except OSError as error:  # a name that is too long, for example
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from error
    if not has_folder:
        raise ValueError(f"the folder of {str(path)!r} does not exist; create it first")
    if is_folder:
        raise ValueError(f"{str(path)!r} is a folder; give the name of a file")
