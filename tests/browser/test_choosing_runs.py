"""Choosing runs with the mouse: a lasso in the Explorer goes to Compare, a click on Compare's map chooses its runs."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Locator, Page, expect

from tests.browser import harness
from workbench.shared.pages import link


def runs_in(page: Page, key: str) -> list[str]:
    return parse_qs(urlsplit(page.url).query).get(key, [])


def plot(page: Page, key: str) -> Locator:
    """The drawing area of a chart."""
    area = page.locator(f".st-key-{key} .nsewdrag").first
    area.scroll_into_view_if_needed()
    expect(area).to_be_visible()
    page.wait_for_timeout(500)
    return area


def test_a_lasso_goes_to_compare_and_a_cell_of_the_map_chooses_its_runs(server: harness.Server):
    with harness.browser(height=1400) as visitor:
        page = visitor.page()
        page.goto(server.url + link("explorer", x="n_train", y="exact_0"))
        harness.settle(page, seconds=120)
        box = plot(page, "explorer-scatter").bounding_box()
        assert box is not None
        corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.3), (0.01, 0.3), (0.01, 0.01)]
        page.mouse.move(box["x"] + 0.01 * box["width"], box["y"] + 0.01 * box["height"])
        page.mouse.down()
        for x, y in corners[1:]:
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        page.mouse.up()
        expect(page.get_by_text(re.compile(r"\d+ runs selected"))).to_be_visible(timeout=60_000)
        picked = runs_in(page, "picked")
        assert 2 <= len(picked) <= 40
        page.get_by_role("link", name=re.compile("^(compare_arrows)?Compare (them|the 6 best)")).first.click()
        expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible(timeout=60_000)
        harness.settle(page, seconds=120)
        compared = runs_in(page, "runs")
        assert set(compared) <= set(picked)
        assert len(compared) == min(6, len(picked))

        cells = plot(page, "map").bounding_box()
        assert cells is not None
        page.mouse.click(cells["x"] + cells["width"] / 6, cells["y"] + cells["height"] / 12)  # the first of 3 x 6
        expect(page).not_to_have_url(re.compile(re.escape(f"runs={compared[0]}")), timeout=60_000)
        harness.settle(page, seconds=120)
        (chosen,) = runs_in(page, "runs")
        assert chosen not in compared or compared != [chosen]
        assert "curated" in chosen, "the first scenario of the first loss"
        assert visitor.errors == []
