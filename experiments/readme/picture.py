"""Draw the README's picture: the embedded model answers a question, seen by IG-Lens.

Run with `python -m experiments.readme.picture`; needs Chromium.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from iglens_tl import ig_lens, load_model, write_html

QUESTION = "What is the capital of Vietnam?"
PICTURE = Path(__file__).with_name("heatmap.png")


def main() -> None:
    """Run the lens and take the picture of its figure."""
    messages = [{"role": "user", "content": QUESTION}]
    figure = ig_lens(load_model("demo"), messages, generate=12).heatmap()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = write_html(figure, Path(folder) / "figure.html")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(device_scale_factor=2)
        page.goto(f"file://{page_file}")
        page.wait_for_selector(".xtick text")
        page.locator(".main-svg").first.screenshot(path=PICTURE)
        browser.close()
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
