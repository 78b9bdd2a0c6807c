"""The Replay page: a stored trace step by step, with p, q and the draw behind each token's fate.

The view is in the URL: `?run=RUN&temperature=T&prompt=ID` or `?trace=ID`, with `round` and `token`.
"""

from __future__ import annotations

import json
from pathlib import Path

import streamlit as st

from engine.decode.events import Fate, Round, Token
from engine.errors import DraftbenchError
from engine.runs.advice import measures_again
from engine.runs.folder import RunFolder
from engine.traces.measured import no_traces, prompt_texts, trace_of_run, traced_prompts
from engine.traces.saved import list_traces, load_trace
from engine.traces.trace import Trace
from engine.untrusted.visible import visible as harmless
from workbench.replay import figures
from workbench.replay.judgement import (
    Judgement,
    candidates,
    corrected,
    counters,
    default_slot,
    judgement,
    rejected,
    visible,
)
from workbench.shared import chart_parts, pickers, queries, theme, tokens, ui, url_warnings
from workbench.shared.pages import link

MEASURED, SAVED = "A run's measurement", "Saved from the live view"
OF_RUN = ("run", "temperature", "prompt")


def forget_view(*names: str) -> None:
    """Remove these from the URL and go back to the first round."""
    for name in (*names, "round", "token"):
        st.query_params.pop(name, None)


def put(key: str, *forget: str) -> None:
    """Keep a picked value in the URL and forget the parameters that depend on it."""
    st.query_params[key] = str(st.session_state[f"pick_{key}"])
    forget_view(*forget)


def keep(**shown: str) -> None:
    """Put what is shown into the URL, so that a copy of it opens the same trace."""
    if any(st.query_params.get(key) != value for key, value in shown.items()):
        st.query_params.update(shown)  # in one call: each change is an entry in the browser's history


def pick(
    label: str,
    key: str,
    options: list[str],
    *,
    named: str | None = None,
    forget: tuple[str, ...] = (),
    names: dict[str, str] | None = None,
) -> str:
    """A select box kept in the URL. If that asks for a value that is not an option, the first is shown, and said so."""
    named = named or st.query_params.get(key, options[0])
    if named not in options:
        named = options[0]
        url_warnings.not_here(key, named)
    st.session_state[f"pick_{key}"] = named
    return st.selectbox(
        label,
        options,
        format_func=lambda o: (names or {}).get(o, o),
        key=f"pick_{key}",
        on_change=put,
        args=(key, *forget),
    )


def source() -> str:
    """The kind of trace: from the URL, or as the visitor switches."""

    def switched() -> None:
        forget_view("trace", *OF_RUN)

    if "trace" in st.query_params:
        st.session_state.source = SAVED
    elif "source" not in st.session_state or any(name in st.query_params for name in OF_RUN):
        st.session_state.source = MEASURED
    kind = st.segmented_control("Source", [MEASURED, SAVED], key="source", required=True, on_change=switched)
    return kind or MEASURED


def stamp() -> list[tuple[str, int]]:
    """A value that changes when a trace is saved, replaced or removed."""
    folder = queries.home().traces
    return [(path.name, path.stat().st_mtime_ns) for path in folder.glob("*.json")] if folder.is_dir() else []


@st.cache_data(max_entries=4, show_spinner=False)
def saved_names(folder: str, changed: list[tuple[str, int]]) -> dict[str, str]:
    """Id and name of every saved trace, newest first; cached until a file changes."""
    names = {
        trace.id: " · ".join(part for part in (trace.title, trace.draft, trace.saved_at[:16].replace("T", " ")) if part)
        for trace in list_traces(queries.home())
    }
    return ui.distinct(names)


@st.cache_data(max_entries=8, show_spinner=False)
def whole_trace(folder: str, changed: list[tuple[str, int]], trace_id: str) -> Trace:
    """A saved trace with its rounds; cached until a file changes."""
    return load_trace(queries.home(), trace_id)


def saved_trace() -> Trace | None:
    folder, changed = str(queries.home().traces), stamp()
    names, wanted = saved_names(folder, changed), st.query_params.get("trace")
    if wanted and wanted not in names:
        return load_trace(queries.home(), wanted)  # raises an error that says what is wrong
    if not names:
        ui.empty("No traces saved yet. Decode a prompt in the live view and press **Save trace**.", "Open Live", "live")
        return None
    trace_id = pick("Trace", "trace", list(names), names=names)
    keep(trace=trace_id)
    return whole_trace(folder, changed, trace_id)


