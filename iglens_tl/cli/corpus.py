"""`iglens corpus`: lenses over many texts, into a folder that answers questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from iglens_tl.cli.messages import command_messages, tell_written
from iglens_tl.cli.options import (
    BackendOptions,
    BaselineOption,
    LensOptions,
    ModelOption,
    ValueOption,
    grouped,
    split_names,
)

if TYPE_CHECKING:
    from iglens_tl import Lens
    from iglens_tl.corpus import Engine, Progress

app = typer.Typer(
    name="corpus",
    help="Measure many texts: a row for each token, in a folder that a stopped run goes on with.",
    no_args_is_help=True,
)

_SOME_REJECTED = 3


@app.command()
@grouped
def run(
    lenses: LensOptions,
    backend: BackendOptions,
    source: Annotated[
        str,
        typer.Argument(
            help="A .txt (one text a line), .jsonl, .csv, .tsv or .parquet file, a folder or glob "
            "of these, or a folder that `datasets` saved."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the corpus.")],
    model: ModelOption = "demo",
    value: ValueOption = "prob",
    baseline: BaselineOption = "mean",
    components: Annotated[
        str | None, typer.Option(help="Also split credits: sublayer or head.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="The column of the texts.")] = None,
    chat_column: Annotated[str | None, typer.Option(help="The column of the chats.")] = None,
    ids_column: Annotated[str | None, typer.Option(help="The column of the token ids.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Further columns to carry along, with commas between them.")
    ] = None,
    document: Annotated[
        bool, typer.Option("--document", help="Each .txt file is one text.")
    ] = False,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens that are read at once; by default the context.")
    ] = None,
    long: Annotated[
        str, typer.Option(help="What is done with longer texts: split, truncate or reject.")
    ] = "split",
    overlap: Annotated[
        int | None,
        typer.Option(help="Tokens that a window repeats; by default a quarter of its length."),
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of a forward pass at most.")] = 2048,
    texts_per_part: Annotated[int, typer.Option(help="Texts that are written together.")] = 512,
    limit: Annotated[int | None, typer.Option(help="Only so many texts.")] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: a pool of workers, here or on a cluster.")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Workers of ray, each with its model.")] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of each worker of ray.")] = 0,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster that exists, such as auto.")
    ] = None,
) -> None:
    """Measure the texts of SOURCE and write a row for each token.

    The same command goes on with a run that was stopped. The exit code is 0 if every text was
    measured, 3 if some were not (`rejected.parquet` says why), 130 after Ctrl-C, and 2 for bad
    input.
    """
    with command_messages() as messages:
        from iglens_tl.corpus import Columns, Measurement, open_source, run_corpus

        columns = Columns(
            text=_one_of(text_column, chat_column, ids_column),
            keep=tuple(split_names(keep or "")),
        )
        opened = open_source(source, columns=columns, document=document)
        measurement = Measurement(
            lenses=_lenses(lenses, value, baseline, components),
            max_length=max_length,
            long=long,
            overlap=overlap,
            tokens_per_pass=batch_tokens,
        )
        pool = _engine(engine, backend, model, workers, gpus, address)
        loaded = backend.load(model, messages)
        with _shown(messages) as report:
            progress = run_corpus(
                opened,
                loaded,
                out,
                measurement,
                texts_per_part=texts_per_part,
                limit=limit,
                engine=pool,
                report=report,
            )
        _tell(messages, out, progress)
    if not progress.is_complete:
        raise typer.Exit(code=130)
    if progress.rejected:
        raise typer.Exit(code=_SOME_REJECTED)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="The folder of a corpus.")]) -> None:
    """Tell how far a corpus has come."""
    with command_messages():
        from iglens_tl.corpus import read_status

        found = read_status(folder)
    progress, (done, parts) = found.progress, found.parts
    state = "complete" if progress.is_complete else "not complete"
    typer.echo(f"{folder}: {state}")
    typer.echo(f"model     {found.manifest['model']['name']}")
    typer.echo(f"texts     {progress.texts:,} of {progress.all_texts:,}")
    typer.echo(f"parts     {done:,} of {parts:,}")
    typer.echo(f"targets   {progress.targets:,}")
    typer.echo(f"rejected  {progress.rejected:,}")
    per_target = found.bytes / max(1, progress.targets)
    typer.echo(f"bytes     {found.bytes:,} ({per_target:.1f} a target)")


@app.command()
def summary(
    folder: Annotated[Path, typer.Argument(help="The folder of a corpus.")],
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with all tables, and with examples.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Print mean credits by kind, frequency, position, probability, surprise or a "
            "column that was carried along; several with commas between them."
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(help="How many examples of each layer the page has.")
    ] = 5,
    resamples: Annotated[int, typer.Option(help="Bootstrap samples of the intervals.")] = 1000,
    memory_limit: Annotated[str, typer.Option(help="What DuckDB may hold in memory.")] = "1GB",
) -> None:
    """Tell what every layer does over a corpus, with 95 % intervals over texts."""
    with command_messages() as messages:
        from iglens_tl.cli.table import print_corpus
        from iglens_tl.corpus import Corpus

        named = split_names(by or "")
        with Corpus.open(folder, memory_limit=memory_limit) as corpus:
            # The page has all groupings, the terminal those that were asked for.
            found = corpus.summary(by=None if html else named, n_resamples=resamples)
            tables = {name: found.to_frame(by=name) for name in named}
            if html is not None:
                shown = [
                    corpus.examples(segment, by=which, number=examples)
                    for segment in next(iter(corpus.lenses.values()))["segments"]
                    for which in ("largest", "smallest")
                    if examples
                ]
                tell_written(messages, [found.write_html(html, examples=shown)])
    print_corpus(found, tables)


def _engine(
    engine: str,
    backend: BackendOptions,
    model: str,
    workers: int,
    gpus: float,
    address: str | None,
) -> Engine | None:
    if engine not in ("local", "ray"):
        raise ValueError(f"unknown engine {engine!r}; choose local or ray")
    if engine == "local":
        if (workers, gpus, address) != (1, 0, None):
            raise ValueError("--workers, --gpus and --address are options of --engine ray")
        return None
    from functools import partial

    from iglens_tl import load_model
    from iglens_tl.corpus import RayEngine

    options = {name: getattr(backend, name) for name in ("backend", "device", "dtype")}
    load = partial(load_model, model, **options)
    return RayEngine(load=load, workers=workers, gpus=gpus, address=address)


def _one_of(text: str | None, chat: str | None, ids: str | None) -> str | None:
    given = {"--text-column": text, "--chat-column": chat, "--ids-column": ids}
    names = [option for option, column in given.items() if column is not None]
    if len(names) > 1:
        raise ValueError(f"give only one of {' and '.join(names)}")
    return text or chat or ids


def _lenses(
    asked: LensOptions, value: str, baseline: str, components: str | None
) -> dict[str, Lens]:
    from dataclasses import replace

    from iglens_tl import Components, IGLens
    from iglens_tl.lenses.base import configure

    options = {"value": value, "baseline": baseline}
    made: dict[str, Lens] = {"ig_lens": configure(IGLens, {**options, "top_k": 0})}
    for label, lens in asked.make("ig_lens", value).items():
        if label != "ig_lens":
            made[label] = replace(lens, top_k=0) if hasattr(lens, "top_k") else lens
    if components is not None:
        made["components"] = configure(Components, {**options, "by": components})
    return made


@contextmanager
def _shown(messages: Console) -> Iterator[Callable[[Progress], None]]:
    """Show a bar on a terminal, and nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    begun = time.monotonic()
    bar = Bar(
        TextColumn("texts"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[tokens]}"),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
    )
    task = bar.add_task("", total=None, tokens="")

    def show(progress: Progress) -> None:
        rate = progress.new_targets / (time.monotonic() - begun)
        bar.update(
            task,
            completed=progress.texts,
            total=progress.all_texts,
            tokens=f"{progress.targets:,} tokens, {rate:,.0f} a second",
        )

    with bar:
        yield show


def _tell(messages: Console, out: Path, progress: Progress) -> None:
    told = f"{progress.targets:,} targets of {progress.texts:,} texts in {out!s}"
    if progress.rejected:
        told += f"; {progress.rejected:,} texts were not measured, see {out / 'rejected.parquet'}"
    if not progress.is_complete:
        left = progress.all_texts - progress.texts
        told += f"; stopped with {left:,} texts left, the same command goes on"
    messages.print(told, markup=False)
