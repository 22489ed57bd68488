"""How much credits depend on order, break points, baseline, value and estimator.

Run with `python -m experiments.path_study.show` (see README.md for how long); writes TABLES.md,
`responses.parquet`, `predictions.parquet`, `items.parquet` and the pictures into this folder. An
interrupted run goes on where it stopped. `--items 3 --no-pictures --out FOLDER` gives a quick
impression. Pictures need Chromium.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from experiments.common.items import FAMILIES
from experiments.common.pictures import take_pictures
from experiments.path_study.charts import all_figures
from experiments.path_study.markdown import tables_page
from experiments.path_study.predictions import judge
from experiments.path_study.responses import response_table
from experiments.path_study.study import measure
from iglens_tl import load_model, write_html
from iglens_tl.models import adapt

_FOLDER = Path(__file__).parent
_WORK = Path("out") / "path_study"


def main(arguments: list[str] | None = None) -> None:
    """Measure a model and write what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a name or folder")
    parser.add_argument("--items", type=int, default=25, help="prompts of each family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=_FOLDER)
    parser.add_argument(
        "--work", type=Path, default=_WORK, help="finished parts, all credits, the HTML page"
    )
    parser.add_argument("--no-pictures", dest="pictures", action="store_false")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    # Matrices this small gain little from threads, and lose much on a busy machine.
    torch.set_num_threads(1)
    adapter = adapt(load_model(options.model))
    start = time.perf_counter()
    study = measure(
        adapter,
        options.work / "parts",
        number=options.items,
        seed=options.seed,
        families=options.families,
        say=print,
    )
    responses = response_table(study, seed=options.seed)
    predictions = judge(study)
    print(f"measured in {time.perf_counter() - start:.0f} s")
    page = tables_page(study, responses, predictions, adapter.name)
    (options.out / "TABLES.md").write_text(page, encoding="utf-8")
    study.items.to_parquet(options.out / "items.parquet")
    responses.to_parquet(options.out / "responses.parquet")
    found = pd.DataFrame([{**asdict(p), "verdict": p.verdict} for p in predictions])
    found.to_parquet(options.out / "predictions.parquet")
    study.tidy_credits().to_parquet(options.work / "credits.parquet")
    for prediction in predictions:
        print(f"{prediction.verdict}: {prediction.statement} ({prediction.found})")
    figures = all_figures(study, responses)
    print(f"wrote {write_html(list(figures.values()), options.work / 'figures.html')}")
    if options.pictures:
        for written in take_pictures(figures, options.out):
            print(f"wrote {written}")


if __name__ == "__main__":
    main()
