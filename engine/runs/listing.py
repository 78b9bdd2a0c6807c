"""Runs told in rows and records, read from the folders themselves."""

from __future__ import annotations

from typing import Any

from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.numbers import number
from engine.paths import Home
from engine.runs.folder import RunFolder, run_folders


def list_runs(home: Home) -> list[dict[str, Any]]:
    """A row a run, newest first. A damaged run is listed with what is wrong, never left out."""
    return [_row(run) for run in run_folders(home)]


def _row(run: RunFolder) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("run", "state", "domain", "loss", "exact", "created", "problem"), "")
    row["run"] = run.id
    try:
        status = run.status()
        row |= {"state": status["state"], "created": str(status.get("created_at", ""))[:19]}
        recipe = run.recipe()
        row |= {"domain": recipe.prompts.domain, "loss": "+".join(term.name for term in recipe.train.loss)}
        if run.summary_path.exists():
            row["exact"] = ", ".join(
                f"{number(m['value'])} (T={m['temperature']:g})"
                for m in run.summary()["metrics"]
                if m["draft"] == "trained" and m["metric"] == "exact"
            )
    except (DraftbenchError, ValueError, LookupError, TypeError) as error:
        row |= {"state": "damaged", "problem": str(error).splitlines()[0]}
    return row


def describe(run: RunFolder) -> dict[str, Any]:
    """Everything about one run that is not a table."""
    told: dict[str, Any] = {"run": run.id, "folder": str(run.path), "status": run.status()}
    told["recipe"] = run.recipe().model_dump(mode="json")
    for name, path in (("training", "training.json"), ("provenance", "provenance.json")):
        told[name] = read_json(run.path / path) if (run.path / path).exists() else None
    told |= {"summary": None, "problem": ""}
    try:
        told["summary"] = run.summary() if run.summary_path.exists() else None
    except DraftbenchError as error:
        told["problem"] = f"{error.what}: {error.fix}"
    return told
