"""Compare: two to six drafts side by side, then the map of all runs of their domain; every figure to take away."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from engine.catalogue import SERVERS_NOTE
from engine.measure import definitions
from engine.numbers import LEAST_PROMPTS
from engine.records.study_tag import of_study
from workbench.compare import by_study, every_run, figures, report, speeds, tables
from workbench.compare import prompts as compare_prompts
from workbench.compare import slices as compare_slices
from workbench.compare.comparison import MOST_DRAFTS, Comparison, load_comparison, measured_temperatures, timings
from workbench.compare.every_run import map_place, pick_temperature, suggested
from workbench.compare.figures import View
from workbench.shared import chart_parts, downloads, pickers, queries, theme, ui

TABS = ["Rates", "Curves", "Positions", "Slices", "Speed", "Prompts", "Configuration", "Report"]


def render() -> None:
    """Draw the page."""
    ui.heading("compare")
    runs = queries.runs()
    measured = runs[~runs.exact.isna()]
    if measured.empty:
        ui.empty(
            "Nothing is measured yet. The acceptance of finished runs is shown here, and two or more can be compared.",
            "Start a run",
            "launch",
        )
        return
    within = of_study(measured, by_study.choose(measured))
    place = map_place(within)
    likely = suggested(place.runs)
    _offer(likely)
    every_run.back()
    run_ids = pickers.pick_runs("Drafts", "runs", most=MOST_DRAFTS, default=likely, among=list(within.run_id))
    _compared(run_ids, measured)
    st.subheader("Every run of the domain", anchor=False)
    every_run.section(within, place, show)


def _compared(run_ids: list[str], measured: pd.DataFrame) -> None:
    """The chosen drafts side by side, or what is missing for that."""
    if not run_ids:
        st.info("Choose two to six drafts above, or click a cell of the map.", icon=":material/compare_arrows:")
        return
    if len(run_ids) == 1:
        st.info("Choose a second draft: then every rate shows its paired change.", icon=":material/compare_arrows:")
    if not measured_temperatures(run_ids):
        st.info("None of these runs is measured yet.", icon=":material/info:")
        return
    comparison, metric = settings(run_ids, measured)
    marks(comparison)
    side_by_side(comparison, metric)


def _offer(likely: list[str]) -> None:
    """A button that replaces the selected drafts by those of the domain that the map shows."""
    selected = st.query_params.get_all("runs")
    if len(likely) > 1 and selected and not set(selected) & set(likely):

        def change() -> None:
            every_run.compare_instead({"runs": likely})

        st.button("Compare the best of the domain shown below", on_click=change, icon=":material/swap_horiz:")


def settings(run_ids: list[str], measured: pd.DataFrame) -> tuple[Comparison, str]:
    """Baseline, temperature and acceptance definition, then the comparison itself."""
    labels = dict(zip(measured.run_id, measured.label, strict=True))
    named = [run_id for run_id in measured[measured.baseline].run_id if run_id in run_ids]
    first, second, third = st.columns([3, 2, 3])
    with first:
        baseline = ui.choose_one(
            "Baseline", sorted(run_ids, key=lambda run_id: run_id not in named), labels, "baseline"
        )
    with second:
        temperature = pick_temperature(measured_temperatures(run_ids), "temperature")
    with third:
        names = {name: f"{rate.title} ({name})" for name, rate in definitions.RATES.items()}
        metric = ui.choose_one("Acceptance definition", list(names), names, "rate")
    st.caption(definitions.RATES[metric].definition)
    return load_comparison(run_ids, temperature, baseline), metric


def marks(comparison: Comparison) -> None:
    """Warnings: failed certificates, and rates that may not be compared."""
    bad = [d.label for d in comparison.drafts if d.run.certificate is False]
    if bad:
        st.error(
            f"The losslessness certificate failed: {ui.text(', '.join(bad))}. Do not trust its numbers.",
            icon=":material/gpp_bad:",
        )
    reasons = []
    for labels, why, names in report.reasons_together(comparison):
        rates = report.comparable_rates(comparison, labels)
        also = f"; comparable are {ui.text(', '.join(rates))}" if rates else ""
        reasons.append(
            f"**{ui.text('; '.join(labels))}**: {ui.text(why)} (not subtracted: {ui.text(', '.join(names))}){also}"
        )
    if reasons:
        heading = report.heading_of(comparison)
        icon = ":material/rule:" if heading.startswith("Partly") else ":material/block:"
        st.warning(f"**{heading}**\n\n" + "\n\n".join(reasons), icon=icon)


def side_by_side(comparison: Comparison, metric: str) -> None:
    """The tabs; only the open one is computed."""
    sections = {
        "Rates": rates,
        "Curves": curves,
        "Positions": positions,
        "Slices": where_it_fails,
        "Speed": speed,
        "Prompts": prompts,
        "Configuration": configuration,
        "Report": whole_report,
    }
    for name, tab in zip(TABS, st.tabs(TABS, key="view", bind="query-params"), strict=True):
        if tab.open:
            with tab:
                sections[name](comparison, metric)


def show(view: View, key: str, *, wide: bool = False, **options: Any) -> None:
    """A figure and, below it, buttons to save it."""
    ui.chart(view.draw(theme.mode()), key=key, name=view.name, alt=view.alt, save=False, wide=wide, **options)
    downloads.download_row(view.name, key, draw=view.draw, frame=view.frame, caption=view.alt)


def rates(comparison: Comparison, metric: str) -> None:
    show(figures.rates(comparison, metric), "rate-bars", wide=True)
    st.html(f"<style>{report.TABLE_CSS}</style>{report.rates_table(comparison, metric)}")
    st.caption(
        "Below each rate is its change from the baseline, paired on prompts that the target answered with the same "
        "text when it was captured. Above temperature 0 the sampled rates are of each draft's own answers to them. "
        f"▲ and ▼ mark changes whose 95% interval excludes zero, ≈ those whose interval contains it; changes over "
        f"fewer than {LEAST_PROMPTS} prompts have no interval and no mark."
    )
    for sentence in tables.unequal_training(comparison):
        st.caption(f":material/warning: {ui.text(sentence)}.")
    paper = tables.paper_table(comparison)
    caption = f"Acceptance, {comparison.circumstances}, {chart_parts.INTERVAL}; n in each row"
    caption += f". Δ is the paired change from {comparison.letter}" if len(comparison.drafts) > 1 else ""
    name = figures.file_name("rates", comparison, baseline=True)
    downloads.download_row(name, "rates", frame=comparison.rates, paper=paper, caption=caption)
    agreement(comparison)
    with st.expander("The same traces as vLLM, SGLang, Spec-Bench and llama.cpp would print them"):
        name = figures.file_name("as-others", comparison)
        table(tables.as_others(comparison), name, f"The same traces as others report them, {comparison.note}", "others")
    with st.expander("Which of these rates each server will report"):
        name = figures.file_name("servers", comparison)
        table(tables.servers(comparison), name, f"The rate behind each server's figure, {comparison.note}", "servers")
        st.caption(SERVERS_NOTE)


def table(frame: pd.DataFrame, name: str, caption: str, key: str) -> None:
    """A table and, below it, buttons to save it under that name."""
    st.html(f"<style>{report.TABLE_CSS}</style>{report.table(frame)}")
    downloads.download_row(name, key, frame=frame, caption=caption)


def agreement(comparison: Comparison) -> None:
    """Greedy agreement token by token: both, one, the other, neither."""
    if comparison.agreement.empty:
        return
    counts = comparison.agreement.assign(run_id=comparison.agreement.run_id.map(comparison.labels))
    names = {"run_id": "draft", "only_a": "only baseline", "only_b": "only this draft", "p_value": "McNemar p"}
    with st.expander("Greedy agreement token by token, against the baseline"):
        counts = counts.rename(columns=names).assign(**{"McNemar p": [f"{p:.2g}" for p in counts.p_value]})
        name = figures.file_name("agreement", comparison, baseline=True)
        table(counts, name, f"Greedy agreement token by token against the baseline, {comparison.note}", "agreement")
        st.caption("The test treats tokens as independent, so its p is too small; trust the interval over prompts.")


def curves(comparison: Comparison, metric: str) -> None:
    axis = ui.choose_axis()
    rows = queries.curve(list(comparison.labels))
    for kind in ("eval", "train"):
        view = figures.curve(comparison, rows, axis, kind)
        if view.frame.empty:
            st.caption(f"No {'watched acceptance' if kind == 'eval' else 'loss'} was recorded for these runs.")
        else:
            show(view, f"curve-{kind}")


def positions(comparison: Comparison, metric: str) -> None:
    known = set(comparison.slots.label) if len(comparison.slots) else set()
    if not known:
        st.info("Acceptance by position was not recorded for these runs.", icon=":material/info:")
        return
    missing = [draft.label for draft in comparison.drafts if draft.label not in known]
    if missing:
        st.caption(f"Acceptance by position was not recorded for {ui.text(', '.join(missing))}.")
    show(figures.slots(comparison), "by-slot")
    show(figures.lengths(comparison), "lengths")


def where_it_fails(comparison: Comparison, metric: str) -> None:
    compare_slices.section(comparison, metric, lambda view, key: show(view, key, wide=True), table)


def speed(comparison: Comparison, metric: str) -> None:
    timed = timings(comparison)
    missing = [draft.label for draft in comparison.drafts if draft.label not in timed]
    if missing:
        st.caption(
            f"Not timed: {ui.text(', '.join(missing))}. `measure.speed_prompts` sets how many prompts are timed."
        )
    if not timed:
        st.info("None of these runs was timed.", icon=":material/timer_off:")
        return
    different = tables.timing_differs(comparison)
    if different:
        st.warning(f"Speed-ups are not comparable: {ui.text(different)}", icon=":material/block:")
    speeds.section(comparison, table)
    table(
        tables.verdicts(comparison), "verdicts", "Serve it or not, each at its own gamma on its own machine", "verdicts"
    )
    show(figures.speed(comparison), "speed")
    caption = "Speed-up over plain decoding, 95% interval over prompts"
    table(tables.speed_table(comparison), "speed-table", caption, "speed-table")


def prompts(comparison: Comparison, metric: str) -> None:
    compare_prompts.section(comparison, metric)
    st.subheader("By prompt group", anchor=False)
    show(figures.groups(comparison, metric), "groups")


def configuration(comparison: Comparison, metric: str) -> None:
    frame = tables.configuration(comparison)
    st.html(f"<style>{report.TABLE_CSS}</style>")
    st.markdown("**≠ Recipe settings that differ**")
    differing = frame[frame.differs].drop(columns="differs")
    if differing.empty:
        st.caption("The recipes are equal.")
    else:
        st.html(report.table(differing))
    with st.expander(f"Equal in all: {int((~frame.differs).sum())} settings"):
        st.html(report.table(frame[~frame.differs].drop(columns="differs").iloc[:, :2]))
    downloads.download_row("configuration", "configuration", frame=frame, caption="Settings of the compared runs")
    st.markdown("**Origin**")
    table(tables.provenance(comparison), "origin", "Origin of the compared drafts", "origin")


def whole_report(comparison: Comparison, metric: str) -> None:
    st.write(
        "One HTML file with figures, rates, speeds, slices, settings, origin and definitions. It opens offline and "
        "loads nothing from the network."
    )
    title = st.text_input("Title", "Draft comparison", max_chars=120)
    if downloads.chrome() is None:
        st.caption(
            "No Chrome or Chromium was found on the server: the report will hold interactive figures, about 5 MB."
        )

    axis, by = ui.axis(), ui.chosen(list(compare_slices.WAYS), "slice")

    def make() -> str:  # runs in another thread, after this script: it must not ask Streamlit for anything
        return report.whole(comparison, metric, queries.curve(list(comparison.labels)), axis, title, by)

    st.download_button(
        "Download the report",
        make,
        "comparison.html",
        "text/html",
        key="save-report",
        type="primary",
        icon=":material/download:",
        on_click="ignore",
    )
    st.caption("Drawing its figures takes some seconds.")
