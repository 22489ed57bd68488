"""What the commands say on stderr: no other library's progress, every warning once, no paths."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest
import typer
from typer.testing import CliRunner

from iglens_tl.cli.app import app
from iglens_tl.cli.messages import command_messages
from iglens_tl.tuning import Translators, TunedLensWarning, save_translators

TEXT = "w17 w42 w5 w88 w23"


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_every_warning_is_one_line_on_stderr_once(capsys):
    with command_messages():
        for _ in range(2):
            warnings.warn("the lens\n  is worse", TunedLensWarning, stacklevel=1)
        warnings.warn("another library's", UserWarning, stacklevel=1)
        warnings.warn("soon gone", FutureWarning, stacklevel=1)
        warnings.warn("divided by zero", RuntimeWarning, stacklevel=1)
    assert told(capsys) == [
        "warning: the lens is worse",
        "warning: another library's",
        "warning: soon gone",
        "warning: divided by zero",
    ]


def test_what_speaks_to_authors_of_libraries_stays_hidden_as_python_hides_it(capsys):
    with command_messages():
        for category in (DeprecationWarning, ImportWarning, ResourceWarning):
            warnings.warn("not for users", category, stacklevel=1)
    assert told(capsys) == []


def test_an_error_hides_no_warning_that_came_before_it(capsys):
    with pytest.raises(typer.Exit) as exit_, command_messages():
        warnings.warn("first", UserWarning, stacklevel=1)
        raise ValueError("then this")
    assert exit_.value.exit_code == 2
    assert told(capsys) == ["warning: first", "error: then this"]


def test_what_libraries_print_does_not_mix_with_results(capsys):
    with command_messages():
        sys.stdout.write("chatter\n")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "chatter\n"


def test_a_tuned_lens_that_is_worse_than_none_is_warned_of(demo, tmp_path):
    import torch

    torch.manual_seed(0)
    cfg = demo.cfg
    weight = torch.randn(cfg.n_layers, cfg.d_model, cfg.d_model)
    save_translators(Translators(weight, None, "./demo"), tmp_path / "lens")
    arguments = ["compare", "The capital of Vietnam is", "--answer", " Hanoi"]
    arguments += ["--lenses", "tuned_lens", "--tuned-lens", str(tmp_path / "lens")]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1
    assert "is further from the model's own prediction than the logit lens" in lines[0]


@pytest.mark.parametrize("command", ["run", "compare", "components"])
def test_printed_and_saved_results_name_the_model_without_its_path(command, toy_folder, tmp_path):
    folder = toy_folder("llama")
    out, html = tmp_path / "result.json", tmp_path / "figure.html"
    arguments = [command, TEXT, "--model", str(folder), "--answer", " w9", "--format", "json"]
    outcome = CliRunner().invoke(app, [*arguments, "--out", str(out), "--html", str(html)])
    assert outcome.exit_code == 0, outcome.stderr
    shown = [out.read_text(), html.read_text(), outcome.stdout]
    shown += [line for line in outcome.stderr.splitlines() if not line.startswith("wrote ")]
    for text in shown:
        assert str(folder.parent) not in text
    assert folder.name in out.read_text()


def test_a_cold_run_prints_the_table_and_nothing_of_other_libraries(toy_folder):
    code = "from iglens_tl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", TEXT, "--model", str(toy_folder("llama"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].split()[:2] == ["pos", "token"]


def test_the_lenses_are_told_from_their_own_words():
    from iglens_tl.lenses import LENSES

    printed = CliRunner().invoke(app, ["lenses"]).stdout
    rows = json.loads(CliRunner().invoke(app, ["lenses", "--format", "json"]).stdout)
    assert [row["name"] for row in rows] == list(LENSES)
    for lens in LENSES.values():
        assert lens.measures in printed
        assert lens.sums_to in printed
