"""Home: the best draft for each target, what is at work, where to begin, and whether this machine is ready.

Drawn from the index alone; the look at the machine loads torch and therefore comes after the rest.
"""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.measure import speed_words
from engine.runs.folder import RunFolder
from workbench.compare.every_run import suggested
from workbench.live.decode import has_draft
from workbench.run import files
from workbench.shared import chart_parts, queries, ui
from workbench.shared.method_names import SUPERVISION, method_name
from workbench.shared.pages import page_of

CARDS_A_ROW = 3
_EVERY_S = 4  # between two looks at what is at work
STEPS: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    ("1. Watch", "Let a draft propose and see the target accept or refuse each token.", "Open Live", "live", {}),
    (
        "2. Train",
        "Distil a draft from a target on your own prompts.",
        "Open the quick recipe",
        "launch",
        {"recipe": "quickstart"},
    ),
    ("3. Compare", "Losses and drafts side by side, paired on the same text.", "Open Compare", "compare", {}),
)


def best_drafts(best: pd.DataFrame) -> None:
    """A card for each target and domain."""
    st.subheader("Best draft for each target and domain", anchor=False)
    if best.empty:
        ui.empty(
            "No draft is measured yet. The quick recipe trains one for the embedded target in a few minutes.",
            "Train a first draft",
            "launch",
            key="best",
            recipe="quickstart",
        )
        return
    rows = [best.iloc[start : start + CARDS_A_ROW] for start in range(0, len(best), CARDS_A_ROW)]
    for row in rows:
        for column, (_, run) in zip(st.columns(CARDS_A_ROW), row.iterrows(), strict=False):
            with column:
                draft_card(run)
    st.caption(
        "exact: the chance that the target keeps a proposed token, mean of sum min(p, q) over the target's own text on "
        "held-out prompts, with a 95% interval over prompts. Archived runs, drafts without a passed losslessness "
        "certificate and runs measured on fewer prompts than others do not compete."
    )


def rivals(best: pd.Series) -> list[str]:
    """Runs to set beside the best one of its target and domain."""
    known = queries.runs()
    return suggested(known[(known.target == best.target) & (known.domain == best.domain)]) or [best.run_id]


def draft_card(run: pd.Series) -> None:
    """One draft with its figure, its interval, and the three places to look next."""
    whole = queries.run(run.run_id)
    timing = whole.summary.get("speed") or {}
    with st.container(border=True):
        st.markdown(f"**{ui.text(run.domain)}**  \n:gray[{ui.text(run.target)}]")
        acceptance, speed = st.columns(2)
        acceptance.metric(
            f"acceptance, T = {run.temperature:g}",
            ui.number(run.exact),
            delta=f"{run.exact - run.initial:+.3f} by training" if pd.notna(run.initial) else None,
            help="The chance that the target keeps a proposed token, on held-out prompts.",
        )
        timed = pd.notna(run.speedup)
        speed.metric(
            "speed",
            f"{run.speedup:.2f}×" if timed else "not timed",
            delta=speed_words.verdict(timing.get("speedup")) if timed else None,
            delta_color="off",
            delta_arrow="off",
            help="Seconds of plain decoding over seconds of speculative decoding, on the machine of the run. Below 1 the draft costs "
            "more than it saves; it is called faster only where the whole interval is above 1.",
        )
        facts = [
            f"**{ui.text(run.label)}**",
            f"acceptance {chart_parts.bounds(run.exact_low, run.exact_high) or 'no interval'} (95%), n = {run.n_prompts:.0f} prompts",
            *([f"speed: {ui.text(speed_words.told(timing))}"] if timed else []),
            f"{ui.text(method_name(run.loss, run['mode']))} ({SUPERVISION.get(run.supervision, 'supervision not told')}), "
            f"{ui.text(run.scenario)}, seed {run.seed:.0f}",
            f"gamma {run.num_draft_tokens:.0f} (tokens proposed a round), {ui.text(run['dtype'])} on {ui.text(run.device)}",
        ]
        where = speed_words.measured_where(whole.summary, whole.provenance)
        facts += [f"measured on {ui.text(where)}"] if where else []
        st.caption("  \n".join(facts))
        with st.container(horizontal=True, gap="medium"):
            ui.goto("run", "Run", icon=":material/monitoring:", run=run.run_id)
            if has_draft(queries.home(), run.run_id):
                ui.goto("live", "Live", icon=":material/play_circle:", run=run.run_id)
            ui.goto(
                "compare",
                "Compare",
                icon=":material/compare_arrows:",
                domain=run.domain,
                target=run.target,
                runs=rivals(run),
            )


def at_work() -> None:
    """Runs that are queued or running, brought up to date while the page is open."""
    active = queries.active()
    statuses = [RunFolder(queries.home().run(run_id)).status() for run_id in active.run_id]
    every = max((files.redraw_every(status, _EVERY_S) for status in statuses), default=_EVERY_S)
    st.fragment(run_every=every)(active_runs)(every)


def active_runs(every: float) -> None:
    """A row a run; the page is drawn again when it should be drawn more or less often than `every` seconds."""
    active = queries.active()
    if active.empty:
        st.caption("Nothing is running.")
    for run_id, label in zip(active.run_id, active.label, strict=True):
        status = RunFolder(queries.home().run(run_id)).status()
        if files.redraw_every(status, _EVERY_S) > every:
            st.rerun()
        with st.container(border=True):
            with st.container(horizontal=True, horizontal_alignment="distribute"):
                ui.goto("run", ui.text(label), run=run_id)
                st.markdown(ui.state_badge(str(status.get("state"))))
            if status.get("state") == "running":
                stage = files.stage(status, files.Now())
                stopping = "stopping at the next safe point; " if "stop_asked_at" in status else ""
                st.progress(stage.share or 0.0, text=ui.text(stopping + stage.words))


def first_steps() -> None:
    """Three things to do first, each one click."""
    st.subheader("First steps", anchor=False)
    for column, (title, words, label, page, params) in zip(st.columns(3), STEPS, strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(f"**{title}**  \n{words}")
            if st.button(label, key=f"step-{page}"):
                st.switch_page(page_of(page), query_params=params or None)


@st.fragment(parallel=True)
def machine() -> None:
    """What `draftbench doctor` would say. In parallel: the first look loads torch, which takes seconds."""
    with st.spinner("Looking at this machine ..."):
        checks = queries.health()
    lines = []
    for check in checks:
        mark = ":green[:material/check_circle:]" if check.ok else ":orange[:material/build:]"
        todo = "" if check.ok else f"  \n**What to do:** {ui.text(check.fix)}"
        lines.append(f"{mark} **{ui.text(check.name)}** :gray[{ui.text(check.found)}]{todo}")
    st.markdown("  \n".join(lines))


def render() -> None:
    """Draw the page."""
    ui.heading("home")
    best_drafts(queries.leaderboard())
    first_steps()
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("At work", anchor=False)
        at_work()
    with right:
        st.subheader("This machine", anchor=False)
        machine()
