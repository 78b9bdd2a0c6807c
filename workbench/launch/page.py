"""Start a run, a sweep or a study: form, checks, estimate, the same as a command line, and a place in the queue."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from engine.catalogue import LOSSES
from engine.config.reading import apply_overrides, dump_recipe, parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.models.assets import ASSETS
from engine.paths import PROJECT_ROOT
from engine.planning.bounded_checks import checked
from engine.runs.folder import RunFolder
from engine.served.keys import allow, not_allowed, server_of
from engine.untrusted.visible import visible
from workbench.launch import cost_view, from_address, parts, starting, steps_view, studies_view, sweep_view, where
from workbench.launch.form import Form
from workbench.shared import pickers, queries, theme, ui
from workbench.shared.pages import listed

if TYPE_CHECKING:
    from engine.planning.checks import Check

ESSENTIAL = (
    ("name", "target.model"),
    ("prompts.domain", "prompts.scenario"),
    ("prompts.train",),
    ("prompts.heldout",),
    ("draft.init", "draft.layers"),
    ("train.loss",),
    ("train.mode", "train.epochs"),
)
STATES = {
    "ok": (":material/check:", "green", "ok"),
    "warning": (":material/warning:", "orange", "look"),
    "failed": (":material/error:", "red", "fix"),
}
# On a narrow screen the button would stand below the whole form: there its bar stays at the window's lower edge.
_BAR_CSS = """<style>
@media (max-width:640px){{
.st-key-launch-bar{{position:fixed;left:0;right:0;bottom:0;z-index:90;padding:.5rem 1rem;
background:{background};border-top:1px solid {line}}}
}}
</style>"""


def choose_start() -> starting.Start:
    """The recipe or earlier run that the form is filled from."""
    run_id = st.query_params.get("from")
    if run_id:
        start = starting.from_run(queries.home(), run_id)
        pickers.choose_run("Filled from the earlier run", "from", forget=("set",))
        if st.button("Use a recipe instead", key="no-run", icon=":material/description:"):
            st.query_params.clear()
            st.rerun()
        return start
    titles = starting.recipe_titles()
    files = "  \n".join(f"{ui.text(title)}: `recipes/{name}.yaml`" for name, title in titles.items())
    name = ui.choose_one("Starting point", list(titles), titles, "recipe", help=files, forget=("set",))
    start = starting.from_recipe(name)
    st.caption(ui.sentence(start.about))
    earlier = pickers.opens_on(pickers.offered(queries.runs()))
    if earlier and st.button("Start from an earlier run", key="some-run", icon=":material/content_copy:"):
        st.query_params.from_dict({"from": earlier})
        st.rerun()
    return start


def begin(start: starting.Start) -> None:
    """Fill the form again where another start is selected or a link brings settings of its own.

    What the form itself has written into the URL (`remember`) is no such link.
    """
    link = (start.argument, listed("set"))
    if st.session_state.get("launch:link") == link:
        return
    st.session_state["launch:link"] = link
    fill(start.values)
    st.session_state.pop("launch:started", None)
    st.session_state["launch:refused"] = ()
    # Nothing that a link names is opened before somebody has seen it and asked for it.
    st.session_state["launch:unasked"] = bool(listed("set")) or any(sweep_view.named_in_address())
    if listed("set"):
        try:
            asked = from_address.taken(start.values, listed("set"))
            st.session_state["launch:refused"] = asked.refused
            fill(parse_recipe(asked.values).model_dump(mode="json"))
        except DraftbenchError as error:
            ui.error_box(error)


def fill(values: dict[str, Any]) -> None:
    """A new form with these values; widgets of the form before keep nothing."""
    st.session_state["launch:form"] = uuid.uuid4().hex
    st.session_state["launch:values"] = values


def show_refused() -> None:
    """What the link asked for and only a person may set."""
    refused = st.session_state.get("launch:refused", ())
    if refused:
        st.warning(
            "**This link also asked for what no link can set.** It would let a stranger's code run here, or send texts "
            "and a key elsewhere. Set it yourself if you mean it:",
            icon=":material/shield:",
        )
        st.code("\n".join(visible(one) for one in refused), language=None, wrap_lines=True)


def fill_in() -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The form; returns the recipe's values and the axes of a sweep."""
    known = queries.runs()
    packs = sorted(str(p.relative_to(PROJECT_ROOT)) for p in (PROJECT_ROOT / "sample_data/prompts").glob("*/*.jsonl"))
    form = Form(
        st.session_state["launch:values"],
        prefix=f"form:{st.session_state['launch:form']}",
        choices={"train.loss.name": list(LOSSES)},
        suggestions={
            "target.model": [*(f"asset:{name}" for name in ASSETS), *known.target.dropna().unique()],
            "draft.checkpoint": list(known.run_id[~known.exact.isna()]),
            "train.selection.reference": list(known.run_id[~known.exact.isna()]),
            parts.KEY_NAME: parts.key_names(),
            "prompts.train.path": [path for path in packs if "/train" in path],
            "prompts.heldout.path": [path for path in packs if "/heldout" in path],
        },
    )
    for row in ESSENTIAL:
        for column, dotted in zip(st.columns(len(row)), row, strict=True):
            with column:
                if dotted == "draft.layers" and form.values["draft"]["init"] == "checkpoint":
                    form.put(dotted, form.initial["draft"]["layers"])
                    form.field("draft.checkpoint")
                else:
                    form.field(dotted)
    if form.values["draft"]["init"] != "checkpoint":
        form.put("draft.checkpoint", None)
    axes = sweep_view.choose(list(LOSSES), form.values)
    parts.show(form, axes)
    form.rest()
    return form.values, axes


