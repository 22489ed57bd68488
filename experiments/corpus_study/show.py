"""What layers do by kind of token, over a corpus of each of two models.

Run with `python -m experiments.corpus_study.show` (about 20 minutes on two cores); measures the
corpora into `corpora` (a run that was stopped goes on), and writes the summaries as Parquet,
TABLES.md, the picture and the pages `<model>.html` into this folder, or into the one given with
`--out`. Without stories260K (`--stories`) that model is left out; the picture needs Chromium, and
`--no-picture` does without.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from experiments.common.pictures import take_pictures
from experiments.corpus_study.figure import kinds_figure
from experiments.corpus_study.markdown import tables_page
from experiments.corpus_study.texts import HELD_OUT, write_stories
from iglens_tl import Components, IGLens, load_model, write_html
from iglens_tl.corpus import (
    Columns,
    Corpus,
    CorpusSummary,
    Measurement,
    Progress,
    open_source,
    run_corpus,
)

_FOLDER = Path(__file__).parent
_STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
_N_STORIES, _N_TOKENS = 512, 255


def main() -> None:
    """Measure both corpora and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FOLDER)
    parser.add_argument("--stories", type=Path, default=_STORIES, help="The folder of the model.")
    parser.add_argument("--limit", type=int, help="Only so many texts of each corpus.")
    parser.add_argument("--no-picture", dest="picture", action="store_false")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {"demo": measure_demo(options.out, options.limit)}
    if options.stories.exists():
        found["stories260K"] = measure_stories(options.out, options.stories, options.limit)
    for name, summary in found.items():
        summary.credits.to_parquet(options.out / f"{name}.parquet", index=False)
    page = tables_page(found)
    (options.out / "TABLES.md").write_text(page, encoding="utf-8")
    print(page)
    figure = kinds_figure(found)
    write_html(figure, options.out / "kinds.html")
    if options.picture:
        take_pictures({"kinds": figure}, options.out)


def measure_demo(out: Path, limit: int | None = None) -> CorpusSummary:
    """Measure the held-out texts with the embedded model."""
    columns = Columns(text="text", keep=("family",))
    return _measure(load_model("demo"), HELD_OUT, columns, out, "demo", limit)


def measure_stories(out: Path, folder: Path, limit: int | None = None) -> CorpusSummary:
    """Let stories260K write stories, and measure them."""
    model = load_model(str(folder))
    path = out / "corpora" / "stories.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_stories(folder, path, n_stories=limit or _N_STORIES, n_tokens=_N_TOKENS)
    return _measure(model, path, Columns(), out, "stories260K", limit)


def _measure(
    model: Any, source: Path, columns: Columns, out: Path, name: str, limit: int | None
) -> CorpusSummary:
    measurement = Measurement(lenses={"ig_lens": IGLens(top_k=0), "heads": Components(by="head")})
    folder = out / "corpora" / name
    opened = open_source(source, columns=columns)
    run_corpus(opened, model, folder, measurement, texts_per_part=128, limit=limit, report=_report)
    with Corpus.open(folder) as corpus:
        summary = corpus.summary(n_resamples=2000)
        segments = corpus.lenses["ig_lens"]["segments"]
        examples = [
            corpus.examples(segment, by=by, number=6)
            for segment in segments
            for by in ("largest", "smallest")
        ]
        summary.write_html(out / f"{name}.html", examples=examples)
    return summary


def _report(progress: Progress) -> None:
    print(f"{progress.texts:,} of {progress.all_texts:,} texts", flush=True)


if __name__ == "__main__":
    main()
