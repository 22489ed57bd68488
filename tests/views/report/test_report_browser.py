"""The report in headless Chromium, as a reader uses it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from playwright.sync_api import Page

from iglens_tl.results import Target
from tests.support.browser import needs_chromium
from tests.support.closeness import assert_close_to
from tests.support.report_pages import (
    bars,
    cell,
    choose,
    copied,
    hover_cell,
    lines,
    pin,
    settle,
)
from tests.support.reports import TOKENS, make_heads, make_lens, make_lenses
from tests.support.results import HOSTILE

pytestmark = needs_chromium

HOSTILE_TOKENS = (HOSTILE, "\u202ertl\u200b", "\n\n", '"a",b\n', " ", "${x}<b>")


def test_a_clicked_token_is_pinned_in_every_view(open_report):
    results, heads = make_lenses(), make_heads()
    page = open_report(results, heads=heads)
    pin(page, 1)
    pressed = page.locator('#text button[aria-pressed="true"]')
    assert pressed.all_text_contents() == ["."]
    assert "read at position 1" in page.inner_text("#pinned")
    ig = results[0]
    shown = bars(page)
    np.testing.assert_allclose([shown[s] for s in ig.segments], ig.values[1], atol=1e-6)
    assert shown["baseline"] == pytest.approx(ig.baseline[1], abs=1e-6)
    assert shown["final"] == pytest.approx(ig.final[1], abs=1e-6)
    assert sum(shown.values()) - 2 * shown["final"] == pytest.approx(0, abs=1e-6)
    drawn = lines(page)
    assert list(drawn) == ["IG-Lens", "logit lens", "tuned lens"]
    np.testing.assert_allclose(drawn["tuned lens"], results[2].levels[1], atol=1e-6)
    rows = page.locator("#top .top-row:not(.top-head)")
    assert rows.count() == 4
    assert rows.nth(0).locator("button").text_content() == "L2"
    assert page.locator(".head-row").count() == 1 + 6
    assert page.locator("#heads .text span.token").count() == 2


def test_lens_value_and_level_switch_without_reloading(open_report):
    results = make_lenses()
    page = open_report(results)
    pin(page, 2)
    choose(page, "value", "logprob")
    np.testing.assert_allclose(lines(page)["IG-Lens"], results[3].levels[2], atol=1e-6)
    assert "from the baseline to the final log-probability" in page.inner_text("#waterfall-title")
    choose(page, "lens", "logit_lens")
    assert page.inner_text("#lens-sentence").startswith("What the model would predict if it")
    assert page.locator("input[value=credit] + span").text_content() == "change"
    assert page.inner_text("#waterfall-title").startswith("IG-Lens"), "levels sum to nothing"
    assert page.locator("input[name=value][value=prob]").is_enabled()
    # A lens that measures the logit alone shows it; the reader's choice comes back after it.
    choose(page, "lens", "direct_logit_attribution")
    assert page.locator("input[name=value][value=logit]").is_checked()
    assert page.locator("input[name=value][value=prob]").is_disabled()
    assert list(lines(page)) == [
        "IG-Lens",
        "logit lens",
        "tuned lens",
        "direct logit attribution",
    ]
    choose(page, "lens", "ig_lens")
    assert page.locator("input[name=value][value=logprob]").is_checked()
    legend = page.inner_text("#legend")
    choose(page, "show", "level")
    assert "level, nats" in page.inner_text("#legend") != legend


def test_every_number_shows_on_hover(open_report):
    results, heads = make_lenses(), make_heads()
    page = open_report(results, heads=heads)
    text = hover_cell(page, 1, 2, results[0].values.shape)
    for part in (
        "L1",
        f"{results[0].values[1, 2]:+.5f}".replace("-", "−"),
        f"{results[0].levels[1, 2]:.5f}".replace("-", "−"),
        f"{results[0].top.probs[1, 2, 0]:.5f}",
        str(results[0].ranks[1, 2]),
    ):
        assert part in text
    choose(page, "lens", "logit_lens")
    text = hover_cell(page, 0, 3, results[1].values.shape)
    assert f"{results[1].levels[0, 3]:.5f}" in text
    assert f"{results[1].statistics['entropy'][0, 3]:.5f}" in text
    page.locator("#text button.token").nth(3).hover()
    assert f"{results[1].final[3]:.5f}" in page.inner_text("#tip")
    page.locator(".head-row").nth(1).hover()
    largest = np.abs(heads.by_head().to_frame().filter(like=".H").to_numpy()[3]).max()
    assert f"{largest:.5f}" in page.inner_text("#tip")
    page.locator("#heads .text span.token").first.hover()
    assert "read by all heads" in page.inner_text("#tip")
    page.locator("#top .guess").first.hover()
    assert f"{results[1].top.probs[3, 3, 0]:.5f}" in page.inner_text("#tip")
    box = page.locator("#waterfall .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
    page.wait_for_selector("#waterfall .hoverlayer .hovertext")
    assert f"{results[0].baseline[3]:.5f}" in page.text_content("#waterfall .hoverlayer")
    page.locator("#trajectory").scroll_into_view_if_needed()
    box = page.locator("#trajectory .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.wait_for_selector("#trajectory .hoverlayer .legend")
    assert "tuned lens" in page.text_content("#trajectory .hoverlayer")


def test_numbers_of_falling_steps_keep_clear_of_the_axis(open_report):
    lens = make_lens("ig_lens", "prob")
    falling = lens.values.copy()
    falling[:, 0] = -lens.baseline
    page = open_report([replace(lens, values=falling)])
    boxes = [
        [label.bounding_box() for label in page.locator(f"#waterfall {which}").all()]
        for which in (".bartext", ".xtick text")
    ]
    assert len(boxes[0]) > 2
    assert max(box["y"] + box["height"] for box in boxes[0]) <= min(box["y"] for box in boxes[1])


def test_a_head_is_drawn_over_the_text(open_report):
    heads = make_heads()
    page = open_report([make_lens("ig_lens", "prob")], heads=heads)
    pin(page, 3)
    label = page.locator(".head-row").nth(1).get_attribute("data-head")
    page.locator(".head-row").nth(1).click()
    settle(page)
    painted = page.locator("#heads .text span.token")
    credits = [heads.values[3, heads.segments.index(f"{label}<pos {i}")] for i in range(4)]
    painted.nth(int(np.argmax(np.abs(credits)))).hover()
    tip = page.inner_text("#tip")
    assert f"read by {label}" in tip
    assert f"{np.abs(credits).max():.5f}" in tip
    colours = painted.evaluate_all("chips => chips.map((chip) => chip.style.background)")
    assert len(set(colours)) == 4


def test_tables_are_copied_as_csv(open_report):
    results, heads = make_lenses(), make_heads()
    page = open_report(results, heads=heads)
    pin(page, 0)
    frame = copied(page, "map")
    assert frame["token"].tolist() == list(TOKENS)
    assert_close_to(frame[list(results[0].segments)], results[0].values, tolerance=1e-6)
    choose(page, "lens", "tuned_lens")
    choose(page, "show", "level")
    frame = copied(page, "map")
    assert frame.loc[0, ["lens", "value", "unit", "shown"]].tolist() == [
        "tuned_lens",
        "prob",
        "probability",
        "level",
    ]
    assert_close_to(frame[list(results[2].segments)], results[2].levels, tolerance=1e-6)
    frame = copied(page, "token")
    assert len(frame) == 10 * 4
    own = frame[(frame["lens"] == "ig_lens") & (frame["value"] == "logit")]
    assert_close_to(own["change"].astype(float), results[6].values[0], tolerance=1e-6)
    assert_close_to(own["level"].astype(float), results[6].levels[0], tolerance=1e-6)
    assert own["rank"].astype(int).tolist() == results[6].ranks[0].tolist()
    frame = copied(page, "top")
    assert_close_to(frame["prob"], results[2].top.probs[0].reshape(-1), tolerance=1e-6)
    assert set(frame["position"]) == {0}
    frame = copied(page, "heads")
    assert len(frame) == 7, (
        "the first token's heads read one position each, and so they do together"
    )
    assert set(frame["unit"]) == {"probability"}
    alone = frame[frame["head"] != "all heads"]["credit"].astype(float)
    assert alone.sum() == pytest.approx(float(frame["credit"][0]), abs=1e-6)


def test_the_place_of_the_heads_says_why_there_are_none(open_report):
    why = "The heads are left out, because 400 tokens are measured."
    page = open_report([make_lens("ig_lens", "prob")], why_no_heads=why)
    assert page.inner_text("#heads") == why
    assert page.locator('[data-copy="heads"]').is_hidden()


def test_what_all_heads_read_ends_where_the_token_is_read(open_report):
    page = open_report([make_lens("ig_lens", "prob")], heads=make_heads())
    pin(page, 1)
    page.locator('.head-row[data-head="all heads"]').hover()
    assert page.locator("#tip bdi").all_text_contents() == ["<s>", "␣Hanoi"]


def test_small_probabilities_have_digits_and_a_scale_of_their_own(open_report):
    lens = make_lens("ig_lens", "prob")
    small = {name: 1e-5 * getattr(lens, name) for name in ("values", "levels", "baseline", "final")}
    page = open_report([replace(lens, **small)])
    pin(page, 2)
    written = page.locator("#waterfall .bartext").all_text_contents()
    assert len(written) > 2 and all(any(digit in "123456789" for digit in text) for text in written)
    top = page.evaluate("() => document.getElementById('trajectory').layout.yaxis.range[1]")
    assert top < 2e-5


def test_of_many_layers_the_chosen_one_stands_in_view(open_report):
    page = open_report([make_lens("ig_lens", "prob", n_layers=30)])
    page.set_viewport_size({"width": 1280, "height": 1400})
    chosen = cell(page, 3, 2, (4, 31))
    page.mouse.click(*chosen)
    settle(page)
    table = page.locator("#top").bounding_box()
    row = page.locator(".top-row.current").bounding_box()
    assert table["y"] <= row["y"] and row["y"] + row["height"] <= table["y"] + table["height"]
    names = page.locator("#waterfall .xtick text").all_text_contents()
    assert names[0] == "baseline" and names[-1] == "final"
    assert len(names) < 20


def test_a_lens_that_did_not_measure_the_value_is_named(open_report):
    page = open_report(make_lenses())
    absent = page.locator("#trajectory-absent")
    assert absent.text_content() == "direct logit attribution: not of this value"
    choose(page, "value", "logit")
    assert absent.text_content() == ""


def test_hostile_tokens_stay_text(open_report):
    heads = make_heads(HOSTILE_TOKENS)
    page = open_report(make_lenses(tokens=HOSTILE_TOKENS), heads=heads)
    for target in range(len(HOSTILE_TOKENS)):
        pin(page, target)
        hover_cell(page, target, 1, (len(HOSTILE_TOKENS), 4))
    assert page.locator("img").count() == 0
    shown = page.locator("#text button.token").all_text_contents()
    assert shown[0] == HOSTILE
    assert shown[1:5] == ["\\x202ertl\\x200b", "⏎⏎", '"a",b⏎', "␣"]
    frame = copied(page, "map")
    assert frame["token"].tolist() == list(HOSTILE_TOKENS)
    assert HOSTILE in page.inner_text("#heads .text")


def test_candidates_for_one_position_stand_beside_the_text(open_report):
    result = make_lens("ig_lens", "prob", tokens=("a", "b"))
    page = open_report([replace(result, targets=(Target(0, 2, 8, " x"), Target(0, 2, 9, " y")))])
    assert page.locator(".candidates button.token").all_text_contents() == ["␣x", "␣y"]
    assert page.locator("#text > span.token").count() == 3
    pin(page, 0)
    assert "id 8, read at position 2" in page.inner_text("#pinned")
    assert page.inner_text("#heads").startswith("The heads were not measured for this page")


def test_a_lens_of_levels_alone_without_top_tokens_has_a_page(open_report):
    page = open_report([replace(make_lens("logit_lens", "prob"), top=None, ranks=None)])
    pin(page, 1)
    assert page.inner_text("#waterfall-title") == "No lens adds up to the probability"
    assert page.inner_text("#top-title") == "The page has no most probable tokens"
    for name in ("top", "heads"):
        assert page.locator(f'[data-copy="{name}"]').is_hidden()
    assert "level after it" in hover_cell(page, 0, 1, (4, 4))
    assert copied(page, "token")["rank"].tolist() == [""] * 4


def test_dark_and_light_have_their_own_colours(open_report):
    def colours(page: Page) -> list[str]:
        return page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                document.querySelector("#text button.token").style.background,
                document.getElementById("trajectory").layout.font.color]"""
        )

    light = colours(open_report(make_lenses()))
    page = open_report(make_lenses(), scheme="dark")
    dark = colours(page)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    page.locator("#theme").click()
    settle(page)
    assert page.inner_text("#theme") == "Theme: light"
    assert colours(page) == light


def test_four_hundred_tokens_and_thirty_two_layers_are_drawn_and_switched(open_report):
    tokens = tuple(f" t{i}" for i in range(400))
    results = make_lenses(tokens=tokens, n_layers=32)
    page = open_report(results)
    pin(page, 390)
    frame = page.locator("#map canvas").evaluate("canvas => [canvas.width, canvas.height]")
    assert frame[0] <= 1280, "only what is in view is drawn"
    assert page.locator("#map .map-scroll").evaluate("box => box.scrollLeft") > 4000
    for lens in ("logit_lens", "tuned_lens", "direct_logit_attribution", "ig_lens"):
        choose(page, "lens", lens)
    choose(page, "value", "logit")
    choose(page, "show", "level")
    np.testing.assert_allclose(lines(page)["IG-Lens"], results[6].levels[390], atol=1e-5)
    assert copied(page, "map").shape == (400, 7 + 33)
