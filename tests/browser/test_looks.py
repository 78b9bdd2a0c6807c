"""What everyone needs of every page: contrast, names and roles, light and dark, keys, tab titles, and the way back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import axe, harness
from tests.browser.conftest import REAL_CACHE
from workbench.shared.pages import PAGES, link, shortcuts
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


def test_light_or_dark_is_chosen_once_for_every_page_and_tab(bench: harness.Server, visitor: harness.Browser):
    """The choice outweighs the system's preference, is there after a reload, and other tabs follow it at once."""
    first, second = visitor.page(), visitor.page()
    for page in (first, second):
        show(page, bench.url + link("learn"))
    look(first, "dark")
    dark = first.evaluate(BACKGROUND)
    second.wait_for_function(f"{BACKGROUND} == '{dark}'")
    assert second.locator("button[data-look=dark]").get_attribute("aria-pressed") == "true"
    show(first, bench.url + link("compare"))
    assert first.evaluate(BACKGROUND) == dark
    colour = first.locator(".js-plotly-plot .ytick text").first.evaluate("e => getComputedStyle(e).fill")
    look(first, "light")
    first.wait_for_function(
        f"getComputedStyle(document.querySelector('.js-plotly-plot .ytick text')).fill != '{colour}'", timeout=MINUTE
    )
    first.locator("button[data-look=system]").click()
    first.close()
    second.close()


def test_charts_follow_light_or_dark_without_another_click(bench: harness.Server, visitor: harness.Browser):
    page = visitor.page()
    show(page, bench.url + link("compare"))
    for wanted in ("dark", "light"):
        look(page, wanted)
        text = tuple(int(TONES[wanted].text[place : place + 2], 16) for place in (1, 3, 5))
        page.wait_for_function(
            f"getComputedStyle(document.querySelector('.js-plotly-plot .ytick text')).fill == 'rgb{text}'",
            timeout=MINUTE,
        )
    page.locator("button[data-look=system]").click()
    page.close()


def test_keys_lead_to_pages_and_are_letters_while_typing(bench: harness.Server, visitor: harness.Browser):
    page = visitor.page()
    show(page, bench.url + link("learn"))
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_be_visible()
    for _, words, _ in shortcuts():
        expect(dialog.get_by_role("cell", name=words, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("/")
    search = page.get_by_role("searchbox", name="Search", exact=True)
    expect(search).to_be_focused(timeout=MINUTE)
    page.keyboard.type("gl?/")
    expect(search).to_have_value("gl?/")
    expect(dialog).to_have_count(0)
    assert "/runs" in page.url
    search.blur()
    page.wait_for_url("**/runs?q=*")
    harness.settle(page, seconds=120)
    page.keyboard.press("g")
    page.keyboard.press("l")
    expect(page).to_have_title("Launch · Draftbench", timeout=MINUTE)
    page.close()


def test_what_has_the_focus_is_seen(bench: harness.Server, visitor: harness.Browser):
    """Each of the first forty stops of the Tab key has an outline, itself or in the field around it."""
    page = visitor.page()
    show(page, bench.url + link("runs"))
    unseen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            "(() => { for (let e = document.activeElement; e && e != document.body; e = e.parentElement)"
            " if (parseFloat(getComputedStyle(e).outlineWidth) >= 2 && getComputedStyle(e).outlineStyle != 'none')"
            " return true; return document.activeElement == document.body || document.activeElement.outerHTML })()"
        )
        unseen += [] if seen is True else [seen[:200]]
    assert unseen == []
    page.close()


def test_back_undoes_a_choice_and_then_leaves_the_page(bench: harness.Server, visitor: harness.Browser):
    page = visitor.page()
    show(page, bench.url + link("runs"))
    search = page.get_by_role("searchbox", name="Search", exact=True)
    search.fill("jsd")
    search.press("Enter")
    page.wait_for_url("**/runs?q=jsd")
    page.locator("[data-testid=stSidebarNavLink][href$='/findings']").click()
    expect(page).to_have_title("Findings · Draftbench", timeout=MINUTE)
    harness.settle(page, seconds=120)
    page.go_back()
    expect(search).to_have_value("jsd", timeout=MINUTE)
    expect(page).to_have_url(bench.url + "/runs?q=jsd")
    harness.settle(page, seconds=120)
    page.go_back()
    expect(search).to_have_value("", timeout=MINUTE)
    page.go_forward()
    expect(search).to_have_value("jsd", timeout=MINUTE)
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_no_page_scrolls_sideways_on_a_telephone(name: str, bench: harness.Server, visitor: harness.Browser):
    page = visitor.page()
    page.set_viewport_size({"width": 420, "height": 900})
    show(page, bench.url + link(name))
    too_wide = page.evaluate(
        "['html', '[data-testid=stMain]'].map(s => document.querySelector(s)).map(e => e.scrollWidth - e.clientWidth)"
    )
    assert max(too_wide) <= 0
    for frame in page.frames[1:]:
        assert frame.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.close()
