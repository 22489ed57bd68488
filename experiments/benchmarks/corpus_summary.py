"""What a summary of a large corpus costs: seconds, and the memory that it takes at its peak.

Run with `python -m experiments.benchmarks.corpus_summary`. The rows of 512 texts, measured with the
embedded model, are written again and again under other numbers, until there are as many targets as
asked for. The summary has all groupings with their intervals; examples are the largest credits of
one layer with their context. Both run in a process of its own, whose resident memory is all that
they take, imports included. The aim for the time is a minute of one core for each gigabyte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.ragged import texts_of
from experiments.common.timing import timed
from iglens_tl import IGLens, load_model
from iglens_tl.corpus import Columns, Corpus, Measurement, open_source, read_status, run_corpus
from iglens_tl.corpus.folder import part_path, write_part
from iglens_tl.corpus.manifest import read_manifest, write_manifest
from iglens_tl.corpus.run import IDENTITY, fingerprint
from iglens_tl.models import adapt

AIM_MB = 2000
AIM_SECONDS = 60
_TEXTS = 512


def main() -> None:
    """Make the corpus, summarise it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--of", type=Path, help="Summarise this corpus, and print what it took.")
    options = parser.parse_args()
    if options.of is not None:
        print(json.dumps(summarize(options.of, options.threads)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "corpus"
        make_corpus(folder, options.targets)
        status = read_status(folder)
        command = [sys.executable, "-m", "experiments.benchmarks.corpus_summary", "--of"]
        command += [str(folder), "--threads", str(options.threads)]
        took = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    gigabytes = status.bytes / 1e9
    seconds = took["summary"] * options.threads / gigabytes
    table = Table(title=f"{status.progress.targets:,} targets, {gigabytes:.2f} GB")
    for column in ("", "measured", "aim"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("summary", "examples"):
        table.add_row(f"{name}, seconds, {options.threads} threads", f"{took[name]:.1f}", "")
    table.add_row("summary, seconds of a core for each GB", f"{seconds:.0f}", f"≤ {AIM_SECONDS}")
    table.add_row("resident memory at the peak, MB", f"{took['mb']:,.0f}", f"≤ {AIM_MB:,}")
    Console(width=100).print(table)


def make_corpus(folder: Path, n_targets: int) -> None:
    """Measure some texts, and write their rows again under other numbers."""
    model = load_model("demo")
    texts, _ = texts_of(adapt(model).d_vocab, _TEXTS)
    path = folder.parent / "texts.jsonl"
    path.write_text("".join(f"{json.dumps(ids)}\n" for ids in texts), encoding="utf-8")
    source = open_source(path, columns=Columns())
    measurement = Measurement(lenses={"ig_lens": IGLens(top_k=0)})
    run_corpus(source, model, folder, measurement, texts_per_part=_TEXTS)
    rows = pq.read_table(part_path(folder, 0))
    manifest = read_manifest(folder)
    assert manifest is not None
    run = fingerprint({key: manifest[key] for key in IDENTITY})
    n_parts = -(-n_targets // len(rows))
    for number in range(1, n_parts):
        numbers = pa.array(rows["text"].to_numpy() + number * _TEXTS)
        write_part(folder, number, _TEXTS, rows.set_column(0, "text", numbers), run)
    write_manifest(folder, {**manifest, "texts": n_parts * _TEXTS, "parts": n_parts})


def summarize(folder: Path, threads: int) -> dict[str, float]:
    """Return the seconds of a summary and of examples, and the peak of this process's memory."""
    with Corpus.open(folder, threads=threads) as corpus:
        of_summary, _ = timed(corpus.summary)
        of_examples, _ = timed(lambda: corpus.examples(layer=3))
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return {"summary": of_summary, "examples": of_examples, "mb": int(peak.split()[1]) / 1024}


if __name__ == "__main__":
    main()
