"""What an open page asks instead of being redrawn every few seconds: have the files changed that it shows?

`watch` puts a line of script into a fragment. It asks the address `PATH`, which costs the server one `stat` a file, and
has the fragment drawn again only when something has changed, and never while a run is timing its speed: not even the
pages that show other runs. A hidden tab does not ask. `notice` is a button for a notice of the browser at a run's end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse

from engine.errors import DraftbenchError
from engine.paths import Home, home
from engine.records import files
from engine.records.folders import run_names
from engine.records.status import Status
from engine.runs.folder import RunFolder

PATH = "/watch"
MOST_RUNS = 200  # of one question
_LOOK_S = 20.0  # between two looks for unfinished runs; the phases before a timing take longer
_FILES = {"status": files.STATUS, "events": files.EVENTS, "log": "log.txt", "output": "output.txt"}

_WATCH_JS = """
export default function ({ parentElement, data, setTriggerValue }) {
  const held = (parentElement.held ??= {});
  const turn = {};  // a reply that comes when this is no longer the present turn ends its loop
  clearTimeout(held.timer);
  Object.assign(held, { data, redraw: setTriggerValue, asked: 0, turn });
  const note = parentElement.querySelector("p");
  const look = async () => {
    if (!document.hidden && Date.now() - held.asked > 30000) {
      try {
        const reply = await fetch(held.data.url, { cache: "no-store" });
        if (reply.ok) {
          const now = await reply.json(), seen = held.data.seen;
          if (held.turn !== turn) return;
          note.hidden = !now.timing;
          if (!now.timing && held.data.keys.some((key) => now[key] !== seen[key])) {
            held.asked = Date.now();
            held.redraw("changed", held.asked);
          }
        }
      } catch {}  // the server ends or begins: the page says so, and asks again
    }
    if (held.turn === turn) held.timer = setTimeout(look, 1000 * held.data.every_s);
  };
  note.hidden = !data.seen.timing;
  held.timer = setTimeout(look, 1000 * data.every_s);
  return () => {
    if (held.turn !== turn) return;
    held.turn = null;  // also a look that is under way
    clearTimeout(held.timer);
  };
}
"""
_NOTICE_JS = """
const ends = (window.draftbenchEnds ??= new Map());  // of this tab, whichever page it shows
export default function ({ parentElement, data }) {
  const button = parentElement.querySelector("button"), note = parentElement.querySelector("span");
  const draw = () => {
    const waits = ends.has(data.run);
    button.textContent = waits ? "No notice" : "Tell me when it ends";
    button.setAttribute("aria-pressed", waits);
    note.textContent = !("Notification" in window) ? "This browser shows no notices here." :
      Notification.permission === "denied" ? "Notices of this page are blocked in your browser." :
      waits ? "A notice comes while this tab is open." : "";
    button.disabled = !("Notification" in window) || Notification.permission === "denied";
  };
  button.onclick = async () => {
    if (ends.has(data.run)) {
      clearInterval(ends.get(data.run));
      ends.delete(data.run);
    } else if ((await Notification.requestPermission()) === "granted") {
      ends.set(data.run, setInterval(async () => {
        const reply = await fetch(data.url, { cache: "no-store" }).catch(() => null);
        const state = reply?.ok ? (await reply.json()).states[data.run] : "running";
        if (["queued", "running"].includes(state) || !ends.has(data.run)) return;
        clearInterval(ends.get(data.run));
        ends.delete(data.run);
        new Notification(`${data.label}: ${state ?? "removed"}`, { body: "Draftbench", tag: data.run });
        if (parentElement.isConnected) draw();
      }, 5000));
    }
    draw();
  };
  draw();
}
"""
_NOTICE_CSS = """
button { font: inherit; font-size: .875rem; padding: .3rem .75rem; border-radius: .3rem; cursor: pointer;
  color: var(--st-text-color); background: var(--st-background-color); border: 1px solid var(--st-border-color) }
button:hover, button:focus-visible { border-color: var(--st-primary-color); outline-color: var(--st-primary-color) }
button:disabled { opacity: .5; cursor: default }
span { font-size: .875rem; margin-left: .6rem; color: var(--st-text-color) }
"""
_WATCH = st.components.v2.component(
    "draftbench_watch",
    html='<p role="status" hidden>Speed is being measured: this page rests until that is done.</p>',
    css="p { margin: 0; font-size: .875rem; color: var(--st-text-color) }",
    js=_WATCH_JS,
)
_NOTICE = st.components.v2.component(
    "draftbench_notice",
    html='<button type="button"></button><span role="status"></span>',
    css=_NOTICE_CSS,
    js=_NOTICE_JS,
)


def marks(at: Home, run_ids: Sequence[str]) -> dict[str, Any]:
    """What tells whether runs have changed, as text that is compared and means nothing else.

    'state': their states, whether they time and are stopping; a file's name in `_FILES`: size and time of change of the
    runs' files; 'runs': those of the folder of all runs; 'clock': always another, for work without such files.
    'timing': whether any run is timing its speed; 'states'.
    """
    known = [run for run in (_folder(at, run_id) for run_id in run_ids[:MOST_RUNS]) if run is not None]
    statuses = {run.id: run.status() for run in known}
    turns = (f"{run}:{item.state}:{item.is_timing}:{item.stop_asked_at}" for run, item in statuses.items())
    return {
        "state": " ".join(turns),
        "timing": any(status.is_timing for status in [*statuses.values(), *_unfinished(at)]),
        "states": {run: item.state for run, item in statuses.items()},
        "runs": _mark(str(at.runs)),
        "clock": str(time.time()),
        **{key: " ".join(_mark(f"{run.path}/{name}") for run in known) for key, name in _FILES.items()},
    }


def answer(request: Request) -> JSONResponse:
    """The marks of the runs that the address names; those that are not here are left out."""
    return JSONResponse(marks(home(), request.query_params.getlist("run")), headers={"cache-control": "no-store"})


def watch(key: str, run_ids: Sequence[str], seen: dict[str, Any], what: Sequence[str], every_s: float = 4.0) -> None:
    """Have this fragment drawn again when one of the marks `what` is no longer as `seen`, looked at before drawing."""
    data = {"url": _url(run_ids), "seen": seen, "keys": list(what), "every_s": every_s}
    _WATCH(key=key, data=data, on_changed_change=_nothing, height="content")


def notice(run_id: str, label: str) -> None:
    """A button that asks the browser for a notice when the run ends; permission is asked for by the click alone."""
    _NOTICE(key=f"notice-{run_id}", data={"run": run_id, "label": label, "url": _url([run_id])}, height="content")


def _nothing() -> None:
    """The fragment is drawn anyway."""


def _url(run_ids: Sequence[str]) -> str:
    return f"{PATH}?{urlencode({'run': list(run_ids)[:MOST_RUNS]}, doseq=True)}"


def _folder(at: Home, run_id: str) -> RunFolder | None:
    try:
        run = RunFolder(at.run(run_id))
    except DraftbenchError:
        return None
    return run if run.path.is_dir() else None


def _mark(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "-"
    return f"{stat.st_mtime_ns}/{stat.st_size}"


_looked: dict[str, tuple[float, list[RunFolder]]] = {}


def _unfinished(at: Home) -> list[Status]:
    """The present status of the runs that were at work when all were last looked at."""
    when, runs = _looked.get(str(at.root), (-_LOOK_S, []))
    if time.monotonic() - when > _LOOK_S:
        runs = [run for run in (RunFolder(at.runs / name) for name in run_names(at)) if run.status().state == "running"]
        _looked[str(at.root)] = (time.monotonic(), runs)
    return [run.status() for run in runs]