def measured_trace() -> Trace | None:
    named = st.query_params.get("run")
    measured = pickers.measured_runs(also=(named,) if named else ())
    offered = measured[measured.run_id.isin(queries.holding("traces")) | (measured.run_id == named)]
    if offered.empty:
        ui.empty(
            "No run has traces yet. A measurement decodes held-out prompts and keeps every token.",
            "Start a run",
            "launch",
        )
        return None
    left, middle, right = st.columns([3, 1, 2])
    with left:
        names, first = pickers.names(offered), str(pickers.opens_on(offered))
        run_ids = sorted(names, key=lambda run_id: run_id != first)  # what an address that names none opens on is first
        run_id = pick("Run", "run", run_ids, forget=("temperature", "prompt"), names=names)
        if len(offered) < len(measured):
            st.caption(f"{len(offered)} of {len(measured)} measured runs have traces.")
    run = queries.folder(run_id)
    traced = traced_prompts(run)
    if not traced:
        missing(run, list(offered.run_id))
        return None
    with middle:
        temperatures = list(dict.fromkeys(f"{t:g}" for t, _ in traced))
        named = _plain_number(st.query_params.get("temperature", ""))
        temperature = pick("Temperature", "temperature", temperatures, named=named, forget=("prompt",))
    with right:
        ids = [p for t, p in traced if f"{t:g}" == temperature]
        prompt = pick("Prompt", "prompt", ids, names=first_words(str(run.path), run.summary_path.stat().st_mtime, ids))
    keep(run=run_id, temperature=temperature, prompt=prompt)
    return run_trace(str(run.path), run.summary_path.stat().st_mtime, run.id, float(temperature), prompt)


@st.cache_data(max_entries=8, show_spinner=False)
def first_words(path: str, changed: float, ids: list[str]) -> dict[str, str]:
    """Number, first words and id of a run's prompts: the select box is searched by any of them.

    Cached until the run is measured again (`changed` then differs).
    """
    texts = prompt_texts(RunFolder(Path(path)))
    parts = {one: (str(number), words(texts.get(one, "")), one) for number, one in enumerate(ids, 1)}
    return {one: " · ".join(part for part in named if part) for one, named in parts.items()}


def words(text: str) -> str:
    """The beginning of a text in one line."""
    return chart_parts.shortened(harmless(" ".join(text.split())), 70)


def _plain_number(text: str) -> str:
    """'0' for '0.0'; text that is no number is returned as it is."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text


def missing(run: RunFolder, offered: list[str]) -> None:
    """Explain why a run that the URL names has no traces, and link to one that does."""
    ui.error_box(no_traces(run, "its measurement was stored without them, as those of most sample runs are"))
    others = [run_id for run_id in offered if run_id != run.id]
    if others:
        ui.goto("replay", f"Replay {others[0]} instead", icon=":material/history:", run=others[0])


@st.cache_data(max_entries=32, show_spinner=False)
def run_trace(path: str, changed: float, run_id: str, temperature: float, prompt: str) -> Trace:
    """The trace; cached until the run is measured again (`path` and `changed` then differ)."""
    return trace_of_run(queries.folder(run_id), temperature, prompt)


def whole(name: str) -> int | None:
    """A count in the URL; None if it is missing or not a number."""
    try:
        return max(0, int(st.query_params[name]))
    except (KeyError, ValueError):
        return None


def say_nearest(name: str, shown: int) -> None:
    """Say that the URL asks for a round or token that does not exist, and that the nearest one is shown."""
    if name in st.query_params and st.query_params[name] != str(shown):
        url_warnings.not_here(name, str(shown))


def go(number: int | None = None) -> None:
    """Put a round into the URL; the slider's if no number is given."""
    forget_view()
    st.query_params["round"] = str(st.session_state.slider if number is None else number)


def stepper(trace: Trace) -> int:
    """The number of the round shown; slider, buttons and keys change it, and the URL keeps it."""
    last = len(trace.rounds) - 1
    st.session_state.slider = min(whole("round") or 0, last)
    say_nearest("round", st.session_state.slider)
    now = st.slider(f"Round, 0 to {last}", 0, last, key="slider", on_change=go) if last else 0
    steps = (
        ("First", "first_page", 0, "Home"),
        ("Back", "chevron_left", max(now - 1, 0), "Left"),
        ("Forward", "chevron_right", min(now + 1, last), "Right"),
        ("Last", "last_page", last, "End"),
    )
    with st.container(horizontal=True):
        for label, icon, target, key in steps:
            st.button(
                label,
                icon=f":material/{icon}:",
                key=f"step_{label}",
                shortcut=key,
                on_click=go,
                args=(target,),
                disabled=now == target,
            )
    return now


def choose_token(current: Round) -> int:
    """The place of the token shown: from the URL, else `default_slot`."""
    named = whole("token")
    place = named if named is not None and named < len(current.tokens) else default_slot(current)
    key = f"token_{current.number}"
    st.session_state[key] = place
    say_nearest("token", place)

    def kept() -> None:
        st.query_params["token"] = str(st.session_state[key])

    picked = st.segmented_control(
        "Token of the round",
        range(len(current.tokens)),
        key=key,
        required=True,
        on_change=kept,
        wrap=True,
        format_func=lambda i: f"{ui.text(visible(current.tokens[i].text))} · {current.tokens[i].fate}",
    )
    return place if picked is None else picked


