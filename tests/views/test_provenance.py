"""No page, figure or table says in which folder of a machine something lies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from iglens_tl import Translators, compare, load_model, write_html
from iglens_tl.results import Provenance
from iglens_tl.results.comparison import LensComparison
from iglens_tl.results.folders import hide_folders
from iglens_tl.tuning import save_translators
from iglens_tl.views.figures import heatmap
from iglens_tl.views.validation import validation_page
from tests.support.results import make_result

FOLDER = "/tmp/somebody/models"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{FOLDER}/tiny", "tiny"),
        (f"{FOLDER}/tiny/", "tiny"),
        ("/model", "model"),
        (r"C:\Users\somebody\tiny", "tiny"),
        (f"the lens in {FOLDER}/lens, read twice", "the lens in lens, read twice"),
        (f"'{FOLDER}/my lens' has no file", "'my lens' has no file"),
        (f"(see {FOLDER}/notes.md)", "(see notes.md)"),
        ("~/models/tiny is old", "tiny is old"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("from https://huggingface.co/a/b as it was", "from https://huggingface.co/a/b as it was"),
        ("1/2/3 and and/or", "1/2/3 and and/or"),
        ("gpt2", "gpt2"),
        ("", ""),
        ("/", "/"),
    ],
)
def test_of_an_absolute_path_only_the_last_part_is_shown(text, shown):
    assert hide_folders(text) == shown


def test_paths_are_shortened_wherever_they_stand_in_a_provenance():
    provenance = Provenance(
        model={"name": f"{FOLDER}/tiny"},
        options={
            "lens": Path(FOLDER) / "lens",
            "lenses": {"tuned_lens": {"lens": f"{FOLDER}/lens"}},
            "folders": [f"{FOLDER}/sae"],
            "value_tokens": ["/usr", 7],
            "value": "logit_difference",
        },
        notes=(f"trained for {FOLDER}/tiny",),
    )
    assert provenance.model_name == "tiny"
    assert provenance == Provenance(
        model={"name": "tiny"},
        options={
            "lens": "lens",
            "lenses": {"tuned_lens": {"lens": "lens"}},
            "folders": ["sae"],
            "value_tokens": ["/usr", 7],
            "value": "logit_difference",
        },
        notes=("trained for tiny",),
    )
    assert Provenance().model_name == "unnamed model"


def test_pages_figures_and_tables_of_a_model_in_a_folder_have_no_path(toy_folder, tmp_path):
    folder = toy_folder("llama")
    model = load_model(str(folder), device="cpu")
    lens = tmp_path / "lens"
    save_translators(Translators.zeros(3, 32, model.cfg.model_name), lens)
    lenses = {"ig_lens": {}, "tuned_lens": {"lens": str(lens)}}
    comparison = compare(model, "w17 w42 w5", answer=" w9 w30", lenses=lenses)
    page = comparison.report(tmp_path / "report.html", notes=[f"made in {tmp_path}/run"])
    result = comparison["tuned_lens"]
    shown = {
        "report": page.read_text(encoding="utf-8"),
        "figures": write_html(
            [result.figure(), comparison.figure()], tmp_path / "f.html"
        ).read_text(encoding="utf-8"),
        "figure": str(result.figure().to_json()),
        "notebook": result._repr_html_() + comparison._repr_html_(),
        "csv": comparison.to_frame(tidy=True).to_csv(),
        "saved": comparison.save(tmp_path / "c.json").read_text(encoding="utf-8"),
        "parquet": str(result.save(tmp_path / "r.parquet").read_bytes()),
    }
    for kind, text in shown.items():
        for place in (folder, tmp_path):
            assert str(place) not in text and str(place.parent) not in text, kind


def test_a_skipped_lens_tells_no_path(tmp_path):
    reason = f"no lens in {FOLDER}/lenses"
    comparison = LensComparison(
        (make_result(),), {}, 0.0, 1, {"tuned_lens": reason, "logit_lens": f"{FOLDER}/a"}
    )
    page = comparison.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tuned lens is left out: no lens in lenses" in page
    assert FOLDER not in page + comparison._repr_html_()


def test_the_page_of_a_validation_tells_no_path():
    table = pd.DataFrame(
        [["ig_lens", "skip", "spearman", 0.5, 0.4, 0.6, 3, ""]],
        columns=["credits", "effects", "metric", "mean", "low", "high", "items", "note"],
    )
    result = make_result()
    hidden = replace(
        result.provenance,
        model={"name": f"{FOLDER}/tiny"},
        options={"lenses": {"tuned_lens": {"lens": f"{FOLDER}/lens"}}},
        notes=(f"read from {FOLDER}/tiny",),
    )
    page = validation_page(
        table, [heatmap(replace(result, provenance=hidden))], hidden, nulls=()
    ).decode()
    assert FOLDER not in page and "/tmp/" not in json.dumps(page.split("<script>")[0])
    assert "read from tiny" in page
