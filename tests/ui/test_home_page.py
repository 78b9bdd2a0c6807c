"""Home answers which draft to serve and how much faster it is."""

from pathlib import Path

from engine.progress import TIMING
from engine.runs.process import process_identity
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import add_run, add_seed, finished_id
from workbench.shared import queries


def test_a_card_names_the_draft_and_tells_acceptance_and_speed(page: OpenPage, finished_home: Path):
    test = page("home")
    labels = [metric.label for metric in test.metric]
    assert labels == ["acceptance, T = 0", "speed"]
    speed = test.metric[1]
    assert speed.value.endswith("×") or speed.value == "not timed"
    wording = "".join(caption.value for caption in test.caption).replace("\\", "")
    assert finished_id(finished_home) in wording or "**tiny" in wording


def test_of_drafts_that_are_about_as_good_the_one_that_is_here_is_the_best(page: OpenPage, finished_home: Path):
    """Its card would lead nowhere else: no Live, no export."""
    [best] = [metric.value for metric in page("home").metric if metric.label.startswith("acceptance")]
    add_seed(finished_home, "nearly", 1, float(best) + 1e-4)  # no weights
    queries.refresh()
    test = page("home")
    assert [metric.value for metric in test.metric if metric.label.startswith("acceptance")] == [best]
    add_seed(finished_home, "far-better", 2, 1.0)
    queries.refresh()
    test = page("home")
    assert [metric.value for metric in test.metric if metric.label.startswith("acceptance")] == ["1.000"]
    assert any("weights are not here" in caption.value for caption in test.caption)


def test_queued_and_running_jobs_are_listed_also_while_speed_is_measured(page: OpenPage, finished_home: Path):
    assert any("No runs are queued or running." in caption.value for caption in page("home").caption)
    add_run(finished_home, "timed", "running", phase=TIMING, progress={"phase": TIMING}, **process_identity())
    add_run(finished_home, "next", "queued")
    queries.refresh()
    test = page("home")
    links = [link.proto.label for link in test.get("page_link")]
    assert {"timed", "next"} <= set(links)
    badges = " ".join(part.value for part in test.markdown)
    assert "running]" in badges
    assert "queued]" in badges


def test_a_link_names_a_model_and_nothing_is_read_before_somebody_asks(
    page: OpenPage, tiny_target_folder: Path, tmp_path: Path
):
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text('{"prompt": "Why?"}\n{"prompt": "Why?"}\n{"prompt": 7}\n', encoding="utf-8")
    test = page("home", model=str(tiny_target_folder), prompts=str(prompts))
    captions = " ".join(caption.value for caption in test.caption)
    assert "nothing they name has been read yet" in captions
    assert "LlamaForCausalLM" not in captions
    test.button(key="home-look").click().run()
    assert not test.exception
    captions = " ".join(caption.value for caption in test.caption).replace("\\", "")
    assert "LlamaForCausalLM, 4 layers" in captions
    assert "2 prompts" in captions
    assert "repeats of earlier ones: 1" in captions
    assert any("row 3" in warning.value for warning in test.warning)
    assert any(button.label == "Measure as it is" for button in test.button)


def test_what_is_no_model_is_refused_in_the_page(page: OpenPage, tmp_path: Path):
    test = page("home", model=str(tmp_path / "nowhere"))
    test.button(key="home-look").click().run()
    assert any("nowhere" in error.value for error in test.error)
    assert not any(button.label == "Measure as it is" for button in test.button)
