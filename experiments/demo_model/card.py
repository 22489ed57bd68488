"""Writes the model card that lies beside the weights."""

from collections.abc import Sequence
from pathlib import Path

from experiments.demo_model.accuracy import Row, accuracy_table, family_rows
from experiments.demo_model.data_files import read_text
from experiments.demo_model.facts import all_facts, load_relations


def write_model_card(rows: Sequence[Row], parameters: int, folder: Path) -> None:
    """Write README.md with the accuracies and the size of the model."""
    card = read_text("model_card.md").format(
        parameters=f"{parameters:,}",
        facts=f"{len(all_facts()):,}",
        relations=len(load_relations()),
        table=accuracy_table(family_rows(rows)).rstrip(),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
