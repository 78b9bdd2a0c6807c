"""What a run's page shows of its folder: configuration, origin, files, and the export of its draft."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from engine.errors import DraftbenchError
from engine.fileio import finite, read_bounded
from engine.records.provenance import Provenance
from engine.records.training import Training
from engine.runs.folder import RunFolder
from engine.untrusted.yaml_text import MAX_BYTES
from workbench.run import export_job
from workbench.run import files as run_files
from workbench.shared import actions, queries, ui

_COLUMN = st.column_config


def configuration(run: RunFolder) -> None:
    """The resolved recipe as the folder has it."""
    path = run.path / "config.yaml"
    if not path.is_file():
        st.info("The recipe of this run is missing.", icon=":material/broken_image:")
        return
    try:
        raw = read_bounded(path, MAX_BYTES)
    except DraftbenchError as error:
        ui.error_box(error)
        return
    st.caption("The resolved recipe: every default is written out, so that it makes the same run again.")
    left, right = st.columns([1, 3], vertical_alignment="center")
    left.download_button(
        "Recipe (YAML)",
        raw,
        f"{run.id}.yaml",
        "application/yaml",
        key="yaml",
        icon=":material/download:",
        on_click="ignore",
    )
    right.code(f"draftbench run {run.id}.yaml", language=None)
    st.code(raw.decode("utf-8", "replace"), language="yaml", height=520)


def origin(run: RunFolder) -> None:
    """Versions, commit, seeds, device and hashes, as a table and as JSON."""
    records = {"provenance": Provenance.read_or_empty(run.path), "training": Training.read_or_empty(run.path)}
    documents = {name: record.model_dump(exclude_unset=True) for name, record in records.items()}
    if not any(documents.values()):
        st.info(
            "Nothing is noted yet: versions, seeds and hashes are written when the prompts are read.",
            icon=":material/fingerprint:",
        )
        return
    rows = [("training", *row) for row in run_files.flat(documents["training"])]
    rows += [("origin", *row) for row in run_files.flat(documents["provenance"])]
    frame = pd.DataFrame(rows, columns=["part", "name", "value"])
    st.dataframe(frame, hide_index=True, height=480, alt="Versions, seeds, hashes and device of the run")
    whole = json.dumps(finite(documents), indent=2, ensure_ascii=False)
    st.download_button(
        "Origin (JSON)",
        whole,
        f"{run.id}-provenance.json",
        "application/json",
        key="json",
        icon=":material/download:",
        on_click="ignore",
    )


def files(run: RunFolder) -> None:
    """Checkpoints, drafts, every file, and where they lie."""
    st.caption("Everything about this run lies here; the index can be made again from it.")
    st.code(str(run.path), language=None)
    weights = run_files.weights(run.path, Training.read_or_empty(run.path).best_step)
    size, when = (
        _COLUMN.NumberColumn("MB", format="%.1f"),
        _COLUMN.DatetimeColumn("Written (UTC)", format="YYYY-MM-DD HH:mm:ss"),
    )
    if weights.empty:
        st.info("There are no weights yet; the first checkpoint is written during training.", icon=":material/save:")
    else:
        st.dataframe(
            weights,
            hide_index=True,
            column_config={"megabytes": size, "written": when, "step": _COLUMN.NumberColumn("after step")},
            placeholder="–",
            alt="Checkpoints and drafts with step and size",
        )
    kb = _COLUMN.NumberColumn("kB", format="%.1f")
    st.dataframe(
        run_files.files(run.path),
        hide_index=True,
        column_config={"kilobytes": kb, "written": when},
        alt="Files of the run with size and time",
    )


def export(run: RunFolder) -> None:
    """Write the draft as a Hugging Face folder, in a process of its own."""
    last = export_job.read(run)
    home = queries.home()
    st.write("Writes the best draft as a folder that Transformers and vLLM load, then measures what was written.")
    if last.state == "running":
        st.fragment(run_every=2)(lambda: _exporting(run))()
        return
    _exported(last)
    key = {name: f"export-{name}-{run.id}" for name in ("out", "overwrite", "check")}
    with st.form(f"export-{run.id}"):
        st.text_input("Folder", str(export_job.default_folder(home, run)), key=key["out"])
        left, right = st.columns(2)
        left.toggle("Replace an earlier export", key=key["overwrite"])
        right.toggle(
            "Measure what was written",
            True,
            key=key["check"],
            help="Loads it with plain Transformers and measures the same prompts: a minute or more.",
        )
        actions.submit("Export", lambda: _start_export(run, key), key=f"export-go-{run.id}", icon=":material/upload:")


def _start_export(run: RunFolder, key: Mapping[str, str]) -> str:
    given = {name: st.session_state[widget] for name, widget in key.items()}
    return export_job.start(queries.home(), run, given["out"], overwrite=given["overwrite"], check=given["check"])


def _exporting(run: RunFolder) -> None:
    now = export_job.read(run)
    if now.state != "running":
        st.rerun()
    since = run_files.duration(run_files.since(now.started_at))
    st.info(
        f"Writing to {ui.text(now.folder)} since {since}. This page may be closed.", icon=":material/progress_activity:"
    )
    if now.output:
        st.code(now.output, language=None, wrap_lines=True)


def _exported(last: export_job.Export) -> None:
    """How the last export ended."""
    if last.state == "done":
        checked = "; ".join(
            f"T = {row.temperature:g}: {row.run:.3f} here, {row.exported:.3f} there" for row in last.report.checked
        )
        st.success(
            ui.text(
                f"Written to {last.folder}, {last.report.megabytes:.0f} MB. "
                + (f"Measures the same: {checked}." if checked else "Not measured again.")
            )
        )
    elif last.state == "differs":
        ui.error_box(
            DraftbenchError(
                f"the draft written to {last.folder} does not measure what the run measured",
                "it would not serve as it was measured",
                "do not use it; export again, and report this if it happens twice",
            )
        )
    elif last.state == "failed":
        ui.error_box(
            DraftbenchError(
                f"the export to {last.folder} failed", "", "correct what the error names, then export again"
            )
        )
    if last.state in ("differs", "failed") and last.output:
        st.code(last.output, language=None, wrap_lines=True)
