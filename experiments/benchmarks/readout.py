"""Speed and memory of the IG-Lens estimators on a random readout of Llama-3.2-1B's size.

Run with `python -m experiments.benchmarks.readout`; `--targets 8` gives a quick impression. Every
row of the table is the ratio of two things measured in this run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.benchmarks.denormals import without_denormals
from experiments.common.memory import extra_memory_mb
from experiments.common.timing import fastest_in_turns, machine, timed
from iglens_tl.lenses.estimators import Estimator, credit_segments, resolve_estimator
from iglens_tl.readout import (
    FinalNorm,
    OutputTransform,
    Point,
    Readout,
    read_levels,
    read_points,
    resolve_value,
)

D_MODEL, D_VOCAB, N_LAYERS = 2048, 128_256, 16
GRID_STEPS = AUTOGRAD_STEPS = 64
SEGMENTS_PER_CALL = 8
MEMORY_LIMIT_MB = 600
PROB = resolve_value("prob")
DELTA = resolve_estimator("delta", n_steps=None, tolerance=None)
GRADIENT = resolve_estimator("gradient", n_steps=32, tolerance=None)


@dataclass(frozen=True)
class Paths:
    """The points that the paths of some targets visit, the baseline first."""

    points: list[Point]
    token_ids: Tensor

    @property
    def states(self) -> Tensor:
        """All rows that a sweep reads."""
        return torch.cat([point.states for point in self.points])


def credits_of(readout: Readout, paths: Paths, method: Estimator, top_k: int = 0) -> Tensor:
    """Read the points out and credit the segments, as `ig_lens` does."""
    readings = read_points(readout, paths.points, paths.token_ids, top_k=top_k)
    levels = read_levels(readout, PROB, [readings[p.key] for p in paths.points], paths.token_ids)
    return credit_segments(readout, paths.points, paths.token_ids, levels, PROB, method)


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=64, help="target tokens (default 64)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the fast measurements")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory_of(options.memory_of, options.targets))
        return
    readout = random_readout(options.device)
    paths = random_paths(readout, options.targets)
    table = Table(
        title=f"{D_MODEL} × {D_VOCAB:,} readout, {N_LAYERS} layers, {machine(options.device)}"
    )
    for column in ("measured", "seconds", "beside", "seconds", "ratio", "aim"):
        table.add_column(column, justify="left" if column in ("measured", "beside") else "right")
    for row in speed_rows(readout, paths, options.repeats):
        table.add_row(*row)
    console = Console(width=130)
    console.print(table)
    if options.device == "cpu":
        console.print(memory_table())


def speed_rows(readout: Readout, paths: Paths, repeats: int) -> list[tuple[str, ...]]:
    """Compare the estimators with the matrix product alone and with the published procedures."""
    n_targets = len(paths.token_ids)
    states = paths.states
    seconds = fastest_in_turns(
        {
            "bare": lambda: bare_products(readout, states),
            "delta": lambda: credits_of(readout, paths, DELTA),
            "detailed": lambda: credits_of(readout, paths, DELTA, top_k=5),
        },
        repeats,
    )
    bare, delta, detailed = seconds["bare"], seconds["delta"], seconds["detailed"]
    grid_seconds, grid = timed(lambda: grid_credits(readout, paths))
    gradient_seconds, gradient = timed(lambda: credits_of(readout, paths, GRADIENT))
    autograd_seconds, autograd = timed(lambda: autograd_credits(readout, paths))
    exact = credits_of(readout, paths, DELTA)
    rows = len(states)
    print(f"{n_targets} targets, {rows} states")
    print(f"largest error of grid      {(grid - exact).abs().max():.1e}")
    print(f"largest error of gradient  {(gradient - exact).abs().max():.1e}")
    print(f"largest error of autograd  {(autograd - exact).abs().max():.1e}")
    return [
        _row("delta", delta, f"bare product of {rows} rows", bare, delta / bare, "≤ 1.15"),
        _row("delta + ranks + top 5", detailed, "bare product", bare, detailed / bare, ""),
        _row(
            f"{GRID_STEPS + 1} grid points",
            grid_seconds,
            "delta",
            delta,
            grid_seconds / delta,
            "≥ 50",
        ),
        _row(
            f"autograd, {AUTOGRAD_STEPS} steps",
            autograd_seconds,
            "gradient, 32 nodes",
            gradient_seconds,
            autograd_seconds / gradient_seconds,
            "≥ 30",
        ),
    ]


def random_readout(device: str = "cpu") -> Readout:
    """Return a random readout with peaked predictions."""
    generator = torch.Generator(device).manual_seed(0)
    weight = torch.empty(D_VOCAB, D_MODEL, device=device)
    weight.normal_(std=0.1, generator=generator)
    gain = torch.rand(D_MODEL, generator=generator, device=device) + 0.5
    norm = FinalNorm(centered=False, eps=1e-5, weight=gain)
    return Readout(weight.T, None, norm, OutputTransform(), torch.float32)


def random_paths(readout: Readout, n_targets: int) -> Paths:
    """Return paths that drift towards their target's direction, one baseline for all."""
    generator = torch.Generator("cpu").manual_seed(1)
    token_ids = torch.randint(D_VOCAB, (n_targets,), generator=generator)
    steps = torch.randn(n_targets, N_LAYERS + 1, D_MODEL, generator=generator)
    towards = readout.unembed.T[token_ids.to(readout.device)].cpu()
    steps += 1.2 * towards[:, None] / towards.std() * torch.linspace(0, 0.3, N_LAYERS + 1)[:, None]
    chain = steps.cumsum(1)
    baseline = chain.flatten(0, 1).mean(0, keepdim=True).to(readout.device)
    points = [Point("baseline", baseline, torch.zeros(n_targets).long(), ranked=False)]
    for layer in range(N_LAYERS + 1):
        states = chain[:, layer].to(readout.device, copy=True)
        points.append(Point(f"state {layer}", states, torch.arange(n_targets)))
    return Paths(points, token_ids)


