"""Home answers which draft to serve and how much faster it is."""

from pathlib import Path

import streamlit as st

from engine.progress import TIMING
from engine.runs.process import process_identity
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import add_run, finished_id


def test_a_card_names_the_draft_and_tells_acceptance_and_speed(page: OpenPage, finished_home: Path):
    test = page("home")
    labels = [metric.label for metric in test.metric]
    assert labels == ["acceptance, T = 0", "speed"]
    speed = test.metric[1]
    assert speed.value.endswith("×") or speed.value == "not timed"
    wording = "".join(caption.value for caption in test.caption).replace("\\", "")
    assert finished_id(finished_home) in wording or "**tiny" in wording


def test_queued_and_running_jobs_are_listed_also_while_speed_is_measured(page: OpenPage, finished_home: Path):
    assert any("No runs are queued or running." in caption.value for caption in page("home").caption)
    add_run(finished_home, "timed", "running", phase=TIMING, progress={"phase": TIMING}, **process_identity())
    add_run(finished_home, "next", "queued")
    st.cache_data.clear()
    test = page("home")
    links = [link.proto.label for link in test.get("page_link")]
    assert {"timed", "next"} <= set(links)
    badges = " ".join(part.value for part in test.markdown)
    assert "running]" in badges
    assert "queued]" in badges
