"""Start a run: a form from the schema, checks, an estimate, the same thing as a command line, and a place in the queue."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import streamlit as st

from engine.config import Recipe, apply_overrides, dump_recipe, parse_recipe
from engine.errors import DraftbenchError
from engine.models.assets import ASSETS
from engine.paths import PROJECT_ROOT
from engine.runs.sweep import expand
from workbench import queries, ui
from workbench.launch import starting
from workbench.launch.form import Form, field_at, shape_of
from workbench.view_state import listed

ESSENTIAL = (
    ("name", "target.model"),
    ("prompts.domain", "prompts.scenario"),
    ("prompts.train",),
    ("prompts.heldout",),
    ("draft.init", "draft.layers"),
    ("train.loss", "train.epochs"),
)
STATES = {
    "ok": (":material/check:", "green", "ok"),
    "warning": (":material/warning:", "orange", "look"),
    "failed": (":material/error:", "red", "mend"),
}
AXES = ("losses", "scenarios", "modes", "seeds")  # of a sweep, as the URL names them
UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


@st.cache_resource(show_spinner=False)
def loss_names() -> list[str]:
    """The registry's losses; it needs torch, so it is looked at once."""
    from engine.distill.losses import LOSSES

    return list(LOSSES)


@st.cache_data(ttl=60, max_entries=50, show_spinner=False)
def cost(dumped: str, root: str) -> Any:
    """Estimate of a recipe; kept for a minute."""
    from engine.runs.preflight import estimate

    return estimate(queries.home(), _loaded(dumped))


def _loaded(dumped: str) -> Recipe:
    import yaml

    return parse_recipe(yaml.safe_load(dumped))


def choose_start() -> starting.Start:
    """The recipe or earlier run that the form is filled from."""
    run_id = st.query_params.get("from")
    if run_id:
        start = starting.from_run(queries.home(), run_id)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(f"Filled from run {ui.text(start.name)}.", icon=":material/content_copy:")
            if st.button("Use a recipe instead", key="no-run"):
                st.query_params.clear()
                st.rerun()
        return start
    name = st.selectbox(
        "Starting point", starting.recipe_names(), key="recipe", bind="query-params", help="Files in `recipes/`."
    )
    start = starting.from_recipe(name)
    st.caption(ui.text(start.about))
    return start


def initial_values(start: starting.Start) -> dict[str, Any]:
    """What the form begins with: the start, and on a shared URL what was changed in it. Asked once a start."""
    slot = f"launch:{start.argument}"
    if slot not in st.session_state:
        first = "launch:begun" not in st.session_state
        st.session_state["launch:begun"] = True
        st.session_state[slot] = start.values
        if first and listed("set"):
            try:
                changed = parse_recipe(apply_overrides(start.values, listed("set")))
                st.session_state[slot] = changed.model_dump(mode="json")
            except DraftbenchError as error:
                ui.error_box(error)
    values: dict[str, Any] = st.session_state[slot]
    return values


