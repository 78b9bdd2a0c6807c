"""A stored trace step by step: what was proposed, how likely each model found it, the draw, and what followed.

The view is in the URL: `?run=RUN&temperature=T&prompt=ID` or `?trace=ID`, with `round` and `token`.
"""

import json
from dataclasses import asdict

import streamlit as st

from engine.errors import DraftbenchError, did_you_mean
from engine.runs.advice import measures_again
from engine.runs.folder import RunFolder
from engine.traces.answer import (
    Trace,
    TraceRound,
    TraceToken,
    list_traces,
    load_trace,
    no_traces,
    trace_of_run,
    traced_prompts,
)
from workbench.replay import view
from workbench.shared import asked, queries, theme, tokens, ui
from workbench.shared.view_state import link

MEASURED, SAVED = "A run's measurement", "Saved from the live view"
OF_RUN = ("run", "temperature", "prompt")


def forget_view(*names: str) -> None:
    """Leave these out of the URL, and begin again at the first round."""
    for name in (*names, "round", "token"):
        st.query_params.pop(name, None)


def put(key: str, *forget: str) -> None:
    """Keep a picked value in the URL; what depends on it is forgotten."""
    st.query_params[key] = str(st.session_state[f"pick_{key}"])
    forget_view(*forget)


def keep(**shown: str) -> None:
    """Name in the URL what is shown, so that it opens this very trace elsewhere and later."""
    if any(st.query_params.get(key) != value for key, value in shown.items()):
        st.query_params.update(shown)  # at once: each change is a step of the browser's history


def pick(
    label: str,
    key: str,
    options: list[str],
    *,
    named: str | None = None,
    forget: tuple[str, ...] = (),
    names: dict[str, str] | None = None,
) -> str:
    """A choice that the URL holds. A value in the URL that is not among the options is an error, not another view."""
    named = named or st.query_params.get(key, options[0])
    if named not in options:
        raise DraftbenchError(
            f"there is no {label.lower()} {named!r} here", "the address names it", did_you_mean(named, options)
        )
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
    """Which kind of trace: by the URL, or as the visitor switches."""

    def switched() -> None:
        forget_view("trace", *OF_RUN)

    if "trace" in st.query_params:
        st.session_state.source = SAVED
    elif "source" not in st.session_state or any(name in st.query_params for name in OF_RUN):
        st.session_state.source = MEASURED
    chosen = st.segmented_control("Source", [MEASURED, SAVED], key="source", required=True, on_change=switched)
    return chosen or MEASURED


def stamp() -> list[tuple[str, int]]:
    """Changes when a trace is saved, replaced or removed."""
    folder = queries.home().traces
    return [(path.name, path.stat().st_mtime_ns) for path in folder.glob("*.json")] if folder.is_dir() else []


@st.cache_data(max_entries=4, show_spinner=False)
def saved_names(folder: str, changed: list[tuple[str, int]]) -> dict[str, str]:
    """Id and name of every saved trace, newest first, kept until one changes. Two drafts of one prompt are told apart."""
    known = list_traces(queries.home())
    names = {
        one.id: " · ".join(part for part in (one.title, one.draft, one.saved_at[:16].replace("T", " ")) if part)
        for one in known
    }
    return ui.distinct(names)


@st.cache_data(max_entries=8, show_spinner=False)
def whole_trace(folder: str, changed: list[tuple[str, int]], trace_id: str) -> Trace:
    """A saved trace with its rounds."""
    return load_trace(queries.home(), trace_id)


def saved_trace() -> Trace | None:
    folder, changed = str(queries.home().traces), stamp()
    names, wanted = saved_names(folder, changed), st.query_params.get("trace")
    if wanted and wanted not in names:
        return load_trace(queries.home(), wanted)  # which says what is wrong with it
    if not names:
        ui.empty(
            "No trace was saved yet. Decode a prompt in the live view and press **Save trace**.", "Open Live", "live"
        )
        return None
    chosen = pick("Trace", "trace", list(names), names=names)
    keep(trace=chosen)
    return whole_trace(folder, changed, chosen)


