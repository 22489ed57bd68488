"""Reports opened in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from iglens_tl.views.report import write_report
from tests.support.browser import chromium, watch
from tests.support.report_pages import settle


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that writes and opens a report, and see that nothing else was asked for."""
    opened = []

    def open_page(results: Any, scheme: str = "light", **options: Any) -> Page:
        path = write_report(results, tmp_path / "report.html", **options)
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        opened.append((context, watch(page), f"file://{path}"))
        page.goto(f"file://{path}")
        settle(page)
        return page

    yield open_page
    for context, seen, url in opened:
        assert seen == {"requests": [url], "messages": []}
        context.close()
