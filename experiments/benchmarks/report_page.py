"""How quickly the report of a long text answers its reader.

Run with `python -m experiments.benchmarks.report_page`; needs Chromium. The page has random numbers
of three lenses in three values. "First picture" is the time until the map and the controls are
drawn again, "all views" until everything is; the longest task is for how long the page cannot
answer, 0 where no task took 50 ms.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Page
from rich.console import Console
from rich.table import Table

from experiments.common.pictures import chromium
from iglens_tl.results import LensData, Provenance, Target, Text, TopTokens
from iglens_tl.views.report import write_report

VALUES = {"prob": "probability", "logprob": "nats", "logit": "logit"}
LENSES = {"ig_lens": True, "logit_lens": False, "tuned_lens": False}
D_VOCAB = 5000
TOP = 5

ACT = """async (act) => {
    const tasks = [];
    const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries()));
    observer.observe({ type: "longtask" });
    const pause = (ms) => new Promise((done) => setTimeout(done, ms));
    await pause(50);
    const start = performance.now();
    const views = ["waterfall", "trajectory", "top", "heads"];
    let last = start;
    const watch = new MutationObserver(() => (last = performance.now()));
    for (const view of views) {
        watch.observe(document.getElementById(view), { subtree: true, childList: true });
    }
    new Function("return " + act)()();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const first = performance.now();
    await pause(800);
    observer.disconnect();
    watch.disconnect();
    const longest = Math.max(0, ...tasks.map((task) => task.duration));
    return [first - start, Math.max(first, last) - start, longest];
}"""


def main() -> None:
    """Write the page, use it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = random_results(options.tokens, options.layers)
        path = write_report(results, Path(folder) / "report.html")
        size = path.stat().st_size / 1e6
        title = f"{options.tokens} tokens × {options.layers} layers, {size:.1f} MB, milliseconds"
        table = Table(title=title)
        for column in ("action", "first picture", "all views", "longest task"):
            table.add_column(column, justify="left" if column == "action" else "right")
        for name, numbers in measure(path, options.tokens, options.repeats).items():
            table.add_row(name, *(f"{number:.0f}" for number in numbers))
    Console(width=100).print(table)


def measure(path: Path, n_tokens: int, repeats: int) -> dict[str, list[float]]:
    """Return for every action the medians over its repeats."""
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page = context.new_page()
        page.goto(f"file://{path}")
        actions = {
            "switch the lens": [_choose("lens", name) for name in LENSES],
            "switch the value": [_choose("value", name) for name in VALUES],
            "credit or level": [_choose("show", name) for name in ("level", "credit")],
            "pin a token": [
                f"() => document.querySelectorAll('#text button')[{place}].click()"
                for place in np.linspace(0, n_tokens - 1, 5).astype(int)
            ],
        }
        return {name: _medians(page, acts, repeats) for name, acts in actions.items()}


def _medians(page: Page, acts: list[str], repeats: int) -> list[float]:
    for act in acts:  # what is read for the first time is not counted
        page.evaluate(ACT, act)
    runs = [page.evaluate(ACT, act) for _ in range(repeats) for act in acts]
    return [statistics.median(column) for column in zip(*runs, strict=True)]


def _choose(name: str, value: str) -> str:
    return f"() => document.querySelector('input[name={name}][value={value}]').click()"


def random_results(n_tokens: int, n_layers: int) -> list[LensData]:
    """Return random results of every lens in every value for the next tokens of one text."""
    rng = np.random.default_rng(0)
    ids = tuple(rng.integers(D_VOCAB, size=n_tokens + 1).tolist())
    text = Text(ids, tuple(f" w{token}" for token in ids))
    targets = tuple(Target(0, i, ids[i + 1], text.tokens[i + 1]) for i in range(n_tokens))
    shape = (n_tokens, n_layers + 1)
    results = []
    for lens, additive in LENSES.items():
        top = TopTokens(
            rng.integers(D_VOCAB, size=(*shape, TOP)),
            -np.sort(-rng.uniform(size=(*shape, TOP))),
            {token: f" w{token}" for token in range(D_VOCAB)},
        )
        ranks, entropy = rng.integers(1, D_VOCAB, size=shape), rng.uniform(size=shape)
        for value, unit in VALUES.items():
            values = rng.normal(scale=0.1, size=shape) if additive else rng.uniform(size=shape)
            levels = values.cumsum(1) if additive else values
            results.append(
                LensData(
                    lens=lens,
                    unit=unit,
                    kind="credit" if additive else "level",
                    segments=("embed", *(f"L{layer}" for layer in range(n_layers))),
                    texts=(text,),
                    targets=targets,
                    values=values,
                    levels=levels,
                    baseline=np.zeros(n_tokens) if additive else levels[:, 0],
                    final=levels[:, -1],
                    ranks=ranks,
                    top=top,
                    statistics={} if additive else {"entropy": entropy},
                    provenance=Provenance(model={"name": "random"}, options={"value": value}),
                )
            )
    return results


if __name__ == "__main__":
    main()
