"""`iglens compare` as users call it."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from iglens_tl import LensComparison, Translators, compare
from iglens_tl.cli.app import app
from iglens_tl.tuning import save_translators
from tests.support.results import assert_same_table

TEXT = "w17 w42 w5 w88 w23"


@pytest.fixture(scope="module")
def call(toy_folder):
    """Return a function that calls `iglens compare` on the Llama toy model."""
    folder = str(toy_folder("llama"))

    def invoke(*arguments: str, text: str = TEXT):
        return CliRunner().invoke(app, ["compare", text, "--model", folder, *arguments])

    return invoke


def test_every_lens_has_its_table_then_come_costs_and_agreement(call):
    outcome = call("--answer", " w9")
    assert outcome.exit_code == 0
    lines = outcome.stdout.splitlines()
    headings = [line for line in lines if line.endswith(("probability", "logit"))]
    assert headings == [
        "logit_lens: levels in probability",
        "direct_logit_attribution: credits in logit",
        "ig_lens: credits in probability",
    ]
    assert "costs of each lens alone" in lines
    assert "agreement on what changes in each layer" in lines
    assert "nan" not in outcome.stdout


def test_csv_is_the_tidy_table(call, toy):
    outcome = call("--answer", " w9 w30", "--format", "csv", "--lenses", "ig_lens, logit_lens")
    frame = pd.read_csv(io.StringIO(outcome.stdout))
    expected = compare(toy, TEXT, answer=" w9 w30", lenses=["ig_lens", "logit_lens"])
    tidy = expected.to_frame(tidy=True).drop(columns="seconds")
    assert_same_table(frame.drop(columns="seconds"), tidy)


def test_json_on_stdout_and_files_can_be_loaded(call, tmp_path):
    out, html = tmp_path / "comparison.json", tmp_path / "comparison.html"
    outcome = call("--generate", "2", "--format", "json", "--out", str(out), "--html", str(html))
    assert outcome.exit_code == 0
    assert json.loads(outcome.stdout) == json.loads(out.read_text())
    assert len(LensComparison.load(out).results) == 3
    assert "Plotly" in html.read_text()
    assert f"wrote {out}" in outcome.stderr and f"wrote {html}" in outcome.stderr


def test_a_tuned_lens_is_taken_from_its_folder(call, toy, tmp_path):
    lens = Translators.zeros(3, 32, toy.cfg.model_name)
    save_translators(lens, tmp_path / "lens")
    folder = str(tmp_path / "lens")
    outcome = call("--lenses", "tuned_lens,logit_lens", "--tuned-lens", folder, "--format", "json")
    assert outcome.exit_code == 0
    results = {result["lens"]: result for result in json.loads(outcome.stdout)["results"]}
    values = [[row["value"] for row in results[lens]["data"]] for lens in results]
    np.testing.assert_allclose(*values, atol=1e-6)


def test_a_tidy_csv_file_is_written(call, tmp_path):
    out = tmp_path / "comparison.csv"
    assert call("--answer", " w9", "--out", str(out)).exit_code == 0
    assert set(pd.read_csv(out)["lens"]) == {"logit_lens", "direct_logit_attribution", "ig_lens"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lenses", "magic"], "unknown lens 'magic'; choose from"),
        (["--lenses", "ig_lens,ig_lens"], "lens 'ig_lens' is given twice"),
        (["--lenses", ","], "lenses is empty"),
        (["--tuned-lens", "lens"], "--lenses does not name tuned_lens"),
        (["--lenses", "tuned_lens", "--tuned-lens", "./no-lens"], "no-lens"),
        (["--value", "odds"], "unknown value 'odds'"),
        (["--out", "comparison.parquet"], "must end in .csv or .json"),
        (["--out", "missing/comparison.json"], "does not exist; create it first"),
        (["--html", "figure.png"], "must end in .html"),
        (["--generate", "0"], "generate must be at least 1"),
        (["--chat"], "no chat template"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(call, arguments, message):
    outcome = call(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert message in " ".join(outcome.stderr.split())
    assert "Traceback" not in outcome.stderr
