"""Home answers which draft to serve and how much faster it is."""

from pathlib import Path

from tests.ui.conftest import OpenPage
from tests.ui.run_homes import finished_id


def test_a_card_names_the_draft_and_tells_acceptance_and_speed(page: OpenPage, finished_home: Path):
    test = page("home")
    labels = [metric.label for metric in test.metric]
    assert labels == ["acceptance, T = 0", "speed"]
    speed = test.metric[1]
    assert speed.value.endswith("×") or speed.value == "not timed"
    told = "".join(caption.value for caption in test.caption).replace("\\", "")
    assert finished_id(finished_home) in told or "**tiny" in told
