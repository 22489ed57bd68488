"""A corpus as tables that answer questions, also if they are larger than memory.

DuckDB reads the Parquet files: it needs no import step, takes SQL, which most people know, keeps
to a memory limit by writing to the disk what does not fit, computes several groupings in one pass,
and hands its answers to pandas, Polars and Arrow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from iglens_tl.arguments import Count, resolve_count
from iglens_tl.corpus.folder import PartCounts, part_path, read_rejected
from iglens_tl.corpus.sql import literal, quoted
from iglens_tl.corpus.status import Status, read_status
from iglens_tl.results.corpus import CorpusSummary, Examples
from iglens_tl.results.segments import parse_segment

if TYPE_CHECKING:
    import duckdb
    import polars


TARGETS = "SELECT * FROM targets"
"""The query for all rows."""


class Corpus:
    r"""The rows of a corpus, and what can be asked of them.

    Queries see three tables: `targets`, a row for each token, as docs/corpus.md describes them;
    `segments`, which names the numbers of every list (`lens`, `number` from 1, as SQL counts,
    `segment`, `layer`, `head`); and `rejected`, the texts that were not measured.

    Attributes:
        folder: Where the corpus is.
        status: How far it has come, and its manifest.
        connection: DuckDB's connection, for what the methods do not offer.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from iglens_tl import IGLens, load_model
        >>> from iglens_tl.corpus import Columns, Corpus, Measurement, open_source, run_corpus
        >>> with TemporaryDirectory() as name:
        ...     texts = Path(name) / "texts.txt"
        ...     _ = texts.write_text("The capital of Vietnam is Hanoi.\nTwo and two is four.\n")
        ...     source = open_source(texts, columns=Columns())
        ...     measurement = Measurement(lenses={"ig_lens": IGLens(top_k=0)})
        ...     _ = run_corpus(source, load_model("demo"), Path(name) / "corpus", measurement)
        ...     with Corpus.open(Path(name) / "corpus") as corpus:
        ...         likely = corpus.to_pandas("SELECT token FROM targets WHERE final > 0.9")
        >>> likely["token"].tolist()
        [' is', ' Hanoi', '.', '.']
    """

    def __init__(self, folder: Path, status: Status, connection: duckdb.DuckDBPyConnection) -> None:
        self.folder, self.status, self.connection = folder, status, connection

    @classmethod
    def open(
        cls, folder: str | Path, *, memory_limit: str = "1GB", threads: Count | None = None
    ) -> Corpus:
        """Open a corpus for questions, also one that is not complete yet.

        Args:
            folder: The folder of a corpus.
            memory_limit: What DuckDB may hold in memory, such as "1GB"; more goes to the disk.
            threads: How many threads it takes; None for all cores.

        Raises:
            ValueError: For a folder that holds no corpus, none of whose parts is finished, or one
                of whose parts is damaged, and for a limit that DuckDB does not understand.
        """
        folder = Path(folder)
        status = read_status(folder)
        _check_parts(folder, status)
        return cls(folder, status, _connect(folder, status, memory_limit, threads))

    def close(self) -> None:
        """Give back what DuckDB holds."""
        self.connection.close()

    def __enter__(self) -> Corpus:
        """Return the corpus; leaving the block closes it."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.close()

    @property
    def lenses(self) -> Mapping[str, Mapping[str, Any]]:
        """The kind, unit and segments of each lens, by label; the first one's are `credits`."""
        return self.status.manifest["lenses"]

    @property
    def kept(self) -> tuple[str, ...]:
        """The user's columns."""
        return tuple(self.status.manifest["source"]["columns"]["keep"])

    @property
    def n_targets(self) -> int:
        """The number of rows."""
        return self.status.progress.targets

    @property
    def parts(self) -> list[Path]:
        """The Parquet files of the finished parts, in order."""
        return _paths(self.folder, self.status.done)

    def column_of(self, lens: str) -> str:
        """Return the column with a lens's numbers, as SQL names it."""
        return "credits" if lens == next(iter(self.lenses)) else quoted(lens)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """Ask a question in DuckDB's SQL.

        Returns:
            DuckDB's answer, which is computed when it is shown or taken (`.df()`, `.pl()`,
            `.arrow()`, `.fetchall()`).

        Raises:
            ValueError: For what DuckDB does not understand.
        """
        with _readable_errors():
            return self.connection.sql(query)

    def to_pandas(self, query: str = TARGETS) -> pd.DataFrame:
        """Return the answer to a query, by default all rows, as a frame of pandas.

        Raises:
            ValueError: For what DuckDB cannot answer.
        """
        with _readable_errors():
            return self.connection.sql(query).df()

    def to_polars(self, query: str = TARGETS) -> polars.DataFrame:
        """Return the answer to a query, by default all rows, as a frame of Polars.

        Raises:
            ValueError: For what DuckDB cannot answer, and without Polars.
        """
        _polars()
        with _readable_errors():
            return self.connection.sql(query).pl()

    def scan(self) -> polars.LazyFrame:
        """Return all rows as a lazy frame of Polars, which reads what a query needs.

        Raises:
            ValueError: Without Polars.
        """
        return _polars().scan_parquet(self.parts)

    def summary(
        self, *, by: Sequence[str] | None = None, n_resamples: Count = 1000, seed: Count = 0
    ) -> CorpusSummary:
        """Summarise what every layer does; see `iglens_tl.corpus.summary.summarize`."""
        from iglens_tl.corpus.summary import summarize

        return summarize(self, by=by, n_resamples=n_resamples, seed=seed)

    def examples(self, segment: str | None = None, **options: Any) -> Examples:
        """Find the targets to which a part of the model matters most.

        See `iglens_tl.corpus.examples.find_examples`, which has the options.
        """
        from iglens_tl.corpus.examples import find_examples

        return find_examples(self, segment, **options)

    def __repr__(self) -> str:
        """Tell what there is."""
        progress, model = self.status.progress, self.status.manifest["model"]["name"]
        texts = f"{progress.texts:,} of {progress.all_texts:,} texts"
        lenses = ", ".join(self.lenses)
        return (
            f"Corpus({str(self.folder)!r}: {model}, {texts}, {self.n_targets:,} targets, {lenses})"
        )


