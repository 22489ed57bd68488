"""`iglens report` as users call it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from iglens_tl import Translators, compare
from iglens_tl.cli import report as module
from iglens_tl.cli.app import app
from iglens_tl.tuning import save_translators
from tests.support.reports import decode

TEXT = "w17 w42 w5 w88 w23"


@pytest.fixture
def call(toy_folder, tmp_path):
    """Return a function that reports the Llama toy model into a file, with what it wrote."""
    folder = str(toy_folder("llama"))
    html = tmp_path / "report.html"

    def invoke(*arguments: str, text: str = TEXT):
        command = ["report", text, "--model", folder, *arguments]
        if "--html" not in arguments:
            command += ["--html", str(html)]
        outcome = CliRunner().invoke(app, command)
        written = html.read_text(encoding="utf-8") if html.exists() else ""
        found = re.findall(r'id="data">(.*?)</script>', written, re.S)
        return outcome, json.loads(found[0]) if found else None, written

    return invoke


def test_the_page_has_every_lens_value_and_the_heads(call, toy):
    outcome, data, _ = call("--answer", " w9 w30")
    assert outcome.exit_code == 0
    assert outcome.stdout == ""
    assert "wrote " in outcome.stderr
    assert "note: tuned_lens left out: no tuned lens is known" in outcome.stderr
    assert [value["name"] for value in data["values"]] == ["prob", "logprob", "logit"]
    measures = {lens["name"]: list(lens["measures"]) for lens in data["lenses"]}
    assert measures == {
        "ig_lens": ["prob", "logprob", "logit"],
        "logit_lens": ["prob", "logprob", "logit"],
        "direct_logit_attribution": ["logit"],
    }
    for value in ("prob", "logit"):
        expected = compare(toy, TEXT, answer=" w9 w30", value=value)["ig_lens"]
        found = decode(data, data["lenses"][0]["measures"][value]["values"])
        np.testing.assert_allclose(found, expected.values, atol=1e-5)
    parts = decode(data, data["heads"]["parts"]["sums"]).sum(1)
    final, baseline = (data["lenses"][0]["measures"]["prob"][key] for key in ("final", "baseline"))
    np.testing.assert_allclose(parts, decode(data, final) - decode(data, baseline), atol=1e-5)


def test_generated_tokens_are_generated_once_and_measured_in_every_value(call, toy):
    _, data, page = call("--generate", "3", "--value", "logprob")
    expected = compare(toy, TEXT, generate=3)
    assert [value["name"] for value in data["values"]] == ["logprob", "prob", "logit"]
    ids = [data["tokens"][target["token"]][0] for target in data["targets"]]
    assert ids == [target.token_id for target in expected.results[0].targets]
    assert data["heads"]["unit"] == "nats"
    assert "<td>3</td>" in page, "the options say how many tokens were asked for"


def test_heads_are_left_out_of_long_texts_unless_they_are_wanted(call, monkeypatch):
    monkeypatch.setattr(module, "_MAX_TARGETS_OF_HEADS", 3)
    outcome, data, page = call()
    assert data["heads"] is None
    reason = "The heads are left out, because 5 tokens are measured, more than 3"
    assert reason in page and reason in " ".join(outcome.stderr.split())
    assert call("--heads")[1]["heads"]["unit"] == "probability"
    assert call("--answer", " w9 w30 w1 w2 w3")[1]["heads"]["unit"] == "probability"
    without = call("--answer", " w9", "--no-heads")
    assert without[1]["heads"] is None
    assert "left out, as asked" in without[2]


def test_candidates_and_sums_over_tokens_have_pages_too(call):
    _, data, _ = call("--target", " w9", "--target", " w30")
    assert [target["place"] for target in data["targets"]] == [None, None]
    _, data, page = call("--answer", " w9 w30", "--value", "sequence_logprob")
    assert [value["name"] for value in data["values"]] == ["sequence_logprob"]
    assert "direct logit attribution is left out: it measures single tokens" in page
    assert len(data["targets"]) == 1


def test_a_tuned_lens_is_taken_from_its_folder(call, toy, tmp_path):
    save_translators(Translators.zeros(3, 32, toy.cfg.model_name), tmp_path / "lens")
    arguments = ("--lenses", "tuned_lens", "--tuned-lens", str(tmp_path / "lens"), "--no-heads")
    _, data, _ = call(*arguments, "--answer", " w9")
    assert [lens["label"] for lens in data["lenses"]] == ["tuned lens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "report.pdf"], "must end in .html"),
        (["--html", "missing/report.html"], "does not exist; create it first"),
        (["--html", "/proc/report.html", "--no-heads"], "cannot write '/proc/report.html'"),
        (["--lenses", "magic"], "unknown lens 'magic'; choose from"),
        (["--lenses", "ig_lens,ig_lens"], "lens 'ig_lens' is given twice"),
        (["--lenses", ","], "lenses is empty"),
        (["--lenses", "ig_lens", "--tuned-lens", "x"], "--lenses does not name tuned_lens"),
        (["--tuned-lens", "./no-lens"], "no-lens"),
        (["--value", "odds"], "unknown value 'odds'"),
        (["--generate", "0"], "generate must be at least 1"),
        (["--answer", " w9", "--generate", "2"], "give only one of answer, generate and targets"),
        (["--target", " elephant"], "' elephant' is not in the vocabulary"),
        (["--chat"], "no chat template"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(call, arguments, message):
    outcome, _, written = call(*arguments)
    assert outcome.exit_code == 2
    assert (outcome.stdout, written) == ("", "")
    errors = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in outcome.stderr


def test_the_file_is_required(toy_folder):
    outcome = CliRunner().invoke(app, ["report", TEXT, "--model", str(toy_folder("llama"))])
    assert outcome.exit_code == 2
    assert "--html" in outcome.stderr
