"""The Files section of a run's page: checkpoints, drafts and all files of its folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from engine.records.training import Training
from engine.runs.advice import trains
from engine.runs.folder import RunFolder
from workbench.run.take_away import take_away

_COLUMN = st.column_config


def files(run: RunFolder) -> None:
    """Draw the folder, its checkpoints and drafts, and all its files."""
    st.caption("Everything about this run is stored here; the index can be rebuilt from it.")
    st.code(str(run.path), language=None)
    take_away(run)
    weight_files = weights(run.path, Training.read_or_empty(run.path).best_step)
    size, when = (
        _COLUMN.NumberColumn("MB", format="%.1f"),
        _COLUMN.DatetimeColumn("Written (UTC)", format="YYYY-MM-DD HH:mm:ss"),
    )
    if weight_files.empty:
        st.info(
            "No weights yet; the first checkpoint is written during training."
            if trains(run)
            else "No weights: the run only measures, and keeps no draft.",
            icon=":material/save:",
        )
    else:
        st.dataframe(
            weight_files,
            hide_index=True,
            column_config={"megabytes": size, "written": when, "step": _COLUMN.NumberColumn("after step")},
            placeholder="–",
            alt="Checkpoints and drafts with step and size",
        )
    kb = _COLUMN.NumberColumn("kB", format="%.1f")
    st.dataframe(
        all_files(run.path),
        hide_index=True,
        column_config={"kilobytes": kb, "written": when},
        alt="Files of the run with size and time",
    )


def weights(folder: Path, best_step: object = None) -> pd.DataFrame:
    """The run's checkpoints and drafts. Columns: what, step, megabytes, written (UTC), folder."""
    rows = []
    for path in sorted(folder.glob("checkpoints/step-*")):
        digits = path.name.removeprefix("step-")
        rows.append(
            {
                "what": "checkpoint to resume from",
                "step": int(digits) if digits.isdigit() else None,
                **_size_and_time(path),
            }
        )
    for name, words in (("best", "best draft, which is measured and exported"), ("last", "draft after the last step")):
        path = folder / "draft" / name
        if path.is_dir():
            rows.append({"what": words, "step": best_step if name == "best" else None, **_size_and_time(path)})
    return pd.DataFrame(rows, columns=["what", "step", "megabytes", "written", "folder"])


def all_files(folder: Path, most: int = 200) -> pd.DataFrame:
    """The run's files without hidden ones and links. Columns: file, kilobytes, written (UTC)."""
    rows = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_symlink() or not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        stat = path.stat()
        rows.append({"file": inside.as_posix(), "kilobytes": stat.st_size / 1e3, "written": _time(stat.st_mtime)})
        if len(rows) == most:
            break
    return pd.DataFrame(rows, columns=["file", "kilobytes", "written"])


def _size_and_time(folder: Path) -> dict[str, Any]:
    stats = [path.stat() for path in folder.iterdir() if path.is_file()]
    written = _time(max(stat.st_mtime for stat in stats)) if stats else None
    return {"megabytes": sum(stat.st_size for stat in stats) / 1e6, "written": written, "folder": folder.name}


def _time(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC).replace(tzinfo=None)
