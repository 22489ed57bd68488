"""Whether credits of layers agree with what happens when the layers are taken out.

Run with `python -m experiments.causal_agreement.show` (about ten minutes on two idle cores); writes
agreement.parquet, changes.parquet, TABLES.md and the pictures into this folder, or into the one
given with `--out`. What is finished is kept in `--parts`, from which an interrupted run goes on.
`--model` takes any model, `--items 5 --no-pictures --parts FOLDER` gives a quick impression.
Pictures need Chromium.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from experiments.causal_agreement.figures import all_figures
from experiments.causal_agreement.markdown import tables_page
from experiments.causal_agreement.study import Task, available, study
from experiments.causal_agreement.summary import mean_changes, summarise
from experiments.common.items import FAMILIES, draw_all
from experiments.common.pictures import take_pictures
from iglens_tl import load_model
from iglens_tl.models import adapt
from iglens_tl.resume import Parts

_FOLDER = Path(__file__).parent
_PARTS = Path("out/causal_agreement/parts")
_DIGITS = 4


def main() -> None:
    """Measure all families and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="a name or folder that load_model takes")
    parser.add_argument("--items", type=int, default=12, help="prompts of each family")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=_FOLDER)
    parser.add_argument("--parts", type=Path, default=_PARTS, help="where finished parts are kept")
    parser.add_argument("--no-pictures", dest="pictures", action="store_false")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    start = time.perf_counter()
    adapter = adapt(load_model(options.model))
    drawn = draw_all(adapter, options.items, families=options.families, seed=options.seed)
    kinds, left_out = available(adapter)
    settings = {name: getattr(options, name) for name in ("model", "items", "seed")}
    Parts(options.parts, settings)  # before any work: other settings need another folder
    families = dict.fromkeys(item.family for item in drawn.items)
    tasks = [
        Task(
            options.model,
            family,
            tuple(item for item in drawn.items if item.family == family),
            options.parts,
            settings,
            options.seed,
            kinds,
        )
        for family in families
    ]
    outcome = study(tasks, processes=options.processes)
    print(f"measured {len(drawn.items)} items in {time.perf_counter() - start:.0f} s")
    table, means = summarise(outcome.scores), mean_changes(outcome.changes)
    print(f"summed up after {time.perf_counter() - start:.0f} s")
    rounded = table.round(dict.fromkeys(("mean", "low", "high"), _DIGITS))
    rounded.to_parquet(options.out / "agreement.parquet", index=False, compression="zstd")
    means.to_parquet(options.out / "changes.parquet", index=False, compression="zstd")
    page = tables_page(drawn.items, (*drawn.notes, *left_out), table, means)
    (options.out / "TABLES.md").write_text(page, encoding="utf-8")
    written = ["agreement.parquet", "changes.parquet", "TABLES.md"]
    if options.pictures:
        written += [path.name for path in take_pictures(all_figures(table, means), options.out)]
    print(f"wrote {', '.join(written)} to {options.out}")


if __name__ == "__main__":
    main()
