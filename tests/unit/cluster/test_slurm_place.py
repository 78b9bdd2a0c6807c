"""Runs at Slurm: submitted by submitit's real executor to stand-ins of Slurm's commands, and looked after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.cli.text.runs import run as print_run
from engine.cluster import slurm_lost, slurm_place
from engine.cluster.slurm_work import RunWork, _is_ours
from engine.config.reading import parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.jobs import queue
from engine.jobs.executors import place_at, place_of
from engine.paths import Home, home
from engine.records.capture import CaptureCounts
from engine.records.provenance import Provenance
from engine.records.slurm_job import SlurmJob
from engine.runs.description import describe
from engine.runs.folder import RunFolder, run_folders
from engine.runs.listing import list_runs
from engine.runs.process import now, process_identity
from engine.runs.provenance import versions
from tests.slurm_commands import SlurmCommands
from tests.slurm_commands import slurm as slurm

pytestmark = pytest.mark.slow
SAMPLE = "sample_data/prompts/general/heldout.jsonl"  # prompts are read before there is a run
PROMPTS = {"train": SAMPLE, "heldout": SAMPLE}

ADDRESS = "slurm://gpu?account=lab&shared=yes"
PLACE = slurm_place.place(ADDRESS)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between two looks, nor for what a network file system has yet to show."""
    monkeypatch.setattr(slurm_place, "ASK_EVERY_S", 0.0)
    monkeypatch.setattr(slurm_lost, "_SETTLED_S", 0.0)


def recipe(name: str = "run", **changes: Any) -> Recipe:
    resources = {"gpus": 1, "cpus": 2, "memory_gb": 8, "minutes": 30}
    prompts = PROMPTS
    return parse_recipe({"name": name, "prompts": prompts, "resources": resources, **changes})


def submitted(**changes: Any) -> RunFolder:
    (run,) = PLACE.submit_all(home(), [recipe(**changes)])
    return run


def job(run: RunFolder) -> SlurmJob:
    return SlurmJob.read_or_empty(run.path)


def begun(run: RunFolder, host: str = "n2") -> RunFolder:
    """As the run's own job leaves it while it works."""
    job(run).model_copy(update={"began_at": now()}).write(run.path)
    run.set_status(state="running", phase="train", host=host, pid=1, pid_started=1.0)
    return run


def look() -> None:
    PLACE.wake(home())


def test_a_run_is_a_job_with_its_resources(slurm: SlurmCommands):
    run = submitted()
    status, script = run.status(), slurm.script(1)
    assert (status.state, status.place, job(run).job) == ("queued", ADDRESS, "1")
    for line in ("partition=gpu", "account=lab", "cpus-per-task=2", "gpus-per-node=1", "mem=7630M", "time=30"):
        assert f"#SBATCH --{line}\n" in script
    assert "dependency" not in script
    assert queue.waiting(home()) == []
    assert place_of(run).address == ADDRESS  # type: ignore[attr-defined]


def test_runs_that_share_captures_are_an_array_after_the_job_that_makes_them(slurm: SlurmCommands):
    runs = PLACE.submit_all(home(), [recipe(f"r{i}", train={"seed": i}) for i in range(3)])
    assert [job(run).job for run in runs] == ["2_0", "2_1", "2_2"]
    assert {job(run).after for run in runs} == {"1"}
    assert "array" not in slurm.script(1)
    assert "#SBATCH --dependency=afterany:1\n" in slurm.script(2)
    assert "makes the captures" in (runs[0].path / "log.txt").read_text()


def test_captures_that_are_there_need_no_job(slurm: SlurmCommands):
    earlier = RunFolder.create(home(), recipe("earlier"))
    Provenance(captures={"training": CaptureCounts(address="a1")}).write(earlier.path)
    (home().captures / "a1").mkdir(parents=True)
    runs = PLACE.submit_all(home(), [recipe(f"r{i}", train={"seed": i}) for i in range(2)])
    assert job(runs[0]).after == "1"  # the capture is not whole
    (home().captures / "a1" / "done.json").write_text("{}")
    runs = PLACE.submit_all(home(), [recipe(f"r{i}", train={"seed": i}) for i in range(2)])
    assert [(job(run).job, job(run).after) for run in runs] == [("3_0", ""), ("3_1", "")]


