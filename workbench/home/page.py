"""The Home page: your model, the best draft for each target, running jobs, and whether this machine is ready.

It is drawn from the index; the checks of the machine load torch and therefore come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from engine.measure import speed_words
from engine.measure.decision import decide
from engine.numbers import ratio_digits
from engine.records.interval import Interval
from engine.records.speed import Speed
from engine.runs.folder import RunFolder
from engine.runs.samples import lay_out_samples, sample_folders
from workbench.compare.every_run import suggested
from workbench.home import your_model
from workbench.live.drafts import has_draft
from workbench.run.stage import stage
from workbench.run.training_curve import Now
from workbench.shared import actions, chart_parts, queries, ui, watch
from workbench.shared.method_names import SUPERVISION, method_name
from workbench.shared.pages import page_of

STEPS: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    ("1. Watch", "See the target accept or reject each token that a draft proposes.", "Open Live", "live", {}),
    (
        "2. Train",
        "Distill a draft from a target on your own prompts.",
        "Open the quick recipe",
        "launch",
        {"recipe": "quickstart"},
    ),
    ("3. Compare", "Compare losses and drafts side by side, paired on the same text.", "Open Compare", "compare", {}),
)


def best_drafts() -> None:
    """Draw a card for each target and domain: one's own drafts first, then, unless hidden, the samples."""
    own, samples = queries.leaderboard(sample=False), queries.leaderboard(sample=True)
    st.subheader("Best draft for each target and domain", anchor=False)
    if own.empty:
        st.caption("No draft that you trained is measured yet.")
    cards(own)
    if samples.empty:
        lay_in()
    elif st.toggle("Show the samples, measured elsewhere", True, key="samples", bind="query-params"):
        cards(samples)
    if len(own) + len(samples):
        st.caption(
            "Acceptance is exact acceptance: the probability that the target accepts a proposed token, as the mean of "
            "sum min(p, q) over the target's own text on held-out prompts, with a 95% interval over prompts. The best "
            "is that of highest acceptance; where intervals overlap, one whose weights are here, and the fastest. Not "
            "ranked: archived runs, runs without a passed losslessness certificate, drafts that were only measured, "
            "and runs measured on fewer prompts than others."
        )


def lay_in() -> None:
    """Offer the sample runs where there are none."""
    count = len(sample_folders())
    if count:
        actions.button(
            f"Add {count} sample runs, measured elsewhere",
            lambda: f"{len(lay_out_samples(queries.home(), asked=True))} sample runs were added.",
            key="home-samples",
            icon=":material/inventory_2:",
        )


def cards(best: pd.DataFrame) -> None:
    """Draw a card for each row, beside each other as far as each is wide enough for its figures (`theme`)."""
    if best.empty:
        return
    with st.container(key="cards-samples" if best["sample"].any() else "cards-own"):
        columns = st.columns(len(best))
    for column, (_, run) in zip(columns, best.iterrows(), strict=True):
        with column:
            draft_card(run)


def rivals(best: pd.Series) -> list[str]:
    """Runs to compare with the best one for its target and domain."""
    known = queries.runs()
    return suggested(known[(known.target == best.target) & (known.domain == best.domain)]) or [best.run_id]


