"""A run's page under AppTest: states, live parts, actions that happen once, damaged folders, hostile text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path

import psutil
import pytest
import yaml
from streamlit.testing.v1 import AppTest

from engine.cli.export import export
from engine.config.reading import dump_recipe, parse_recipe
from engine.export.steps import TEXT, WRITE, begin
from engine.jobs import queue
from engine.paths import home
from engine.progress import Progress
from engine.runs.folder import RunFolder
from engine.runs.labels import read_labels
from engine.runs.process import process_identity
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import EVIL, add_run, finished_id
from workbench.run import export_form, export_job, preflight_job
from workbench.shared import actions
from workbench.shared.pages import PAGES

RUNNING = {"phase": "train", "progress": {"phase": "train", "done": 2, "total": 4, "unit": "steps", "phase_s": 3.0}}
CURVE = ("events.jsonl", "log.txt", "provenance.json")


def press(test: AppTest, label: str) -> AppTest:
    return next(button for button in test.button if button.label == label).click().run()


def buttons(test: AppTest) -> set[str]:
    return {button.label for button in test.button}


def words(test: AppTest) -> str:
    parts = (
        *test.markdown,
        *test.caption,
        *test.info,
        *test.warning,
        *test.error,
        *test.success,
        *test.subheader,
        *test.text,
    )
    return "\n".join(str(part.value) for part in parts)


@pytest.fixture
def asleep() -> Iterator[subprocess.Popen[bytes]]:
    """A process of this test's own that a status may name."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def no_waiting_between_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started for real, and a test need not wait a second between two clicks."""
    monkeypatch.setattr(queue, "wake", lambda home: None)
    monkeypatch.setattr(actions, "_DOUBLE_CLICK_S", 0.0)


def test_a_measured_run_shows_before_after_interval_and_n(finished_home: Path, page: OpenPage):
    test = page("run", run=finished_id(finished_home))
    cards = {metric.label: metric for metric in test.metric}
    assert "by training" in cards["Exact acceptance, T = 0"].delta
    assert {"tau, T = 0", "Speed-up"} <= set(cards)
    wording = words(test)
    assert "n = 5 prompts" in wording
    assert "too few for an interval" in wording  # of five prompts
    assert "95% interval [" not in wording
    assert any("Losslessness certificate" in box.label for box in test.expander)
    assert "Resume" not in buttons(test)


@pytest.mark.parametrize("view", ["Curves", "Log", "Configuration", "Origin", "Files", "Serve", "Labels"])
def test_every_part_draws_for_a_finished_run(finished_home: Path, page: OpenPage, view: str):
    assert not page("run", run=finished_id(finished_home), view=view).error


@pytest.mark.parametrize("view", ["Curves", "Log", "Configuration", "Origin", "Files"])
def test_every_part_draws_for_a_run_that_has_nothing_yet(finished_home: Path, page: OpenPage, view: str):
    add_run(finished_home, "new", "queued")
    assert not page("run", run="new", view=view).error


@pytest.mark.parametrize(
    ("state", "offered", "refused"),
    [
        ("queued", "Cancel", "Resume"),
        ("cancelled", "Resume", "Cancel"),
        ("failed", "Resume", "Cancel"),
        ("running", "Resume", "Cancel"),
    ],
)
def test_buttons_fit_the_state(finished_home: Path, page: OpenPage, state: str, offered: str, refused: str):
    """A running run whose process is gone is interrupted."""
    add_run(finished_home, "it", state, pid=os.getpid(), pid_started=1.0)
    shown = buttons(page("run", run="it"))
    assert offered in shown
    assert refused not in shown
    assert "Run again" in shown


def test_only_a_run_with_a_draft_can_be_tried_live(finished_home: Path, page: OpenPage):
    run = finished_id(finished_home)
    (finished_home / "runs" / run / "draft" / "best" / "draft.json").rename(finished_home / "runs" / run / "gone.json")
    assert "Try it live" not in [link.proto.label for link in page("run", run=run).get("page_link")]