def show_answer(trace: Trace, now: int) -> None:
    """The prompt and the answer up to this round."""
    address = {key: st.query_params.get(key) for key in ("trace", *OF_RUN)}
    past = trace.rounds[: now + 1]
    with st.container(border=True):
        st.caption("Prompt")
        st.text(trace.prompt)
        st.caption(f"Answer up to round {now}, whose tokens are framed. Click a token to go to its round.")
        shown = tokens.answer_html(
            past, tone=theme.mode(), highlight=now, href=lambda number: link("replay", **address, round=number)
        )
        st.html(shown)
        st.html(tokens.legend_html(tone=theme.mode()))


def show_counters(trace: Trace, now: int) -> None:
    """The counts and rates up to this round, in one line."""
    so_far = " · ".join(f"{name} {value}" for name, value in counters(trace.rounds[: now + 1]).items())
    st.caption(f"So far: {ui.text(so_far)}")


def show_judgement(trace: Trace, now: int) -> None:
    """The selected token: verdict in words, p, q, the draw, and the residual where it was rejected."""
    current = trace.rounds[now]
    st.subheader(f"Round {now}", anchor=False)
    st.caption(
        f"{current.num_draft_tokens} proposed, {current.accepted} accepted, {len(current.emitted)} emitted · "
        f"drafting {1000 * current.draft_s:.1f} ms · verifying {1000 * current.verify_s:.1f} ms · "
        f"overhead {1000 * current.overhead_s:.1f} ms"
        + ("" if trace.id else " (times of the whole batch)")  # a measurement decodes several prompts at once
    )
    token = current.tokens[choose_token(current)]
    judged = judgement(token, current, greedy=trace.settings.get("temperature") == 0)
    st.markdown(f"**{ui.text(visible(token.text))}** {ui.text(judged.headline)}  \n{ui.text(judged.detail)}")
    if token.fate is not Fate.DISCARDED:
        show_figures(trace, current, token, judged)


def show_figures(trace: Trace, current: Round, token: Token, judged: Judgement) -> None:
    """The candidates at the token's position, the draw, and the residual."""
    tone = theme.mode()
    replaced = token.fate in (Fate.REJECTED, Fate.CORRECTED)
    refused, drawn = (rejected(current), corrected(current)) if replaced else (None, None)
    bars = candidates(refused or token, drawn, (refused or token).overlap)
    left, right = st.columns(2)
    with left:
        ui.chart(
            figures.probability_bars(bars, tone, draft=token.fate is not Fate.BONUS),
            key="replay_bars",
            alt="Probabilities p and q of the most likely tokens at this position",
            name="p-and-q",
        )
        # a trace of the live view has nothing to measure again
        again = "" if trace.id else measures_again(queries.folder(str(trace.settings.get("draft"))))
        st.caption(f"{figures.marks(bars)} {'' if token.alternatives else figures.alternatives_missing(again)}")
    with right:
        if judged.chance is not None:
            alt = f"{judged.headline}; the line from 0 to 1 with the draw and the probability of acceptance"
            ui.chart(figures.draw_line(judged, tone), key="replay_draw", alt=alt, name="draw")
        if drawn is not None and refused is not None and refused.overlap is not None:
            alt = "The residual distribution that replaces the rejected token, with the drawn token marked"
            ui.chart(figures.residual_bars(bars, tone), key="replay_residual", alt=alt, name="residual")
            st.caption(figures.unlisted(bars))


@st.fragment
def show(trace: Trace) -> None:
    """One step; a click or key redraws this fragment alone."""
    now = stepper(trace)
    show_answer(trace, now)
    show_counters(trace, now)
    show_judgement(trace, now)


def show_origin(trace: Trace) -> None:
    """The settings behind the answer, and the trace as a file."""
    with st.expander("Settings of this trace"):
        st.json(trace.settings)
    with st.container(horizontal=True):
        name = trace.id or "-".join(str(trace.settings.get(key, "")) for key in ("draft", "prompt_id", "temperature"))
        st.download_button(
            "Download as JSON",
            json.dumps(trace.as_dict(), ensure_ascii=False, indent=1),
            f"{name}.json",
            "application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        if not trace.id:
            ui.goto("run", "The run it belongs to", icon=":material/monitoring:", run=str(trace.settings.get("draft")))
        ui.goto("learn", "How a round works", icon=":material/menu_book:", topic="round")


def render() -> None:
    """Draw the page."""
    ui.heading("replay")
    trace = saved_trace() if source() == SAVED else measured_trace()
    if trace is None:
        return
    if not trace.rounds:
        raise DraftbenchError(
            "this trace has no rounds", "nothing was decoded before it was saved", "save it again after a round"
        )
    ui.tab_title(trace.title or trace.id, "Replay")
    show(trace)
    show_origin(trace)
