"""What a run, or the runs of a sweep, will take: time, disk and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from engine.config.reading import dump_recipe, parse_recipe
from engine.config.schema import Recipe
from engine.errors import DraftbenchError
from engine.planning.bounded_checks import estimated, tried
from engine.progress import duration
from engine.untrusted.yaml_text import parse_yaml
from workbench.launch.sweep_view import by_prompts, estimate_note
from workbench.shared import actions, queries, ui, watch

if TYPE_CHECKING:
    from engine.planning.estimate import Estimate


@st.cache_data(ttl=60, max_entries=50, show_spinner=False)
def _cost(dumped: str, root: str) -> Any:
    """Estimate of a recipe; kept for a minute."""
    return estimated(queries.home(), parse_recipe(parse_yaml(dumped, "the recipe")))


def show(recipes: Sequence[Recipe]) -> None:
    """Time, disk and memory of all runs together; a shared capture counts once."""
    from engine.numbers import readable_bytes

    groups = by_prompts(recipes)
    try:
        with st.spinner("Estimating ..."):
            estimates = [(_cost(dump_recipe(group[0]), str(queries.home().root)), len(group)) for group in groups]
    except DraftbenchError as error:
        ui.error_box(error)
        return
    from engine.planning.estimate import NEVER_RUN

    known = [estimate for estimate, _ in estimates]
    least = any(estimate.seconds_missing for estimate in known)
    seconds = sum(_shared(estimate.seconds, "capture", count) for estimate, count in estimates)
    disk = sum(_shared(estimate.lasting, "captures", count) for estimate, count in estimates)
    disk += max((estimate.passing_bytes for estimate in known), default=0)
    memory = max((estimate.memory_bytes or 0 for estimate in known), default=0)
    with st.container(horizontal=True, gap="medium"):
        for label, value, is_known in (
            ("Time, at least" if least else "Time, about", duration(seconds), all(e.seconds for e in known)),
            ("Disk, at most", readable_bytes(int(disk)), all(e.disk for e in known)),
            ("Memory, about", readable_bytes(memory), all(e.memory for e in known)),
        ):
            st.metric(label, value if is_known else "not known", width="content")
    _show_parts(known[0], len(recipes))
    if recipes[0].trains and any(e.seconds_unknown == NEVER_RUN for e in known):  # the trial learns too
        actions.outcome()
        _offer_probe([group[0] for group in groups])
    for words in dict.fromkeys(w for e in known for w in (e.seconds_unknown, e.disk_unknown, e.memory_unknown)):
        if words:
            st.caption(ui.text(words[0].upper() + words[1:]))
    if seconds and (note := estimate_note(recipes)):
        st.caption(note)


def _offer_probe(recipes: Sequence[Recipe]) -> None:
    """A button that tries target and draft, unless that would spoil what a run is timing."""

    def try_them() -> None:
        for recipe in recipes:
            tried(queries.home(), recipe)
        _cost.clear()

    if watch.marks(queries.home(), [])["timing"]:
        st.caption("A run is measuring its speed; target and draft can be tried for the time when that is done.")
        return
    actions.button(
        "Try it for five seconds",
        try_them,
        key="probe",
        icon=":material/timer:",
        help="Loads the target and runs it and the draft for five seconds, to estimate how long the run will take.",
    )


def _show_parts(estimate: Estimate, count: int) -> None:
    """Where the time goes, which run says so, and what that run does not tell."""
    parts = [f"{name} {duration(value)}" for name, value in estimate.seconds.items()]
    each = " per run" if count > 1 else ""
    if parts:
        differs = f" ({'; '.join(estimate.differs)})" if estimate.differs else ""
        source = (
            "Scaled from five seconds of target and draft, with answers as long as they may be"
            if estimate.probed
            else f"Scaled from run {ui.text(estimate.based_on + differs)}"
        )
        st.caption(f"Time{each}: {', '.join(parts)}. {source}, on this machine.")
    if estimate.seconds_missing:
        source = "The trial" if estimate.probed else f"Run {ui.text(estimate.based_on)}"
        st.caption(
            f"Not counted: {' and '.join(estimate.seconds_missing)}. {source} does not tell how "
            f"long {'that takes' if len(estimate.seconds_missing) == 1 else 'they take'}."
        )


def _shared(parts: Mapping[str, float], once: str, count: int) -> float:
    return sum(value * (1 if name == once else count) for name, value in parts.items())
