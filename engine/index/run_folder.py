"""What a run folder holds, for the index.

A run is killed, a disk fills up, a file is copied by half: what is whole is read, and what
is not is named in `problems`. Nothing here writes, and nothing knows DuckDB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from engine.config.schema import LossTerm, Recipe
from engine.errors import DraftbenchError, first_line
from engine.fileio import read_bounded
from engine.index.curves import curve_points, parse_events, replay
from engine.index.schema import DECODED_TABLES, PARQUET_TABLES
from engine.paths import run_id_of
from engine.records.documents import CONFIG, DAMAGED, EVENTS_BYTES, STATUS, mapping, read_recipe, read_status
from engine.records.values import integer, json_text, number, shown, text, timestamp

_FILES = (
    CONFIG,
    STATUS,
    "events.jsonl",
    "provenance.json",
    "labels.json",
    "training.json",
    "measure/summary.json",
    *(f"measure/{table}.parquet" for table in PARQUET_TABLES),
)
_CONDITIONS = ("num_draft_tokens", "dtype", "device", "heldout_hash", "acceptance_rule")
_PARQUET_BYTES = 1_000_000_000
_OTHERS = ("provenance", "training", "labels")  # documents that a run is whole without
_T = TypeVar("_T")
Row = dict[str, Any]


@dataclass
class RunContents:
    """One run: rows by table as column -> value, the Parquet files it has, and what was not whole."""

    run: Row
    metrics: list[Row]
    curve: list[Row]
    parquet: dict[str, Path]
    problems: list[str] = field(default_factory=list)


def fingerprint(folder: Path | str) -> str:
    """16 hex digits that change whenever a file that the index is made from is written, replaced or removed.

    Ten thousand runs are looked at for every page, so it asks for the files by their known names and reads none.
    Inode and time of the last change of any kind belong to it: they tell a file that was replaced by one of the same
    size within one tick of the clock, or with its old time.
    """
    found: list[int] = []
    for name in _FILES:
        try:
            stat = os.stat(f"{folder}/{name}")
        except OSError as error:
            found.append(error.errno or -1)
        else:
            found += (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return f"{hash(tuple(found)) % 2**64:016x}"  # of integers alone: the same in every process


def read_run(folder: Path) -> RunContents:
    """Everything of the folder but the rows of its Parquet files, which DuckDB reads itself.

    A run whose recipe, status or measurement cannot be read is in the state 'damaged'.
    """
    problems: list[str] = []
    recipe = _read(folder / CONFIG, problems, lambda path: read_recipe(path.parent), None)
    if recipe is not None and recipe.train.seed >= 2**63:
        problems.append(f"{CONFIG}: train.seed: {recipe.train.seed} is not a whole number of 64 bits")
        recipe = None
    status = _read(folder / STATUS, problems, lambda path: _status(path.parent, problems), None)
    summary = _read(folder / "measure" / "summary.json", problems, mapping, None)
    nothing: dict[str, Any] = {}
    others = [_read(folder / f"{name}.json", problems, mapping, nothing) for name in _OTHERS]
    provenance, training, labels = (dict(found) for found in others)
    for name, document in (
        ("summary", summary),
        ("provenance", provenance),
        ("training", training),
        ("labels", labels),
    ):
        _leave_out_odd(name, document or {}, problems)
    run = {
        "run_id": run_id_of(folder.name),
        **_status_columns(status or {}, problems),
        **(recipe_columns(recipe) if recipe else {}),
        **_label_columns(labels),
        **_summary_columns(summary or {}, problems),
        "provenance": json_text(provenance) if provenance else None,
        "training": json_text(training) if training else None,
    }
    done = run["state"] == "done"
    if recipe is None or status is None or summary is None:
        run["state"] = DAMAGED
    return RunContents(
        run=run,
        metrics=_metrics(summary or {}, problems),
        curve=_curve(folder / "events.jsonl", problems),
        parquet=_parquet(folder / "measure", done, "served" in (summary or {}), problems),
        problems=problems,
    )


def unreadable(folder: Path, error: BaseException) -> RunContents:
    """All that is known of a run that cannot be read at all, and why."""
    why = error.what if isinstance(error, DraftbenchError) else f"{type(error).__name__}: {first_line(error)}"
    run = {"run_id": run_id_of(folder.name), "state": DAMAGED}
    return RunContents(run, [], [], {}, [f"it cannot be indexed: {text(why)}"])


_NUMBER = (int, float)
_KINDS: dict[str, dict[str, Any]] = {
    "summary": {
        "metrics": list,
        "improvement": list,
        **dict.fromkeys(("conditions", "certificate", "speed", "served"), dict),
    },
    "provenance": dict.fromkeys(("prompts", "captures", "machine", "measurement", "versions", "source"), dict),
    "training": dict.fromkeys(("steps", "steps_done", "tokens_seen", "best_step", "seconds"), _NUMBER),
    "labels": {"tags": list},
}  # what readers of the index may rely on


def _leave_out_odd(name: str, document: dict[str, Any], problems: list[str]) -> None:
    """Take values of another kind than ours out of a document, and say so."""
    for key, kind in _KINDS[name].items():
        value = document.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            problems.append(f"{name}.json: {key}: {shown(document.pop(key))} makes no sense")


def _status(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    status, odd = read_status(folder)
    problems += odd
    if not status and not (folder / STATUS).exists():
        problems.append(f"{STATUS}: missing")
    return status


def _read(path: Path, problems: list[str], read: Callable[[Path], _T], otherwise: _T) -> _T:
    """What the file holds; `otherwise`, and a problem that begins with its name, if it cannot be read."""
    try:
        return read(path)
    except (DraftbenchError, OSError) as error:
        name = f"measure/{path.name}" if path.parent.name == "measure" else path.name
        problems.append(f"{name}: {_said(error, path)}")
        return otherwise


def _said(error: BaseException, path: Path) -> str:
    """An error about a file in one line, without the path that everyone who reads it has before them."""
    if not isinstance(error, DraftbenchError):
        return first_line(error)
    what = error.what.splitlines()[0].replace(f"{path}: ", "").replace(f"{path} ", "").removeprefix("is ")
    why = error.why.removeprefix("the file is damaged").strip(" ()")
    return str(text(f"{what}: {why}" if why and why not in what else what))[:500]


def recipe_columns(recipe: Recipe) -> Row:
    """The columns of `runs` that come from the recipe."""
    return {
        "name": recipe.name,
        "domain": recipe.prompts.domain,
        "scenario": recipe.prompts.scenario,
        "mode": recipe.train.mode,
        "supervision": recipe.train.supervision,
        "loss": loss_label(recipe.train.loss),
        "target": recipe.target.label,
        "draft_init": recipe.draft.init,
        "seed": recipe.train.seed if recipe.train.seed < 2**63 else None,
        "tags": recipe.tags,
        "notes": recipe.notes,
        "config": json_text(recipe.model_dump(mode="json")),
    }


def loss_label(terms: Sequence[LossTerm]) -> str:
    """A loss for tables and charts: `jsd(beta=0.1)`, `0.5*forward_kl + tvd`; defaults are left out."""
    return " + ".join(_term_label(term) for term in terms)


def _term_label(term: LossTerm) -> str:
    weight = f"{term.weight:g}*" if term.weight != 1 else ""
    return f"{weight}{term.name}" + (f"({term.own[0]}={term.own[1]:g})" if term.own else "")


def _status_columns(status: Mapping[str, Any], problems: list[str]) -> Row:
    def get(key: str, read: Callable[[Any], _T]) -> _T | None:
        try:
            return read(status.get(key))
        except ValueError as error:
            problems.append(f"status.json: {key}: {first_line(error)}")
            return None

    return {
        "state": get("state", text),
        "phase": get("phase", text),
        "created_at": get("created_at", timestamp),
        "updated_at": get("updated_at", timestamp),
    }


def _label_columns(labels: Mapping[str, Any]) -> Row:
    """What people said of the run; tags and notes only where they differ from the recipe's."""
    row: Row = {key: labels.get(key) is True for key in ("pinned", "archived", "baseline")}
    row["title"] = str(labels["title"]) if labels.get("title") else None
    if isinstance(labels.get("tags"), list):
        row["tags"] = [str(tag) for tag in labels["tags"]]
    if isinstance(labels.get("notes"), str):
        row["notes"] = labels["notes"]
    return row