def draft_card(run: pd.Series) -> None:
    """Draw one draft's acceptance, speed and origin, with links to its run, to Live and to Compare."""
    whole = queries.run(run.run_id)
    timing, decision = whole.summary.speed or Speed(), decide(whole.summary, [])
    with st.container(border=True):
        mark = " :gray-badge[sample, measured elsewhere]" if run["sample"] else ""
        st.markdown(f"**{ui.text(run.domain)}**{mark}  \n:gray[{ui.text(chart_parts.short_target(run.target))}]")
        acceptance, speed = st.columns(2)
        acceptance.metric(
            f"acceptance, T = {run.temperature:g}",
            ui.number(run.exact),
            delta=f"{run.exact - run.initial:+.3f} trained" if pd.notna(run.initial) else None,
            help="The probability that the target accepts a proposed token, on held-out prompts; below it, what "
            "training added.",
        )
        timed = pd.notna(run.speedup)
        speed.metric(
            "speed",
            f"{run.speedup:.{ratio_digits(timing.speedup or Interval())}f}×" if timed else "not timed",
            delta=decision.answer,
            delta_color="off",
            delta_arrow="off",
            help="Time of plain decoding divided by time of speculative decoding, on the run's machine. Below 1, the "
            'draft costs more than it saves. "Serve it" is said only if the whole interval is above 1, and above '
            "Transformers' own generate too.",
        )
        bounds = chart_parts.bounds(run.exact_low, run.exact_high, n=run.n_prompts)
        supervision = SUPERVISION.get(run.supervision, "unknown supervision")
        interval = f"{bounds} (95%)" if bounds else "without interval"
        method = ui.text(method_name(run.loss, run["mode"]))
        precision = f"{ui.text(run['dtype'])} on {ui.text(run.device)}"
        facts = [
            f"**{ui.text(run.label)}**",
            f"acceptance {interval}, n = {run.n_prompts:.0f} prompts",
            *([f"speed: {ui.text(speed_words.describe(timing))}"] if timed else []),
            f"{method} ({supervision}), {ui.text(run.scenario)}, seed {run.seed:.0f}",
            f"tokens proposed per round: {whole.summary.conditions.proposing or 'not known'}; {precision}",
        ]
        where = speed_words.measured_where(whole.summary, whole.provenance)
        facts += [f"measured on {ui.text(where)}"] if where else []
        if not (here := has_draft(queries.home(), run.run_id)):
            facts.append("its weights are not here: *Run again* on its page trains it again")
        st.caption("  \n".join(facts))
        with st.container(horizontal=True, gap="medium"):
            ui.goto("run", "Run", icon=":material/monitoring:", run=run.run_id)
            if here:
                ui.goto("live", "Live", icon=":material/play_circle:", run=run.run_id)
            ui.goto(
                "compare",
                "Compare",
                icon=":material/compare_arrows:",
                domain=run.domain,
                target=run.target,
                runs=rivals(run),
            )


def running_jobs() -> None:
    """Draw the queued and running runs, updated while the page is open."""
    active = queries.active()
    labels = dict(zip(active.run_id, active.label, strict=True))
    job_rows(labels, _turns(watch.marks(queries.home(), list(labels))))


@st.fragment
def job_rows(labels: Mapping[str, str], drawn: tuple[str, ...]) -> None:
    """Draw one row per run, again when its status has changed; the whole page when a run was added, began or ended.

    Only the status files of the runs in `labels` are read: the index costs far more.
    """
    seen = watch.marks(queries.home(), list(labels))
    if _turns(seen) != drawn:
        queries.refresh()
        st.rerun()
    statuses = {run_id: RunFolder(queries.home().run(run_id)).status() for run_id in labels}
    if not statuses:
        st.caption("No runs are queued or running.")
    for run_id, status in statuses.items():
        with st.container(border=True):
            with st.container(horizontal=True, horizontal_alignment="distribute"):
                ui.goto("run", ui.text(labels[run_id]), run=run_id)
                st.markdown(ui.state_badge(status.state))
            if status.state == "running":
                phase = stage(status, Now())
                stopping = "stopping; " if status.stop_asked_at else ""
                st.progress(phase.share or 0.0, text=ui.text(stopping + phase.text + phase.left))
    watch.watch("watch-jobs", list(labels), seen, ("state", "status", "runs"))


def _turns(seen: Mapping[str, Any]) -> tuple[str, ...]:
    """Of `watch.marks` what says that a run was added or removed, began, or ended."""
    return (seen["runs"], *(f"{run} {state}" for run, state in seen["states"].items()))


def first_steps() -> None:
    """Draw the first three steps, one click each."""
    st.subheader("First steps", anchor=False)
    for column, (title, words, label, page, params) in zip(st.columns(3), STEPS, strict=True):
        with column, st.container(border=True, height="stretch"):
            st.markdown(f"**{title}**  \n{words}")
            if st.button(label, key=f"step-{page}"):
                st.switch_page(page_of(page), query_params=params or None)


@st.fragment(parallel=True)
def machine() -> None:
    """Draw the checks of `draftbench doctor`. In parallel, because the first time loads torch, which takes seconds."""
    with st.spinner("Checking this machine ..."):
        checks = queries.health()
    lines = []
    for check in checks:
        mark = ":green[:material/check_circle:]" if check.ok else ":orange[:material/build:]"
        todo = "" if check.ok else f"  \n**What to do:** {ui.sentence(check.fix)}"
        lines.append(f"{mark} **{ui.text(check.name)}** :gray[{ui.text(check.condition)}]{todo}")
    st.markdown("  \n".join(lines))


def render() -> None:
    """Draw the page."""
    ui.heading("home")
    your_model.section()
    best_drafts()
    first_steps()
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("Running jobs", anchor=False)
        running_jobs()
    with right:
        st.subheader("This machine", anchor=False)
        machine()
