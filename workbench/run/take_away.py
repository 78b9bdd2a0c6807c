"""What of a run can be taken away through the browser: its drafts, its log, its traces and measurements."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from engine.fileio import read_bounded
from engine.runs.folder import RunFolder
from workbench.shared import ui

MOST_BYTES = 512_000_000  # the server holds a file in memory while it sends it


@dataclass(frozen=True)
class Parcel:
    """Files of a run that belong together, relative to `folder`; several are sent as one ZIP file."""

    label: str
    folder: Path
    files: tuple[Path, ...]
    size: int  # bytes

    @property
    def name(self) -> str:
        return self.files[0].name if len(self.files) == 1 else f"{self.folder.name}.zip"


def parcels(run: RunFolder) -> list[Parcel]:
    """What the run has by now. Links and hidden files are left out: they may lead out of the folder."""
    offered = [
        ("Best draft", run.path / "draft" / "best", ["*"]),
        ("Last draft", run.path / "draft" / "last", ["*"]),
        ("Log", run.path, ["log.txt"]),
        ("Output of its process", run.path, ["output.txt"]),
        ("Traces and measurements", run.path / "measure", ["*.parquet", "*.json"]),
    ]
    return [parcel for label, folder, patterns in offered if (parcel := _parcel(label, folder, patterns)).files]


def _parcel(label: str, folder: Path, patterns: Sequence[str]) -> Parcel:
    if folder.is_symlink():
        return Parcel(label, folder, (), 0)
    matching = sorted(path for pattern in patterns for path in folder.glob(pattern))
    files = [path for path in matching if path.is_file() and not path.is_symlink() and not path.name.startswith(".")]
    return Parcel(label, folder, tuple(files), sum(path.stat().st_size for path in files))


def packed(parcel: Parcel) -> bytes:
    """The file itself, or all of them as a ZIP file, as they are now."""
    if len(parcel.files) == 1:
        return read_bounded(parcel.files[0], MOST_BYTES)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # weights and Parquet do not shrink
        for path in parcel.files:
            archive.writestr(path.relative_to(parcel.folder).as_posix(), read_bounded(path, MOST_BYTES))
    return buffer.getvalue()


def take_away(run: RunFolder) -> None:
    """Draw a button for each parcel; one that is too large for the browser is named with its path."""
    offered = parcels(run)
    with st.container(horizontal=True, gap="small"):
        for parcel in offered:
            if parcel.size <= MOST_BYTES:
                st.download_button(
                    f"{parcel.label} ({size(parcel.size)})",
                    lambda parcel=parcel: packed(parcel),  # type: ignore[misc]
                    f"{run.id}-{parcel.name}",
                    key=f"take-{run.id}-{parcel.label}",
                    on_click="ignore",
                    icon=":material/download:",
                )
    for parcel in offered:
        if parcel.size > MOST_BYTES:
            st.caption(
                f"{parcel.label} ({size(parcel.size)}) is too large to send through the browser, which takes "
                f"{size(MOST_BYTES)} at most. Copy it from {ui.text(parcel.folder)}."
            )


def size(count: int) -> str:
    """'12.3 MB' of a number of bytes."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"
