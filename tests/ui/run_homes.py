"""Run folders in every state for tests of pages, made by hand from a finished one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

EVIL = "<img src=x onerror=alert(1)> **bold** [l](javascript:alert(1))"


def finished_id(home: Path) -> str:
    """The id of the one run of `finished_home`: those made by hand have no time in their names."""
    return next(path.name for path in (home / "runs").iterdir() if re.search(r"-\d{8}-\d{6}-\w{4}$", path.name))


def add_run(
    home: Path,
    name: str,
    state: str,
    *,
    files: tuple[str, ...] = (),
    labels: dict[str, Any] | None = None,
    **status: Any,
) -> Path:
    """A run folder with the finished run's recipe, the named files of it, and a status of its own."""
    source = home / "runs" / finished_id(home)
    folder = home / "runs" / name
    folder.mkdir()
    for file in ("config.yaml", *files):
        shutil.copy(source / file, folder / file)
    values = {
        "state": state,
        "phase": "",
        "created_at": "2026-01-01T00:00:00+00:00",
        "updated_at": "2026-01-01T00:00:00+00:00",
    }
    (folder / "status.json").write_text(json.dumps({**values, **status}))
    if labels:
        (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def add_seed(home: Path, name: str, seed: int, exact: float) -> None:
    """The finished run with another seed and acceptance, in an interval as wide."""
    source = home / "runs" / finished_id(home)
    folder = add_run(home, name, "done", files=("provenance.json", "training.json"))
    config = yaml.safe_load((source / "config.yaml").read_text())
    config["train"]["seed"] = seed
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((source / "measure" / "summary.json").read_text())
    for metric in summary["metrics"]:
        if (metric["draft"], metric["metric"]) == ("trained", "exact"):
            for bound in ("low", "high"):
                metric[bound] += exact - metric["value"]
            metric["value"] = exact
    (folder / "measure").mkdir()
    (folder / "measure" / "summary.json").write_text(json.dumps(summary))