def test_show_and_runs_name_the_job_and_what_it_waits_for(slurm: SlurmCommands, capsys: pytest.CaptureFixture[str]):
    waits, works = PLACE.submit_all(home(), [recipe(f"r{i}", train={"seed": i}) for i in range(2)])
    begun(works)
    waiting = f"at {ADDRESS}, job 2_0, after job 1, which makes the captures"
    working = f"at {ADDRESS}, job 2_1, on n2"
    assert {row["where"] for row in list_runs(home())} == {waiting, working}
    for run, where in ((waits, waiting), (works, working)):
        print_run(describe(run))
        assert " ".join(f"place {where}".split()) in " ".join(capsys.readouterr().out.split())
        assert describe(run).document()["slurm"]["job"] == job(run).job
    (works.path / SlurmJob.FILE).write_text("{")
    assert "slurm.json" in describe(works).problem


def test_without_minutes_the_time_limit_is_the_sites(slurm: SlurmCommands):
    submitted(resources={"cpus": 1})
    assert "--time" not in slurm.script(1)


def test_what_slurm_refuses_leaves_nothing(slurm: SlurmCommands):
    slurm.fail("sbatch", "sbatch: error: invalid partition specified: gpu")
    with pytest.raises(DraftbenchError) as refused:
        PLACE.submit_all(home(), [recipe("a"), recipe("b", train={"seed": 1})])
    assert refused.value.why == "invalid partition specified: gpu"
    assert run_folders(home()) == []


def test_a_home_that_nodes_cannot_see_is_refused(slurm: SlurmCommands, tmp_path: Path):
    unshared = place_at("slurm://gpu")
    with pytest.raises(DraftbenchError, match="tmpfs"):
        unshared.submit_all(Home(Path(f"/dev/shm/draftbench-{os.getpid()}")), [recipe()])
    assert slurm.calls("sbatch") == []


def test_cancelling_waiting_runs_cancels_their_jobs_and_at_last_that_of_their_captures(slurm: SlurmCommands):
    runs = PLACE.submit_all(home(), [recipe(f"r{i}", train={"seed": i}) for i in range(2)])
    assert "taken out" in PLACE.cancel(home(), runs[0])
    assert slurm.jobs == {"1": "PENDING", "2_0": "CANCELLED", "2_1": "PENDING"}
    PLACE.cancel(home(), runs[1])
    assert set(slurm.jobs.values()) == {"CANCELLED"}
    assert [run.status().state for run in runs] == ["cancelled"] * 2
    look()
    assert [run.status().state for run in runs] == ["cancelled"] * 2
    PLACE.resume(home(), runs[0])
    assert (runs[0].status().state, job(runs[0]).job) == ("queued", "3")


def test_cancelling_a_run_at_work_asks_its_job_and_says_if_slurm_is_silent(slurm: SlurmCommands):
    run = begun(submitted())
    slurm.become("1", "RUNNING")
    assert "safe point" in PLACE.cancel(home(), run)
    assert slurm.calls("scancel") == [["--signal=TERM", "1"]]
    assert job(run).cancel_asked_at is not None
    assert "at once" in PLACE.cancel(home(), run)
    assert slurm.calls("scancel")[-1] == ["1"]
    slurm.become("1", "RUNNING")
    slurm.fail("scancel")
    with pytest.raises(DraftbenchError, match="could not be asked"):
        PLACE.cancel(home(), run)


def test_a_run_that_a_terminal_took_up_is_asked_itself(slurm: SlurmCommands):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        run = submitted()
        run.set_status(state="running", host=os.uname().nodename, **process_identity(worker.pid))
        slurm.become("1", None)
        PLACE.cancel(home(), run)
        assert worker.wait(20) == -signal.SIGTERM
    assert slurm.calls("scancel") == []


def test_a_lost_job_is_submitted_again_and_at_last_given_up(slurm: SlurmCommands):
    run = begun(submitted())
    for again in range(1, slurm_lost.MOST_LOST + 1):
        slurm.become(job(run).job, None if again % 2 else "NODE_FAIL")
        look()
        assert (run.status().state, job(run).job, job(run).lost) == ("queued", str(again + 1), again)
        begun(run)
    slurm.become(job(run).job, "NODE_FAIL")
    look()
    status = run.status()
    assert status.state == "failed"
    assert status.error is not None
    assert "NODE_FAIL" in status.error.what
    PLACE.resume(home(), run)
    assert (run.status().state, job(run).lost) == ("queued", 0)


def test_a_job_that_ends_before_the_work_began_says_what_it_printed(slurm: SlurmCommands):
    run = submitted()
    Path(job(run).log).write_text("...\nModuleNotFoundError: No module named 'engine'\n")
    slurm.become("1", "FAILED")
    look()
    error = run.status().error
    assert run.status().state == "failed"
    assert error is not None
    assert "No module named 'engine'" in error.why


