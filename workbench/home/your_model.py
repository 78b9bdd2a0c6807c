"""Home's first section: a user's own model and prompts, measured as they are, then trained for.

Everything chosen lies in the address. What an address names is looked at only once somebody has asked for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from engine.config.schema import DEFAULT_TARGET, Recipe
from engine.data.columns import remarks
from engine.data.formats import FILE_READERS
from engine.errors import DraftbenchError
from engine.numbers import LEAST_PROMPTS as LEAST_PROMPTS_TIMED
from engine.planning import bounded_checks
from engine.planning.own_prompts import LEAST_PROMPTS, MOST_BYTES, keep, keep_pasted
from engine.runs.as_it_is import recipe_as_it_is
from engine.runs.folder import RunFolder
from workbench.home import outcome, what_training_gives
from workbench.shared import actions, queries, ui

if TYPE_CHECKING:
    from engine.planning.recognise import Recognised

GENERIC = "sample_data/drafts/generic"
_ASKED, _PROMPTS_ERROR = "home:asked", "home:prompts-error"
_SHOWN_BAD = 3
_LAUNCH_FROM = "from_layers"


def section() -> None:
    """Draw the section."""
    st.subheader("Your model", anchor=False)
    st.caption(
        "Name a model and give prompts of its domain. They are checked at once; then the model is measured as it is, "
        "in about a minute, before anything is trained."
    )
    # Places that are always there: what is drawn again by itself is known by where it stands on the page.
    said, chosen, before, training, after = (st.container() for _ in range(5))
    with said:
        actions.outcome()
    with chosen, st.container(border=True):
        left, right = st.columns(2, gap="large")
        with left:
            name = _model_field()
            draft = _draft_field()
        with right:
            path = _prompts_field()
        model, report = None, None
        if (name or path) and _is_asked():
            with left:
                model = _recognised(name)
            with right:
                report = _checked(path, model)
        if model is not None and report is not None:
            bad = bool(report["bad_rows"])
            actions.button(
                "Measure as it is",
                lambda: _measure(model, path, draft, skip_bad=bad),
                key="home-measure",
                type="primary",
                icon=":material/speed:",
            )
            st.caption(_what_is_measured(model, draft))
    measured = outcome.run_named("measured")
    if measured is not None:
        with before:
            if model is not None and path and _is_of_others(measured, model, path, draft):
                st.warning(
                    "Measured on another model, draft or prompts than those above: measure again for these.",
                    icon=":material/history:",
                )
            outcome.show(measured, "As it is")
        with training:
            if model is not None and model.kind == "server":
                _train_for_server()
            elif model is not None and report is not None and outcome.is_done(measured):
                what_training_gives.section(model, path, draft, skip_bad=bool(report["bad_rows"]))
    trained = outcome.run_named("trained")
    if trained is not None:
        with after:
            outcome.show(trained, "Trained")


def _is_of_others(run: RunFolder, model: Recognised, path: str, draft: str | None) -> bool:
    """Whether a run measured something else than what the form names now."""
    if model.kind == "server":  # which would be asked for its models at each drawing
        return False
    named = recipe_as_it_is(queries.home(), model.model, [path], draft)
    was = run.recipe()
    return (named.target, named.draft, _paths(named)) != (was.target, was.draft, _paths(was))


def _paths(recipe: Recipe) -> list[str]:
    return [source.path for source in recipe.prompts.heldout]


def _model_field() -> str:
    name: str = st.text_input(
        "Model",
        key="model",
        bind="query-params",
        on_change=_ask,
        placeholder="folder, .gguf file, org/name or server URL",
        help="The model whose output is kept exactly. It is read from this machine; a hub model is fetched when a run "
        "begins.",
    )
    if not name:
        st.button(
            "Use the small model that comes with Draftbench",
            on_click=_set,
            args=("model", DEFAULT_TARGET),
            type="tertiary",
            icon=":material/package_2:",
        )
    return name.strip()


def _draft_field() -> str | None:
    draft: str = st.text_input(
        "Draft to measure with it, if you have one",
        key="draft",
        bind="query-params",
        on_change=_ask,
        placeholder="none: plain decoding alone",
        help=f"A draft folder, a run, or a smaller model with the same vocabulary. `{GENERIC}` is the generic draft of "
        "the model that comes with Draftbench.",
    )
    return draft.strip() or None


def _prompts_field() -> str:
    """Upload, paste or path; in each case the address holds the path."""
    upload, paste, by_path = st.tabs(["Upload prompts", "Paste", "Path"])
    with upload:
        st.file_uploader(
            "Prompts as JSON lines, JSON, CSV or Parquet",
            type=sorted(suffix.removeprefix(".") for suffix in FILE_READERS),
            key="home-upload",
            max_upload_size=MOST_BYTES // 1_000_000,
            on_change=_keep_upload,
            help="Each row has a `prompt` or `messages`, and perhaps `tools`. The file is kept in the home folder.",
        )
    with paste:
        st.text_area(
            f"One prompt per line, or JSON lines: {LEAST_PROMPTS_TIMED} to measure, {LEAST_PROMPTS} to train on, some "
            "hundred are better",
            key="home-paste",
            on_change=_keep_paste,
            height=120,
            help="Leave the field, or press Ctrl and Enter, to take them.",
        )
    with by_path:
        path: str = st.text_input(
            "File, hub:NAME or pack:DOMAIN/SCENARIO", key="prompts", bind="query-params", on_change=_ask
        )
    if error := st.session_state.pop(_PROMPTS_ERROR, None):
        ui.error_box(error)
    return path.strip()


def _keep_upload() -> None:
    file = st.session_state.get("home-upload")
    if file is not None:
        _keep(lambda: keep(queries.home(), file.name, file.getvalue()))


def _keep_paste() -> None:
    text = st.session_state.get("home-paste", "")
    if text.strip():
        _keep(lambda: keep_pasted(queries.home(), text))


def _keep(kept: Any) -> None:
    try:
        _set("prompts", str(kept()))
    except DraftbenchError as error:
        st.session_state[_PROMPTS_ERROR] = error


def _set(key: str, value: str) -> None:
    st.session_state[key] = value
    _ask()


def _ask() -> None:
    st.session_state[_ASKED] = True


def _is_asked() -> bool:
    """Whether somebody typed here; what only an address says waits for a click."""
    if st.session_state.get(_ASKED):
        return True
    st.caption("Model and prompts come from the address of this page: nothing they name has been read yet.")
    st.button("Look at them", on_click=_ask, key="home-look", icon=":material/fact_check:")
    return False


def _recognised(name: str) -> Recognised | None:
    if not name:
        return None
    try:
        with st.spinner("Looking at the model ..."):
            model: Recognised = _look(name)
    except DraftbenchError as error:
        ui.error_box(error)
        return None
    st.caption(f":material/check: **{model.kind}**: {ui.text(model.words)}")
    return model


@st.cache_data(ttl=120, max_entries=20, show_spinner=False)
def _look(name: str) -> Any:
    return bounded_checks.recognised(name)


def _checked(path: str, model: Recognised | None) -> dict[str, Any] | None:
    """The report on the prompts, drawn; None if they cannot be used."""
    if not path:
        return None
    st.caption(f":material/description: {ui.text(Path(path).name)}")
    if model is None:
        return None
    try:
        with st.spinner("Checking the prompts ..."):
            report = _report(path, model.model if model.here else None, _stamp(path))
    except DraftbenchError as error:
        ui.error_box(error)
        return None
    _show(report)
    if report["prompts"] == 0:
        return None
    return report


def _stamp(path: str) -> float:
    try:
        return Path(path).stat().st_mtime
    except (OSError, ValueError):
        return 0.0


@st.cache_data(ttl=600, max_entries=20, show_spinner=False)
def _report(path: str, model: str | None, stamp: float) -> dict[str, Any]:
    return bounded_checks.prompts_checked([path], model)


def _show(report: dict[str, Any]) -> None:
    """How many prompts, how long, under which template, and what is left out and why."""
    tokens, bad = report.get("tokens"), report["bad_rows"]
    words = [
        f"{report['prompts']:,} prompts" + (f", {report['with_tools']:,} with tools" if report["with_tools"] else "")
    ]
    if tokens:
        words.append(
            f"{tokens['least']:,} to {tokens['most']:,} tokens in the model's own chat template, "
            f"median {tokens['median']:,}"
        )
    else:
        words.append("how long they are is not known before the model is here")
    if report["repeated"]:
        words.append(f"repeats of earlier ones: {report['repeated']:,}")
    st.caption(f":material/check: {ui.text('; '.join(words))}")
    remarks_made = [remark for source in report["sources"] for remark in remarks(source)]
    remarks_made += [f"the model's chat template does not write {part}" for part in report.get("unwritten", ())]
    remarks_made += [f"a mark of the model's chat template as text: {mark}" for mark in report.get("marks", ())]
    for remark in remarks_made:
        st.caption(f":material/info: {ui.text(remark)}")
    if report.get("too_long"):
        st.warning(
            f"{report['too_long']:,} fill the model's context of {report['context_tokens']:,} tokens: a run refuses "
            "them. Take them out of the file."
        )
    if bad:
        lines = "".join(f"\n- row {row['line']}: {ui.text(row['reason'])}" for row in bad[:_SHOWN_BAD])
        more = f"\n- and {len(bad) - _SHOWN_BAD} more" if len(bad) > _SHOWN_BAD else ""
        rows = "1 row is not a prompt and is" if len(bad) == 1 else f"{len(bad)} rows are not prompts and are"
        st.warning(f"{rows} left out:{lines}{more}")


def _measure(model: Recognised, path: str, draft: str | None, *, skip_bad: bool) -> str:
    settings = ["prompts.skip_bad=true"] if skip_bad else []
    recipe = recipe_as_it_is(queries.home(), model.model, [path], draft, settings)
    return outcome.start(recipe, "measured")


def _what_is_measured(model: Recognised, draft: str | None) -> str:
    if model.kind == "server":
        return (
            "How fast the server answers, one request at a time, by its own count of tokens. Its weights are not here: "
            "a speed-up over plain decoding cannot be measured. A key that it needs is named on the command line: "
            "`draftbench measure-only URL --prompts FILE --set capture.server.key_env=NAME`."
        )
    brief = "About a minute for a small model. "
    if draft is None:
        return f"{brief}Without a draft: how fast plain decoding is, ours and Transformers' own."
    return f"{brief}How many of the draft's tokens the model accepts, and whether it is faster with it."


def _train_for_server() -> None:
    st.caption("A draft can be trained from what the server answers: in Launch, switch on *Answers from a server*.")
    ui.goto("launch", "Open Launch", icon=":material/rocket_launch:", recipe=_LAUNCH_FROM)