def _connect(
    folder: Path, status: Status, memory_limit: str, threads: int | None
) -> duckdb.DuckDBPyConnection:
    import duckdb

    settings: dict[str, Any] = {
        "memory_limit": memory_limit,
        "temp_directory": str(Path(tempfile.gettempdir()) / "iglens_tl_duckdb"),
        "preserve_insertion_order": False,  # it costs memory, and queries say their order
    }
    if threads is not None:
        settings["threads"] = resolve_count("threads", threads, least=1)
    try:
        connection = duckdb.connect(config=settings)
    except duckdb.Error as error:
        raise ValueError(
            f"memory_limit must be a size such as '1GB', got {memory_limit!r}: {error}"
        ) from error
    paths = ", ".join(literal(str(path)) for path in _paths(folder, status.done))
    connection.execute(f"CREATE VIEW targets AS SELECT * FROM read_parquet([{paths}])")
    for name, content, columns in (
        ("segments", _segments(status.manifest["lenses"]), "lens, number, segment, layer, head"),
        (
            "rejected",
            pd.DataFrame(
                read_rejected(folder, [counts.number for counts in status.done]),
                columns=pd.Index(["text", "where", "reason"]),
            ).astype({"text": "int64", "where": "str", "reason": "str"}),
            'text, "where", reason',
        ),
    ):
        connection.register("given", content)
        connection.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM given")
        connection.unregister("given")
    return connection


def _segments(lenses: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    rows = []
    for lens, described in lenses.items():
        for number, label in enumerate(described["segments"], start=1):
            segment = parse_segment(label)
            rows.append((lens, number, label, segment.layer, segment.head))
    frame = pd.DataFrame(rows, columns=pd.Index(["lens", "number", "segment", "layer", "head"]))
    return frame.astype({"layer": "Int64", "head": "Int64"})


def _check_parts(folder: Path, status: Status) -> None:
    there = {counts.number for counts in status.done}
    for number in range(status.manifest["parts"]):
        path = part_path(folder, number)
        if number not in there and path.exists():
            raise ValueError(
                f"{str(path)!r} is damaged or of another run; give the command of the run again, "
                "which measures it anew"
            )
    if not sum(counts.targets for counts in status.done):
        raise ValueError(f"{str(folder)!r} holds no row yet; give the command of its run again")


def _paths(folder: Path, done: Sequence[PartCounts]) -> list[Path]:
    # A part of rejected texts alone has no column for the lenses.
    return [part_path(folder, counts.number) for counts in done if counts.targets]


def _polars() -> Any:
    try:
        import polars
    except ImportError as error:
        raise ValueError(
            "frames of Polars need it: pip install 'iglens_tl[polars]', or take to_pandas()"
        ) from error
    return polars


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Tell in one sentence what DuckDB cannot do."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        told = " ".join(str(error).split())
        raise ValueError(f"DuckDB cannot answer the query: {told}") from error
