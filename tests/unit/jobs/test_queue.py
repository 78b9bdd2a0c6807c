"""The queue with real processes: the worker is real, its jobs are a small script in place of a training."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.jobs import queue
from engine.paths import PROJECT_ROOT, Home, home
from engine.runs.folder import RunFolder, run_folders

SAMPLE = "sample_data/prompts/general/heldout.jsonl"  # prompts are read before there is a run
PROMPTS = {"train": SAMPLE, "heldout": SAMPLE}

pytestmark = pytest.mark.slow

# Stands for `python -m engine`: `work` is the real worker, `run --resume ID` a job that does what the run's notes say.
FAKE_ENGINE = """
import signal, sys, time
sys.path.insert(0, {root!r})
from engine.paths import home
from engine.jobs import queue
from engine.records.events import Started
from engine.runs.folder import RunFolder, run_folders

if sys.argv[1] == "work":
    queue._ENGINE, queue._POLL_S = (sys.executable, __file__), 0.05
    queue.work(home())
    raise SystemExit

run = RunFolder.open(home(), sys.argv[3])
what = run.recipe().notes
if what == "dies early":
    print("no such model")
    raise SystemExit(3)
while what == "starts slowly":
    time.sleep(0.05)
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
with run.working():
    run.emit(Started())
    while what == "waits" and not asked and not (home().root / "go").exists():
        time.sleep(0.02)
    run.set_status(state="cancelled" if asked else "done")
