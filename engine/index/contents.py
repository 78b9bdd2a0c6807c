"""What a run folder holds, for the index.

A run is killed, a disk fills up, a file is copied by half: what is whole is read, and what
is not is named in `problems`. Nothing here writes, and nothing knows DuckDB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from engine.config.schema import LossTerm, Recipe
from engine.errors import DraftbenchError, first_line
from engine.index.curves import curve_points
from engine.index.schema import PARQUET_TABLES
from engine.paths import run_id_of
from engine.records import events
from engine.records.events import read_events, replay
from engine.records.files import CONFIG
from engine.records.folders import DAMAGED
from engine.records.labels import Labels
from engine.records.provenance import Provenance
from engine.records.recipe import read_recipe
from engine.records.record import Record
from engine.records.status import Status
from engine.records.summary import Summary
from engine.records.training import Training
from engine.records.values import encodable, json_text, utc

MEASURED_ONLY = "measured_only"  # in place of a mode: nothing was trained
_DECODED = ("rounds", "tokens")  # tables of text that was decoded speculatively
_CONDITIONS = ("num_draft_tokens", "dtype", "device", "heldout_hash", "acceptance_rule")
_PARQUET_BYTES = 1_000_000_000
Row = dict[str, Any]


@dataclass
class RunContents:
    """One run: rows by table as column -> value, the Parquet files it has, and what was not whole."""

    run: Row
    metrics: list[Row]
    curve: list[Row]
    parquet: dict[str, Path]
    problems: list[str] = field(default_factory=list)


def read_run(folder: Path) -> RunContents:
    """Everything of the folder but the rows of its Parquet files, which DuckDB reads itself.

    A run whose recipe, status or measurement cannot be read is in the state 'damaged'.
    """
    problems: list[str] = []
    recipe = _recipe(folder, problems)
    status = _load(Status, folder, problems)
    if status is not None and not status.model_fields_set and not (folder / Status.FILE).exists():
        problems.append(f"{Status.FILE}: missing")
    summary = _load(Summary, folder, problems)
    provenance = _load(Provenance, folder, problems)
    training = _load(Training, folder, problems)
    labels = _load(Labels, folder, problems)
    run = {
        "run_id": run_id_of(folder.name),
        "state": None,
        **(_status_columns(status) if status else {}),
        **(recipe_columns(recipe) if recipe else {}),
        **_label_columns(labels or Labels()),
        **(_summary_columns(summary) if summary and summary.model_fields_set else {}),
        "provenance": provenance.json_text() if provenance else None,
        "training": training.json_text() if training else None,
    }
    done = run["state"] == "done"
    if recipe is None or status is None or summary is None:
        run["state"] = DAMAGED
    summary = summary or Summary()
    return RunContents(
        run=run,
        metrics=_metrics(summary),
        curve=_curve(folder, problems),
        parquet=_parquet(folder / "measure", done, _tables(summary), problems),
        problems=problems,
    )


def unreadable(folder: Path, error: BaseException) -> RunContents:
    """All that is known of a run that cannot be read at all, and why."""
    why = error.what if isinstance(error, DraftbenchError) else f"{type(error).__name__}: {first_line(error)}"
    run = {"run_id": run_id_of(folder.name), "state": DAMAGED}
    return RunContents(run, [], [], {}, [f"it cannot be indexed: {encodable(why)}"])


_RecordT = TypeVar("_RecordT", bound=Record)


def _load(kind: type[_RecordT], folder: Path, problems: list[str]) -> _RecordT | None:
    """A document of the run, with what is wrong with it added to the problems; None if it cannot be read."""
    path = folder / kind.FILE
    try:
        record, left_out = kind.load(folder)
    except (DraftbenchError, OSError) as error:
        problems.append(f"{path.name}: {_reason(error, path)}")
        return None
    problems += left_out
    return record or kind()


def _recipe(folder: Path, problems: list[str]) -> Recipe | None:
    try:
        recipe = read_recipe(folder)
    except (DraftbenchError, OSError) as error:
        problems.append(f"{CONFIG}: {_reason(error, folder / CONFIG)}")
        return None
    if recipe.train.seed >= 2**63:
        problems.append(f"{CONFIG}: train.seed: {recipe.train.seed} is not a whole number of 64 bits")
        return None
    return recipe


def _reason(error: BaseException, path: Path) -> str:
    """An error about a file in one line, without the path that everyone who reads it has before them."""
    if not isinstance(error, DraftbenchError):
        return first_line(error)
    what = error.what.splitlines()[0].replace(f"{path}: ", "").replace(f"{path} ", "").removeprefix("is ")
    why = error.why.removeprefix("the file is damaged").strip(" ()")
    return encodable(f"{what}: {why}" if why and why not in what else what)[:500]


def recipe_columns(recipe: Recipe) -> Row:
    """The columns of `runs` that come from the recipe."""
    return {
        "name": recipe.name,
        "domain": recipe.prompts.domain,
        "scenario": recipe.prompts.scenario,
        **_training_columns(recipe),
        "target": recipe.target_label,
        "draft_init": recipe.draft.init,
        "tags": recipe.tags,
        "notes": recipe.notes,
        "config": json_text(recipe.model_dump(mode="json")),
    }


def _training_columns(recipe: Recipe) -> Row:
    """How the draft was trained; of a run that only measures, that it was not."""
    if not recipe.trains:
        return {"mode": MEASURED_ONLY, "supervision": None, "loss": None, "seed": None}
    train = recipe.train
    return {
        "mode": train.mode,
        "supervision": train.supervision,
        "loss": loss_label(train.loss),
        "seed": train.seed if train.seed < 2**63 else None,
    }


def loss_label(terms: Sequence[LossTerm]) -> str:
    """A loss for tables and charts: `jsd(beta=0.1)`, `0.5*forward_kl + tvd`; defaults are left out."""
    return " + ".join(_term_label(term) for term in terms)


def _term_label(term: LossTerm) -> str:
    weight = f"{term.weight:g}*" if term.weight != 1 else ""
    return f"{weight}{term.name}" + (f"({term.own[0]}={term.own[1]:g})" if term.own else "")


def _status_columns(status: Status) -> Row:
    return {
        "state": None if status.state == "unknown" else status.state,
        "phase": status.phase or None,
        "created_at": status.created_at and utc(status.created_at),
        "updated_at": status.updated_at and utc(status.updated_at),
    }


def _label_columns(labels: Labels) -> Row:
    """What people said about the run; tags and notes only where they differ from the recipe's."""
    row: Row = {key: getattr(labels, key) for key in ("pinned", "archived", "baseline")}
    row["title"] = labels.title or None
    return row | {key: getattr(labels, key) for key in ("tags", "notes") if key in labels.model_fields_set}


