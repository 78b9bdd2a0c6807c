"""A new user's path, from an empty home: own folder and uploaded prompts, measured as they are, trained, exported.

Each press of the mouse is counted: at most twelve, and no page that needs a manual.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.jobs import queue
from engine.measure.decision import ANSWERS, decide
from engine.paths import Home
from engine.records.provenance import Provenance
from engine.runs.folder import RunFolder, run_folders
from tests.browser import harness
from tests.conftest import byte_tokenizer, tiny_llama

pytestmark = pytest.mark.slow
MINUTE = 60_000
MOST_CLICKS = 12


@pytest.fixture
def bare_server(home: Path, tmp_path: Path) -> Iterator[harness.Server]:
    """A workbench with an empty home, without samples."""
    server = harness.start(home, tmp_path / "server.log", samples=False)
    yield server
    server.stop()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A user's own model: a tiny Llama with its tokenizer and chat template."""
    folder = tmp_path / "my-model"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """JSON lines, of which one row is no prompt and one repeats another."""
    subjects = ["leaves", "rivers", "bread", "stars", "bees", "salt", "wool", "tides", "moss", "glass", "ice", "maps"]
    asked = ["Why do {} matter?", "Who first studied {}?", "Name two uses of {} today."]
    rows = [{"prompt": form.format(subject)} for subject in subjects for form in asked]
    path = tmp_path / "my prompts.jsonl"
    path.write_text("\n".join([*map(json.dumps, [*rows, rows[0]]), '{"prompt": 7']), encoding="utf-8")
    return path


def upload(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_test_id("stFileUploaderDropzone").locator("button").click()
    chooser.value.set_files(file)


def newest(home: Path) -> RunFolder:
    return run_folders(Home(home))[0]


def test_from_an_empty_home_to_a_served_folder(bare_server: harness.Server, home: Path, model: Path, prompts: Path):
    with harness.browser() as visitor:
        page = visitor.page()
        harness.count_clicks(page)
        page.goto(bare_server.url)
        harness.settle(page)

        field = page.get_by_role("textbox", name="Model", exact=True)
        field.click()
        field.fill(str(model))
        field.press("Enter")
        expect(page.get_by_text("LlamaForCausalLM, 4 layers")).to_be_visible(timeout=3 * MINUTE)
        upload(page, prompts)
        expect(page.get_by_text("37 prompts")).to_be_visible(timeout=MINUTE)
        expect(page.get_by_text("repeats of earlier ones: 1")).to_be_visible()
        expect(page.get_by_text("1 row is not a prompt and is left out")).to_be_visible()

        page.get_by_role("button", name="Measure as it is").click()
        expect(page.get_by_text("no draft was measured")).to_be_visible(timeout=5 * MINUTE)
        expect(page.get_by_text("Transformers' own generate gives")).to_be_visible()
        alone = newest(home)
        assert alone.summary().subject == "target alone"
        assert len(run_folders(Home(home))) == 1

        train = page.get_by_role("button", name="Train", exact=True)
        expect(train).to_be_visible(timeout=2 * MINUTE)
        train.click()
        export = page.get_by_role("link", name="Export and serve it")
        expect(export).to_be_visible(timeout=8 * MINUTE)
        run = newest(home)
        decision = decide(run.summary())
        assert decision.answer in ANSWERS
        expect(page.get_by_text(f"{decision.answer.capitalize()}:", exact=True)).to_be_visible()
        counts = Provenance.read_or_empty(run.path).prompts
        assert counts.train
        assert counts.measured
        assert str(home / "prompts") in run.recipe().prompts.train[0].path

        export.click()
        harness.settle(page)
        expect(page.get_by_text(f"{decision.answer.capitalize()}:", exact=True)).to_be_visible(timeout=MINUTE)
        deadline = time.monotonic() + 120
        while queue.at_work(Home(home)) is not None:  # the run says that it is done a moment before its process ends
            assert time.monotonic() < deadline
            page.wait_for_timeout(500)
        page.get_by_role("button", name="Export for vLLM").click()
        expect(page.get_by_text(re.compile("Written to"))).to_be_visible(timeout=5 * MINUTE)
        pressed = harness.clicks(page)
        assert visitor.errors == []
        assert visitor.elsewhere == []
    assert pressed <= MOST_CLICKS, f"{pressed} clicks"
    served = next((home / "exports").glob("*/config.json")).parent
    assert f"**{decision.sentence}.**" in (served / "README.md").read_text(encoding="utf-8")
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(served).config.num_hidden_layers == 2
