"""The command that makes the figures: what it writes, and what it refuses."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.figures.registry import FIGURES
from experiments.figures.setting import Drawn
from experiments.figures.show import main


def test_the_command_writes_data_and_a_page(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("The capital of Vietnam is\t Hanoi\n")
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    main(["reference", "--no-pictures", "--out", str(tmp_path), *prompts])
    assert "reference: " in capsys.readouterr().out
    assert len(pd.read_parquet(tmp_path / "reference.parquet")) == 6
    page = (tmp_path / "reference.html").read_text()
    assert 'src="http' not in page


def test_the_command_names_its_figures_and_refuses_others(capsys):
    main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)
    with pytest.raises(SystemExit):
        main(["unknown"])
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "prompts.txt' holds no prompt"),
        ("a\t b\nc\n", "line 1 has an answer after a tab, but line 2 has none"),
        ("The capital of Vietnam is\t Hanoi\nThe opposite of hot\tter\n", "line 2: 'ter' merges"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_without_a_traceback(
    tmp_path, capsys, content, message
):
    path = tmp_path / "prompts.txt"
    path.write_text(content)
    with pytest.raises(SystemExit):
        main(["reference", "--prompts", str(path), "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "nowhere.txt", "--model", "/nowhere/model"], "cannot read 'nowhere.txt'"),
        (["--model", "/nowhere/model"], "there is no folder '/nowhere/model'"),
        (["--items", "0"], "--items must be at least 1, got 0"),
        (["--out", __file__], "cannot write to --out"),
    ],
)
def test_wrong_options_are_refused_without_a_traceback(capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["reference", "--no-pictures", *arguments])
    assert message in capsys.readouterr().err


def test_the_command_passes_its_seed_and_number_on(tmp_path, monkeypatch, capsys):
    given = []

    def figure(setting):
        given.append((setting.seed, setting.number))
        return Drawn({"table": pd.DataFrame({"a": [1]})}, {}, ("few items",))

    monkeypatch.setitem(FIGURES, "reference", ("", figure))
    options = ["reference", "--no-pictures", "--out", str(tmp_path)]
    main([*options, "--seed", "3", "--items", "4"])
    assert given == [(3, 4)]
    assert "few items" in capsys.readouterr().out