def test_the_next_in_the_queue_names_what_is_at_work(
    finished_home: Path, page: OpenPage, asleep: subprocess.Popen[bytes]
):
    begun = psutil.Process(asleep.pid).create_time()
    add_run(finished_home, "busy", "running", pid=asleep.pid, pid_started=begun)
    add_run(finished_home, "next", "queued", queued_at="2026-01-01T00:00:00+00:00")
    assert any("Running: busy" in box.value for box in page("run", run="next").info)


def test_half_a_timing_still_has_its_card(finished_home: Path, page: OpenPage):
    run = finished_id(finished_home)
    path = finished_home / "runs" / run / "measure" / "summary.json"
    summary = json.loads(path.read_text())
    summary["speed"]["tokens_per_s"]["plain"]["value"] = None
    path.write_text(json.dumps(summary))
    assert "plain – tokens/s" in words(page("run", run=run))


@pytest.mark.parametrize("view", ["tokens", "nonsense"])
def test_the_axis_of_the_url_is_drawn(finished_home: Path, page: OpenPage, view: str):
    test = page("run", run=finished_id(finished_home), axis=view)
    assert test.segmented_control(key="_axis").value == ("tokens" if view == "tokens" else "steps")


def test_a_failure_is_reported_in_its_three_parts_as_text(finished_home: Path, page: OpenPage):
    add_run(finished_home, "it", "failed", error={"what": f"no room {EVIL}", "why": "it matters", "fix": "make room"})
    wording = page("run", run="it").error[0].value
    assert "it matters" in wording
    assert "make room" in wording
    assert "<img" not in wording.replace("\\<", "")


def test_a_running_run_is_followed_and_its_death_is_noticed(
    finished_home: Path, page: OpenPage, asleep: subprocess.Popen[bytes]
):
    started = psutil.Process(asleep.pid).create_time()
    folder = add_run(finished_home, "live", "running", pid=asleep.pid, pid_started=started, **RUNNING)
    lines = [{"kind": "train", "step": i, "loss": 5.0 - i, "tokens_seen": 100 * i, "seconds": 2.0 * i} for i in (1, 2)]
    lines.append({"kind": "eval", "step": 2, "temperature": 0.0, "exact": 0.321, "tokens_seen": 200, "seconds": 4.0})
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    test = page("run", run="live")
    figures = {metric.label: metric.value for metric in test.metric}
    assert figures["Loss"] == "3.000"
    assert figures["Acceptance (watched), T = 0"] == "0.321"
    assert figures["Target tokens/s"] == "50"
    assert "Cancel" in buttons(test)
    with open(folder / "events.jsonl", "a") as file:
        file.write(json.dumps({**lines[0], "step": 3, "loss": 1.5}) + "\n")
    test.run()
    assert {metric.label: metric.value for metric in test.metric}["Loss"] == "1.500"
    asleep.send_signal(signal.SIGKILL)
    asleep.wait()
    test.run()
    assert "interrupted" in words(test)
    assert "Resume" in buttons(test)
    assert "Cancel" not in buttons(test)


def test_a_zombie_is_not_alive(finished_home: Path, page: OpenPage, asleep: subprocess.Popen[bytes]):
    started = psutil.Process(asleep.pid).create_time()
    add_run(finished_home, "live", "running", pid=asleep.pid, pid_started=started, **RUNNING)
    asleep.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, asleep.pid, os.WEXITED | os.WNOWAIT)  # ended, but nobody has waited for it
    assert "Resume" in buttons(page("run", run="live"))


def test_a_waiting_run_is_cancelled_and_put_back(finished_home: Path, page: OpenPage):
    add_run(finished_home, "it", "queued", queued_at="2026-01-01T00:00:00+00:00")
    test = press(page("run", run="it"), "Cancel")
    assert RunFolder.open(home(), "it").status().state == "cancelled"
    assert "taken out of the queue" in test.success[0].value
    press(test, "Resume")
    assert RunFolder.open(home(), "it").status().state == "queued"
    assert "Cancel" in buttons(test)


