"""The progress bar of training, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from iglens_tl.tuning.report import Report, StepReport


@contextmanager
def progress_bar(steps: int, segments: tuple[str, ...]) -> Iterator[Report]:
    """Show a bar with the loss of every layer and yield what is to be called after each step."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.text import Text

    bar = Progress(
        "training",
        BarColumn(),
        MofNCompleteColumn(),
        "{task.fields[speed]}",
        TimeRemainingColumn(),
        auto_refresh=False,
    )
    task = bar.add_task("", total=steps, speed="")
    console = Console(stderr=True)
    with Live(bar, console=console, refresh_per_second=4) as live:

        def show(report: StepReport) -> None:
            bar.update(task, completed=report.step, speed=f"{report.tokens_per_second:,.0f} tok/s")
            listed = "  ".join(
                f"{segment} {loss:.3f}"
                for segment, loss in zip(segments, report.losses, strict=True)
            )
            live.update(Group(bar, Text(f"KL in nats: {listed}")))

        yield show
    if not console.is_terminal:
        console.print()
