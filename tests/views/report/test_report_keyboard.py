"""The report without a mouse."""

from __future__ import annotations

import pytest

from tests.support.browser import needs_chromium
from tests.support.report_pages import settle
from tests.support.reports import make_heads, make_lenses

pytestmark = needs_chromium


def test_everything_is_reached_with_the_keyboard(open_report):
    results, heads = make_lenses(), make_heads()
    page = open_report(results, heads=heads)
    reached = []
    for _ in range(17):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => { const at = document.activeElement;
                    const copies = at.dataset.copy && `copy ${at.dataset.copy}`;
                    return copies || at.name || at.id || at.className || at.textContent; }"""
            )
        )
        if reached[-1] in ("lens", "value", "show"):
            page.keyboard.press("ArrowRight")
        elif reached[-1] == "map":
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("ArrowDown")
            assert "level after it" in page.text_content("#status")
            assert "L1" in page.text_content("#status")
        settle(page)
    assert reached == [
        "how it was made",
        "theme",
        "lens",
        "value",
        "show",
        "token has-tip",
        "copy map",
        "map",
        "copy token",
        "modebar-btn",
        "modebar-btn",
        "copy top",
        "has-tip",
        "copy heads",
        "head-row has-tip",
        "token has-tip",
        "Options of each lens",
    ]
    assert page.locator("input[value=logit_lens]").is_checked()
    assert page.locator("input[value=logprob]").is_checked()
    assert page.locator("input[value=level]").is_checked()
    assert page.locator('#text button[aria-pressed="true"]').text_content() == "⏎"


def test_arrows_move_the_pin_the_head_and_the_segment(open_report):
    page = open_report(make_lenses(), heads=make_heads())
    page.locator("#text button[tabindex='0']").focus()
    for key, token in (("Home", "␣Hanoi"), ("ArrowRight", "."), ("End", "␣the")):
        page.keyboard.press(key)
        settle(page)
        assert page.evaluate("() => document.activeElement.textContent") == token
    page.locator(".head-row[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    settle(page)
    chosen = page.locator('.head-row[aria-checked="true"]')
    assert chosen.get_attribute("data-head") == page.evaluate(
        "() => document.activeElement.dataset.head"
    )
    page.locator("#top button[tabindex='0']").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    settle(page)
    assert page.evaluate("() => document.activeElement.textContent") == "L1"
    assert page.locator(".top-row.current button").text_content() == "L1"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.className").startswith("guess")
    page.locator("#map").focus()
    for key, token in (("Home", "␣Hanoi"), ("End", "␣the"), ("Alt+ArrowLeft", "␣the")):
        page.evaluate("() => history.replaceState(null, '', '#')")
        page.keyboard.press(key)
        settle(page)
        assert page.locator('#text button[aria-pressed="true"]').text_content() == token


def test_the_tip_of_the_focus_goes_along_when_the_page_scrolls(open_report):
    page = open_report(make_lenses(), heads=make_heads())
    page.locator("#text button[tabindex='0']").focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    before = page.locator("#tip").bounding_box()
    page.evaluate("() => scrollBy(0, 60)")
    settle(page)
    after = page.locator("#tip").bounding_box()
    assert after is not None and before["y"] - after["y"] == pytest.approx(60, abs=1)
    described = page.evaluate("() => document.activeElement.getAttribute('aria-describedby')")
    assert described == "tip"
    page.locator("#text button.token").first.hover()
    page.evaluate("() => scrollBy(0, 20)")
    settle(page)
    assert page.locator("#tip").is_hidden(), "the pointer's tip does not follow what it was about"