def _summary_columns(summary: Mapping[str, Any], problems: list[str]) -> Row:
    """What a leaderboard needs of the measurement, and the whole of it but the metrics, which have a table."""
    if not summary:
        return {}
    certificate, speed = summary.get("certificate"), summary.get("speed")
    passed = certificate.get("passed") if isinstance(certificate, dict) else None
    speedup = speed.get("speedup") if isinstance(speed, dict) else None
    row: Row = {
        "certificate": passed if isinstance(passed, bool) else None,
        "summary": json_text({key: value for key, value in summary.items() if key != "metrics"}),
    }
    for column, key in (("speedup", "value"), ("speedup_low", "low"), ("speedup_high", "high")):
        try:
            row[column] = number(speedup.get(key)) if isinstance(speedup, dict) else None
        except ValueError as error:
            problems.append(f"summary.json: speedup: {first_line(error)}")
    return row


def _metrics(summary: Mapping[str, Any], problems: list[str]) -> list[Row]:
    conditions, listed = summary.get("conditions"), summary.get("metrics")
    shared = {key: conditions.get(key) for key in _CONDITIONS} if isinstance(conditions, dict) else {}
    rows = []
    for index, raw in enumerate(listed if isinstance(listed, list) else []):
        try:
            rows.append(_metric_row({**shared, **raw}))
        except (ValueError, TypeError) as error:
            problems.append(f"summary.json: metric {index}: {first_line(error)}")
    return rows


