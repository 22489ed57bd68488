"""Figures of the IG-Lens paper and its neighbours.

Run with `python -m experiments.figures.show NAME …`, or without a name for all of them; `--list`
names them. Of every figure the data are written as Parquet, the interactive figure as HTML that
needs no network, and a picture as PNG, which takes Chromium (`--no-pictures` does without).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from experiments.common.pictures import take_pictures
from experiments.figures.registry import FIGURES
from experiments.figures.setting import Drawn, Setting
from iglens_tl import load_model, write_html
from iglens_tl.cli.validate import PromptLine, read_lines
from iglens_tl.models import ModelAdapter, adapt
from iglens_tl.prompts import build_requests

_FOLDER = Path(__file__).parent


def main(arguments: list[str] | None = None) -> None:
    """Make the figures that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures; all by default")
    parser.add_argument("--list", action="store_true", help="name the figures and stop")
    parser.add_argument("--model", default="demo", help="folder or name of a model")
    parser.add_argument(
        "--prompts", type=Path, help="a prompt in each line, its answer after a tab"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    parser.add_argument("--items", type=int, default=60, help="items of each family")
    parser.add_argument("--out", type=Path, default=_FOLDER)
    parser.add_argument("--no-pictures", dest="pictures", action="store_false")
    options = parser.parse_args(arguments)
    if options.list:
        for name, (question, _) in FIGURES.items():
            print(f"{name:16} {question}")
        return
    unknown = [name for name in options.names if name not in FIGURES]
    if unknown:
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(FIGURES)}")
    if options.items < 1:
        parser.error(f"--items must be at least 1, got {options.items}")
    # Matrices this small gain little from threads, and lose much on a busy machine.
    torch.set_num_threads(1)
    try:
        setting = _setting(options)
        _check_folder(options.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for name in options.names or FIGURES:
        start = time.perf_counter()
        drawn = FIGURES[name][1](setting)
        seconds = time.perf_counter() - start
        written = write(drawn, options.out, pictures=options.pictures)
        print(f"{name}: {seconds:.0f} s, wrote {', '.join(path.name for path in written)}")
        for note in drawn.notes:
            print(f"  {note}")


def write(drawn: Drawn, folder: Path, *, pictures: bool) -> list[Path]:
    """Write the data, the interactive figures and their pictures."""
    written = []
    for name, table in drawn.tables.items():
        path = folder / f"{name}.parquet"
        table.to_parquet(path, index=False)
        written.append(path)
    written += [write_html(figure, folder / f"{n}.html") for n, figure in drawn.figures.items()]
    return written + (take_pictures(drawn.figures, folder) if pictures else [])


def _setting(options: argparse.Namespace) -> Setting:
    """Read the prompts, then the model, and see that they fit.

    Raises:
        ValueError: If one cannot be read or does not fit, with the number of the line.
    """
    lines = None if options.prompts is None else tuple(read_lines(options.prompts))
    adapter = adapt(load_model(options.model))
    for line in lines or ():
        _check(adapter, line, options.prompts)
    return Setting(adapter=adapter, lines=lines, seed=options.seed, number=options.items)


def _check(adapter: ModelAdapter, line: PromptLine, path: Any) -> None:
    choice: dict[str, Any] = {"generate": 1}
    if line.answer is not None:
        choice = {"answer": line.answer}
    try:
        build_requests(adapter, line.prompt, **choice)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}, {line.place}: {error}") from error


def _check_folder(folder: Path) -> None:
    """Make the folder and see that files can be written, before anything is measured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to --out {str(folder)!r}: {error.strerror}") from error


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
