"""What a run folder holds, for the index.

A run is killed, a disk fills up, a file is copied by half: what is whole is read, and what
is not is named in `problems`. Nothing here writes, and nothing knows DuckDB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from engine.config import LossTerm, Recipe, load_recipe
from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.store.curves import curve_points, parse_events, replay
from engine.store.schema import DECODED_TABLES, PARQUET_TABLES
from engine.store.values import integer, json_text, number, text, timestamp

CONFIG = "config.yaml"
_FILES = (CONFIG, "status.json", "events.jsonl", "provenance.json", "labels.json", "training.json")
_CONDITIONS = ("num_draft_tokens", "dtype", "device", "heldout_hash", "acceptance_rule")
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


def is_run_folder(folder: Path) -> bool:
    """A folder is a run as soon as it has a resolved recipe."""
    return (folder / CONFIG).is_file()


def fingerprint(folder: Path) -> str:
    """Hex sha256 of name, size and time of change (ns) of every file that the index is made from."""
    files = [folder / name for name in _FILES]
    measure = folder / "measure"
    if measure.is_dir():
        files += [path for path in measure.iterdir() if not path.name.startswith(".")]
    lines = []
    for path in sorted(files):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        lines.append(f"{path.relative_to(folder).as_posix()}\t{stat.st_size}\t{stat.st_mtime_ns}\n")
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def read_run(folder: Path) -> RunContents:
    """Everything of the folder but the rows of its Parquet files, which DuckDB reads itself."""
    problems: list[str] = []
    status = _mapping(folder / "status.json", problems)
    provenance = _mapping(folder / "provenance.json", problems)
    recipe = _recipe(folder / CONFIG, problems)
    training = _mapping(folder / "training.json", problems)
    summary = _mapping(folder / "measure" / "summary.json", problems)
    run = {
        "run_id": folder.name,
        **_status_columns(status, problems),
        **(recipe_columns(recipe) if recipe else {}),
        **_label_columns(_mapping(folder / "labels.json", problems)),
        **_summary_columns(summary, problems),
        "provenance": json_text(provenance) if provenance else None,
        "training": json_text(training) if training else None,
    }
    return RunContents(
        run=run,
        metrics=_metrics(summary, problems),
        curve=_curve(folder / "events.jsonl", problems),
        parquet=_parquet(folder / "measure", run["state"] == "done", "served" in summary, problems),
        problems=problems,
    )


def recipe_columns(recipe: Recipe) -> Row:
    """The columns of `runs` that come from the recipe."""
    black_box = all(term.name == "sft" for term in recipe.train.loss)
    return {
        "name": recipe.name,
        "domain": recipe.prompts.domain,
        "scenario": recipe.prompts.scenario,
        "mode": recipe.train.mode,
        "supervision": "black_box" if black_box else "white_box",
        "loss": loss_label(recipe.train.loss),
        "target": recipe.target.label,
        "draft_init": recipe.draft.init,
        "seed": recipe.train.seed,
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


def _recipe(path: Path, problems: list[str]) -> Recipe | None:
    try:
        return load_recipe(path)
    except (DraftbenchError, OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {_first_line(error)}")
        return None


def _mapping(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """The JSON object in `path`; empty, and a problem, if it is not there whole."""
    if not path.exists():
        return {}
    try:
        value = read_json(path)
    except (DraftbenchError, OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {_first_line(error)}")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name}: not a JSON object")
        return {}
    return value


def _status_columns(status: Mapping[str, Any], problems: list[str]) -> Row:
    def get(key: str, read: Callable[[Any], _T]) -> _T | None:
        try:
            return read(status.get(key))
        except ValueError as error:
            problems.append(f"status.json: {key}: {_first_line(error)}")
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
            problems.append(f"summary.json: speedup: {_first_line(error)}")
    return row


def _metrics(summary: Mapping[str, Any], problems: list[str]) -> list[Row]:
    conditions, listed = summary.get("conditions"), summary.get("metrics")
    shared = {key: conditions.get(key) for key in _CONDITIONS} if isinstance(conditions, dict) else {}
    rows = []
    for index, raw in enumerate(listed if isinstance(listed, list) else []):
        try:
            rows.append(_metric_row({**shared, **raw}))
        except (ValueError, TypeError) as error:
            problems.append(f"summary.json: metric {index}: {_first_line(error)}")
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
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path.name}: {_first_line(error)}")
        return []
    events, torn = parse_events(raw)
    points, senseless = curve_points(replay(events))
    if torn:
        problems.append(f"{path.name}: {torn} torn or damaged line(s) left out")
    if senseless:
        problems.append(f"{path.name}: {senseless} event(s) without usable numbers left out")
    return [asdict(point) for point in points]


def _parquet(measure: Path, done: bool, served: bool, problems: list[str]) -> dict[str, Path]:
    """The measurement's files by table. Only a run that says it is done must have them; against a server's text
    nothing is decoded, so there are no rounds."""
    found = {table: measure / f"{table}.parquet" for table in PARQUET_TABLES}
    found = {table: path for table, path in found.items() if path.is_file()}
    if done and not measure.is_dir():
        problems.append("measure: missing, though the run is done")
    elif done:
        wanted = [table for table in PARQUET_TABLES if not (served and table in DECODED_TABLES)]
        expected = [f"{table}.parquet" for table in wanted if table not in found]
        expected += [] if (measure / "summary.json").is_file() else ["summary.json"]
        problems += [f"{name}: missing, though the run is done" for name in expected]
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