def show_checks(checks: Sequence[Check]) -> None:
    """Checks as a list: word and icon, the result, what to do."""
    failed, warned = (sum(check.state == state for check in checks) for state in ("failed", "warning"))
    summary = "all is well" if not failed + warned else f"{failed} to fix, {warned} to look at"
    with st.expander(f"Checks: {summary}", expanded=bool(failed + warned), icon=":material/fact_check:"):
        for check in sorted(checks, key=lambda check: ("failed", "warning", "ok").index(check.state)):
            icon, colour, word = STATES[check.state]
            fix = f"  \n→ {ui.sentence(check.fix)}" if check.fix and check.state != "ok" else ""
            st.markdown(f":{colour}-badge[{icon} {word}] **{check.name}** – {ui.sentence(check.message)}{fix}")


def show_command(
    start: starting.Start, recipes: Sequence[Recipe], values: dict[str, Any], axes: dict[str, Any], place: str | None
) -> None:
    """The same runs as command lines."""
    lines = []
    for recipe in recipes:
        own = apply_overrides(values, starting.overrides(values, sweep_view.changed(recipe, values, axes)))
        lines.append(starting.command(start.argument, starting.overrides(start.values, own), place))
    st.markdown("**The same from the command line**" + (f", {len(lines)} runs" if len(lines) > 1 else ""))
    st.code("\n".join(lines), language="bash", wrap_lines=True)


def check(recipes: Sequence[Recipe]) -> list[Check]:
    """The checks of each set of training prompts; nothing else that a sweep changes is checked here."""
    first, *others = sweep_view.by_prompts(recipes)
    checks = checked(queries.home(), first[0])
    for group in others:
        scenario = group[0].prompts.scenario
        more = [
            replace(one, name=f"{one.name}, {scenario}")
            for one in checked(queries.home(), group[0])
            if one not in checks
        ]
        checks += more
    return checks


def may_send_key(recipe: Recipe) -> bool:
    """Whether the key that the recipe sends to its server was confirmed; if not, ask."""
    spec = recipe.capture.server
    new = [] if spec is None else not_allowed(queries.home(), spec)
    if spec is None or not new:
        return True
    variable, server = str(spec.key_env), server_of(new[0])
    st.warning(
        f"**The value of {ui.text(variable)} would be sent to {ui.text(server)}**\n\nIt was never sent there before. "
        "Continue only if this server should have that key.",
        icon=":material/key:",
    )
    st.button(
        f"Send {variable} to {server}",
        key="allow-key",
        icon=":material/key:",
        on_click=allow_and_check,
        args=(variable, new[0]),
    )
    return False


def allow_and_check(variable: str, base_url: str) -> None:
    """Remember the pair, and make the checks that waited for it."""
    allow(queries.home(), variable, base_url)
    st.session_state["launch:check-now"] = True


def fingerprint(recipes: Sequence[Recipe]) -> str:
    return "\n".join(dump_recipe(recipe) for recipe in recipes)


