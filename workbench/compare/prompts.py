"""The Compare page's single prompts: a point per prompt, and the selected prompt under both drafts."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import streamlit as st

from engine.traces.trace import Trace
from workbench.compare import figures
from workbench.compare.comparison import Comparison, trace_of
from workbench.shared import downloads, theme, tokens, ui
from workbench.shared.pages import link

KEY = "prompt"  # of the URL, and of the select box


def section(comparison: Comparison, metric: str) -> None:
    """Scatter of the baseline against another draft; the selected prompt opens below it."""
    others = [draft.id for draft in comparison.drafts if draft.id != comparison.baseline]
    if not others:
        st.info("Choose a second draft to set prompts against each other.", icon=":material/scatter_plot:")
        return
    against = others[0]
    if len(others) > 1:
        against = ui.choose_one("Against the baseline", others, comparison.labels, "against")
    view = figures.scatter(comparison, comparison.baseline, against, metric)
    if view.frame.empty:
        st.info(
            "These two drafts have no prompt in common that the target answered with the same text and that was "
            "measured for this rate.",
            icon=":material/link_off:",
        )
        return
    ids = _telling_first(comparison, against, view.frame)
    _take_click(ids)
    labels = {str(row.prompt_id): _named(row) for row in view.frame.itertuples()}
    prompt = ui.choose_one(
        "Prompt (click a point, or choose here: those traced first, by their difference)", ids, labels, KEY
    )
    view = figures.scatter(comparison, comparison.baseline, against, metric, prompt)
    ui.chart(
        view.draw(theme.mode()),
        key="scatter",
        name=view.name,
        alt=view.alt,
        save=False,
        on_select="rerun",
        selection_mode="points",
    )
    downloads.download_row(view.name, "scatter", draw=view.draw, frame=view.frame, caption=view.alt)
    _both(comparison, against, prompt, view.frame[view.frame.prompt_id == prompt].iloc[0], metric)


def _take_click(ids: list[str]) -> None:
    """A newly clicked point becomes the selected prompt; an old click does not undo a later selection."""
    prompt = next(iter(ui.selected(st.session_state.get("scatter"))), None)
    if prompt != st.session_state.get("_clicked"):
        st.session_state["_clicked"] = prompt
        if prompt in ids:
            st.query_params[KEY] = prompt


def _telling_first(comparison: Comparison, against: str, frame: pd.DataFrame) -> list[str]:
    """Prompt ids, those traced under both drafts before the others, then by the difference of the two rates."""
    traced = comparison.prompts[comparison.prompts.run_id.isin([comparison.baseline, against])].dropna(
        subset=["rounds"]
    )
    both = traced.groupby("prompt_id").run_id.nunique()
    order = frame.assign(untraced=frame.prompt_id.map(both).fillna(0) < 2, gap=-(frame.b - frame.a).abs())
    return list(order.sort_values(["untraced", "gap"], kind="stable").prompt_id)


def _named(row: Any) -> str:
    words = " ".join(row.text.split())[:90] if isinstance(row.text, str) else ""
    return f"{row.prompt_id}  {words}".strip()


def _both(comparison: Comparison, against: str, prompt: str, row: pd.Series, metric: str) -> None:
    """The prompt's text, and its answer under each draft by fate."""
    traces = {
        run_id: trace_of(comparison.draft(run_id), comparison.temperature, prompt)
        for run_id in (comparison.baseline, against)
    }
    text = row.text if isinstance(row.text, str) else next((t.prompt for t in traces.values() if t is not None), "")
    st.subheader("The same prompt under both drafts", anchor=False)
    with st.container(border=True):
        st.caption(f"Prompt {ui.text(prompt)}, group {ui.text(row.group or 'none')}")
        st.text(text or "The text of this prompt was not stored.")
    if any(t is not None for t in traces.values()):
        st.html(f"<style>{tokens.CSS}</style>{tokens.legend_html(tone=theme.mode())}")
    for column, (side, run_id) in zip(st.columns(2), (("a", comparison.baseline), ("b", against)), strict=True):
        with column:
            _one(comparison, run_id, prompt, traces[run_id], float(row[side]), metric)


def _one(comparison: Comparison, run_id: str, prompt: str, trace: Trace | None, rate: float, metric: str) -> None:
    draft = comparison.draft(run_id)
    base = " (baseline)" if run_id == comparison.baseline else ""
    st.markdown(f"**{ui.text(draft.label)}**{base}  \n{metric} {ui.number(rate)}")
    if trace is None:
        st.caption(
            "This prompt was not traced in this run: only its exact rates are known. `measure.trace_prompts` sets how "
            "many prompts are traced."
        )
        return
    tau = trace.counts.rates()["tau"]
    st.caption(f"{len(trace.rounds)} rounds, tau {'–' if math.isnan(tau) else f'{tau:.2f}'}")

    def href(number: int) -> str:
        return link("replay", run=run_id, temperature=comparison.temperature, prompt=prompt, round=number)

    st.html(tokens.answer_html(trace.rounds, tone=theme.mode(), href=href))
    ui.goto(
        "replay",
        "Replay round by round",
        icon=":material/history:",
        run=run_id,
        temperature=str(comparison.temperature),
        prompt=prompt,
    )
