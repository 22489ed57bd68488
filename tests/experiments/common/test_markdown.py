"""Tables in Markdown, against their text written by hand."""

from __future__ import annotations

from experiments.common.markdown import markdown_table


def test_a_table_has_a_rule_below_its_names_and_ends_its_last_line():
    expected = "| lens | p |\n| --- | --- |\n| IG-Lens | 0.5 |\n"
    assert markdown_table(["lens", "p"], [["IG-Lens", "0.5"]]) == expected


def test_numbers_after_the_texts_are_aligned_to_the_right():
    rule = markdown_table(["family", "group", "p"], [], n_texts=2).splitlines()[1]
    assert rule == "| --- | --- | ---: |"


def test_bars_and_line_breaks_stay_inside_their_cell():
    table = markdown_table(["Σ|credit|"], [["a\nb|c"]])
    assert table == "| Σ\\|credit\\| |\n| --- |\n| a b\\|c |\n"
