"""Working on a run from the first phase to the last, with whatever happens written into its folder."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.capture.shards import FillAll
from engine.config.idle import idle_settings
from engine.config.reading import dump_recipe, load_recipe
from engine.config.schema import Recipe
from engine.distill.checkpoint import drop_checkpoints
from engine.distill.launching import use_own_card
from engine.distill.processes import ALONE, Processes
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import write_atomic
from engine.index.ingest import ingest_run
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.progress import Progress
from engine.records.events import Ended, Started
from engine.records.step_times import StepTimes
from engine.records.summary import Summary
from engine.runs.advice import best_draft, gives_a_draft
from engine.runs.faults import explain
from engine.runs.folder import FollowedRun, RunFolder
from engine.runs.measurement import measure, measure_served_alone
from engine.runs.plan import in_words, plan_run, split_prompts
from engine.runs.process import now
from engine.runs.provenance import source, versions
from engine.runs.session import Session, Sharding, capture_for_training, load_target, open_session
from engine.runs.step_times import check_can_be_timed, time_steps
from engine.runs.training import train
from engine.stopping import stop_on_signals

_ANSWER_S = 3.0  # of the other processes, while the launcher waits for the end of this one
_NOT_ESTIMATED = "runs on Ray and Slurm are not estimated beforehand"


def capture_only(
    home: Home,
    recipe: Recipe,
    *,
    shards: int | None = None,
    target: LoadedModel | None = None,
    fill_by: Callable[[Progress], FillAll] | None = None,
) -> list[dict[str, Any]]:
    """Make or reuse every capture of a recipe, without a run.

    shards: how many each capture is cut into, so that several processes can share it. `fill_by` fills them elsewhere,
        from a target whose outline here is enough.
    Returns for each what it is for, its address and folder, and the counts of its `done.json`.
    """
    with stop_on_signals() as stop_wanted:
        progress = Progress(stop_wanted=stop_wanted)
        try:
            if target is None:
                target = load_target(recipe)
            prompts = split_prompts(recipe, target)
            progress.note(f"prompts: {in_words(prompts.counts)}")
            plan = plan_run(home.captures, recipe, target, prompts)
            sharding = None if shards is None else Sharding(shards, None if fill_by is None else fill_by(progress))
            training, heldout = capture_for_training(plan, recipe, target, progress, sharding)
        except KeyboardInterrupt:
            raise Cancelled("capture") from None
    named = {} if training is None else {"training": training}
    named |= {f"held-out T={t:g}": capture for t, capture in heldout.items()}
    return [
        {"what": name, "folder": str(capture.folder), **capture.counts.document()} for name, capture in named.items()
    ]


def execute(
    home: Home,
    run: RunFolder,
    *,
    quiet: bool = False,
    until: str = "measure",
    processes: Processes = ALONE,
    expect: Callable[[Session], dict[str, float]] | None = None,
) -> Summary | None:
    """Work on a run to its end, or through the phase `until` ('train'); returns the summary, None after training.

    A phase whose result is there is skipped. Whatever happens is written into the run's status: done, cancelled (exit
    by Ctrl-C or SIGTERM, resumable) or failed with the reason. Of several `processes`, this is the first one, and the
    others call `follow`. `expect`: what its parts will take, see `Progress.expect`; None on a cluster,
    which stands below what estimates.
    """
    recipe = run.recipe()
    trains = recipe.trains
    if until != "measure" and not trains:
        raise DraftbenchError(
            f"run {run.id} trains nothing", "its task is measure", f"`draftbench run --resume {run.id}` measures it"
        )
    if not recipe.times_server:
        use_own_card(recipe.target)
    with _work(home, run, quiet=quiet, processes=processes) as progress:
        run.emit(Started(until=until, versions=versions(), source=source()))
        if idle := idle_settings(recipe):
            progress.note(f"settings without effect beside the others: {', '.join(idle)}")
        trained = not trains or (run.path / "training.json").exists()
        measured = until != "measure" or run.summary_path.exists()
        if trained:
            drop_checkpoints(run.path)  # of a training that was killed before it had
        processes.from_first(lambda: "" if trained else run.id)
        if recipe.times_server and not measured:
            progress.expect({"capture": 0.0, "training": 0.0}, "it takes as long as the server takes to answer")
            return measure_served_alone(run, recipe, progress)
        if not (trained and measured):
            session = _session(home, run, progress, ALONE if trained else processes)
            done = ({"capture": 0.0} if trains else {}) | {"training": 0.0} if trained else {}
            known = expect(session) if expect is not None else {}
            done |= {"measurement": 0.0} if measured else {}
            progress.expect(known | done, "" if expect is not None else _NOT_ESTIMATED)
            if not trained:
                train(session)
            if not measured:
                return measure(session)
        return run.summary() if until == "measure" else None


def follow(home: Home, processes: Processes) -> None:
    """In any process but the first: compute a share of the training of the run that the first one works on."""
    with stop_on_signals() as stop_wanted:
        run_id = processes.from_first(str)
        if run_id:
            run = FollowedRun(RunFolder.open(home, run_id).path)
            use_own_card(run.recipe().target)
            train(_session(home, run, Progress(quiet=True, stop_wanted=stop_wanted), processes))


def _session(home: Home, run: RunFolder, progress: Progress, processes: Processes) -> Session:
    """The session of this process. The others read the recipe after the first one, which may add a date to it."""
    session = processes.first_then_all(lambda: open_session(home, run, run.recipe(), progress, processes))
    processes.connect(session.target.device)
    return session


def measure_again(home: Home, run: RunFolder, overrides: Sequence[str]) -> Summary:
    """Measure a trained run anew, with overrides of its `measure` section if wanted; replaces its measurement.

    Until the new one is whole, the run keeps its recipe and the measurement it had.
    """
    if run.recipe().trains:
        if not (run.path / "training.json").exists():
            raise DraftbenchError(
                f"run {run.id} is not trained yet", "there is no draft to measure", gives_a_draft(run)
            )
        best_draft(run)
    others = [item for item in overrides if not item.startswith("measure.")]
    if others:
        raise DraftbenchError(
            f"--set {others[0]} is not about measuring",
            "the draft is trained already",
            "use keys of measure., or start a new run",
        )
    recipe = load_recipe(run.path / "config.yaml", overrides, stored=True)
    with _work(home, run) as progress:
        if recipe.times_server:
            summary = measure_served_alone(run, recipe, progress)
            write_atomic(run.path / "config.yaml", dump_recipe(recipe))
            return summary
        session = open_session(home, run, recipe, progress)
        summary = measure(session)
        write_atomic(run.path / "config.yaml", dump_recipe(session.recipe))
        return summary


def time_steps_again(
    home: Home, run: RunFolder, batch_sizes: Sequence[int], contexts: Sequence[int] | None
) -> StepTimes:
    """Time a measured run's draft by batch size and context length; the rest of its measurement stays as it is."""
    best_draft(run)
    check_can_be_timed(run)
    with _work(home, run) as progress:
        return time_steps(open_session(home, run, run.recipe(), progress), batch_sizes, contexts)


