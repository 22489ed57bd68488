"""What the reported errors of integrals along chords cost, and how far they are from the true ones.

Run with `python -m experiments.benchmarks.split_errors`. The true error is that of the float32
integral of the gradient against one in float64 to 1e-11, times the length of the chord: what the
credit of the worst part as long as the chord is off by. The cost is the time of an integration
beside that of one which looks at the change of the value alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.comparison import random_llama
from experiments.common.precision import in_float64
from experiments.common.timing import fastest_in_turns, machine
from iglens_tl import load_model, trace_prompt
from iglens_tl.readout import (
    VALUES,
    ChordIntegrals,
    Chords,
    Readout,
    integrate_adaptive,
)
from iglens_tl.readout.integrals import quadrature
from iglens_tl.trace import Trace

AIM = 1.3
PATHS = ("hidden_states", "straight")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--values", default="prob,logprob")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.tokens} tokens, {machine()}")
    for column in ("model", "path", "value"):
        table.add_column(column)
    for column in ("cost", "aim", "largest true", "its bound", "true / bound: median", "largest"):
        table.add_column(column, justify="right")
    for name, model in {"demo": load_model("demo"), "random Llama": random_llama()}.items():
        trace = generated_text(model, options.tokens)
        for path in PATHS:
            chords = chords_of_path(trace, path)
            for value in options.values.split(","):
                row = measure(trace.adapter.readout, chords, value, options.repeats)
                table.add_row(name, path, value, row[0], f"≤ {AIM}", *row[1:])
    Console(width=120).print(table)


def generated_text(model: object, n_tokens: int) -> Trace:
    """Return the trace of a text that the model makes probable."""
    trace = trace_prompt(model, [1, 5, 9], generate=n_tokens - 3)
    return trace_prompt(trace.adapter, list(trace.requests[0].ids))


def chords_of_path(trace: Trace, path: str) -> Chords:
    """Return the chords of every target from the mean embedding to the last state."""
    adapter = trace.adapter
    sites = [adapter.embed_site, *(adapter.post_site(layer) for layer in range(adapter.n_layers))]
    states = [trace.states[site][trace.target_rows] for site in sites]
    points = [states[0].mean(0).expand_as(states[0]), *states]
    if path == "straight":
        points = [points[0], points[-1]]
    n_targets, n_chords = len(trace.token_ids), len(points) - 1
    start = torch.arange(n_targets * n_chords)
    return Chords(
        torch.cat(points),
        start=start,
        end=start + n_targets,
        final=start % n_targets + n_targets * n_chords,
        tokens=trace.token_ids.repeat(n_chords),
    )


def measure(readout: Readout, chords: Chords, value: str, repeats: int) -> tuple[str, ...]:
    """Time the integration with and without its errors, and compare these with the true ones."""

    def uncertified() -> ChordIntegrals:
        with _without_errors():
            return integrate(readout, chords, value)

    seconds = fastest_in_turns(
        {"certified": lambda: integrate(readout, chords, value), "uncertified": uncertified},
        repeats,
    )
    found = integrate(readout, chords, value)
    exact = integrate(
        in_float64(readout), replace(chords, states=chords.states.double()), value, 1e-11
    )
    assert found.gradients is not None and exact.gradients is not None and found.errors is not None
    length = (chords.states[chords.end] - chords.states[chords.start]).double().norm(dim=1)
    true = (found.gradients.double() - exact.gradients).norm(dim=1) * length
    bound = found.errors * length
    ratio, worst = true / bound, int(true.argmax())
    return (
        f"{seconds['certified'] / seconds['uncertified']:.2f}",
        f"{true[worst]:.1e}",
        f"{bound[worst]:.1e}",
        f"{ratio.median():.3f}",
        f"{ratio.max():.2f}",
    )


def integrate(
    readout: Readout, chords: Chords, value: str, tolerance: float = 1e-5
) -> ChordIntegrals:
    """Integrate the gradient of a value as `components` does."""
    return integrate_adaptive(
        readout, VALUES[value], chords, n_nodes=32, tolerance=tolerance, gradients=True
    )


@contextmanager
def _without_errors() -> Iterator[None]:
    usual = quadrature._PROBES
    quadrature._PROBES = 0
    try:
        yield
    finally:
        quadrature._PROBES = usual


if __name__ == "__main__":
    main()
