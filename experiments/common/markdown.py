"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], *, n_texts: int | None = None
) -> str:
    """Write a table in Markdown, with a line break at its end.

    Bars and line breaks inside cells do not end them.

    Args:
        names: The names of the columns.
        rows: The cells of each row, as many as there are names.
        n_texts: How many columns hold texts; those after them hold numbers and are aligned to the
            right. By default all columns hold texts.
    """
    is_text = range(len(names))[:n_texts]
    rule = ["---" if column in is_text else "---:" for column in range(len(names))]
    lines = [names, rule, *rows]
    return "".join(f"| {' | '.join(map(_escaped, cells))} |\n" for cells in lines)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