def test_run_again_makes_one_new_run_however_often_it_is_clicked(
    finished_home: Path, page: OpenPage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(actions, "_DOUBLE_CLICK_S", 60.0)
    run_id = finished_id(finished_home)
    test = press(press(page("run", run=run_id), "Run again"), "Run again")
    new = [
        path.name
        for path in (finished_home / "runs").iterdir()
        if not path.name.startswith(".") and path.name != run_id
    ]
    assert len(new) == 1
    assert RunFolder.open(home(), new[0]).recipe() == RunFolder.open(home(), run_id).recipe()
    assert any("Open the new run" in link.label for link in test.get("page_link"))


def test_a_click_on_a_page_that_is_outdated_does_nothing(monkeypatch: pytest.MonkeyPatch):
    done: list[int] = []
    state: dict[str, object] = {}
    monkeypatch.setattr(actions.st, "session_state", state)
    monkeypatch.setattr(actions.queries, "refresh", lambda: None)
    for _ in range(2):  # both clicks were made on the first drawing
        actions._act(lambda: done.append(1), "key", 0)
    assert done == [1]


def test_labels_are_saved_and_hostile_text_stays_text(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    test = page("run", run=run_id, view="Labels")
    test.text_input(key=f"title-{run_id}").set_value(EVIL)
    test.text_area(key=f"notes-{run_id}").set_value(f"<script>alert(1)</script>\n{EVIL}")
    test.multiselect(key=f"tags-{run_id}").set_value([":red[x]"])
    test.toggle(key=f"archived-{run_id}").set_value(True)
    press(test, "Save")
    labels = read_labels(RunFolder.open(home(), run_id))
    assert (labels.title, labels.tags, labels.archived) == (EVIL, (":red[x]",), True)
    assert str(finished_home / "runs" / run_id) in test.success[0].value.replace("\\", "")
    rendered = [
        str(e.value) for e in (*test.markdown, *test.subheader, *test.caption, *test.success, *test.get("html"))
    ]
    assert not [
        text for text in rendered if "<img" in text.replace("\\<img", "") or "<script" in text or ":red[x]" in text
    ]
    assert EVIL in test.text[0].value  # st.text knows no markup


def test_a_titled_run_is_found_by_its_id(finished_home: Path, page: OpenPage):
    add_run(finished_home, "aaa", "cancelled", labels={"title": "Same name"})
    add_run(finished_home, "bbb", "cancelled", labels={"title": "Same name"})
    for run_id in ("aaa", "bbb"):
        assert page("run", run=run_id).selectbox(key="run").value == run_id


def test_the_picker_writes_the_id_into_the_address(finished_home: Path, page: OpenPage):
    add_run(finished_home, "aaa", "cancelled", labels={"title": EVIL})
    test = page("run")
    test.selectbox(key="run").set_value("aaa").run()
    assert test.query_params["run"] in ("aaa", ["aaa"])
    assert "cancelled" in words(test)


@pytest.mark.parametrize("run_id", ["../../etc", "..", "a/b", "/etc/passwd", "a\x00b"])
def test_an_id_that_leaves_the_runs_is_refused(finished_home: Path, page: OpenPage, run_id: str):
    test = page("run", run=run_id)
    assert "not a valid name" in test.error[0].value
    assert not test.button


def test_an_unknown_id_leads_to_near_ones(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    test = page("run", run=run_id[:-1] + "zz")
    assert "unknown run" in test.error[0].value
    assert any(run_id in link.label.replace("\\", "") for link in test.get("page_link"))


def test_the_beginning_of_an_id_and_latest_are_enough(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    for name in (run_id[:6], "latest"):
        test = page("run", run=name)
        assert test.selectbox(key="run").value == run_id
        assert "cannot show everything" not in words(test), "it is shown, under its whole name"


@pytest.mark.parametrize(
    ("file", "content", "view"),
    [
        ("status.json", '{"state": "do', "Curves"),
        ("status.json", "[]", "Log"),
        ("status.json", None, "Files"),
        ("status.json", '{"state": "running", "progress": 7}', "Curves"),
        ("config.yaml", None, "Labels"),
        ("config.yaml", "name: [1", "Configuration"),
        ("provenance.json", "{", "Origin"),
        ("labels.json", "[1]", "Labels"),
        ("events.jsonl", '{"kind": "train"}\n\x00\n{"kind": "train", "step": "x"}\n', "Curves"),
        ("measure/summary.json", "{", "Export"),
        ("training.json", "[]", "Files"),
    ],
)
def test_a_damaged_folder_still_has_a_page(
    finished_home: Path, page: OpenPage, file: str, content: str | None, view: str
):
    run_id = finished_id(finished_home)
    path = finished_home / "runs" / run_id / file
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    test = page("run", run=run_id, view=view)
    assert test.subheader[0].value.replace("\\", "") == run_id
    assert Path(file).name in words(test).replace("\\", "") or file in ("status.json", "training.json")


def test_the_log_is_searched_and_its_markup_is_text(finished_home: Path, page: OpenPage):
    folder = add_run(finished_home, "it", "cancelled")
    (folder / "output.txt").write_text("\rtrain: 1%\rtrain: 99%\n\x1b[31m<img src=x onerror=alert(1)>\x1b[0m\nlast\n")
    test = page("run", run="it", view="Log", log="output.txt")
    assert test.code[0].value == "train: 99%\n<img src=x onerror=alert(1)>\nlast"
    test.text_input(key="find").set_value("LAST").run()
    assert test.code[0].value == "last"
    assert "1 of 1 matching lines" in words(test)


def in_export(folder: Path, output: str, report: str = "", **changes: object) -> RunFolder:
    """An export of the run's, by default one that has ended."""
    begun = {"out": "/somewhere", "started_at": "2026-01-01T00:00:00+00:00", **process_identity(), "pid_started": 1.0}
    (folder / export_job.Started.FILE).write_text(json.dumps({**begun, "server": "vllm", **changes}))
    (folder / export_job.OUTPUT).write_text(output)
    (folder / export_job.Report.FILE).write_text(report)
    return RunFolder(folder)


@pytest.mark.parametrize(
    ("report", "said"),
    [('{"ok": false}', "does not measure the same"), ("", "failed"), ('{"ok": true, "megabytes": 3.0}', "Written to")],
)
def test_the_outcome_of_an_export_is_reported(finished_home: Path, page: OpenPage, report: str, said: str):
    run_id = finished_id(finished_home)
    in_export(finished_home / "runs" / run_id, "", report)
    shown = words(page("run", run=run_id, view="Serve"))
    assert said in shown
    assert "for vLLM" in shown


@pytest.mark.parametrize(("step", "left"), [(WRITE, "Nothing was written"), (TEXT, "complete, but was not measured")])
def test_a_stopped_export_says_what_it_left(finished_home: Path, page: OpenPage, step: str, left: str):
    run_id = finished_id(finished_home)
    printed: list[str] = []
    begin(Progress(quiet=True, log=printed.append), step, check=True)
    in_export(finished_home / "runs" / run_id, "\n".join(printed), stop_asked_at="2026-01-01T00:00:09+00:00")
    assert left in words(page("run", run=run_id, view="Serve"))


def test_an_export_at_work_shows_its_step_and_is_stopped_from_the_page(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    work = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        run = in_export(
            finished_home / "runs" / run_id,
            "step 4 of 7: writing the folder\nstep 9 of 7: nonsense\n",
            pid=work.pid,
            pid_started=psutil.Process(work.pid).create_time(),
        )
        test = page("run", run=run_id, view="Serve")
        assert "Step 4 of 7: writing the folder" in test.get("progress")[0].proto.text.replace("\\", "")
        assert not [label for label in buttons(test) if label.startswith("Export for")]
        press(test, "Stop the export")
        assert work.wait(5) == -signal.SIGTERM
        assert export_job.read(run).state == "stopped"
    finally:
        work.kill()
        work.wait()


def test_the_section_export_of_an_old_link_is_serve(finished_home: Path, page: OpenPage):
    test = page("run", run=finished_id(finished_home), view="Export")
    assert test.segmented_control(key="view").value == "Serve"
    assert "cannot show everything that the URL asks for" not in words(test)


def test_there_is_one_start_command_that_of_the_export_once_it_is_written(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    folder = finished_home / "runs" / run_id
    place = preflight_job.place(RunFolder(folder), "vllm")
    place.mkdir(parents=True)
    preflight_job.Started(pid=os.getpid(), pid_started=1.0, out="/later").write(place)
    (place / preflight_job.Report.FILE).write_text(json.dumps({"server": "vllm", "command": "vllm serve IMAGINED"}))
    test = page("run", run=run_id, view="Serve")
    assert [block.value for block in test.code if "vllm serve" in block.value] == ["vllm serve IMAGINED"]
    assert "still to be written" in words(test)
    in_export(folder, "", json.dumps({"ok": True, "served": {"command": "vllm serve /somewhere"}}))
    test = page("run", run=run_id, view="Serve")
    assert [block.value for block in test.code if "vllm serve" in block.value] == ["vllm serve /somewhere"]
    assert "still to be written" not in words(test)
    assert "serves this pair" not in words(test), "the export has checked it since"
    later = preflight_job.Started(
        pid=os.getpid(), pid_started=1.0, out="/later", started_at="2026-01-02T00:00:00+00:00"
    )
    later.write(place)
    test = page("run", run=run_id, view="Serve")
    assert [block.value for block in test.code if "vllm serve" in block.value] == ["vllm serve IMAGINED"]
    assert "serves this pair" in words(test)


def with_train(folder: Path, **train: object) -> None:
    """Give the run another way of training."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"].update(train)
    (folder / "config.yaml").write_text(dump_recipe(parse_recipe(config)))


def streamed(query: int, accepted: int, step: int) -> str:
    counts = {"emitted": 9, "rounds": 4, "drafted": 12, "accepted": accepted, "examined": 8, "expected": 3.5}
    return json.dumps({"kind": "stream", "query": query, "prompt_id": f"q{query}", "step": step, **counts}) + "\n"


def test_an_online_run_shows_its_stream_and_follows_it(
    finished_home: Path, page: OpenPage, asleep: subprocess.Popen[bytes]
):
    started = psutil.Process(asleep.pid).create_time()
    folder = add_run(finished_home, "live", "running", pid=asleep.pid, pid_started=started, **RUNNING)
    with_train(folder, mode="online", online={"update_interval": 2, "stream": "replay"})
    (folder / "events.jsonl").write_text(streamed(1, 2, 0) + streamed(2, 4, 0) + streamed(3, 6, 1)[:30])
    test = page("run", run="live")
    assert "No training step yet." in words(test)
    assert "2 queries" in stream_of(test)
    with open(folder / "events.jsonl", "a") as file:
        file.write(streamed(3, 6, 1)[30:])
    test.run()
    assert "3 queries" in stream_of(test)
    facts = " ".join(str(part.value) for part in test.get("html"))
    assert "replayed, gamma 3" in facts
    assert "every 2 queries" in facts


def stream_of(test: AppTest) -> str:
    """The chart of the stream in words, as a screen reader has it."""
    return next(chart.proto.alt for chart in test.get("plotly_chart") if "along the stream" in chart.proto.alt)


@pytest.mark.parametrize("name", ["runs", "home", "compare", "run", "findings"])
@pytest.mark.parametrize("mode", ["online", "on_policy"])
def test_every_page_stands_a_run_of_another_mode(finished_home: Path, page: OpenPage, name: str, mode: str):
    folder = finished_home / "runs" / finished_id(finished_home)
    with_train(folder, mode=mode, online={"stream": "replay"})
    assert not page(name).error


def test_a_run_with_a_servers_answers_names_them(finished_home: Path, page: OpenPage):
    folder = add_run(finished_home, "served", "cancelled")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["train"]["loss"] = "sft"
    config["capture"] |= {"signal": "none", "server": {"base_url": "http://127.0.0.1:1/v1", "model": EVIL}}
    (folder / "config.yaml").write_text(dump_recipe(parse_recipe(config)))
    test = page("run", run="served")
    facts = " ".join(str(part.value) for part in test.get("html"))
    assert "at http://127.0.0.1:1/v1" in facts
    assert "black box" in facts
    assert "<img" not in facts


def test_labels_that_two_tabs_edit_are_not_lost(finished_home: Path, page: OpenPage):
    """Each tab keeps what the other saved; the same label edited in both is said, and the text stays in the form."""
    run_id = finished_id(finished_home)
    mine, theirs = page("run", run=run_id, view="Labels"), page("run", run=run_id, view="Labels")
    theirs.text_input(key=f"title-{run_id}").set_value("theirs")
    press(theirs, "Save")
    mine.text_area(key=f"notes-{run_id}").set_value("a note of mine")
    press(mine, "Save")
    labels = read_labels(RunFolder.open(home(), run_id))
    assert (labels.title, labels.notes) == ("theirs", "a note of mine")
    assert mine.text_input(key=f"title-{run_id}").value == "theirs"

    theirs.text_area(key=f"notes-{run_id}").set_value("a note of theirs")
    press(theirs, "Save")
    assert "changed while you were editing" in theirs.error[0].value
    assert "a note of mine" in theirs.error[0].value
    assert theirs.text_area(key=f"notes-{run_id}").value == "a note of theirs"
    assert read_labels(RunFolder.open(home(), run_id)).notes == "a note of mine"
    time.sleep(1.1)  # a second click within a second is a double click
    press(theirs, "Save")
    assert read_labels(RunFolder.open(home(), run_id)).notes == "a note of theirs"


def test_a_baseline_that_two_tabs_set_is_not_lost(finished_home: Path, page: OpenPage):
    """A tab that has not seen the baseline of another does not take the mark away before it has said so."""
    run_id, other = finished_id(finished_home), add_run(finished_home, "other", "cancelled").name
    mine, theirs = page("run", run=run_id, view="Labels"), page("run", run=other, view="Labels")
    theirs.toggle(key=f"baseline-{other}").set_value(True)
    press(theirs, "Save")
    mine.toggle(key=f"baseline-{run_id}").set_value(True)
    press(mine, "Save")
    assert f"it is {other} now" in mine.error[0].value.replace("\\", "")
    assert read_labels(RunFolder.open(home(), other)).baseline
    assert not read_labels(RunFolder.open(home(), run_id)).baseline
    time.sleep(1.1)  # a second click within a second is a double click
    press(mine, "Save")
    assert read_labels(RunFolder.open(home(), run_id)).baseline
    assert not read_labels(RunFolder.open(home(), other)).baseline


def test_a_run_that_is_being_cancelled_says_so_and_offers_to_stop_at_once(finished_home: Path, page: OpenPage):
    me = psutil.Process()
    folder = add_run(finished_home, "it", "running", pid=me.pid, pid_started=me.create_time())
    assert "Cancel" in buttons(page("run", run="it"))
    asked = datetime.now(UTC).isoformat()
    (folder / "stop.json").write_text(json.dumps({"pid": me.pid, "asked_at": asked}))
    test = page("run", run="it")
    assert "Stop now" in buttons(test)
    assert "Cancel" not in buttons(test)
    assert "Stopping, requested" in test.warning[0].value


def test_the_check_and_the_export_are_started_with_what_was_chosen(
    finished_home: Path, page: OpenPage, monkeypatch: pytest.MonkeyPatch
):
    started: list[list[str]] = []

    class Process:
        pid = os.getpid()

        def wait(self) -> None: ...

    for job in (export_job, preflight_job):
        monkeypatch.setattr(
            job, "start_detached", lambda home, command, report, output: started.append(command) or Process()
        )
    run_id = finished_id(finished_home)
    test = page("run", run=run_id, view="Serve")
    next(group for group in test.button_group if group.label == "Server").set_value("llama.cpp").run()
    fields = {"gguf": "q8_0", "target": "whole, its adapter merged", "proposals": "the likeliest token (argmax)"}
    for name, value in fields.items():
        test.selectbox(key=f"export_{name}").set_value(value)
    for name, number in {"gamma": 5, "context": 256, "tensor_parallel": 2}.items():
        test.number_input(key=f"export_{name}").set_value(number)
    test.text_input(key="export_served_target").set_value("-rf")
    more = ["--target=merged", "--gguf=q8_0", "--gamma=5", "--proposals=argmax", "--context=256"]
    more += ["--tensor-parallel=2", "--served-target=-rf"]
    asked = [run_id, "--out", str(finished_home / "exports" / f"{run_id}-llama.cpp"), "--json", "--for", "llama.cpp"]
    press(test, "Check the pair")
    assert started[0][-15:] == ["export", *asked, *more, "--preflight"]
    press(test, "Export for llama.cpp")
    assert started[1][-14:] == ["export", *asked, *more]
    assert "It continues when you close this page" in words(test)
    assert not [label for label in buttons(test) if label.startswith("Export for")]  # while it is under way
    assert [box.value.split()[0] for box in test.success] == ["Writing"]


def test_the_form_has_every_option_for_a_server_that_the_command_has():
    parameters = set(signature(export).parameters)
    of_other_exports = {"run_id", "server", "preflight", "format_name", "lora", "shared", "as_json"}
    drawn = {name.replace("-", "_") for name in export_form._FIELDS} | {"out", "overwrite", "check"}
    assert drawn == parameters - of_other_exports
    assert {export_form._key(name) for name in export_form._FIELDS} <= set(PAGES["run"].params)


def test_the_settings_of_an_export_come_from_the_address(finished_home: Path, page: OpenPage):
    asked = {"export_gamma": "4", "export_target": "whole, its adapter merged", "export_tensor_parallel": "2"}
    test = page("run", run=finished_id(finished_home), view="Serve", **asked)
    assert (test.number_input(key="export_gamma").value, test.selectbox(key="export_target").value) == (
        4,
        "whole, its adapter merged",
    )
    rules = "drawn from the draft's distribution (sampled)"
    test.selectbox(key="export_proposals").set_value(rules)
    next(group for group in test.button_group if group.label == "Server").set_value("SGLang").run()
    assert not test.exception
    assert test.number_input(key="export_gamma").value == 4
    assert test.selectbox(key="export_proposals").value == "as the server does by default", "it knows one rule alone"
    assert "cannot show everything that the URL asks for" not in words(test)


def test_a_field_that_is_left_empty_is_no_option(finished_home: Path, page: OpenPage, monkeypatch: pytest.MonkeyPatch):
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(
        preflight_job, "start", lambda home, run, server, out, options, overwrite: started.append((out, options))
    )
    run_id = finished_id(finished_home)
    press(page("run", run=run_id, view="Serve"), "Check the pair")
    assert started == [(str(finished_home / "exports" / f"{run_id}-vllm"), [])]


def test_without_weights_the_pair_can_be_checked_and_not_exported(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    (finished_home / "runs" / run_id / "draft" / "best" / "draft.safetensors").unlink()
    test = page("run", run=run_id, view="Serve")
    assert "weights are not here" in words(test)
    disabled = {button.label: button.disabled for button in test.button}
    assert (disabled["Check the pair"], disabled["Export for vLLM"]) == (False, True)


def test_the_pair_is_checked_in_a_process_of_its_own_and_the_answer_is_shown(finished_home: Path, page: OpenPage):
    run_id = finished_id(finished_home)
    test = page("run", run=run_id, view="Serve")
    assert "by its own rules" in words(test)
    test.number_input(key="export_gamma").set_value(2)
    press(test, "Check the pair")
    folder = RunFolder(finished_home / "runs" / run_id)
    deadline = time.monotonic() + 240
    while preflight_job.read(folder, "vllm").state == "running" and time.monotonic() < deadline:
        time.sleep(0.5)
    test = page("run", run=run_id, view="Serve")
    assert "vLLM serves this pair" in words(test)
    assert "Checked with --gamma=2." in words(test).replace("\\", "")
    assert any('"num_speculative_tokens": 2' in block.value for block in test.code)
    assert any("vllm serve" in block.value and "draft_model" in block.value for block in test.code)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ({"server": "vllm", "preflight": [{"level": "refused", "what": "too wide", "reason": "must be divisible"}]},
         ("vLLM would refuse this pair", "must be divisible")),
        ({"server": "vllm", "folder": {"level": "refused", "what": "it is not empty", "reason": "r", "fix": "another"}},
         ("vLLM serves this pair", "it is not empty")),
        ({"error": {"what": "the run has no draft", "why": "lost", "fix": "train it"}}, ("the run has no draft",)),
        ({}, ("the check failed",)),
    ],
)  # fmt: skip
def test_what_a_check_of_the_pair_left_is_shown(
    finished_home: Path, page: OpenPage, report: dict[str, object], said: tuple[str, ...]
):
    run_id = finished_id(finished_home)
    folder = preflight_job.place(RunFolder(finished_home / "runs" / run_id), "vllm")
    folder.mkdir(parents=True)
    preflight_job.Started(pid=os.getpid(), pid_started=1.0).write(folder)
    (folder / preflight_job.Report.FILE).write_text(json.dumps(report))
    shown = words(page("run", run=run_id, view="Serve"))
    assert all(part in shown for part in said)