def fill_in(start: starting.Start) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The form; returns the recipe's values and the axes of a sweep."""
    known = queries.runs()
    packs = sorted(str(p.relative_to(PROJECT_ROOT)) for p in (PROJECT_ROOT / "sample_data/prompts").glob("*/*.jsonl"))
    form = Form(
        initial_values(start),
        prefix=f"form:{start.argument}",
        choices={"train.loss.name": loss_names()},
        suggestions={
            "target.model": [*(f"asset:{name}" for name in ASSETS), *known.target.dropna().unique()],
            "draft.checkpoint": list(known.run_id[~known.exact.isna()]),
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
    axes = choose_sweep()
    form.rest()
    return form.values, axes


def choose_sweep() -> dict[str, list[Any]]:
    """Axes of a sweep that have values, by dotted key."""
    with st.expander(
        "Sweep: several runs at once", icon=":material/grid_view:", expanded=any(listed(key) for key in AXES)
    ):
        st.caption("Each combination becomes a run of its own. Captures are made once and shared.")
        left, right = st.columns(2)
        axes = {
            "train.loss": left.multiselect("Losses", loss_names(), key="losses", bind="query-params"),
            "prompts.scenario": right.multiselect(
                "Scenarios", shape_of(field_at("prompts.scenario")).options, key="scenarios", bind="query-params"
            ),
            "train.mode": left.multiselect(
                "Modes", shape_of(field_at("train.mode")).options, key="modes", bind="query-params"
            ),
            "train.seed": [
                int(seed)
                for seed in right.multiselect(
                    "Seeds", [str(seed) for seed in range(5)], key="seeds", bind="query-params",
                    help="At least three before a difference is called one.",
                )
            ],
        }  # fmt: skip
    return {key: values for key, values in axes.items() if values}


def what_will_happen(recipes: Sequence[Recipe]) -> None:
    """The steps of a run in words."""
    recipe, count = recipes[0], len(recipes)
    losses = sorted({" + ".join(term.name for term in r.train.loss) for r in recipes})
    st.markdown(
        f"1. The target answers the training and held-out prompts, or answers captured before are reused.\n"
        f"2. {'A draft' if count == 1 else f'{count} drafts'} learn{'s' if count == 1 else ''} from them with "
        f"{ui.text(', '.join(losses))}, for {recipe.train.epochs:g} epochs"
        f"{f' and at most {recipe.train.max_steps} steps' if recipe.train.max_steps else ''}.\n"
        f"3. Acceptance, speed and losslessness are measured on the held-out prompts at temperature "
        f"{', '.join(f'{t:g}' for t in recipe.measure.temperatures)}.\n\n"
        "One run at a time is worked on. It goes on when this page or the server is closed."
    )


def show_cost(recipes: Sequence[Recipe]) -> None:
    """Time, disk and memory of all runs together; what one of them takes is never counted twice."""
    from engine.runs.pipeline import readable_bytes

    with st.spinner("Estimating ..."):
        found, count = cost(dump_recipe(recipes[0]), str(queries.home().root)), len(recipes)
    seconds = _shared(found.seconds, "capture", count)
    disk = _shared(found.disk, "captures", count)
    with st.container(horizontal=True, gap="medium"):
        st.metric("Time, about", duration(seconds) if found.seconds else "not known", width="content")
        st.metric("Disk, at most", readable_bytes(int(disk)) if found.disk else "not known", width="content")
        st.metric("Memory, about", readable_bytes(found.memory_bytes) if found.memory else "not known", width="content")
    parts = [f"{name} {duration(value)}" for name, value in found.seconds.items()]
    if parts:
        differs = f" ({'; '.join(found.differs)})" if found.differs else ""
        each = " a run" if count > 1 else ""
        st.caption(
            f"Time{each}: {', '.join(parts)}. Scaled from run {ui.text(found.based_on + differs)}, on this machine."
        )
    for words in dict.fromkeys((found.seconds_unknown, found.disk_unknown, found.memory_unknown)):
        if words:
            st.caption(ui.text(words[0].upper() + words[1:]))


def _shared(parts: dict[str, float], once: str, count: int) -> float:
    return sum(value * (1 if name == once else count) for name, value in parts.items())


def duration(seconds: float) -> str:
    """'7 min', '2.5 h': as exact as an estimate deserves."""
    for size, unit in UNITS:
        if seconds >= size:
            value = seconds / size
            return f"{value:.1f} {unit}" if value < 10 and unit != "min" else f"{value:.0f} {unit}"
    return f"{seconds:.0f} s"


def show_checks(found: Sequence[Any]) -> None:
    """Checks as a list: word and icon, what was found, what to do."""
    failed, warned = (sum(check.state == state for check in found) for state in ("failed", "warning"))
    told = "all is well" if not failed + warned else f"{failed} to mend, {warned} to look at"
    with st.expander(f"Checks: {told}", expanded=bool(failed + warned), icon=":material/fact_check:"):
        for check in sorted(found, key=lambda check: ("failed", "warning", "ok").index(check.state)):
            icon, colour, word = STATES[check.state]
            fix = f"  \n→ {ui.text(check.fix)}" if check.fix and check.state != "ok" else ""
            st.markdown(f":{colour}-badge[{icon} {word}] **{check.name}** – {ui.text(check.found)}{fix}")


def show_command(
    start: starting.Start, recipes: Sequence[Recipe], values: dict[str, Any], axes: dict[str, Any]
) -> None:
    """The same runs as command lines."""
    lines = []
    for recipe in recipes:
        own = apply_overrides(values, starting.overrides(values, _swept(recipe, values, axes)))
        lines.append(starting.command(start.argument, starting.overrides(start.values, own)))
    st.markdown("**The same from the command line**" + (f", {len(lines)} runs" if len(lines) > 1 else ""))
    st.code("\n".join(lines), language="bash", wrap_lines=True)


def _swept(recipe: Recipe, values: dict[str, Any], axes: dict[str, Any]) -> dict[str, Any]:
    """The form's values with what the sweep changed in one of its recipes."""
    dumped = recipe.model_dump(mode="json")
    changed = {**values, "name": dumped["name"]}
    for key in axes:
        section, name = key.split(".")
        changed[section] = {**changed[section], name: dumped[section][name]}
    return changed


def launch(recipes: Sequence[Recipe]) -> None:
    """The button. Its key changes as soon as it was obeyed, so a second click finds nothing to press."""
    from engine.runs import queue

    token = st.session_state.setdefault("launch:token", uuid.uuid4().hex)
    label = "Add to queue" if len(recipes) == 1 else f"Add {len(recipes)} runs to queue"
    with st.container(horizontal=True):
        pressed = st.button(label, type="primary", key=f"submit-{token}", icon=":material/playlist_add:")
        asked = st.button("Check", key="check", icon=":material/fact_check:", help="Look without starting anything.")
    if pressed or asked:
        with st.spinner("Checking ..."):
            from engine.runs.preflight import checks  # here, because it needs torch

            found = checks(queries.home(), recipes[0])
        st.session_state["launch:checks"] = (dump_recipe(recipes[0]), found)
        if pressed and all(check.ok for check in found):
            st.session_state["launch:token"] = uuid.uuid4().hex  # from here to the submission nothing is drawn
            runs = queue.submit_all(queries.home(), recipes)
            st.session_state["launch:started"] = [run.id for run in runs]
            queries.refresh()
            st.rerun()
        if pressed:
            st.error("Not started: mend what the checks found.", icon=":material/error:")


def show_started() -> None:
    """Links to the runs that were queued last."""
    started = st.session_state.get("launch:started", [])
    if not started:
        return
    with st.container(border=True):
        st.success(
            "In the queue: it starts as soon as nothing else is being worked on.", icon=":material/check_circle:"
        )
        for run_id in started:
            ui.goto("run", ui.text(run_id), icon=":material/monitoring:", run=run_id)


def remember(settings: Sequence[str]) -> None:
    """What differs from the start goes into the URL, so that it can be shared."""
    if listed("set") != list(settings):
        st.query_params["set"] = list(settings)


ui.heading("launch")
start = choose_start()
left, right = st.columns([3, 2], gap="large")
with left:
    values, axes = fill_in(start)
with right:
    show_started()
    try:
        recipe = starting.checked(queries.home(), start, values)
        recipes = expand(recipe, axes) if axes else [recipe]
    except DraftbenchError as error:
        ui.error_box(error)
    else:
        remember(starting.overrides(start.values, values))
        launch(recipes)
        seen = st.session_state.get("launch:checks")
        if seen and seen[0] == dump_recipe(recipes[0]):
            show_checks(seen[1])
        what_will_happen(recipes)
        show_command(start, recipes, values, axes)
        show_cost(recipes)