def launch(recipes: Sequence[Recipe], place: str | None) -> None:
    """The button, which waits for a place. Its key changes as soon as it was obeyed: a second click presses nothing."""
    from engine.jobs.executors import chosen_place

    token = st.session_state.setdefault("launch:token", uuid.uuid4().hex)
    label = "Add to queue" if len(recipes) == 1 else f"Add {len(recipes)} runs to queue"
    tone = theme.TONES[theme.mode()]
    st.html(_BAR_CSS.format(background=tone.background, line=tone.grid))
    with st.container(horizontal=True, key="launch-bar"):
        pressed = st.button(
            label, type="primary", key=f"submit-{token}", icon=":material/playlist_add:", disabled=place is None
        )
        asked = st.button("Check", key="check", icon=":material/fact_check:", help="Look without starting anything.")
    asked = st.session_state.pop("launch:check-now", False) or asked
    if pressed or asked:
        st.session_state["launch:unasked"] = False
        if not may_send_key(recipes[0]):
            return
        with st.spinner("Checking ..."):
            checks = check(recipes)
        st.session_state["launch:checks"] = (fingerprint(recipes), checks)
        if pressed and all(check.ok for check in checks):
            st.session_state["launch:token"] = uuid.uuid4().hex  # from here to the submission nothing is drawn
            try:
                runs = chosen_place(place).submit_all(queries.home(), recipes)
            except DraftbenchError as error:  # a cluster that does not answer
                ui.error_box(error)
                return
            st.session_state["launch:started"] = [run.id for run in runs]
            queries.refresh()
            st.rerun()
        if pressed:
            st.error("Not started: fix what the checks found.", icon=":material/error:")


def show_started() -> None:
    """Links to the runs that were queued last, as long as they wait or are at work."""
    states: dict[str, list[str]] = {"queued": [], "running": []}
    for run_id in st.session_state.get("launch:started", []):
        if RunFolder.exists(queries.home(), run_id):
            states.setdefault(queries.folder(run_id).status().state, []).append(run_id)
    waiting, running = states["queued"], states["running"]
    if not waiting + running:
        st.session_state.pop("launch:started", None)
        return
    with st.container(border=True):
        for run_ids, words in (
            (running, "At work."),
            (waiting, "In the queue: it starts as soon as there is room for it."),
        ):
            if run_ids:
                st.success(words, icon=":material/check_circle:")
            for run_id in run_ids:
                ui.goto("run", ui.text(run_id), icon=":material/monitoring:", run=run_id)


def remember(start: starting.Start, settings: Sequence[str]) -> None:
    """What differs from the start goes into the URL, so that it can be shared; what no URL can set does not."""
    shared = [setting for setting in settings if not from_address.is_by_hand(setting)]
    if listed("set") != shared:
        st.query_params["set"] = shared
    st.session_state["launch:link"] = (start.argument, shared)


def offer_ways_out(start: starting.Start, values: dict[str, Any], axes: dict[str, list[Any]]) -> None:
    """Buttons below an error that change the one setting it takes; everything else stays as it was typed."""
    with st.container(horizontal=True):
        for setting, words in starting.ways_out(start, values, axes):
            if st.button(words, key=f"way-out:{setting}", icon=":material/build:", help=f"`{setting}`"):
                fill(parse_recipe(apply_overrides(values, [setting])).model_dump(mode="json"))
                st.rerun()


def run_or_sweep() -> None:
    """A run, or several, from a form."""
    start = choose_start()
    begin(start)
    left, right = st.columns([3, 2], gap="large")
    with left:
        values, axes = fill_in()
    with right:
        show_refused()
        show_started()
        try:
            recipe = starting.checked(queries.home(), start, values)
            recipes = starting.swept(start, recipe, axes)
        except DraftbenchError as error:
            ui.error_box(error)
            offer_ways_out(start, values, axes)
        else:
            remember(start, starting.overrides(start.values, values))
            place = where.choose("launch")
            launch(recipes, place)
            seen = st.session_state.get("launch:checks")
            if seen and seen[0] == fingerprint(recipes):
                show_checks(seen[1])
            steps_view.show(recipes)
            show_command(start, recipes, values, axes, place)
            if st.session_state["launch:unasked"]:
                st.caption(
                    "These settings come from a link. Look at them, then press **Check**: until then nothing they "
                    "name is "
                    "read."
                )
            else:
                cost_view.show(recipes)


def render() -> None:
    """Draw the page."""
    ui.heading("launch")
    sections = {"Run or sweep": run_or_sweep, "Study": studies_view.section}
    for tab, draw in zip(st.tabs(list(sections), key="begin", bind="query-params"), sections.values(), strict=True):
        if tab.open:
            with tab:
                draw()
