"""The command line as users call it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from iglens_tl import LensResult, ig_lens
from iglens_tl.cli.app import app
from iglens_tl.cli.run import parse_layers
from iglens_tl.cli.table import print_table
from tests.support.closeness import assert_close_to
from tests.support.results import assert_same_table, make_result

TEXT = "w17 w42 w5 w88 w23"


@pytest.fixture(scope="module")
def run(toy_folder):
    """Return a function that calls `iglens run` on the Llama toy model."""
    folder = str(toy_folder("llama"))

    def call(*arguments: str, text: str = TEXT, stdin: str | None = None):
        command = ["run", text, *arguments]
        if "--model" not in arguments:
            command += ["--model", folder]
        return CliRunner().invoke(app, command, input=stdin)

    return call


def wide_table(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), index_col=[0, 1, 2, 3])


def test_the_table_goes_to_stdout_and_nothing_else(run, toy):
    outcome = run("--answer", " w9 w30")
    assert outcome.exit_code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0].split()[:4] == ["pos", "token", "embed", "L0"]
    assert lines[0].split()[-6:] == ["sum", "delta", "final", "baseline", "error", "onset"]
    assert [line.split()[1] for line in lines[1:]] == ["␣w9", "␣w30"]
    assert len(lines) == 3


def test_csv_is_the_wide_table(run, toy):
    outcome = run("--answer", " w9 w30", "--format", "csv")
    expected = ig_lens(toy, TEXT, answer=" w9 w30").to_frame()
    assert_same_table(wide_table(outcome.stdout), expected)


def test_json_is_the_tidy_table_with_provenance_and_can_be_loaded(run, tmp_path):
    outcome = run(
        "--answer", " w9", "--format", "json", "--estimator", "gradient", "--n-steps", "16"
    )
    content = json.loads(outcome.stdout)
    assert content["provenance"]["options"]["n_steps"] == 16
    assert len(content["data"]) == 4
    path = tmp_path / "piped.json"
    path.write_text(outcome.stdout)
    assert LensResult.load(path).targets[0].token_id == 9


def test_the_prompt_is_read_from_stdin(run):
    outcome = run("--format", "csv", text="-", stdin=TEXT + "\n")
    expected = run("--format", "csv").stdout
    assert_same_table(wide_table(outcome.stdout), wide_table(expected))


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_results_and_figures_are_written_and_their_paths_told(run, toy, tmp_path, suffix):
    out, html = tmp_path / f"result.{suffix}", tmp_path / "figure.html"
    outcome = run("--generate", "3", "--out", str(out), "--html", str(html))
    assert outcome.exit_code == 0
    assert f"wrote {out}" in outcome.stderr
    assert f"wrote {html}" in outcome.stderr
    assert "wrote" not in outcome.stdout
    expected = ig_lens(toy, TEXT, generate=3)
    if suffix == "csv":
        written = pd.read_csv(out)["final"].to_numpy()
    else:
        written = LensResult.load(out).final
    assert_close_to(written, expected.final, dtype=torch.float32)
    page = html.read_text()
    assert "src=" not in page.split("<script")[0]
    assert "Plotly" in page


def test_options_reach_the_lens(run, toy_folder, toy):
    outcome = run(
        "--target",
        " w9",
        "--target",
        " w30",
        "--layers",
        "0-1",
        "--baseline",
        "zero",
        "--value",
        "logprob",
        "--format",
        "json",
        "--dtype",
        "float64",
        "--backend",
        "bridge",
    )
    content = json.loads(outcome.stdout)
    assert content["segments"] == ["embed", "L0", "L1", "L2"]
    assert content["unit"] == "nats"
    assert [target["token_id"] for target in content["targets"]] == [9, 30]
    model = content["provenance"]["model"]
    assert (model["backend"], model["dtype"]) == ("bridge", "float64")
    sublayers = json.loads(run("--by", "sublayer", "--format", "json").stdout)
    assert sublayers["segments"][1:3] == ["L0.attn", "L0.mlp"]
    reference = run("--reference-compat", "--format", "json")
    assert json.loads(reference.stdout)["segments"] == ["L0", "L1", "L2"]
    assert "note: reference_ig_lens" in reference.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "./nowhere"], "there is no folder './nowhere'"),
        (["--layers", "9"], "layer 9 is out of range"),
        (["--layers", "1,1"], "layer 1 is given twice"),
        (["--layers", "-1"], "--layers takes block numbers from 0 such as 0,3,6-8, got '-1'"),
        (["--layers", "a"], "got 'a'"),
        (["--baseline", "average"], "unknown baseline 'average'"),
        (["--value", "p"], "unknown value 'p'"),
        (["--estimator", "magic"], "unknown estimator 'magic'"),
        (["--backend", "torch"], "unknown backend 'torch'"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--device", "gpu"], "device 'gpu' is not available"),
        (["--target", " elephant"], "' elephant' is not in the vocabulary"),
        (["--target", " w9 w10"], "is 2 tokens"),
        (["--chat"], "has no chat template"),
        (["--out", "result.txt"], "must end in .csv, .json or .parquet"),
        (["--out", "/no/such/folder/result.csv"], "does not exist; create it first"),
        (["--out", "/proc/result.csv"], "cannot write '/proc/result.csv'"),
        (["--html", "/proc/figure.html"], "cannot write '/proc/figure.html'"),
        (["--html", "figure.png"], "must end in .html"),
        (["--answer", " w9", "--generate", "2"], "give only one of answer, generate and targets"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr_with_exit_code_2(run, arguments, message):
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in outcome.stderr


def test_an_empty_prompt_is_refused(run):
    for text, stdin in (("", None), ("-", "")):
        outcome = run(text=text, stdin=stdin)
        assert outcome.exit_code == 2
        assert "the prompt is empty" in outcome.stderr


def test_an_unknown_format_is_refused_by_the_parser(run):
    outcome = run("--format", "xml")
    assert outcome.exit_code == 2
    assert "xml" in outcome.stderr


def test_a_path_that_cannot_be_written_leaves_nothing(run, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    outcome = run("--out", str(tmp_path / "folder.csv"))
    assert outcome.exit_code == 2
    assert "is a folder; give the name of a file" in outcome.stderr
    outcome = run("--out", str(tmp_path / f"{'a' * 300}.csv"))
    assert outcome.exit_code == 2
    assert "cannot write" in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_incomplete_credits_are_noted_on_stderr(run):
    outcome = run("--estimator", "riemann", "--n-steps", "1", "--baseline", "zero")
    assert outcome.exit_code == 0
    assert "warning: the credits of" in outcome.stderr


def test_layer_lists_take_numbers_and_ranges():
    assert parse_layers("0,3, 6-8") == [0, 3, 6, 7, 8]
    for text in ("", "1-", "-", "x", "1.5", "2,,3"):
        with pytest.raises(ValueError, match="--layers takes block numbers"):
            parse_layers(text)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_a_narrow_terminal_gets_the_segments_in_blocks_and_loses_none(width):
    result = make_result(np.zeros((2, 24)), tokens=("a", "b"))
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    print_table(result, console)
    printed = console.file.getvalue()
    assert max(len(line) for line in printed.splitlines()) <= width
    for label in (*result.segments, "sum", "onset"):
        assert f" {label}" in printed


def test_help_and_import_do_not_load_torch():
    code = "import sys, iglens_tl, iglens_tl.cli; print('torch' in sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "False"


def test_help_and_version_answer(run):
    for arguments, part in (
        (["--help"], "run"),
        (["run", "--help"], "--n-steps"),
        (["--version"], "0.1.0"),
    ):
        outcome = CliRunner().invoke(app, arguments)
        assert outcome.exit_code == 0
        assert part in outcome.stdout


def test_the_installed_command_runs_in_a_pipe(toy_folder):
    command = Path(sys.executable).parent / "iglens"
    if not command.exists():
        pytest.skip("the package is not installed")
    outcome = subprocess.run(
        [command, "run", "-", "--model", toy_folder("llama"), "--format", "csv"],
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout.startswith("prompt,position,token_id,token,embed")