@pytest.mark.parametrize(
    ("said", "state", "words"),
    [("CANCELLED", "cancelled", ""), ("OUT_OF_MEMORY", "failed", "memory"), ("PENDING", "queued", "")],
)
def test_what_slurm_says_of_a_job_is_what_becomes_of_its_run(slurm: SlurmCommands, said: str, state: str, words: str):
    run = begun(submitted())
    slurm.become("1", said)
    look()
    status = run.status()
    assert (status.state, job(run).job) == (state, "1")
    assert words in (status.error.what if status.error else "")


def test_a_silent_slurm_changes_nothing(slurm: SlurmCommands):
    run = begun(submitted())
    slurm.become("1", None)
    slurm.fail("squeue", "Unable to contact slurm controller")
    look()
    assert job(run).job == "1"
    run.set_status(state="cancelled")
    with pytest.raises(DraftbenchError, match="does not answer"):
        PLACE.resume(home(), run)
    slurm.work_again("squeue")
    PLACE.resume(home(), run)
    assert job(run).job == "2"


def test_a_job_that_is_there_is_not_doubled(slurm: SlurmCommands):
    run = begun(submitted())
    slurm.become("1", "RUNNING")
    look()
    PLACE.resume(home(), run)  # silent for long, so that its state reads as interrupted here
    assert list(slurm.jobs) == ["1"]
    run.set_status(state="done")
    with pytest.raises(DraftbenchError, match="done"):
        PLACE.resume(home(), run)


def test_a_job_that_ended_is_given_time_to_be_seen(slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm_lost, "_SETTLED_S", 60.0)
    run = begun(submitted())
    slurm.become("1", None)
    look()
    assert job(run).gone_since is not None
    run.set_status(state="done")  # what the node wrote is seen now
    look()
    assert (run.status().state, job(run).job) == ("done", "1")


def test_what_slurm_said_of_a_job_is_kept_when_it_forgets_it(slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slurm_lost, "_SETTLED_S", 0.2)
    run = begun(submitted())
    slurm.become("1", "CANCELLED")  # by scancel, not by Draftbench
    look()
    assert run.status().state == "running"
    slurm.become("1", None)
    time.sleep(0.3)
    look()
    assert run.status().state == "cancelled"


def test_without_submitit_an_address_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DraftbenchError, match="submitit") as missing:
        place_at(ADDRESS)
    assert "draftbench[cluster]" in missing.value.fix


def test_runs_whose_submission_was_cut_off_are_submitted(slurm: SlurmCommands):
    run = RunFolder.create(home(), recipe(), queued_at=now(), place=ADDRESS)
    look()
    assert slurm.jobs == {}  # whoever submits it may be about to
    run.set_status(queued_at="2026-01-01T00:00:00+00:00")
    look()
    assert job(run).job == "1"


def test_a_job_works_on_no_run_of_another_job_and_none_that_ended(slurm: SlurmCommands):
    run = submitted()
    assert not _is_ours(run, "2")
    assert _is_ours(run, "1")
    assert job(run).began_at is not None
    run.set_status(state="cancelled")
    assert not _is_ours(run, "1")


def test_a_node_with_other_libraries_makes_no_results(slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch):
    run = submitted()
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    RunWork(str(home().root), "", run.id, 1, 1, versions={**versions(), "torch": "1.0"})()
    error = run.status().error
    assert run.status().state == "failed"
    assert error is not None
    assert "torch" in error.what


def test_at_the_time_limit_a_job_queues_itself_again_at_most_so_often(
    slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch
):
    run = begun(submitted())
    run.set_status(state="cancelled", ended_at=now())  # by the stop at a safe point
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    work = RunWork(str(home().root), "", run.id, 1, most_early_ends=1)
    work._stopped(run, at_limit=True)
    assert slurm.calls("scontrol") == [["requeue", "1"]]
    assert (run.status().state, job(run).ended_early) == ("queued", 1)
    work._stopped(run, at_limit=True)
    assert run.status().state == "failed"
    assert len(slurm.calls("scontrol")) == 1


def test_a_stop_that_a_person_wanted_is_one(slurm: SlurmCommands):
    run = begun(submitted())
    run.set_status(state="cancelled")
    work = RunWork(str(home().root), "", run.id, 1, most_early_ends=1)
    work._stopped(run, at_limit=False)
    assert run.status().state == "queued"  # Slurm stopped it: it goes on in the job that Slurm queues again
    run.set_status(state="cancelled")
    job(run).model_copy(update={"cancel_asked_at": now()}).write(run.path)
    work._stopped(run, at_limit=False)
    assert run.status().state == "cancelled"