def _metric_row(raw: Mapping[str, Any]) -> Row:
    row: Row = {key: number(raw.get(key)) for key in ("temperature", "value", "low", "high")}
    row |= {key: integer(raw.get(key)) for key in ("n_prompts", "n_tokens", "num_draft_tokens")}
    row |= {
        key: text(raw.get(key)) for key in ("draft", "metric", "dtype", "device", "heldout_hash", "acceptance_rule")
    }
    if row["metric"] is None:
        raise ValueError("it has no name")
    return row


def _curve(path: Path, problems: list[str]) -> list[Row]:
    try:
        raw = read_bounded(path, EVENTS_BYTES)
    except FileNotFoundError:
        return []
    except DraftbenchError as error:
        problems.append(f"{path.name}: {_said(error, path)}")
        return []
    events, torn = parse_events(raw)
    points, senseless = curve_points(replay(events))
    if torn:
        problems.append(f"{path.name}: {torn} torn or damaged line(s) left out")
    if senseless:
        problems.append(f"{path.name}: {senseless} event(s) without usable numbers left out")
    return [vars(point) for point in points]  # as asdict(), which copies each value for a third of a run's time


def _parquet(measure: Path, done: bool, served: bool, problems: list[str]) -> dict[str, Path]:
    """The measurement's files by table. Only a run that says it is done must have them; against a server's text
    nothing is decoded, so there are no rounds."""
    found = {}
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
            found[table] = path
    if done and not measure.is_dir():
        problems.append("measure: missing, though the run is done")
    elif done:
        wanted = [table for table in PARQUET_TABLES if not (served and table in DECODED_TABLES)]
        expected = [f"{table}.parquet" for table in wanted if table not in found]
        expected += [] if (measure / "summary.json").exists() else ["summary.json"]
        problems += [f"{name}: missing, though the run is done" for name in expected]
    return found