def _summary_columns(summary: Summary) -> Row:
    """What a leaderboard needs of the measurement, and the whole of it but the metrics, which have a table."""
    speedup = summary.speed.speedup if summary.speed else None
    return {
        "certificate": summary.certificate.passed if summary.certificate else None,
        "summary": summary.json_text("metrics"),
        "speedup": speedup and speedup.value,
        "speedup_low": speedup and speedup.low,
        "speedup_high": speedup and speedup.high,
    }


def _metrics(summary: Summary) -> list[Row]:
    conditions = {key: getattr(summary.conditions, key) for key in _CONDITIONS}
    return [{**conditions, **vars(metric)} for metric in summary.metrics]


def _curve(folder: Path, problems: list[str]) -> list[Row]:
    try:
        parsed = read_events(folder)
    except DraftbenchError as error:
        problems.append(f"{events.FILE}: {_reason(error, folder / events.FILE)}")
        return []
    if parsed.torn:
        problems.append(f"{events.FILE}: {parsed.torn} torn or damaged line(s) left out")
    if parsed.senseless:
        problems.append(f"{events.FILE}: {parsed.senseless} event(s) without usable numbers left out")
    return [vars(point) for point in curve_points(replay(parsed.events))]


def _tables(summary: Summary) -> list[str]:
    """The tables of a whole measurement: against a server's text nothing is decoded, and a target alone is timed."""
    if summary.subject == "target alone":
        return ["speed"]
    return [t for t in (*PARQUET_TABLES, "tokens") if not (summary.served is not None and t in _DECODED)]


def _parquet(measure: Path, done: bool, tables: Sequence[str], problems: list[str]) -> dict[str, Path]:
    """The measurement's files by table. Only a run that says it is done must have the `tables`."""
    files = {}
    for table in PARQUET_TABLES:
        path = measure / f"{table}.parquet"
        try:
            stat = path.stat()
        except OSError:
            continue
        if not path.is_file():
            problems.append(f"{path.name}: not a regular file")
        elif stat.st_size > _PARQUET_BYTES:
            problems.append(f"{path.name}: has {stat.st_size:,} bytes, at most {_PARQUET_BYTES:,} are read")
        else:
            files[table] = path
    if done and not measure.is_dir():
        problems.append("measure: missing, though the run is done")
    elif done:
        names = [*(f"{table}.parquet" for table in tables), "summary.json"]
        problems += [f"{name}: missing, though the run is done" for name in names if not (measure / name).exists()]
    return files
