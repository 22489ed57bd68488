"""`iglens corpus` from the shell."""

from __future__ import annotations

import json
import socket
import sys

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from iglens_tl.cli.app import app


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    lines = [{"body": f"The river is {word}.", "year": 1990 + n} for n, word in enumerate("abc")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, ["corpus", *map(str, arguments)])


def test_a_corpus_is_measured_continued_and_described(texts, tmp_path):
    out = tmp_path / "out"
    command = ("run", texts, "--out", out, "--text-column", "body", "--keep", "year")
    command += ("--lenses", "ig_lens,logit_lens", "--components", "sublayer", "--value", "logprob")
    command += ("--texts-per-part", 2, "--max-length", 64)
    ran = invoke(*command)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout == "" and "targets of 3 texts in" in ran.stderr
    table = pq.read_table(out / "parts")
    names = ["credits", "logit_lens", "components", "components_error", "year"]
    assert table.column_names[-5:] == names
    assert set(table["year"].to_pylist()) == {"1990", "1991", "1992"}
    (out / "parts" / "part-000001.parquet").unlink()
    told = invoke("status", out)
    assert told.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in told.stdout.splitlines())
    assert lines["texts"] == "2 of 3" and lines["parts"] == "1 of 2"
    assert "not complete" in told.stdout
    assert invoke(*command).exit_code == 0
    assert "complete" in invoke("status", out).stdout
    other = invoke(*command[:-1], 32)
    assert other.exit_code == 2
    assert "options.max_length was 64 and is 32" in " ".join(other.stderr.split())


def test_a_corpus_is_summarised_in_the_terminal_and_as_a_page(texts, tmp_path):
    out, page = tmp_path / "out", tmp_path / "page.html"
    command = ("run", texts, "--out", out, "--text-column", "body", "--keep", "year")
    assert invoke(*command, "--components", "head").exit_code == 0
    told = invoke("summary", out, "--by", "year,kind", "--html", page, "--resamples", 20)
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert lines[0].startswith("demo: ") and "targets of 3 texts, 0 rejected" in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == ["embed", "L0", "L1"]
    assert "mean credit by year" in lines and "mean credit by kind of token" in lines
    assert [line.split()[0] for line in lines if line[:3] in ("199", "oth")] == [
        "1990",
        "1991",
        "1992",
    ]
    assert told.stderr.strip() == f"wrote {page}"
    assert page.read_text().count("<summary>") == 9
    short = invoke("summary", out, "--resamples", 20)
    assert short.stdout.splitlines()[:11] == lines[:11]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "month"], "divided by 'month'; there is all, kind, frequency, position"),
        (["--memory-limit", "much"], "memory_limit must be a size"),
        (["--resamples", "0"], "n_resamples must be at least 1"),
    ],
)
def test_a_summary_that_cannot_be_made_is_refused(texts, tmp_path, arguments, message):
    out = tmp_path / "out"
    assert invoke("run", texts, "--out", out, "--text-column", "body").exit_code == 0
    told = invoke("summary", out, "--html", tmp_path / "page.html", *arguments)
    assert told.exit_code == 2 and told.stdout == ""
    assert message in " ".join(told.stderr.split())
    assert not (tmp_path / "page.html").exists()


def test_texts_that_are_rejected_show_in_the_exit_code(texts, tmp_path):
    texts.write_text(texts.read_text() + '{"body": ""}\n')
    ran = invoke("run", texts, "--out", tmp_path / "out", "--text-column", "body")
    assert ran.exit_code == 3
    assert "1 texts were not measured, see" in " ".join(ran.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text-column", "x"], "has no column 'x'; it has 'body', 'year'"),
        ([], "has no one column of texts; choose one of 'body', 'year'"),
        (["--text-column", "a", "--ids-column", "b"], "only one of --text-column and --ids-col"),
        (["--text-column", "body", "--long", "cut"], "unknown long 'cut'"),
        (["--text-column", "body", "--components", "neuron"], "other segments for every text"),
        (["--text-column", "body", "--lenses", "lens"], "unknown lens 'lens'"),
        (["--text-column", "body", "--value", "odds"], "unknown value 'odds'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(texts, tmp_path, arguments, message):
    ran = invoke("run", texts, "--out", tmp_path / "out", *arguments)
    told = " ".join(ran.stderr.split())
    assert ran.exit_code == 2 and message in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_no_corpus_are_refused(texts, tmp_path):
    ran = invoke("status", tmp_path)
    assert ran.exit_code == 2 and "holds no corpus" in " ".join(ran.stderr.split())
    ran = invoke("run", tmp_path / "nothing.txt", "--out", tmp_path / "out")
    assert ran.exit_code == 2 and "there is no file or folder" in " ".join(ran.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "ray"], "the ray engine needs Ray Data: pip install 'iglens_tl[scale]'"),
        (["--engine", "spark"], "unknown engine 'spark'; choose local or ray"),
        (["--workers", "2"], "--workers, --gpus and --address are options of --engine ray"),
    ],
)
def test_engines_that_are_not_there_are_errors(texts, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("run", texts, "--text-column", "body", "--out", tmp_path / "out")
    ran = invoke(*command, *arguments)
    assert ran.exit_code == 2 and message in " ".join(ran.stderr.split())
    # What was begun goes on without it.
    assert invoke(*command).exit_code == 0


def test_a_cluster_that_does_not_answer_is_said_at_once_and_nothing_is_lost(texts, tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ("run", texts, "--text-column", "body", "--out", tmp_path / "out")
    ran = invoke(*command, "--engine", "ray", "--address", address)
    told = " ".join(ran.stderr.split())
    assert ran.exit_code == 2 and f"Ray cannot reach the cluster at '{address}': " in told
    assert "Traceback" not in told
    assert invoke(*command).exit_code == 0
