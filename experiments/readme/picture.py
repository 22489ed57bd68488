"""Draw the README's pictures: the embedded model answers a question, as a map and as a report.

Run with `python -m experiments.readme.picture`; needs Chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser

from experiments.common.pictures import chromium
from iglens_tl import ig_lens, load_model, write_html

QUESTION = "What is the capital of Vietnam?"
MAP = Path(__file__).with_name("heatmap.png")
REPORT = Path(__file__).with_name("report.png")
_PINNED = " Hanoi"


def main() -> None:
    """Write both pages and take their pictures."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        take_map(browser, Path(folder))
        take_report(browser, Path(folder))
    print(f"wrote {MAP} and {REPORT}")


def take_map(browser: Browser, folder: Path) -> None:
    """Take the picture of IG-Lens's map of the answer."""
    messages = [{"role": "user", "content": QUESTION}]
    figure = ig_lens(load_model("demo"), messages, generate=12).heatmap()
    page_file = write_html(figure, folder / "figure.html")
    page = browser.new_page(device_scale_factor=2)
    page.goto(f"file://{page_file}")
    page.wait_for_selector(".xtick text")
    page.locator(".main-svg").first.screenshot(path=MAP)


def take_report(browser: Browser, folder: Path) -> None:
    """Take the picture of the report with one token pinned."""
    page_file = folder / "report.html"
    iglens = Path(sys.executable).with_name("iglens")
    command = [iglens, "report", QUESTION, "--chat", "--generate", "12", "--html", page_file]
    subprocess.run(command, check=True)
    page = browser.new_page(device_scale_factor=1.5, viewport={"width": 1280, "height": 900})
    page.goto(f"file://{page_file}")
    page.locator("#text button.token", has_text=_PINNED.strip()).first.click()
    page.mouse.move(0, 0)
    page.wait_for_selector("#waterfall .main-svg")
    page.screenshot(path=REPORT, full_page=True)


if __name__ == "__main__":
    main()
