"""`iglens tuned-lens` as users call it."""

from __future__ import annotations

import io
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from iglens_tl.cli.app import app
from iglens_tl.cli.tuned_lens import read_texts
from iglens_tl.tuning import load_translators
from iglens_tl.tuning.checkpoint import FILE

COLUMNS = ["segment", "kl_logit_lens", "kl_tuned_lens", "ce_logit_lens", "ce_tuned_lens"]


@pytest.fixture
def text(tmp_path):
    """Return a file with a text of the toy vocabulary."""
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"w{4 + (i * i + 3 * i) % 93}" for i in range(600)))
    return path


@pytest.fixture
def call(toy_folder):
    """Return a function that calls a command of `iglens tuned-lens` on the Llama toy model."""
    folder = str(toy_folder("llama"))

    def run(command: str, *arguments: object):
        return CliRunner().invoke(app, ["tuned-lens", command, folder, *map(str, arguments)])

    return run


def test_training_writes_the_lens_and_prints_the_held_out_losses(call, text, tmp_path):
    out = tmp_path / "lens"
    options = ["--out", out, "--steps", 30, "--seq-len", 16, "--format", "csv"]
    outcome = call("train", text, *options)
    assert outcome.exit_code == 0, outcome.stderr
    frame = pd.read_csv(io.StringIO(outcome.stdout))
    assert frame.columns.tolist() == COLUMNS
    assert frame["segment"].tolist() == ["embed", "L0", "L1", "L2"]
    assert "30/30" in outcome.stderr
    assert load_translators(out).training["steps"] == 30
    assert not (out / FILE).exists()
    again = call("eval", text, "--lens", out, "--seq-len", 16, "--format", "json")
    rows = json.loads(again.stdout)
    assert list(rows[0]) == COLUMNS
    assert rows[1]["kl_tuned_lens"] < rows[1]["kl_logit_lens"]


def test_the_table_and_the_published_format(call, text, tmp_path):
    out = tmp_path / "lens"
    options = ["--out", out, "--steps", 2, "--seq-len", 16, "--optimizer", "adam"]
    outcome = call("train", text, *options, "--file-format", "pt")
    assert outcome.stdout.splitlines()[1].split() == COLUMNS
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "params.pt",
        "training.json",
    ]


def test_texts_come_from_json_lines_as_well(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a\\nb"}\n\n{"text": "c", "id": 3}\n')
    assert read_texts(path) == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--holdout", "1.5"], "--holdout must lie between 0 and 1"),
        (["--optimizer", "lion"], "unknown optimizer 'lion'"),
        (["--file-format", "zip"], "--file-format must be safetensors or pt"),
        (["--seq-len", "500"], "seq_len must lie between 2 and 64"),
        (["--steps", "0"], "steps must be an integer of at least 1"),
        (["--device", "nowhere"], "device 'nowhere' is not available"),
    ],
)
def test_bad_options_end_with_one_sentence(call, text, tmp_path, arguments, message):
    outcome = call("train", text, "--out", tmp_path / "lens", *arguments)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.txt", None, "cannot read"),
        ("bad.txt", b"\xff\xfe\xfa", "is not valid UTF-8"),
        ("empty.txt", b" \n", "holds no text"),
        ("short.txt", b"w5 w6", "too short"),
        ("one.txt", b"w5 " * 70, "leaves none to train on"),
        ("bad.jsonl", b"{", "line 1 is no JSON"),
        ("bad.jsonl", b'{"a": 1}', 'line 1 must be an object with a string "text"'),
    ],
)
def test_bad_texts_end_with_one_sentence(call, tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    outcome = call("train", path, "--out", tmp_path / "lens")
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_bad_places_end_with_one_sentence(call, text, tmp_path):
    for place in (text, tmp_path / "a" / "b"):
        outcome = call("train", text, "--out", place)
        assert outcome.exit_code == 2
        assert "must be a folder, or a new one" in outcome.stderr
    outcome = call("eval", text, "--lens", tmp_path)
    assert outcome.exit_code == 2
    assert "has no config.json" in outcome.stderr
    outcome = call("eval", text)
    assert outcome.exit_code == 2
    assert "no tuned lens is known" in outcome.stderr
