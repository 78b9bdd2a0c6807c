"""The Export section of a run's page: write the draft as a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from engine.errors import DraftbenchError
from engine.runs.advice import gives_a_draft, has_weights
from engine.runs.folder import RunFolder
from workbench.run import export_job
from workbench.run.stage import duration, since
from workbench.shared import actions, queries, ui, watch


def export(run: RunFolder) -> None:
    """Draw the export form, or the progress and outcome of the last export."""
    home = queries.home()
    st.write("Writes the best draft as a folder that Transformers and vLLM can load, then measures the written draft.")
    if export_outcome(run):
        return
    if not has_weights(run):
        st.info(ui.sentence(f"The draft's weights are not here: {gives_a_draft(run)}."), icon=":material/folder_off:")
        return
    key = {name: f"export-{name}-{run.id}" for name in ("out", "overwrite", "check")}
    with st.form(f"export-{run.id}"):
        st.text_input("Folder", str(export_job.default_folder(home, run)), key=key["out"])
        left, right = st.columns(2)
        left.toggle("Replace an earlier export", key=key["overwrite"])
        right.toggle(
            "Measure the export",
            True,
            key=key["check"],
            help="Loads the folder with plain Transformers and measures the same prompts. Takes a minute or more.",
        )
        actions.submit("Export", lambda: _start_export(run, key), key=f"export-go-{run.id}", icon=":material/upload:")


def export_outcome(run: RunFolder) -> bool:
    """Draw the progress or the outcome of the last export; return whether it is still at work."""
    last = export_job.read(run)
    if last.state == "running":
        _exporting(run)
        return True
    _exported(last)
    return False


def _start_export(run: RunFolder, key: Mapping[str, str]) -> str:
    given = {name: st.session_state[widget] for name, widget in key.items()}
    return export_job.start(queries.home(), run, given["out"], overwrite=given["overwrite"], check=given["check"])


@st.fragment
def _exporting(run: RunFolder) -> None:
    seen = watch.marks(queries.home(), [run.id])
    now = export_job.read(run)
    if now.state != "running":
        st.rerun()
    elapsed = duration(since(now.started_at))
    st.info(
        f"Writing to {ui.text(now.folder)}, {elapsed} so far. You can close this page.",
        icon=":material/progress_activity:",
    )
    if now.output:
        st.code(now.output, language=None, wrap_lines=True)
    watch.watch("watch-export", [run.id], seen, ("clock",), 2.0)


def _exported(last: export_job.Export) -> None:
    """Show the outcome of the last export."""
    if last.state == "done":
        checked = "; ".join(
            f"T = {row.temperature:g}: {row.run:.3f} (run), {row.exported:.3f} (export)" for row in last.report.checked
        )
        st.success(
            ui.text(
                f"Written to {last.folder}, {last.report.megabytes:.0f} MB. "
                + (f"It measures the same: {checked}." if checked else "Not measured again.")
            )
        )
    elif last.state == "differs":
        ui.error_box(
            DraftbenchError(
                f"the draft written to {last.folder} does not measure the same as the run",
                "in service it would not perform as measured",
                "do not use it; export again, and report this if it happens again",
            )
        )
    elif last.state == "failed":
        ui.error_box(
            DraftbenchError(f"the export to {last.folder} failed", "", "fix the error below, then export again")
        )
    if last.state in ("differs", "failed") and last.output:
        st.code(last.output, language=None, wrap_lines=True)
