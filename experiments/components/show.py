"""Which heads and tokens answers come from, and what ablating these heads does to them.

Run with `python -m experiments.components.show` (two to three minutes on two cores); writes
TABLES.md, the numbers of all heads as CSV and the pictures into this folder. `--cases 10
--no-pictures` gives a quick impression. Pictures need Chromium.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from experiments.common.pictures import take_pictures
from experiments.components.curves import ablation_curves, head_scatter
from experiments.components.markdown import tables_page
from experiments.components.outcomes import FAMILIES, Family, measure
from iglens_tl import components, load_model
from iglens_tl.models import ModelAdapter, adapt
from iglens_tl.views.figures import Figure

_FOLDER = Path(__file__).parent


def main() -> None:
    """Measure both families and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100, help="prompts of each family")
    parser.add_argument("--out", type=Path, default=_FOLDER)
    parser.add_argument("--no-pictures", dest="pictures", action="store_false")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # Matrices this small gain little from threads, and lose much on a busy machine.
    torch.set_num_threads(1)
    adapter = adapt(load_model("demo"))
    start = time.perf_counter()
    outcomes = [measure(adapter, family, options.cases) for family in FAMILIES]
    print(f"measured in {time.perf_counter() - start:.0f} s")
    page = tables_page(outcomes)
    (options.out / "TABLES.md").write_text(page, encoding="utf-8")
    print(page)
    for outcome in outcomes:
        file = options.out / f"{outcome.family.name}_heads.csv"
        outcome.heads.to_csv(file, float_format="%.5g")
    if options.pictures:
        figures = {
            "heads": head_scatter(outcomes),
            "ablations": ablation_curves(outcomes),
        }
        for family in FAMILIES:
            figures |= example_figures(adapter, family)
        for written in take_pictures(figures, options.out):
            print(f"wrote {written}")


def example_figures(adapter: ModelAdapter, family: Family) -> dict[str, Figure]:
    """Draw the credits of a family's example."""
    prompt, answer = family.example
    result = components(adapter, prompt, by="head_source", answer=answer)
    return {
        f"{family.name}_heads": result.head_heatmap(0),
        f"{family.name}_sources": result.source_heatmap(0, by="head", top=10),
        f"{family.name}_waterfall": result.waterfall(0, top=12),
        f"{family.name}_sankey": result.sankey(0, top=12),
    }


if __name__ == "__main__":
    main()
