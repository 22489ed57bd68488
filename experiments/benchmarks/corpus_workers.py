"""What workers of Ray Data do beside one process, and how much memory they take for more texts.

Run with `python -m experiments.benchmarks.corpus_workers`. The texts of 20 to 120 tokens are
measured by the embedded model in this process and by one and two workers of Ray Data, in turns, all
with one thread each. Speed is that of the steady state: the targets of the last three quarters of
the parts, without those that are finished while a worker has nothing more to do, by the time
between the first and the last of these. So the start of Ray and the loading of models do not count.

Memory is measured in processes of their own, over texts of 4 tokens: the most resident memory of
the process that drives the run, and the most that the object store has taken of the machine's, when
a part is finished. What is tokenised waits there, up to a limit for each worker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.ragged import texts_of
from iglens_tl import IGLens, load_model
from iglens_tl.corpus import (
    Columns,
    Engine,
    LocalEngine,
    Measurement,
    RayEngine,
    open_source,
    run_corpus,
)
from iglens_tl.corpus.ray_engine import BYTES_AHEAD
from iglens_tl.models import adapt

ENGINES: dict[str, tuple[int, Callable[[], Engine]]] = {
    "local": (1, LocalEngine),
    "ray, 1 worker": (1, lambda: _ray_engine(1)),
    "ray, 2 workers": (2, lambda: _ray_engine(2)),
}
AIMS = {"ray, 1 worker": ("local", 0.85), "ray, 2 workers": ("ray, 1 worker", 1.7)}
N_TEXTS = (2_000, 100_000)
_TEXTS_PER_PART = 32
_SHORT, _SHORT_PER_PART = 4, 1024


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--memory-of", type=int, help="only print the memory of so many texts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # Ray's processes give way to all others by default, which one process alone does not.
    os.environ.setdefault("RAY_worker_niceness", "0")
    if options.memory_of is not None:
        print(json.dumps(memory_of(options.memory_of)))
        return
    console = Console(width=100)
    console.print(speed_table(options.texts, options.repeats))
    console.print(memory_table())


def speed_table(n_texts: int, repeats: int) -> Table:
    """Measure the engines in turns."""
    adapter = adapt(load_model("demo"))
    texts, _ = texts_of(adapter.d_vocab, n_texts)
    speeds: dict[str, list[float]] = {name: [] for name in ENGINES}
    for _ in range(repeats):
        for name, (workers, engine) in ENGINES.items():
            speeds[name].append(steady_speed(adapter, texts, engine(), workers))
            print(f"{name}: {speeds[name][-1]:,.0f} targets/s", file=sys.stderr, flush=True)
    table = Table(
        title=f"{n_texts} texts of 20 to 120 tokens, 1 thread each, {os.cpu_count()} cores"
    )
    table.add_column("engine")
    for column in ("targets/s", "beside", "ratio", "aim"):
        table.add_column(column, justify="right")
    best = {name: max(found) for name, found in speeds.items()}
    for name in ENGINES:
        beside, aim = AIMS.get(name, (None, None))
        ratio = (
            ("", "", "")
            if beside is None
            else (beside, f"{best[name] / best[beside]:.2f}", f"≥ {aim}")
        )
        table.add_row(name, f"{best[name]:,.0f}", *ratio)
    return table


def steady_speed(adapter: Any, texts: list[list[int]], engine: Engine, workers: int) -> float:
    """Return the targets a second of a run when all workers are at work."""
    finished: list[tuple[float, int]] = []
    _run(
        adapter,
        texts,
        engine,
        lambda progress: finished.append((time.perf_counter(), progress.new_targets)),
        texts_per_part=_TEXTS_PER_PART,
    )
    (start, before), (end, after) = finished[len(finished) // 4], finished[-workers]
    return (after - before) / (end - start)


def memory_table() -> Table:
    """Measure the memory of a smaller and a larger corpus."""
    limit = 2 * BYTES_AHEAD / 2**20
    table = Table(
        title=f"resident memory, 2 workers (aim: the same for both, object store ≤ {limit:.0f} MB)"
    )
    table.add_column("where")
    for n_texts in N_TEXTS:
        table.add_column(f"{n_texts:,} texts", justify="right")
    found = []
    for n_texts in N_TEXTS:
        command = [sys.executable, "-m", "experiments.benchmarks.corpus_workers"]
        command += ["--memory-of", str(n_texts)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(printed))
    for where in found[0]:
        table.add_row(where, *(f"{memory[where]:,.1f} MB" for memory in found))
    return table


def memory_of(n_texts: int) -> dict[str, float]:
    """Return the most memory in MB of a run over very short texts."""
    adapter = adapt(load_model("demo"))
    generator = torch.Generator().manual_seed(0)
    texts = (
        torch.randint(4, adapter.d_vocab, (_SHORT,), generator=generator).tolist()
        for _ in range(n_texts)
    )
    most = {"driver": 0.0, "object store": 0.0}

    def look(progress: object) -> None:
        del progress
        now = {"driver": _resident_mb(), "object store": _object_store_mb()}
        most.update({where: max(most[where], now[where]) for where in most})

    with redirect_stdout(sys.stderr):
        _run(adapter, texts, _ray_engine(2), look, texts_per_part=_SHORT_PER_PART)
    return most


def _run(
    adapter: Any,
    texts: Iterable[list[int]],
    engine: Engine,
    report: Callable[[Any], object],
    **options: int,
) -> None:
    measurement = Measurement(lenses={"ig_lens": IGLens(top_k=0)})
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "texts.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(ids)}\n" for ids in texts)
        source = open_source(path, columns=Columns())
        out = Path(place) / "out"
        run_corpus(source, adapter, out, measurement, engine=engine, report=report, **options)


def _ray_engine(workers: int) -> Engine:
    return RayEngine(load=partial(load_model, "demo"), workers=workers, cpus=1)


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError("/proc/self/status has no VmRSS")


def _object_store_mb() -> float:
    """Return what the file takes that the object store of this process's Ray keeps in memory."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
            if not name.endswith("(raylet") or int(rest.split()[1]) != os.getpid():
                continue
            for handle in (stat.parent / "fd").iterdir():
                if "plasma" in str(handle.readlink()):
                    return handle.stat().st_blocks * 512 / 2**20
        except OSError:
            continue  # it has ended meanwhile
    raise ValueError("Ray keeps no object store in memory for this process")


if __name__ == "__main__":
    main()