@contextlib.contextmanager
def _work(home: Home, run: RunFolder, *, quiet: bool = False, processes: Processes = ALONE) -> Iterator[Progress]:
    """Be the one process at work on a run; how it ends is written into the run, faults of the machine as errors."""
    with run.working(), stop_on_signals(lambda: _cut_short(run, processes)) as stop:
        progress = Progress(quiet=quiet, listen=run.heartbeat, log=run.log, stop_wanted=stop)
        try:
            yield progress
        except (Cancelled, KeyboardInterrupt):
            stop.leaving = True
            progress.finish()
            failure = processes.failure()  # of which the launcher's signal came
            if failure is not None:
                _failed(home, run, failure)
                raise failure from None
            _end(home, run, "cancelled")
            raise Cancelled(run.id) from None
        except Exception as error:
            progress.finish()
            _failed(home, run, error)
            raise
        _end(home, run, "done")


def _cut_short(run: RunFolder, processes: Processes) -> None:
    """The last words of a run whose process is ended in the middle of a call, unless it has said how it ended.

    A launcher also ends this process where another one has failed, which may have been before the training began.
    """
    if run.status().state != "running":
        return
    failures: list[DraftbenchError | None] = []
    asking = threading.Thread(target=lambda: failures.append(processes.failure(aside=True)), daemon=True)
    asking.start()
    asking.join(_ANSWER_S)
    failure = failures[0] if failures else None
    run.log("stopped in the middle of a step; what was not yet on disk is lost")
    state = "done" if run.summary_path.exists() else "cancelled" if failure is None else "failed"
    run.set_status(state=state, ended_at=now(), error=failure.as_dict() if failure and state == "failed" else None)


def _failed(home: Home, run: RunFolder, error: Exception) -> None:
    """Note a failure in the run; raises a fault of the machine in words."""
    explained = explain(error)
    if explained is None:
        with contextlib.suppress(DraftbenchError, OSError):
            run.log(traceback.format_exc())
    _end(home, run, "failed", error=explained.as_dict() if explained else {"what": repr(error)})
    if explained is not None and explained is not error:
        raise explained from error


def _end(home: Home, run: RunFolder, state: str, **more: Any) -> None:
    """Write how work on a run ended, then bring the index up to date; a failing index does not spoil the run.

    A run that has a measurement stays done: then it was only the measuring again that ended otherwise.
    """
    if run.summary_path.exists():
        state = "done"
    try:
        run.set_status(state=state, ended_at=now(), **more)
        run.emit(Ended(state=state))
        ingest_run(home.index, run.path)
    except Exception as error:
        with contextlib.suppress(DraftbenchError, OSError):
            run.log(f"the index was not updated: {error}")
