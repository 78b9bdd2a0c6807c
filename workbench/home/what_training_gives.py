"""What training a draft for a user's model may give, from runs that were measured, and what it costs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from engine.errors import DraftbenchError
from engine.measure.decision import decide
from engine.planning import bounded_checks
from engine.records.provenance import Machine, Provenance
from engine.records.recipe import read_recipe
from engine.records.summary import Summary
from engine.runs.as_it_is import recipe_to_train
from engine.runs.samples import sample_folders
from workbench.home import outcome
from workbench.launch import cost_view, starting
from workbench.shared import actions, queries, ui

if TYPE_CHECKING:
    from engine.planning.own_prompts import Split
    from engine.planning.recognise import Recognised

_LAUNCH_FROM = "from_layers"


def section(model: Recognised, path: str, draft: str | None, *, skip_bad: bool) -> None:
    """Draw what other trainings gave, the cost of this one, and the buttons that start it."""
    with st.container(border=True):
        st.markdown("**What training may give**")
        _examples()
        try:
            with st.spinner("Splitting the prompts ..."):
                sides: Split = _split(str(queries.home().root), path, skip_bad)
            recipe = recipe_to_train(
                queries.home(),
                model.model,
                sides.train,
                sides.heldout,
                layers=model.layers,
                ids=model.ids,
                draft=draft,
            )
        except DraftbenchError as error:
            ui.error_box(error)
            return
        start = f"starts from {draft}" if draft else f"has {recipe.draft.layers} of the model's layers"
        st.caption(
            ui.text(
                f"The draft {start}. It is trained on {sides.train_prompts:,} of your prompts and measured on "
                f"{sides.heldout_prompts:,} others" + (f"; {'; '.join(sides.steps)}" if sides.steps else "") + "."
            )
        )
        cost_view.show([recipe])
        with st.container(horizontal=True, gap="medium", vertical_alignment="center"):
            actions.button(
                "Train",
                lambda: outcome.start(recipe, "trained"),
                key="home-train",
                type="primary",
                icon=":material/model_training:",
            )
            begin = starting.from_recipe(_LAUNCH_FROM)
            settings = starting.overrides(begin.values, recipe.model_dump(mode="json"))
            ui.goto(
                "launch",
                "Open Launch filled in",
                icon=":material/rocket_launch:",
                recipe=_LAUNCH_FROM,
                set=settings,
            )


@st.cache_data(ttl=600, max_entries=20, show_spinner=False)
def _split(root: str, path: str, skip_bad: bool) -> Any:
    return bounded_checks.prompts_split(queries.home(), path, skip_bad=skip_bad)


def _examples() -> None:
    """What the sample runs gained: measured elsewhere, on other models; nothing is promised for this one."""
    rows, machines, unread = _gains()
    if not rows:
        st.caption("No finished run says yet what training gives.")
        return
    st.dataframe(
        rows,
        hide_index=True,
        column_config={
            "before": st.column_config.NumberColumn("acceptance before", format="%.2f"),
            "after": st.column_config.NumberColumn("after training", format="%.2f"),
        },
        alt="Acceptance before and after training in the sample runs, with their verdicts",
    )
    st.caption(
        ui.text(
            "The best sample run of each domain and target: exact acceptance at temperature 0 on held-out prompts. "
            f"Samples come with Draftbench and were measured elsewhere, on {', '.join(machines)}. Your model and "
            "prompts may gain more or less; only a run says."
            + (f" Not read, because they are damaged: {', '.join(unread)}." if unread else "")
        )
    )


@st.cache_data(show_spinner=False)
def _gains() -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """A row for each domain and target of the samples that ship, the machines they were measured on, and samples that
    could not be read."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    machines: set[str] = set()
    unread: list[str] = []
    for folder in sample_folders():
        try:
            summary, recipe = Summary.read_or_empty(folder), read_recipe(folder)
            machine = Provenance.read_or_empty(folder).measured_on or Machine()
        except DraftbenchError:
            unread.append(folder.name)
            continue
        before = {row.temperature: row.value for row in summary.of("initial", "exact")}
        for row in summary.of("trained", "exact"):
            if row.temperature != 0 or 0 not in before or summary.served:
                continue
            key = recipe.prompts.domain, recipe.target.label
            if key not in best or best[key]["after"] < row.value:
                best[key] = {
                    "domain": key[0],
                    "target": key[1].removeprefix("asset:"),
                    "before": before[0],
                    "after": row.value,
                    "verdict": decide(summary).answer,
                }
            machines.add(machine.processor or "an unknown processor")
    return [best[key] for key in sorted(best)], sorted(machines), unread
