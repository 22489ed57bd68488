"""Where every lens finds what was planted into models written by hand.

Run with `python -m experiments.planted.show` (about a minute on two cores); writes
localisation.parquet, TABLE.md and the map localisation.html and .png into this folder, or into the
one given with `--out`. The picture needs Chromium; `--no-picture` does without.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from experiments.common.pictures import take_pictures
from experiments.planted.figure import localisation_map
from experiments.planted.markdown import tables_page
from experiments.planted.models import all_models
from experiments.planted.study import study
from iglens_tl import write_html

_FOLDER = Path(__file__).parent


def main() -> None:
    """Measure all models and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_FOLDER)
    parser.add_argument("--no-picture", dest="picture", action="store_false")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    scores = study(all_models(), processes=os.cpu_count() or 1)
    n_models = len(scores.drop_duplicates(["kind", "place", "seed"]))
    print(f"measured {n_models} models in {time.perf_counter() - start:.0f} s")
    scores.to_parquet(options.out / "localisation.parquet", index=False)
    page = tables_page(scores)
    (options.out / "TABLE.md").write_text(page, encoding="utf-8")
    print(page)
    figure = localisation_map(scores)
    write_html(figure, options.out / "localisation.html")
    if options.picture:
        take_pictures({"localisation": figure}, options.out)
    print(f"wrote localisation.parquet, TABLE.md and the map to {options.out}")


if __name__ == "__main__":
    main()
