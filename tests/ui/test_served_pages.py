"""A run that was measured against a server's text, on every page that shows runs: less to show, nothing broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.paths import home
from engine.runs.folder import RunFolder
from tests.chat_server import MODEL, Said, chat_server
from tests.ui.conftest import OpenPage
from tests.unit.conftest import call, quick
from workbench.shared import ui


def certain(body: dict[str, Any], number: int) -> Said:
    """Answers whose every letter was certain, so that any draft of them can be measured."""
    text = f"about {body['messages'][-1]['content'][:4]}"
    content = [
        {"token": x, "bytes": list(x.encode()), "logprob": 0.0, "top_logprobs": [{"token": x, "logprob": 0.0}]}
        for x in text
    ]
    choice = {"message": {"content": text}, "finish_reason": "stop", "logprobs": {"content": content}}
    return Said(body={"choices": [choice]})


@pytest.fixture
def served(recipe: Path, finished_home: Path) -> list[str]:
    """Two runs measured against a server, beside one that was measured against its own target."""
    ordinary = RunFolder.open(home(), "latest").id
    ids = []
    with chat_server(certain) as server, quick():
        own = json.dumps({"base_url": server.base_url, "model": MODEL, "attempts": 1})
        values = ["capture.signal=none", "train.loss=sft", f"capture.server={own}", "measure.against=server"]
        for seed in (0, 1):
            settings = [part for value in [*values, f"train.seed={seed}"] for part in ("--set", value)]
            done = call("run", str(recipe), *settings, "--json")
            assert done.code == 0, done.err
            ids.append(done.json()["run"])
    return [*ids, ordinary]


def test_every_page_shows_a_run_that_was_measured_against_a_server(page: OpenPage, served: list[str]):
    a, b, ordinary = served
    for name in ("home", "runs", "findings"):
        page(name)
    shown = page("run", run=a)
    assert any(ui.text(MODEL) in note.value and "all used" in note.value for note in shown.info)
    assert not any("Measured against" in note.value for note in page("run", run=ordinary).info)
    for temperature in ("0", "1"):
        for view in ("Overview", "Prompts"):
            page("compare", runs=[a, b], temperature=temperature, view=view)
            page("compare", runs=[a, ordinary], temperature=temperature, view=view)
    page("replay", run=a)


def test_it_is_distinguished_from_one_of_full_distributions(page: OpenPage, served: list[str]):
    a, _, ordinary = served
    found = call("compare", a, ordinary)
    assert found.code == 2  # no answer in common
    assert "no held-out answer in common" in found.err
    test = page("compare", runs=[ordinary, a], baseline=ordinary)
    wording = " ".join(element.value for element in [*test.warning, *test.markdown, *test.caption, *test.info])
    assert "Not comparable" in wording