def bare_products(readout: Readout, states: Tensor) -> None:
    """Multiply the same rows with W_U, in blocks that fit the memory limit, and drop the result."""
    rows = readout.normalize(states)
    for block in rows.split(MEMORY_LIMIT_MB * 2**20 // (4 * D_VOCAB)):
        torch.mm(block, readout.unembed)


@torch.no_grad()
def grid_credits(readout: Readout, paths: Paths) -> Tensor:
    """Evaluate every grid point of every segment, as the reference code does under `delta`."""
    grid = torch.linspace(0, 1, GRID_STEPS + 1, device=readout.device)
    credits = []
    for tokens, points, _ in _interpolated(paths, grid):
        log_probs = readout.logits(points).log_softmax(-1)
        probs = log_probs.gather(2, tokens[:, None, None].expand(-1, len(grid), 1)).exp()
        credits.append(probs[:, :, 0].diff(dim=1).sum(1))
    return torch.cat(credits).view(len(paths.token_ids), -1).double().cpu()


def autograd_credits(readout: Readout, paths: Paths) -> Tensor:
    """Integrate gradients from a backward pass at every midpoint, as the reference code does.

    Denormal gradients of the logits are set to zero, in its favour.
    """
    grid = (torch.arange(AUTOGRAD_STEPS, device=readout.device) + 0.5) / AUTOGRAD_STEPS
    credits = []
    for tokens, points, displacement in _interpolated(paths, grid):
        points.requires_grad_()
        logits = readout.logits(points)
        logits.register_hook(without_denormals)
        log_probs = logits.log_softmax(-1)
        probs = log_probs.gather(2, tokens[:, None, None].expand(-1, len(grid), 1)).exp()
        (gradient,) = torch.autograd.grad(probs.sum(), points)
        credits.append((gradient.mean(1) * displacement).sum(1))
    return torch.cat(credits).view(len(paths.token_ids), -1).double().cpu()


def memory_table() -> Table:
    """Measure peak memory beyond weights and states, each in a process of its own."""
    table = Table(title=f"extra memory beyond weights and states (aim: ≤ {MEMORY_LIMIT_MB} MB)")
    for column in ("estimator", "64 targets", "1,024 targets"):
        table.add_column(column, justify="right")
    for estimator in ("delta", "gradient"):
        cells = []
        for n_targets in (64, 1024):
            command = [sys.executable, "-m", "experiments.benchmarks.readout"]
            command += ["--memory-of", estimator, "--targets", str(n_targets)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            cells.append(f"{float(printed):.0f} MB")
        table.add_row(estimator, *cells)
    return table


def memory_of(estimator: str, n_targets: int) -> float:
    """Return the extra memory of an estimator in MB, after a short run that does not count."""
    readout = random_readout()
    paths = random_paths(readout, n_targets)
    credits_of(readout, random_paths(readout, 1), DELTA, top_k=5)
    method = DELTA if estimator == "delta" else GRADIENT
    return extra_memory_mb(lambda: credits_of(readout, paths, method, top_k=5))


def _interpolated(paths: Paths, grid: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the tokens, grid points and displacements of a few segments at a time."""
    visited = torch.stack([point.states[point.target_rows] for point in paths.points], dim=1)
    start, end = visited[:, :-1].flatten(0, 1), visited[:, 1:].flatten(0, 1)
    tokens = paths.token_ids.repeat_interleave(N_LAYERS + 1)
    for part in torch.arange(len(start)).split(SEGMENTS_PER_CALL):
        at_start, at_end = start[part], end[part]
        points = torch.lerp(at_start[:, None], at_end[:, None], grid[:, None])
        yield tokens[part].to(points.device), points, at_end - at_start


def _row(what: str, seconds: float, beside: str, other: float, ratio: float, aim: str) -> tuple:
    return what, f"{seconds:.2f}", beside, f"{other:.2f}", f"{ratio:.2f}", aim


if __name__ == "__main__":
    main()
