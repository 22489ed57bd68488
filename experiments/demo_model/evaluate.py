"""Scores a model folder on held-out prompts, prints the table and writes it to files.

Usage: python -m experiments.demo_model.evaluate [FOLDER]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.demo_model.accuracy import Row, accuracy_rows, as_cells, write_accuracy
from experiments.demo_model.card import write_model_card
from experiments.demo_model.evaluation_set import evaluation_set
from experiments.demo_model.scoring import score_examples

RESULTS_FOLDER = Path(__file__).parent
SHIPPED_MODEL = RESULTS_FOLDER.parents[1] / "iglens_tl" / "models" / "demo"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32).eval()
    examples = evaluation_set(options.share)
    scores = score_examples(model, AutoTokenizer.from_pretrained(options.folder), examples)
    rows = accuracy_rows(examples, scores)
    Console().print(_table(rows))
    if options.write:
        write_accuracy(rows, options.write)
        write_model_card(rows, model.num_parameters(), options.folder)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(*Row._fields)
    for row in rows:
        table.add_row(*as_cells(row), style="bold" if row.group == "all" else "")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the prompts to use")
    parser.add_argument(
        "--write", type=Path, default=RESULTS_FOLDER, help="folder for the result files"
    )
    parser.add_argument("--no-write", dest="write", action="store_const", const=None)
    return parser


if __name__ == "__main__":
    main()
