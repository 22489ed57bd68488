"""`iglens components` as users call it."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from iglens_tl import LensResult, components
from iglens_tl.cli.app import app
from iglens_tl.cli.table import print_contributors
from tests.support.closeness import assert_close_to
from tests.support.results import make_component_result

TEXT = "w17 w42 w5 w88 w23"


@pytest.fixture
def call(toy_folder):
    """Return a function that calls `iglens components` on the Llama toy model."""
    folder = str(toy_folder("llama"))

    def invoke(*arguments: str):
        return CliRunner().invoke(app, ["components", TEXT, "--model", folder, *arguments])

    return invoke


def test_every_target_has_its_largest_components_the_others_and_the_sum(call, toy):
    outcome = call("--answer", " w9 w30", "--top", "3")
    assert outcome.exit_code == 0, outcome.stderr
    tables = outcome.stdout.split("\n\n")
    result = components(toy, TEXT, answer=" w9 w30", by="head")
    assert len(tables) == 2
    for row, table in enumerate(tables):
        lines = table.strip().splitlines()
        assert lines[0].startswith(f"␣{('w9', 'w30')[row]} read at position {5 + row}: ")
        assert lines[1].split() == ["rank", "component", "credit", "share"]
        names = result.contributors(top=3, target=row)
        credits = [float(line.split()[-2]) for line in lines[2:] if line.endswith("%")]
        np.testing.assert_allclose(credits, [*names["credit"], result.sums[row]], atol=1e-4)
        assert [line.split()[1] for line in lines[2:5]] == names["segment"].tolist()[:3]
        assert lines[5].split()[:2] == [str(len(result.segments) - 3), "others"]
        assert lines[6].split() == ["sum", f"{result.sums[row]:+.4f}", "100.0%"]
        change = result.final[row] - result.baseline[row]
        assert lines[7].startswith(f"final − baseline {change:+.4f}, error ")


def test_sources_are_named_by_their_tokens(call):
    outcome = call("--by", "head_source", "--answer", " w9", "--top", "200")
    lines = outcome.stdout.splitlines()
    assert lines[1].split() == ["rank", "component", "read", "credit", "share"]
    line = next(line for line in lines if "L1.H0<pos 1" in line)
    assert line.split()[1:4] == ["L1.H0<pos", "1", "␣w17"]


def test_the_neurons_named_are_those_of_the_largest_credit(call):
    outcome = call("--by", "neuron", "--answer", " w9", "--top", "5", "--format", "json")
    segments = json.loads(outcome.stdout)["segments"]
    assert sum(".mlp.n" in label for label in segments) == 5


def test_csv_is_the_table_of_contributors(call, toy):
    outcome = call("--answer", " w9", "--top", "4", "--format", "csv")
    frame = pd.read_csv(io.StringIO(outcome.stdout))
    result = components(toy, TEXT, answer=" w9", by="head")
    expected = result.contributors(top=4)
    assert list(frame.columns) == list(expected.columns)
    assert frame["segment"].tolist() == expected["segment"].tolist()
    np.testing.assert_allclose(frame["credit"], expected["credit"], atol=1e-6)


def test_json_is_the_whole_result(call, tmp_path):
    outcome = call("--answer", " w9", "--format", "json", "--top", "1")
    path = tmp_path / "piped.json"
    path.write_text(outcome.stdout)
    assert len(LensResult.load(path).segments) == len(json.loads(outcome.stdout)["segments"]) > 10


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_results_and_figures_are_written_and_their_paths_told(call, toy, tmp_path, suffix):
    out, html = tmp_path / f"result.{suffix}", tmp_path / "figures.html"
    outcome = call("--answer", " w9", "--out", str(out), "--html", str(html))
    assert outcome.exit_code == 0, outcome.stderr
    assert f"wrote {out}" in outcome.stderr and f"wrote {html}" in outcome.stderr
    expected = components(toy, TEXT, answer=" w9", by="head")
    if suffix == "csv":
        assert_close_to(pd.read_csv(out)["credit"].sum(), expected.sums[0], dtype=torch.float32)
    else:
        assert_close_to(LensResult.load(out).values, expected.values, dtype=torch.float32)
    assert html.read_text().count("data-figure=") == 3


@pytest.mark.parametrize(("by", "figures"), [("head_source", 4), ("sublayer", 2)])
def test_the_page_has_the_figures_that_the_components_allow(call, tmp_path, by, figures):
    html = tmp_path / "figures.html"
    assert call("--answer", " w9", "--by", by, "--html", str(html)).exit_code == 0
    assert html.read_text().count("data-figure=") == figures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "--top must be at least 1, got 0"),
        (["--by", "magic"], "unknown split by='magic'"),
        (["--out", "result.txt"], "must end in .csv, .json or .parquet"),
        (["--html", "figure.png"], "must end in .html"),
        (["--target", " elephant"], "' elephant' is not in the vocabulary"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr_with_exit_code_2(call, arguments, message):
    outcome = call(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


@pytest.mark.parametrize("width", [60, 100])
def test_the_table_fits_a_terminal(width):
    result = make_component_result(tokens=(" a [b]very[/b] long token, a very long one", ".", "\n"))
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    print_contributors(result, 100, console)
    printed = console.file.getvalue()
    assert max(len(line) for line in printed.splitlines()) <= width
    assert "[b]very" in printed