def measured_trace() -> Trace | None:
    known, named = queries.runs(), st.query_params.get("run")
    known = known[~known.exact.isna()]
    offered = known[(known.run_id.isin(queries.traced()) & ~known.archived) | (known.run_id == named)]
    if offered.empty:
        ui.empty(
            "No run holds traces yet. A measurement decodes held-out prompts and keeps every token.",
            "Start a run",
            "launch",
        )
        return None
    left, middle, right = st.columns([3, 1, 2])
    with left:
        labels = ui.distinct(dict(zip(offered.run_id, offered.label, strict=True)))
        chosen = pick("Run", "run", list(offered.run_id), forget=("temperature", "prompt"), names=labels)
        if len(offered) < len(known):
            st.caption(f"{len(offered)} of {len(known)} measured runs hold traces.")
    run = queries.folder(chosen)
    traced = traced_prompts(run)
    if not traced:
        missing(run, list(offered.run_id))
        return None
    with middle:
        temperatures = list(dict.fromkeys(f"{t:g}" for t, _ in traced))
        named = view.plain_number(st.query_params.get("temperature", ""))  # 0.0 and 0 are one
        temperature = pick("Temperature", "temperature", temperatures, named=named, forget=("prompt",))
    with right:
        prompt = pick("Prompt", "prompt", [p for t, p in traced if f"{t:g}" == temperature])
    keep(run=chosen, temperature=temperature, prompt=prompt)
    return run_trace(str(run.path), run.summary_path.stat().st_mtime, run.id, float(temperature), prompt)


def missing(run: RunFolder, offered: list[str]) -> None:
    """A run that the address names and that holds no traces: why, and the way to runs that do."""
    ui.error_box(no_traces(run, "its measurement was kept without them, as those of most samples are"))
    others = [run_id for run_id in offered if run_id != run.id]
    if others:
        ui.goto("replay", f"Replay {others[0]} instead", icon=":material/history:", run=others[0])


@st.cache_data(max_entries=32, show_spinner=False)
def run_trace(path: str, changed: float, run_id: str, temperature: float, prompt: str) -> Trace:
    """The trace, kept until the run is measured again (`path` and `changed` say when it is another)."""
    return trace_of_run(queries.folder(run_id), temperature, prompt)


def whole(name: str) -> int | None:
    """A count in the URL; None if there is none, or no count."""
    try:
        return max(0, int(st.query_params[name]))
    except (KeyError, ValueError):
        return None


def say_nearest(name: str, shown: int) -> None:
    """A round or a token that the trace does not have: the nearest is shown, and said."""
    if name in st.query_params and st.query_params[name] != str(shown):
        asked.not_here(name, str(shown))


def go(number: int | None = None) -> None:
    """Keep the round in the URL: this one, or the slider's."""
    forget_view()
    st.query_params["round"] = str(st.session_state.slider if number is None else number)


def stepper(trace: Trace) -> int:
    """The chosen round's number: slider, buttons and keys; kept in the URL."""
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


def choose_token(told: TraceRound) -> int:
    """The place in the round that is looked at: from the URL, else the one that tells most."""
    named = whole("token")
    place = named if named is not None and named < len(told.tokens) else view.telling_slot(told)
    key = f"token_{told.number}"
    st.session_state[key] = place
    say_nearest("token", place)

    def kept() -> None:
        st.query_params["token"] = str(st.session_state[key])

    chosen = st.segmented_control(
        "Token of the round",
        range(len(told.tokens)),
        key=key,
        required=True,
        on_change=kept,
        wrap=True,
        format_func=lambda i: f"{ui.text(view.visible(told.tokens[i].text))} · {told.tokens[i].fate}",
    )
    return place if chosen is None else chosen


def show_answer(trace: Trace, now: int) -> None:
    """The prompt, and the answer up to this round."""
    address = {key: st.query_params.get(key) for key in ("trace", *OF_RUN)}
    past = trace.rounds[: now + 1]
    with st.container(border=True):
        st.caption("Prompt")
        st.text(trace.prompt)
        st.caption(
            f"Answer up to round {now}; the framed tokens are of this round. A click on a token goes to its round."
        )
        shown = tokens.answer_html(
            past, tone=theme.mode(), highlight=now, href=lambda number: link("replay", **address, round=number)
        )
        st.html(shown)
        st.html(tokens.legend_html(tone=theme.mode()))


