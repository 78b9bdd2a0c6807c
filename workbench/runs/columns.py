"""The columns of the runs table: label, format and help text."""

from __future__ import annotations

from typing import Any

import streamlit as st

_column = st.column_config

COLUMNS: dict[str, Any] = {
    "state": _column.TextColumn(
        "State",
        pinned=True,
        help="The current state. Interrupted: its process has ended; the run can be resumed.",
    ),
    "marks": _column.TextColumn(
        "Marks",
        width=130,  # by itself it would be as narrow as the marks of the first runs
        help="★ baseline: the run that others are compared with. ● pinned: listed first. "
        "◇ sample: it came with Draftbench and was measured elsewhere. "
        "⚠ incomplete: part of the folder is missing or unreadable; see the column Problems.",
    ),
    "label": _column.TextColumn("Run", width=280, help="The title, or the id if the run has no title."),
    "open": None,  # a button, made with the table: `workbench.runs.rows`
    "exact": _column.NumberColumn(
        "Exact acceptance",
        format="%.3f",
        help="The probability that the target accepts a token proposed at a position of its own text, at the lowest "
        "measured temperature. Tokens discarded after a rejection do not count.",
    ),
    "interval": _column.TextColumn("95% interval", help="Interval of the exact acceptance: bootstrap over prompts."),
    "speedup": _column.NumberColumn(
        "Speed-up",
        format="%.2f×",
        help="Time of plain decoding divided by time of speculative decoding, for the same prompts on the run's "
        "machine. Below 1, speculative decoding is slower.",
    ),
    "domain": _column.TextColumn("Domain", help="The domain of the prompts."),
    "scenario": _column.TextColumn(
        "Scenario",
        help="The source of the training prompts: historical (real users), curated (collected) "
        "or synthetic (written by the target).",
    ),
    "loss": _column.TextColumn("Loss", help="The training loss; a weighted sum is written out."),
    "mode": _column.TextColumn(
        "Mode",
        help="offline: the target answers once, and training runs several epochs over its answers. online: a stream of "
        "queries, each seen once. on-policy: the draft writes and the target scores.",
    ),
    "supervision": _column.TextColumn(
        "Supervision", help="white box: the target's full distribution; black box: its text only."
    ),
    "n": _column.NumberColumn("n", format="%d", help="Number of held-out prompts in the measurement."),
    "temperature": _column.NumberColumn(
        "T", format="%g", help="Sampling temperature of the measurement shown; 0 is greedy."
    ),
    "gain": _column.NumberColumn(
        "Gain",
        format="%+.3f",
        help="Exact acceptance minus that of the same draft before training, at the same temperature. "
        "The run's page shows its interval.",
    ),
    "speedup_interval": _column.TextColumn("95% interval (speed-up)", help="Bootstrap over the timed prompts."),
    "certificate": _column.TextColumn(
        "Certificate",
        help="Whether speculative decoding was shown to leave the target's output unchanged. "
        "Runs that fail are not ranked.",
    ),
    "seed": _column.NumberColumn(
        "Seed",
        format="%d",
        help="Seed of the draft's initialization and of shuffling. A difference is a finding once three seeds show it.",
    ),
    "tags": _column.ListColumn("Tags", help="Tags for filtering; select rows to change them."),
    "target": _column.TextColumn("Target", help="The model whose output is kept exactly."),
    "created": _column.DatetimeColumn(
        "Created (UTC)", format="YYYY-MM-DD HH:mm", help="When the run was added to the queue."
    ),
    "notes": _column.TextColumn("Note", help="The note on one line; the run's page shows its line breaks."),
    "problems": _column.TextColumn("Problems", help="Missing or unreadable parts of the run's folder."),
    "run": _column.TextColumn("Run id", help="The name of the run's folder, also used in commands."),
}

GROUP_COLUMNS: dict[str, Any] = {
    "group": _column.TextColumn("Group"),
    "domain": _column.TextColumn("Domain", help="A group with several domains has a row for each."),
    "temperature": _column.NumberColumn(
        "T",
        format="%g",
        help="The lowest temperature that its runs were measured at; where they differ, a row for each.",
    ),
    "runs": _column.NumberColumn("Runs"),
    "measured": _column.NumberColumn(
        "n (measured runs)", help="The mean is over these. Of repetitions of a seed the newest counts."
    ),
    "seeds": _column.NumberColumn("Seeds", help="Number of different seeds among the measured runs."),
    "mean": _column.NumberColumn(
        "Mean exact acceptance", format="%.3f", help="Over the n measured runs of the group, each counted once."
    ),
    "error": _column.NumberColumn(
        "± standard error",
        format="%.3f",
        help="Over seeds: the standard deviation of the n runs divided by the square root of n. None for a single run, "
        "and none where the runs differ in more than the seed.",
    ),
    "range": _column.TextColumn(
        "Range", help="Lowest and highest exact acceptance of runs that differ in more than the seed."
    ),
    "exact": _column.NumberColumn("Best exact acceptance", format="%.3f"),
    "interval": _column.TextColumn("95% interval of the best", help="Over its held-out prompts."),
    "n": _column.NumberColumn("Prompts of the best", format="%d", help="Number of its held-out prompts."),
    "best": _column.TextColumn("Best run"),
}
