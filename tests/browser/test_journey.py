"""One visitor's whole way through the workbench, in a real browser, on the real embedded model.

Start, launch the smoke recipe, watch it, cancel, resume, compare it with a sample draft, save a chart
and the report, decode live with two drafts, stop, and step through what was saved.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Frame, Page, expect

from engine.paths import Home
from engine.runs.folder import RunFolder, run_folders
from tests.browser import harness
from workbench.shared.pages import link

pytestmark = pytest.mark.slow
MINUTE = 60_000  # Playwright counts milliseconds


def state_of(run: RunFolder, wanted: str, seconds: float) -> None:
    """Wait until the run itself says so."""
    deadline = time.monotonic() + seconds
    while run.status().state != wanted:
        status = run.status()
        assert status.state not in ("failed", "damaged"), status
        assert time.monotonic() < deadline, status
        time.sleep(0.5)


def launch(page: Page, url: str, home: Home) -> RunFolder:
    """Launch the smoke recipe from the form and return its run."""
    before = {run.id for run in run_folders(home)}
    page.goto(url + link("launch", recipe="smoke"))
    harness.settle(page)
    expect(page.get_by_role("textbox", name="Name").first).to_have_value("smoke", timeout=MINUTE)
    expect(page.get_by_text("draftbench run recipes/smoke.yaml").first).to_be_visible()
    page.get_by_role("button", name="Add to queue").dblclick()
    expect(page.get_by_text(re.compile("smoke-[0-9]{8}")).first).to_be_visible(timeout=MINUTE)
    new = [run for run in run_folders(home) if run.id not in before]
    assert len(new) == 1, "a double click must make one run"
    return new[0]


def watch_cancel_resume(page: Page, url: str, run: RunFolder) -> None:
    """Watch the run, stop it and resume it to its end, all without reloading the page."""
    page.goto(url + link("run", run=run.id))
    expect(page.get_by_text("in progress")).to_be_visible(timeout=MINUTE)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("stopped on request")).to_be_visible(timeout=2 * MINUTE)
    state_of(run, "cancelled", 10)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("in progress")).to_be_visible(timeout=MINUTE)
    expect(page.get_by_text("trained and measured")).to_be_visible(timeout=8 * MINUTE)
    state_of(run, "done", 5)
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=MINUTE)


def compare(page: Page, url: str, run: RunFolder, sample: str, downloads: Path) -> None:
    """The new draft beside the sample; a chart and the report are saved and are what they should be."""
    page.goto(url + link("compare", runs=[sample, run.id]))
    harness.settle(page)
    expect(page.get_by_text("smoke").first).to_be_visible(timeout=MINUTE)
    chart = page.locator(".js-plotly-plot").last
    chart.scroll_into_view_if_needed()
    chart.hover()
    with page.expect_download(timeout=MINUTE) as saved:
        chart.locator("[data-title*='ownload']").click()
    picture = downloads / "chart.svg"
    saved.value.save_as(picture)
    assert saved.value.suggested_filename.endswith(".svg")
    assert "<svg" in picture.read_text(encoding="utf-8")[:200]
    page.get_by_role("tab", name="Report").click()
    with page.expect_download(timeout=3 * MINUTE) as saved:
        page.get_by_role("button", name="Download the report").click()
    report = downloads / "comparison.html"
    saved.value.save_as(report)
    text = report.read_text(encoding="utf-8")
    assert run.id in text
    assert sample in text
    opened = page.context.new_page()
    requests: list[str] = []
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(report.as_uri())
    expect(opened.locator("svg, img[src^='data:image/svg']").first).to_be_visible()
    assert [wanted for wanted in requests if wanted.startswith("http")] == []
    opened.close()


def live_frame(page: Page) -> Frame:
    """The Gradio page inside the Live page."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for frame in page.frames:
            if "/live/" in frame.url and frame.get_by_role("button", name="Decode").count():
                return frame
        page.wait_for_timeout(200)
    raise AssertionError("the live view did not appear")


def decode_live(page: Page, url: str, first: str, second: str) -> str:
    """Two drafts on one seed, stopped in the middle and saved; the address of the saved trace's replay."""
    page.goto(url + link("live", run=first, run2=second))
    frame = live_frame(page)
    page.wait_for_timeout(1500)  # the form fills itself from the address
    frame.get_by_label("Prompt").first.fill("Explain in a few paragraphs why leaves turn red in autumn.")
    frame.get_by_role("button", name="Decode").click()
    expect(frame.locator(".fate-accepted, .fate-corrected").nth(8)).to_be_visible(timeout=3 * MINUTE)
    frame.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(1500)
    stopped_at = frame.locator(".tokens .tok").count()
    page.wait_for_timeout(2500)
    assert frame.locator(".tokens .tok").count() == stopped_at, "tokens came after the stop"
    assert frame.locator(".tokens .fate-rejected:visible").count()
    frame.get_by_label("Show rejected tokens").uncheck()
    expect(frame.locator(".tokens .fate-rejected:visible")).to_have_count(0)
    assert frame.locator(".tokens .fate-corrected:visible").count()
    frame.get_by_role("button", name="Save trace").click()
    replay = frame.locator("a[href*='/replay']").first
    expect(replay).to_be_visible(timeout=MINUTE)
    return str(replay.get_attribute("href"))


def step_through(page: Page, url: str, address: str) -> None:
    """Forward by button and by key, with p and q of each position in sight."""
    page.goto(url + address)
    harness.settle(page)
    expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=MINUTE)
    expect(page.get_by_text("leaves turn red").first).to_be_visible()
    before = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda now: now != before, timeout=MINUTE)
    harness.settle(page)
    assert "round=" in page.url


def test_the_whole_journey(server: harness.Server, home: Path, tmp_path: Path):
    there = Home(home)
    with harness.browser() as visitor:
        page = visitor.page()
        page.goto(server.url)
        expect(page.get_by_role("heading", name="Best draft for each target")).to_be_visible(timeout=MINUTE)
        samples = [run.id for run in run_folders(there) if (run.path / "draft" / "best" / "draft.json").exists()]
        biology = next(name for name in samples if name.startswith("biology"))
        other = next(name for name in samples if name.startswith("function-calling"))  # of the same target
        expect(page.get_by_text("function_calling", exact=True).first).to_be_visible()
        run = launch(page, server.url, there)
        watch_cancel_resume(page, server.url, run)
        compare(page, server.url, run, biology, tmp_path)
        step_through(page, server.url, decode_live(page, server.url, biology, other))
        assert visitor.errors == []
        assert visitor.elsewhere == []