"""


@pytest.fixture(autouse=True)
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    script = tmp_path / "fake_engine.py"
    script.write_text(FAKE_ENGINE.format(root=str(PROJECT_ROOT)), encoding="utf-8")
    monkeypatch.setattr(queue, "_ENGINE", (sys.executable, str(script)))
    yield
    end_all(tmp_path)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a?"}')
    path.write_text("prompts: {train: prompts.jsonl, heldout: prompts.jsonl}")
    return path


def end_all(tmp_path: Path) -> None:
    """Kill what is left of this test's queue; some of it may just be ending by itself."""
    for process in ours(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def ours(tmp_path: Path) -> list[psutil.Process]:
    """Live processes of this test's queue."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if str(tmp_path / "fake_engine.py") in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def worker(tmp_path: Path) -> psutil.Process:
    return next(process for process in ours(tmp_path) if process.cmdline()[-1] == "work")


def kill_worker(tmp_path: Path) -> None:
    """Kill the worker and wait until it is gone: it holds its lock for a moment after its command line has vanished."""
    killed = worker(tmp_path)
    killed.kill()
    killed.wait(20)


def recipe(notes: str = "", name: str = "run") -> Recipe:
    return parse_recipe({"name": name, "notes": notes, "prompts": PROMPTS})


def until(true: Callable[[], Any], seconds: float = 20.0) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        found = true()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come true")


def state(run: RunFolder) -> str:
    return str(run.status().state)


def starts(run: RunFolder) -> int:
    path = run.path / "events.jsonl"
    return path.read_text().count('"started"') if path.exists() else 0


def go() -> None:
    (home().root / "go").touch()


def test_runs_are_worked_on_in_order_one_at_a_time(tmp_path: Path):
    runs = queue.submit_all(home(), [recipe(name=name) for name in ("c", "a", "b")])
    until(lambda: all(state(run) == "done" for run in runs) and not ours(tmp_path))
    times = [next(json.loads(line)["at"] for line in (run.path / "events.jsonl").open()) for run in runs]
    assert times == sorted(times)
    ends = [run.status().updated_at for run in runs]
    assert all(end < begin for end, begin in zip(ends, times[1:], strict=False))
    assert not (home().root / "queue.json").exists()


def test_of_runs_that_cannot_all_be_made_none_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = RunFolder.set_status

    def full(run: RunFolder, **status: Any) -> None:
        if "third" in run.id:
            raise OSError(28, "No space left on device")
        made(run, **status)

    monkeypatch.setattr(RunFolder, "set_status", full)
    with pytest.raises((OSError, DraftbenchError)):
        queue.submit_all(home(), [recipe(name=name) for name in ("first", "second", "third")])
    assert list(home().runs.iterdir()) == []
    assert not ours(tmp_path)


def test_looking_for_what_waits_reads_each_status_once(monkeypatch: pytest.MonkeyPatch):
    for _ in range(3):
        RunFolder.create(home(), recipe(), queued_at="2026-01-01")
    read: list[str] = []
    whole = RunFolder.status
    monkeypatch.setattr(RunFolder, "status", lambda run: read.append(run.id) or whole(run))
    assert len(queue.waiting(home())) == len(read) == 3


def test_the_run_at_work_is_named(tmp_path: Path):
    assert queue.at_work(home()) is None
    waits = RunFolder.create(home(), recipe(name="waits"), queued_at="2026-01-01")
    assert queue.at_work(home()) is None
    other = RunFolder.create(home(), recipe(name="terminal"))
    with other.working():
        found = queue.at_work(home())
        assert found is not None
        assert found.id == other.id
        other.set_status(state="done")
    assert state(waits) == "queued"


def test_worker_and_job_outlive_the_one_who_submitted(tmp_path: Path):
    run = queue.submit(home(), recipe("waits"))
    until(lambda: state(run) == "running")
    mine = os.getsid(0)
    assert {os.getsid(process.pid) for process in ours(tmp_path)}.isdisjoint({mine})
    assert len({os.getsid(process.pid) for process in ours(tmp_path)}) == 2
    go()
    until(lambda: state(run) == "done" and not ours(tmp_path))


def test_an_ended_worker_is_no_zombie_of_this_process(tmp_path: Path):
    run = queue.submit(home(), recipe())
    until(lambda: state(run) == "done" and not ours(tmp_path))
    until(lambda: all(child.status() != psutil.STATUS_ZOMBIE for child in psutil.Process().children()))


def test_a_waiting_run_is_cancelled_at_once_and_never_starts(tmp_path: Path):
    first, second = queue.submit_all(home(), [recipe("waits"), recipe()])
    until(lambda: state(first) == "running")
    assert "out of the queue" in queue.cancel(home(), second)
    assert state(second) == "cancelled"
    go()
    until(lambda: not ours(tmp_path))
    assert (state(first), state(second), starts(second)) == ("done", "cancelled", 0)


def test_a_running_run_is_asked_to_stop(tmp_path: Path):
    run = queue.submit(home(), recipe("waits"))
    until(lambda: state(run) == "running")
    assert "is stopping" in queue.cancel(home(), run)
    until(lambda: state(run) == "cancelled" and not ours(tmp_path))


def test_a_run_can_be_cancelled_while_its_process_is_starting(tmp_path: Path):
    run = queue.submit(home(), recipe("starts slowly"))
    until(lambda: (queue._last_job(home()) or queue._Job()).run == run.id)
    queue.cancel(home(), run)
    until(lambda: not ours(tmp_path))
    assert state(run) == "cancelled"


def test_a_done_run_cannot_be_cancelled_or_resumed(tmp_path: Path):
    run = queue.submit(home(), recipe())
    until(lambda: state(run) == "done")
    with pytest.raises(DraftbenchError, match=r"is done"):
        queue.cancel(home(), run)
    with pytest.raises(DraftbenchError, match="is done"):
        queue.resume(home(), run)


def test_a_resumed_run_goes_behind_the_others_and_twice_is_once(tmp_path: Path):
    first, second, third = queue.submit_all(home(), [recipe("waits"), recipe(), recipe("waits")])
    until(lambda: state(first) == "running")
    queue.cancel(home(), second)
    queue.resume(home(), second)
    queue.resume(home(), second)
    assert [run.id for run in queue.waiting(home())] == [third.id, second.id]
    queue.resume(home(), first)  # at work: left alone
    go()
    until(lambda: not ours(tmp_path))
    assert [starts(run) for run in (first, second, third)] == [1, 1, 1]
    assert state(second) == "done"


def test_a_job_that_dies_before_it_begins_fails_once_with_its_last_words(tmp_path: Path):
    bad, good = queue.submit_all(home(), [recipe("dies early"), recipe()])
    until(lambda: state(good) == "done" and not ours(tmp_path))
    status = bad.status()
    assert status.state == "failed"
    assert "exit status 3" in status.error.what
    assert status.error.why == "no such model"
    assert (bad.path / queue.OUTPUT).read_text().count("no such model") == 1
    queue.resume(home(), bad)
    until(lambda: state(bad) == "failed" and not ours(tmp_path))
    assert (bad.path / queue.OUTPUT).read_text().count("no such model") == 2


def test_a_killed_job_shows_as_interrupted_and_the_next_one_starts(tmp_path: Path):
    first, second = queue.submit_all(home(), [recipe("waits"), recipe()])
    until(lambda: state(first) == "running")
    os.kill(first.status().pid, signal.SIGKILL)
    until(lambda: state(second) == "done" and not ours(tmp_path))
    assert state(first) == "interrupted"
    queue.resume(home(), first)
    go()
    until(lambda: state(first) == "done")


def test_a_killed_worker_leaves_the_job_at_work_and_the_next_worker_waits_for_it(tmp_path: Path):
    first, second = queue.submit_all(home(), [recipe("waits"), recipe()])
    until(lambda: state(first) == "running")
    kill_worker(tmp_path)
    until(lambda: len(ours(tmp_path)) == 1)
    queue.wake(home())
    until(lambda: len(ours(tmp_path)) == 2)
    time.sleep(0.4)
    assert (state(first), state(second)) == ("running", "queued")
    go()
    until(lambda: state(second) == "done" and not ours(tmp_path))
    assert (state(first), starts(first), starts(second)) == ("done", 1, 1)


def test_a_job_whose_worker_was_killed_while_it_started_is_not_started_again(tmp_path: Path):
    run = queue.submit(home(), recipe("starts slowly"))
    job = until(lambda: queue._last_job(home()))
    kill_worker(tmp_path)
    until(lambda: len(ours(tmp_path)) == 1)
    queue.wake(home())
    until(lambda: len(ours(tmp_path)) == 2)
    time.sleep(0.3)
    assert len(ours(tmp_path)) == 2
    os.kill(job.pid, signal.SIGKILL)
    until(lambda: state(run) == "failed" and not ours(tmp_path))


def test_the_queue_waits_for_a_run_started_in_a_terminal(tmp_path: Path):
    other = RunFolder.create(home(), recipe(name="terminal"))
    with other.working():
        run = queue.submit(home(), recipe())
        time.sleep(0.8)
        assert state(run) == "queued"
        other.set_status(state="done")
    until(lambda: state(run) == "done")


def test_a_run_that_a_terminal_is_about_to_begin_is_not_taken(tmp_path: Path):
    other = RunFolder.create(home(), recipe(name="terminal"))
    run = queue.submit(home(), recipe())
    until(lambda: state(run) == "done" and not ours(tmp_path))
    assert (state(other), starts(other)) == ("queued", 0)


def _submit_many(root: Path, engine: tuple[str, ...], name: str) -> None:
    queue._ENGINE = engine
    for i in range(3):
        queue.submit(Home(root), recipe(name=f"{name}{i}"))


def test_two_submitters_at_once_start_each_run_once(tmp_path: Path):
    context = multiprocessing.get_context("forkserver")
    engine = (sys.executable, str(tmp_path / "fake_engine.py"))
    both = [context.Process(target=_submit_many, args=(home().root, engine, name)) for name in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
    runs = [RunFolder(path) for path in home().runs.iterdir()]
    until(lambda: all(state(run) == "done" for run in runs) and not ours(tmp_path))
    assert [starts(run) for run in runs] == [1] * 6


def test_a_run_submitted_as_the_worker_leaves_is_not_stranded(tmp_path: Path):
    for _ in range(4):  # each waits for the very moment at which the worker has seen an empty queue
        run = queue.submit(home(), recipe())
        until(lambda run=run: state(run) == "done")
    until(lambda: not ours(tmp_path))
    assert queue.waiting(home()) == []


def test_a_damaged_status_can_be_queued_again(tmp_path: Path):
    run = RunFolder.create(home(), recipe())
    (run.path / "status.json").write_text("{")
    assert state(run) == "damaged"
    queue.resume(home(), run)
    until(lambda: state(run) == "done")


def test_nothing_is_started_where_nothing_waits(tmp_path: Path):
    queue.wake(home())
    assert not ours(tmp_path)
    assert not home().root.exists()


def test_a_damaged_note_of_the_last_job_stops_nobody(tmp_path: Path):
    home().root.mkdir(parents=True)
    (home().root / "queue.json").write_text('{"run":')
    run = queue.submit(home(), recipe())
    until(lambda: state(run) == "done" and not ours(tmp_path))
    assert not read_json(run.path / "status.json").get("error")


def test_the_command_line_submits_resumes_and_cancels(tmp_path: Path, recipe_file: Path, draftbench: Any):
    blocking = queue.submit(home(), recipe("waits", "first"))
    until(lambda: state(blocking) == "running")
    output = draftbench("run", str(recipe_file), "--set", "name=second", "--queue", "--json").json()
    run = RunFolder.open(home(), output["run"])
    assert (output["state"], [waits.id for waits in queue.waiting(home())]) == ("queued", [run.id])
    assert "out of the queue" in draftbench("runs", "cancel", run.id).out
    assert state(run) == "cancelled"
    assert run.id in draftbench("run", "--resume", run.id, "--queue").out
    go()
    until(lambda: state(run) == "done" and not ours(tmp_path))
    assert "work" not in [line.split()[0] for line in draftbench("--help").out.splitlines() if line.strip()]


def test_importing_the_queue_loads_no_torch():
    import subprocess

    code = "import sys, engine.jobs.queue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=False).returncode == 0


def test_prompts_that_are_gone_leave_no_run_in_the_queue(tmp_path: Path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "a?"}', encoding="utf-8")
    mine = parse_recipe({"prompts": {**PROMPTS, "heldout": str(file)}})
    queue.submit_all(home(), [mine])
    before = [run.id for run in run_folders(home())]
    file.unlink()
    with pytest.raises(DraftbenchError, match=r"no such file or folder.*mine\.jsonl"):
        queue.submit_all(home(), [recipe(), mine])  # as *Run again* does
    assert [run.id for run in run_folders(home())] == before
