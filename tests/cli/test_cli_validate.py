"""`iglens validate` as users call it."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from iglens_tl import validate
from iglens_tl.cli.app import app
from iglens_tl.cli.validate import missing_blanks, read_lines
from tests.support.closeness import assert_close_to, assert_identical

LINES = ["w17 w42 w5", "w88 w23", "w5 w9 w61 w30", "w12 w17"]
QUICK = ["--interventions", "skip,early_exit", "--no-nulls"]


@pytest.fixture(scope="module")
def call(toy_folder, tmp_path_factory):
    """Return a function that calls `iglens validate` on the Llama toy model."""
    folder = str(toy_folder("llama"))

    def invoke(*arguments: str, content: str | bytes = "\n".join(LINES), path=None):
        path = path or tmp_path_factory.mktemp("validate") / "prompts.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CliRunner().invoke(app, ["validate", str(path), "--model", folder, *arguments])

    return invoke


def error_of(outcome) -> str:
    assert outcome.exit_code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("error: ")
    assert "Traceback" not in outcome.stderr
    return " ".join(outcome.stderr.split())


def test_csv_is_the_table_of_the_function(call, toy):
    outcome = call(*QUICK, "--format", "csv")
    assert outcome.exit_code == 0
    expected = validate(toy, LINES, interventions=["skip", "early_exit"], nulls=False).table
    written = pd.read_csv(
        io.StringIO(outcome.stdout), keep_default_na=False, na_values={"mean": ""}
    )
    keys = ["credits", "effects", "metric"]
    assert_identical(written[keys], expected[keys], check_dtype=False)
    left, right = (frame["mean"].astype(float).round(4) for frame in (written, expected))
    pd.testing.assert_series_equal(left, right, check_exact=False, atol=1e-3)


def test_the_table_has_a_block_for_every_intervention_and_fits_100_columns(call):
    outcome = call("--interventions", "skip,early_exit")
    assert outcome.exit_code == 0
    lines = outcome.stdout.splitlines()
    assert all(
        len(line.rstrip()) <= 100
        for line in lines
        if ": only 4 prompts" not in line and "undefined for" not in line
    )
    heads = [
        line.split()[0] for line in lines if "spearman  " in line or "share_of_oracle  " in line
    ]
    assert heads == ["skip", "early_exit", "skip"]
    names = [line.strip()[:14] for line in lines]
    assert names.count("layers shuffle") == 6
    assert names.count("random target ") == names.count("random weights") == 4
    assert lines[-1] == "means over 4 targets [95 % intervals over prompts]"
    assert "nan" not in outcome.stdout.lower()
    assert "note: skip: a value is" in outcome.stderr


def test_files_are_written_and_told(call, tmp_path):
    html, out = tmp_path / "page.html", tmp_path / "table.json"
    outcome = call(*QUICK, "--format", "json", "--html", str(html), "--out", str(out))
    assert outcome.exit_code == 0
    assert json.loads(outcome.stdout) == json.loads(out.read_text())
    content = json.loads(outcome.stdout)
    assert list(content) == ["format", "version", "table", "by_item", "curves", "provenance"]
    assert "Do credits agree" in html.read_text()
    assert f"wrote {out}" in outcome.stderr and f"wrote {html}" in outcome.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "table.json"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_table_is_written(call, tmp_path, ending):
    out = tmp_path / f"table.{ending}"
    assert call(*QUICK, "--out", str(out)).exit_code == 0
    table = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    assert set(table["effects"]) == {"skip", "early_exit", "skip curves"}


def test_blank_lines_marks_and_line_ends_of_windows_are_no_prompts(call):
    content = ("\ufeff" + "\r\n".join([LINES[0], "", "   ", *LINES[1:], ""])).encode()
    outcome = call(*QUICK, "--format", "csv", content=content)
    expected = call(*QUICK, "--format", "csv")
    found, expected = (pd.read_csv(io.StringIO(each.stdout)) for each in (outcome, expected))
    assert_close_to(found, expected, dtype=torch.float32)


def test_answers_stand_after_a_tab(call, toy):
    content = "w17 w42\t w9\nw5 w88\t w30 w12"
    outcome = call(*QUICK, "--format", "json", content=content)
    items = pd.DataFrame(json.loads(outcome.stdout)["by_item"])
    assert items.loc[items["effects"] == "skip", "token"].str.strip().tolist()[:3] == [
        "w9",
        "w30",
        "w12",
    ]


def test_equal_lines_count_again_and_are_pointed_out(call):
    outcome = call(*QUICK, content=f"{LINES[0]}\n{LINES[0]}\n{LINES[1]}")
    assert "note: 1 of 3 prompts repeat an earlier one and count again" in outcome.stderr


@pytest.mark.parametrize("n_lines", [1, 2])
def test_few_prompts_are_said_in_words(call, n_lines):
    outcome = call(*QUICK, content="\n".join(LINES[:n_lines]))
    assert outcome.exit_code == 0
    note = "one prompt: no interval" if n_lines == 1 else "only 2 prompts: the interval is rough"
    assert note in outcome.stdout
    assert "nan" not in outcome.stdout.lower()


def test_a_run_resumes_from_its_folder(call, tmp_path):
    prompts, folder = tmp_path / "prompts.txt", tmp_path / "parts"
    first = call(*QUICK, "--format", "csv", "--folder", str(folder), path=prompts)
    assert first.exit_code == 0
    again = call(*QUICK, "--format", "csv", "--folder", str(folder), path=prompts)
    assert again.stdout == first.stdout
    other = call(*QUICK, "--seed", "1", "--folder", str(folder), path=prompts)
    assert "holds parts of a run with other settings (seed)" in error_of(other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompt; write one in each line"),
        ("\n \n", "holds no prompt; write one in each line"),
        (b"w17 \xff", "is not valid UTF-8"),
        ("w17 w42\n\n" + "w5 " * 200, "line 3: the prompt has 201 tokens but"),
        ("w17\tw5\nw42", "line 1 has an answer after a tab, but line 2 has none"),
        ("w17\nw42\tw5", "line 2 has an answer after a tab, but line 1 has none"),
        ("w17\t", "line 1 must be a prompt, one tab and an answer"),
        ("w17\tw5\tw42", "line 1 must be a prompt, one tab and an answer"),
        ("\tw5", "line 1 has no prompt before the tab"),
    ],
)
def test_bad_files_are_one_sentence_that_names_the_line(call, content, message):
    assert message in error_of(call(*QUICK, content=content))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lenses", "magic"], "unknown lens 'magic'; choose from"),
        (["--lenses", ","], "lenses is empty"),
        (["--lenses", "ig_lens:sideways"], "unknown path 'sideways'"),
        (["--interventions", "bleach"], "unknown intervention 'bleach'; choose from"),
        (["--interventions", ""], "interventions is empty"),
        (["--scope", "first"], "unknown scope 'first'"),
        (["--value", "odds"], "unknown value 'odds'"),
        (["--n-draws", "1"], "n_draws must be an integer of at least 2"),
        (["--seed", "-1"], "seed must be an integer of at least 0"),
        (["--reference", "missing.txt"], "cannot read 'missing.txt'"),
        (["--out", "table.xlsx"], "must end in .csv, .parquet or .json"),
        (["--html", "page.png"], "must end in .html"),
        (["--out", "missing/table.csv"], "does not exist; create it first"),
        (["--folder", __file__], "is a file; give a folder"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(call, arguments, message):
    assert message in error_of(call(*arguments))


ROWS = [
    {"question": [5, 9, 61], "says": " w5"},
    {"question": "w88 w23", "says": " w9"},
]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_prompts_and_answers_are_columns_of_a_table(call, toy, tmp_path, ending):
    rows = ROWS if ending == ".jsonl" else ROWS[1:] * 2
    path, table = tmp_path / f"prompts{ending}", pd.DataFrame(rows)
    writers = {
        ".jsonl": lambda: "\n".join(json.dumps(row) for row in rows).encode(),
        ".csv": lambda: table.to_csv(index=False).encode(),
        ".parquet": table.to_parquet,
    }
    options = ["--column", "question", "--answer-column", "says", "--format", "csv"]
    outcome = call(*QUICK, *options, content=writers[ending](), path=path)
    assert outcome.exit_code == 0, outcome.stderr
    expected = validate(
        toy,
        [row["question"] for row in rows],
        answer=[row["says"] for row in rows],
        interventions=["skip", "early_exit"],
        nulls=False,
    ).table
    written = pd.read_csv(io.StringIO(outcome.stdout))
    left, right = (frame["mean"].astype(float) for frame in (written, expected))
    pd.testing.assert_series_equal(left, right, check_exact=False, atol=1e-3)


def test_columns_of_what_is_no_table_or_not_there_are_one_sentence(call, tmp_path):
    assert "is read as plain text, which has no columns" in error_of(call(*QUICK, "--column", "a"))
    path = tmp_path / "prompts.csv"
    outcome = call(*QUICK, "--column", "nothing", content="prompt\nw17 w42\n", path=path)
    assert "'nothing'" in error_of(outcome)


def test_answers_without_a_blank_are_pointed_out(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("The capital of France is\tParis\nOne, two,\t three\n")
    (note,) = missing_blanks(read_lines(path))
    assert note.startswith("1 answers follow their prompts without a blank, first in line 1: ")
    assert "'capital of France isParis'" in note
    path.write_text("The capital of France is\t Paris\n")
    assert missing_blanks(read_lines(path)) == []