def show_counters(trace: Trace, now: int) -> None:
    with st.container(horizontal=True, gap="large"):
        for name, value in view.counters(trace.rounds[: now + 1]).items():
            st.metric(f"{name}, so far", value, width="content")


def show_judgement(trace: Trace, now: int) -> None:
    """The chosen token: words, draw, p and q, and the residual where it was refused."""
    told = trace.rounds[now]
    st.subheader(f"Round {now}", anchor=False)
    st.caption(
        f"{told.num_draft_tokens} proposed, {told.accepted} accepted, {told.emitted} emitted · drafting {1000 * told.draft_s:.1f} ms · "
        f"verifying {1000 * told.verify_s:.1f} ms · the rest {1000 * told.overhead_s:.1f} ms"
        + ("" if trace.id else " (of its whole batch)")  # a measurement decodes several prompts at once
    )
    token = told.tokens[choose_token(told)]
    greedy = trace.settings.get("temperature") == 0
    judged = view.judgement(token, told, greedy=greedy)
    st.markdown(f"**{ui.text(view.visible(token.text))}** {ui.text(judged.headline)}  \n{ui.text(judged.detail)}")
    if token.fate == "discarded":
        return
    show_figures(trace, told, token, judged)


def again(trace: Trace) -> str:
    """What measures the trace's run once more; nothing for a trace that was saved from the live view."""
    return "" if trace.id else measures_again(queries.folder(str(trace.settings.get("draft"))))


def show_figures(trace: Trace, told: TraceRound, token: TraceToken, judged: view.Judgement) -> None:
    tone = theme.mode()
    drawn = view.corrected(told) if token.fate in ("rejected", "corrected") else None
    refused = view.refused(told) if token.fate in ("rejected", "corrected") else None
    bars = view.candidates(refused or token, drawn, (refused or token).overlap)
    left, right = st.columns(2)
    with left:
        draft = token.fate != "bonus"
        figure = view.probability_bars(bars, tone, draft=draft)
        ui.chart(
            figure,
            key="replay_bars",
            alt="Probabilities p and q of the likeliest tokens at this position",
            name="p-and-q",
        )
        missing = "" if token.alternatives else view.alternatives_missing(again(trace))
        st.caption(f"{view.marks(bars)} {missing}")
    with right:
        if judged.chance is not None:
            alt = f"{judged.headline}; the line from 0 to 1 with the draw and the chance of acceptance"
            ui.chart(view.draw_line(judged, tone), key="replay_draw", alt=alt, name="draw")
        if drawn is not None and refused is not None and refused.overlap is not None:
            alt = "The residual distribution from which the refused token was replaced, the drawn token marked"
            ui.chart(view.residual_bars(bars, tone), key="replay_residual", alt=alt, name="residual")
            st.caption(view.unlisted(bars))


@st.fragment
def show(trace: Trace) -> None:
    """The step: drawn anew at each click or key, while the rest of the page stays."""
    now = stepper(trace)
    show_counters(trace, now)
    show_answer(trace, now)
    show_judgement(trace, now)


def show_origin(trace: Trace) -> None:
    """What the answer depends on, and the trace as a file."""
    with st.expander("Settings of this trace"):
        st.json(trace.settings)
    with st.container(horizontal=True):
        name = trace.id or "-".join(str(trace.settings.get(key, "")) for key in ("draft", "prompt_id", "temperature"))
        st.download_button(
            "Download as JSON",
            json.dumps(asdict(trace), ensure_ascii=False, indent=1),
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
    found = saved_trace() if source() == SAVED else measured_trace()
    if found is not None and not found.rounds:
        raise DraftbenchError(
            "this trace has no rounds", "nothing was decoded before it was saved", "save it again after a round"
        )
    if found is not None:
        show(found)
        show_origin(found)
