"""The columns of the table of runs: what each is called, how it is written, and what it means."""

from __future__ import annotations

from typing import Any

import streamlit as st

_column = st.column_config

COLUMNS: dict[str, Any] = {
    "state": _column.TextColumn(
        "State",
        pinned=True,
        help="What the run is doing now. Interrupted: its process is gone, and it can be resumed.",
    ),
    "marks": _column.TextColumn(
        "Marks",
        help="★ baseline: the run that others are compared with. ● pinned: comes first. "
        "⚠ not whole: something in the folder cannot be read; the column Problems says what.",
    ),
    "label": _column.TextColumn("Run", width=280, help="Its title, or its id where nobody gave it one."),
    "open": _column.LinkColumn("Open", display_text="open", help="The run's own page, in a new tab."),
    "exact": _column.NumberColumn(
        "Exact acceptance",
        format="%.3f",
        help="The chance, 0 to 1, that the target keeps a token proposed at a position of its own text; tokens "
        "discarded after a refusal do not count. At the lowest measured temperature.",
    ),
    "interval": _column.TextColumn("95% interval", help="Of the exact acceptance: bootstrap over prompts."),
    "speedup": _column.NumberColumn(
        "Speed-up",
        format="%.2f×",
        help="Seconds of plain decoding over seconds of speculative decoding, the same prompts in turn "
        "on the run's machine. Below 1 it is slower.",
    ),
    "domain": _column.TextColumn("Domain", help="Label of the prompts' domain."),
    "scenario": _column.TextColumn(
        "Scenario",
        help="Where the training prompts come from: historical (real users), curated (collected) "
        "or synthetic (written by the target).",
    ),
    "loss": _column.TextColumn("Loss", help="The divergence that was trained on; a weighted sum is written out."),
    "mode": _column.TextColumn(
        "Mode",
        help="offline: the target answers once, several epochs over its answers. online: a stream of queries, each seen "
        "once. on-policy: the draft writes, the target scores.",
    ),
    "supervision": _column.TextColumn(
        "Supervision", help="white box: the target's whole distribution; black box: its text alone."
    ),
    "n": _column.NumberColumn("n", format="%d", help="Held-out prompts that the acceptance was measured on."),
    "temperature": _column.NumberColumn(
        "T", format="%g", help="Sampling temperature of the acceptance shown; 0 is greedy."
    ),
    "gain": _column.NumberColumn(
        "Gain",
        format="%+.3f",
        help="Exact acceptance minus that of the same draft before training, at the same temperature. "
        "Its interval is on the run's page.",
    ),
    "speedup_interval": _column.TextColumn("95% interval (speed-up)", help="Bootstrap over the timed prompts."),
    "certificate": _column.TextColumn(
        "Certificate",
        help="Whether speculative decoding was shown to leave the target's output as it is. "
        "A pair that fails is kept off leaderboards.",
    ),
    "seed": _column.NumberColumn(
        "Seed",
        format="%d",
        help="Seed of the draft's initialisation and of shuffling. Three seeds before a difference is a finding.",
    ),
    "tags": _column.ListColumn("Tags", help="Labels for filtering; select rows to change them."),
    "target": _column.TextColumn("Target", help="The model whose output is kept exactly."),
    "created": _column.DatetimeColumn(
        "Created (UTC)", format="YYYY-MM-DD HH:mm", help="When the run was put in the queue."
    ),
    "notes": _column.TextColumn("Note", help="The note on one line; the run's page shows it as it was written."),
    "problems": _column.TextColumn("Problems", help="What of the folder could not be read."),
    "run": _column.TextColumn("Run id", help="Name of the run's folder, and of the run in commands."),
}

GROUP_COLUMNS: dict[str, Any] = {
    "group": _column.TextColumn("Group"),
    "domain": _column.TextColumn("Domain", help="A group of several domains has a row for each."),
    "runs": _column.NumberColumn("Runs"),
    "measured": _column.NumberColumn("Measured"),
    "seeds": _column.NumberColumn("Seeds", help="Different seeds among the measured runs."),
    "exact": _column.NumberColumn("Best exact acceptance", format="%.3f"),
    "interval": _column.TextColumn("95% interval"),
    "n": _column.NumberColumn("n", format="%d", help="Held-out prompts of the best run."),
    "best": _column.TextColumn("Best run"),
}
