"""An open page asks whether its files have changed, and is drawn again only then; never while a run times its speed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from engine.fileio import append_line, read_lines, write_json
from engine.paths import Home
from engine.runs.folder import RunFolder
from engine.runs.process import now, process_identity
from tests.browser import harness
from workbench.shared.pages import link

MINUTE = 60_000
SAMPLES = ("biology-forward-kl-20261122-101542-9142", "biology-jsd-20261122-103945-c93e")
# What Chromium shows is not in the page: the titles of its notices are noted where they are made.
NOTE_NOTICES = """
window.notices = [];
window.Notification = class extends Notification {
  constructor(title, options) { super(title, options); window.notices.push(title); }
};
"""


def at_work(run: RunFolder, phase: str, done: int) -> None:
    progress = {"phase": phase, "done": done, "total": 1000, "unit": "steps", "phase_s": 9.0, "left_s": 3600.0}
    status = {"state": "running", "phase": phase, "progress": progress, "created_at": now(), "updated_at": now()}
    write_json(run.path / "status.json", {**status, **process_identity(os.getpid())})


def steps_drawn(page: Page) -> int:
    bar = page.get_by_text(re.compile(r": [\d,]+ of 1,000 steps")).first
    expect(bar).to_be_visible(timeout=MINUTE)
    return int(re.findall(r"([\d,]+) of 1,000", bar.inner_text())[0])


def test_pages_follow_a_run_rest_while_one_times_and_tell_of_its_end(server: harness.Server, home: Path):
    run, other = (RunFolder(Home(home).run(name)) for name in SAMPLES)
    finished = (run.path / "status.json").read_bytes()
    at_work(run, "train", 10)
    with harness.browser() as browser:
        browser.context.grant_permissions(["notifications"], origin=server.url)
        browser.context.add_init_script(NOTE_NOTICES)
        page = browser.page()
        page.goto(server.url + link("run", run=run.id))
        harness.settle(page)
        assert steps_drawn(page) == 10
        expect(page.get_by_text(re.compile("about .* left in all"))).to_be_visible()
        page.get_by_role("button", name="Tell me when it ends").click()
        expect(page.get_by_role("button", name="No notice")).to_be_visible()

        at_work(run, "train", 20)
        event = next(event for event in read_lines(run.path / "events.jsonl") if event["kind"] == "train")
        append_line(run.path / "events.jsonl", {**event, "step": 777_777})
        expect(page.get_by_text("20 of 1,000 steps")).to_be_visible(timeout=MINUTE)
        expect(page.get_by_text("after step 777,777").first).to_be_visible(timeout=MINUTE)

        at_work(other, "speed", 1)  # another run times its speed: this page rests
        expect(page.get_by_text("this page rests").first).to_be_visible(timeout=MINUTE)
        at_work(run, "train", 30)
        page.wait_for_timeout(12_000)  # three looks
        assert steps_drawn(page) == 20
        at_work(other, "certificate", 1)
        expect(page.get_by_text("30 of 1,000 steps")).to_be_visible(timeout=MINUTE)

        page.get_by_role("link", name="Learn").click()  # the notice does not depend on the page that is shown
        harness.settle(page)
        (run.path / "status.json").write_bytes(finished)
        page.wait_for_function("window.notices.length > 0", timeout=MINUTE)
        assert page.evaluate("window.notices") == ["Biology, forward KL: done"]
        assert browser.errors == []


# Each reply comes late, so that a page can be left while it is under way.
SLOW_REPLIES = """
const ask = window.fetch;
window.fetch = async (url, options) => {
  const reply = await ask(url, options);
  if (String(url).includes("/watch")) await new Promise((done) => setTimeout(done, 3000));
  return reply;
};
"""


def test_a_page_that_was_left_while_it_asked_asks_no_more(server: harness.Server, home: Path):
    at_work(RunFolder(Home(home).run(SAMPLES[0])), "train", 10)
    with harness.browser() as browser:
        browser.context.add_init_script(SLOW_REPLIES)
        page = browser.page()
        page.goto(server.url + link("run", run=SAMPLES[0]))
        harness.settle(page)
        with page.expect_request("**/watch?**", timeout=MINUTE):
            pass
        page.get_by_role("link", name="Learn").click()
        page.wait_for_timeout(4000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(9000)
        assert [url for url in asked if "/watch" in url] == []
