"""The engine of all pages: self-contained files in which only their own scripts run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest

from iglens_tl import write_html
from iglens_tl.views import html
from tests.support.browser import chromium, needs_chromium, watch
from tests.support.results import HOSTILE, make_result

PACKAGE_JSON = Path(__file__).parents[2] / "js" / "package.json"
# Of plotly.js-basic-dist-min 4.1.1 as npm has it; `make lint-js` compares the files themselves.
PUBLISHED = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"


class Reader(HTMLParser):
    """Collect the tags, scripts and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.addresses += [named[name] for name in ("src", "href") if name in named]
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_a_page_of_figures_names_no_other_file_and_allows_no_other_script(tmp_path):
    figure = make_result(tokens=(HOSTILE, "b")).heatmap(title=HOSTILE)
    page = write_html(figure, tmp_path / "page.html").read_text(encoding="utf-8")
    reader = read(page)
    assert reader.addresses == []
    assert not {"img", "b", "link", "iframe"} & set(reader.tags)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 2 and reader.tags.count("script") == 3
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in reader.policy
    assert reader.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert reader.policy.count("unsafe") == 1, "inline styles only"


def test_the_title_of_a_page_is_the_heading_as_text(tmp_path):
    figure = make_result().heatmap(title="a < b & $c$")
    page = write_html(figure, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>a &lt; b &amp; $c$</title>" in page
    untitled = write_html(go.Figure(), tmp_path / "untitled.html").read_text(encoding="utf-8")
    assert "<title>figure</title>" in untitled


@pytest.mark.parametrize("text", [HOSTILE, "<!--<script>", "\u2028", "\ud800", '"&amp;'])
def test_data_comes_back_as_it_was_and_is_never_markup(text):
    page = html.make_page(
        "figures.html.jinja",
        styles=["page"],
        scripts=["1;"],
        data={"figures": [], "text": text},
        title=text,
        n_figures=0,
    ).decode("utf-8")
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert json.loads(data)["text"] == text
    assert not re.search(r"[<>&]", data)
    assert read(page).tags.count("script") == 2


def test_plotlys_basic_script_is_the_published_one_with_its_licence():
    script = html.plotly_basic_script()
    assert hashlib.sha256(script.encode("utf-8")).hexdigest() == PUBLISHED
    pinned = json.loads(PACKAGE_JSON.read_text(encoding="utf-8"))["devDependencies"]
    version = pinned["plotly.js-basic-dist-min"]
    assert script.splitlines()[1] == f"* plotly.js (basic - minified) v{version}"
    assert f"plotly.js-basic-dist-min {version} " in (html.plotly_basic_script.__doc__ or "")
    assert "MIT License" in html.read_asset("plotly_basic/LICENSE")


@needs_chromium
def test_several_figures_are_drawn_under_the_pages_policy(tmp_path):
    result = make_result(tokens=(HOSTILE, "b"))
    page_file = write_html([result.heatmap(), result.waterfall(0)], tmp_path / "page.html")
    with chromium() as browser:
        page = browser.new_page(color_scheme="dark")
        seen = watch(page)
        page.goto(f"file://{page_file}")
        page.wait_for_selector(".waterfalllayer .point")
        assert page.locator(".heatmaplayer image").count() == 1
        assert page.title().startswith("ig_lens: probability credit")
        assert seen == {"requests": [f"file://{page_file}"], "messages": []}
