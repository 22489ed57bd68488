"""Pictures of figures, taken by headless Chromium."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ViewportSize, sync_playwright

from iglens_tl import write_html
from iglens_tl.views.figures import Figure


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium without a window, or Playwright's own where there is none."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def take_pictures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write each figure as a PNG picture of its name, in its own size."""
    written = []
    with tempfile.TemporaryDirectory() as pages, chromium() as browser:
        for name, figure in figures.items():
            page_file = write_html(figure, Path(pages) / f"{name}.html")
            width, height = figure.layout.width or 1000, figure.layout.height or 600
            size: ViewportSize = {"width": int(width) + 120, "height": int(height) + 40}
            page = browser.new_page(device_scale_factor=1.5, viewport=size)
            page.goto(f"file://{page_file}")
            # A page is as wide as is good to read, and lets wider figures scroll.
            page.add_style_tag(content="main { max-width: none !important; }")
            page.wait_for_selector(".main-svg .gtitle, .main-svg .g-gtitle")
            picture = folder / f"{name}.png"
            page.locator(".js-plotly-plot").first.screenshot(path=picture)
            page.close()
            written.append(picture)
    return written
