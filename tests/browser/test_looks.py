"""What everyone needs of every page: contrast, names and roles, light and dark, keys, tab titles, and the way back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import axe, harness
from tests.browser.conftest import REAL_CACHE
from workbench.shared.pages import PAGES, link
from workbench.shared.theme import TONES

MINUTE = 60_000
BACKGROUND = "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Server]:
    """One workbench with the sample runs for all: nothing here changes it."""
    place = tmp_path_factory.mktemp("looks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAFTBENCH_CACHE", str(REAL_CACHE))
        server = harness.start(place / "home", place / "server.log")
    yield server
    server.stop()
    harness.end_jobs(place / "home")


@pytest.fixture(scope="module")
def visitor(bench: harness.Server) -> Iterator[harness.Browser]:
    with harness.browser() as browser:
        yield browser


def show(page: Page, url: str) -> None:
    page.goto(url)
    harness.settle(page, seconds=120)
    if page.locator("iframe[src^='/live/']").count():
        frame = page.frame_locator("iframe[src^='/live/']")
        expect(frame.get_by_role("button", name="Decode")).to_be_visible(timeout=MINUTE)


def look(page: Page, wanted: str) -> None:
    """Press one of the sidebar's three buttons, and wait until the page has followed."""
    page.locator(f"button[data-look={wanted}]").click()
    expected = tuple(int(TONES[wanted].background[place : place + 2], 16) for place in (1, 3, 5))
    page.wait_for_function(f"{BACKGROUND} == 'rgb{expected}'")
    harness.settle(page, seconds=120)


@pytest.mark.parametrize("name", PAGES)
def test_a_checker_finds_nothing_grave_on_any_page_light_or_dark(
    name: str, bench: harness.Server, visitor: harness.Browser
):
    source = axe.script(REAL_CACHE)
    page = visitor.page()
    show(page, bench.url + link(name))
    for wanted in ("light", "dark"):
        look(page, wanted)
        if name == "live":
            show(page, page.url)  # its frame is loaded anew in the other colours
        assert axe.grave(page, source) == [], wanted
    page.close()
