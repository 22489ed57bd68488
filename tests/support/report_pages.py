"""Using a report as a reader does, and reading what it shows."""

from __future__ import annotations

import io

import pandas as pd
from playwright.sync_api import Page


def settle(page: Page) -> None:
    """Wait until everything that was asked for is drawn."""
    page.evaluate(
        """() => new Promise((done) => {
            requestAnimationFrame(() => setTimeout(() => setTimeout(done, 200)));
        })"""
    )


def choose(page: Page, name: str, value: str) -> None:
    page.locator(f"input[name={name}][value={value}] + span").click()
    settle(page)


def pin(page: Page, target: int) -> None:
    page.locator("#text button.token").nth(target).click()
    settle(page)


def lines(page: Page) -> dict[str, list[float]]:
    """Return what the trajectories show, by name."""
    return page.evaluate(
        """() => Object.fromEntries(
            document.getElementById("trajectory").data.map(({ name, y }) => [name, y]))"""
    )


def bars(page: Page) -> dict[str, float]:
    """Return what the waterfall shows, by bar."""
    return page.evaluate(
        """() => { const [{ x, y }] = document.getElementById("waterfall").data;
            return Object.fromEntries(x.map((name, place) => [name, y[place]])); }"""
    )


def hover_cell(page: Page, target: int, segment: int, shape: tuple[int, int]) -> str:
    """Move the pointer to a cell of the map and return what is shown beside it."""
    x, y = cell(page, target, segment, shape)
    page.mouse.move(x, y)
    page.wait_for_selector("#tip:not([hidden])")
    return page.inner_text("#tip")


def cell(page: Page, target: int, segment: int, shape: tuple[int, int]) -> tuple[float, float]:
    """Return the middle of a cell; the colours of the drawn map say where its cells are."""
    n_targets, n_segments = shape
    box = page.locator("#map .map-scroll").bounding_box()
    space = page.locator(".map-space").bounding_box()
    assert box is not None and space is not None
    left = page.evaluate(
        """() => { const pen = document.createElement("canvas").getContext("2d");
            pen.font = "12px " + getComputedStyle(document.documentElement)
                .getPropertyValue("--sans");
            return 12 + pen.measureText("embed").width; }"""
    )
    width = (space["width"] - left - 50) / n_targets
    height = 26 if n_segments <= 20 else 17
    return box["x"] + left + (target + 0.5) * width, box["y"] + (
        n_segments - 1 - segment + 0.5
    ) * height


def copied(page: Page, name: str) -> pd.DataFrame:
    page.locator(f'[data-copy="{name}"]').click()
    page.wait_for_function(
        """(name) => document.querySelector(`[data-copy="${name}"]`)
            .textContent.startsWith("Copied")""",
        arg=name,
    )
    return pd.read_csv(
        io.StringIO(page.evaluate("() => navigator.clipboard.readText()")),
        keep_default_na=False,
    )
