"""The page as a file: self-contained, small, and nothing in it is read as markup or script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest

from iglens_tl import compare, components
from iglens_tl.results import Provenance
from iglens_tl.views.report import page, write_report
from tests.support.reports import make_heads, make_lens, make_lenses
from tests.support.results import HOSTILE, make_result


def data_of(text: str) -> dict:
    """Return what the page's own script reads."""
    [found] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


def test_the_page_is_one_small_file_that_names_no_other(tmp_path):
    path = write_report(make_lenses(), tmp_path / "report.html", heads=make_heads())
    assert path.stat().st_size < 2_000_000
    text = path.read_text(encoding="utf-8")
    head, body = text.split("<style>")[0], text.split("</style>")[1]
    assert "<link" not in text.split("<script")[0]
    assert not re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)=", head + body)
    assert "default-src 'none'" in head


def test_only_the_pages_own_scripts_may_run(tmp_path):
    text = write_report(make_lenses(), tmp_path / "report.html").read_text(encoding="utf-8")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "script-src 'sha256-" in policy
    assert policy.count("unsafe-inline") == 1, "for styles only"


@pytest.mark.parametrize(
    "token",
    [
        HOSTILE,
        "<!--<script>",
        "\u2028\u2029",
        '"quotes"&amp;',
        "\u202eRTL",
        "\ud800",
        "\x00",
        "\r\n",
    ],
)
def test_hostile_tokens_come_back_as_they_were(tmp_path, token):
    results = [make_lens("ig_lens", "prob", tokens=(token, "b"))]
    path = write_report(results, tmp_path / "report.html")
    text = path.read_bytes().decode("utf-8")
    assert "<img src=x" not in text
    tokens = data_of(text)["tokens"]
    assert token in [string for _, string, _ in tokens]
    if token != HOSTILE and token != '"quotes"&amp;':
        shown = next(shown for _, string, shown in tokens if string == token)
        assert shown.replace("\u23ce", "").isprintable()


def test_the_page_says_what_made_it(tmp_path):
    results = make_lenses()
    path = write_report(
        results,
        tmp_path / "report.html",
        skipped={"jacobian_lens": "it needs <fitting>"},
        notes=("The heads are left out.",),
    )
    text = path.read_text(encoding="utf-8")
    for part in (
        "a &lt;b&gt;model&lt;/b&gt;",
        "iglens_tl 0.1.0",
        "2.13.0",
        "2026-11-21 10:00:00 UTC",
        "1.5e-07",
        "IG-Lens, log-probability",
        "IG-Lens: a note",
        "jacobian lens is left out: it needs &lt;fitting&gt;",
        "The heads are left out.",
    ):
        assert part in text
    assert text.count("IG-Lens: a note") == 1
    assert text.count('<th scope="row">generate</th>') == 1, "for all lenses in one place"


def test_a_note_names_the_value_where_it_does_not_hold_for_all(tmp_path):
    results = make_lenses()
    own = replace(results[0].provenance, notes=("it misses 0.1",))
    results[0] = replace(results[0], provenance=own)
    text = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "IG-Lens, probability: it misses 0.1" in text
    assert "IG-Lens, log-probability, logit: a note" in text


def test_a_model_in_a_folder_is_called_by_the_folders_name(tmp_path):
    result = replace(make_result(), provenance=Provenance(model={"name": "/data/models/tiny"}))
    text = write_report([result], tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search("<h1>.*</span> tiny</h1>", text)
    assert "/data" not in text.split("<style>")[0] + text.split("</style>")[1].split("<script")[0]


def test_a_page_that_is_too_large_loses_entropies_then_tokens_then_heads(tmp_path, monkeypatch):
    tokens, path = tuple(f"t{i}" for i in range(40)), tmp_path / "report.html"
    results, heads = make_lenses(tokens=tokens), make_heads(tokens)
    text = write_report(results, path, heads=heads).read_text(encoding="utf-8")
    assert "Left out" not in text
    found = []
    for missing in ("entropies.", "entropies, most probable tokens.", "tokens, heads."):
        monkeypatch.setattr(page, "MAX_BYTES", len(text.encode()))
        text = write_report(results, path, heads=heads).read_text(encoding="utf-8")
        assert "Left out to keep this page small: entropies" in text and missing in text
        data = data_of(text)
        found.append(
            (
                any(lens["statistics"] for lens in data["lenses"]),
                any("top" in lens for lens in data["lenses"]),
                data["heads"] is not None,
            )
        )
    assert found == [(False, True, True), (False, False, True), (False, False, False)]
    assert data["why_no_heads"].endswith("most probable tokens, heads.")
    before = path.read_bytes()
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the page would have 1.\d MB, .*report fewer tokens"):
        write_report(results, path, heads=heads)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["report.pdf", "report", "missing/report.html"])
def test_a_path_that_cannot_be_a_page_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in \.html|cannot write"):
        write_report([make_result()], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_reports_itself_with_other_values_and_heads(toy, tmp_path):
    text, answer = "w17 w42 w5 w88 w23", " w9 w30"
    first, other = (compare(toy, text, answer=answer, value=value) for value in ("prob", "logit"))
    heads = components(toy, text, answer=answer, by="head_source")
    path = first.report(tmp_path / "report.html", others=[other], heads=heads, notes=["Mind this."])
    data = data_of(path.read_text(encoding="utf-8"))
    assert [value["name"] for value in data["values"]] == ["prob", "logit"]
    measured = {lens["name"]: list(lens["measures"]) for lens in data["lenses"]}
    assert measured == {
        "logit_lens": ["prob", "logit"],
        "direct_logit_attribution": ["logit"],
        "ig_lens": ["prob", "logit"],
    }
    assert data["heads"]["labels"][:2] == ["L0.H0", "L0.H1"]
    assert "Mind this." in path.read_text(encoding="utf-8")
    why = {"jacobian_lens": "not fitted", "logit_lens": "not for this value"}
    told = replace(other, skipped=why)
    page_text = first.report(tmp_path / "told.html", others=told).read_text(encoding="utf-8")
    assert "jacobian lens is left out: not fitted" in page_text
    assert "logit lens is left out" not in page_text, "it is there in another value"
    different = compare(toy, text, answer=" w9")
    with pytest.raises(ValueError, match="different texts or targets"):
        first.report(tmp_path / "other.html", others=[different])
