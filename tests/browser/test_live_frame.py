"""The Live page runs again for many reasons; the answer in its frame outlives those that ask for nothing else."""

from __future__ import annotations

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.browser import harness
from workbench.shared.pages import link
from workbench.shared.theme import TONES

MINUTE = 60_000
DRAFT = "biology-forward-kl-20261122-101542-9142"


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe.live")


def colour(tone: str) -> str:
    background = TONES[tone].background
    return f"rgb({', '.join(str(int(background[place : place + 2], 16)) for place in (1, 3, 5))})"


@pytest.mark.parametrize("width", [1280, 420])
def test_an_answer_outlives_another_choice_and_light_or_dark(server: harness.Server, width: int):
    with harness.browser(width=width) as browser:
        page = browser.page()
        page.goto(server.url + link("live", run=DRAFT, max_new_tokens=8, plain=0))
        harness.settle(page)
        frame = frame_of(page)
        frame.get_by_role("button", name="Decode").click()  # as soon as it can be pressed: the form is filled by then
        token = frame.locator(".tokens .tok").first
        expect(token).to_be_visible(timeout=3 * MINUTE)
        page.wait_for_url("**gamma=**")  # the frame has written what was decoded into the page's address
        shown = frame.locator("body").element_handle()
        for tone in ("dark", "light"):
            if width < 700:
                page.get_by_test_id("stExpandSidebarButton").click()
            page.get_by_role("radio", name={"dark": "PNG", "light": "SVG"}[tone]).click()
            harness.settle(page)
            page.locator(f"button[data-look={tone}]").click()
            if width < 700:
                page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
            expect(frame.locator("gradio-app")).to_have_css("background-color", colour(tone), timeout=MINUTE)
            harness.settle(page)
            page.wait_for_timeout(1000)
            assert shown.is_visible()
            expect(token).to_be_visible(timeout=1000)
        box, alone = page.locator("iframe.live").bounding_box(), page.get_by_role("link", name="Open in a new tab")
        link_box, content = alone.bounding_box(), shown.evaluate("body => body.scrollHeight")
        assert link_box["y"] + link_box["height"] <= box["y"], "the link covers the frame"
        assert box["height"] >= content, "the frame's end is cut off"
        end = page.get_by_test_id("stMainBlockContainer").bounding_box()
        assert box["y"] + box["height"] <= end["y"] + end["height"] + 1
        with page.expect_popup() as opened:
            alone.click()
        assert "gamma=" in opened.value.url, "the tab shows what the frame shows"
        opened.value.close()
        assert browser.errors == []


def test_nothing_can_be_typed_before_the_form_is_filled(server: harness.Server):
    with harness.browser() as browser:
        page = browser.page()
        page.route("**/gradio_api/queue/join*", lambda route: (page.wait_for_timeout(3000), route.continue_()))
        page.goto(f"{server.url}/live/?run={DRAFT}&prompt=Why", wait_until="commit")
        prompt = page.get_by_role("textbox", name="Prompt", exact=True)
        expect(page.get_by_text("Loading ...", exact=True)).to_be_visible(timeout=MINUTE)
        assert prompt.count() == 0
        assert page.get_by_role("button", name="Decode").is_disabled()
        expect(prompt).to_have_value("Why", timeout=MINUTE)
        expect(page.get_by_text("Loading ...", exact=True)).to_have_count(0)
        prompt.fill("Why is it?")
        expect(page.get_by_role("button", name="Decode")).to_be_enabled(timeout=MINUTE)
        assert prompt.input_value() == "Why is it?"
        assert browser.errors == []
