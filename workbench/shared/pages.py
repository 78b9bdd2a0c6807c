"""The pages of the workbench, and links to them that restore a view.

A page keeps its view in the URL: widgets with `bind="query-params"` (the key is the name in the
URL), everything else through `st.query_params`. `link` makes such a URL for another page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import streamlit as st

from engine.paths import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "pages"
_PAGE = "_page_shown"  # session state: the page that was drawn last


@dataclass(frozen=True)
class Entry:
    """One page in the navigation.

    `purpose` is the sentence at its top, `params` the parameters that its URL may have (`train-*`: all with that
    prefix), `letter` the key that leads to it after a g.
    """

    title: str
    icon: str
    section: str
    purpose: str
    params: tuple[str, ...] = ()
    default: bool = False
    letter: str = ""


PAGES: dict[str, Entry] = {
    "home": Entry(
        "Home",
        ":material/home:",
        "",
        "Measure your own model, train a draft for it, and see which draft is worth serving.",
        ("model", "prompts", "draft", "measured", "trained", "samples"),
        default=True,
        letter="h",
    ),
    "launch": Entry(
        "Launch",
        ":material/rocket_launch:",
        "Train",
        "Start a run, a sweep or a study from a recipe.",
        (
            "recipe",
            "from",
            "set",
            "begin",
            "study",
            "study_path",
            "losses",
            "modes",
            "seeds",
            "sizes",
            "scenarios",
            "train-*",
        ),
        letter="l",
    ),
    "runs": Entry(
        "Runs",
        ":material/table_rows:",
        "Train",
        "All runs: search, group, label, compare and remove them.",
        (
            "saved",
            "page",
            "q",
            "order",
            "group",
            "archived",
            "where",
            "columns",
            "in",
            "tag",
            "state",
            "domain",
            "loss",
            "mode",
            "scenario",
            "supervision",
            "target",
        ),
        letter="r",
    ),
    "run": Entry(
        "Run",
        ":material/monitoring:",
        "Train",
        "One run: live curves, log, configuration and provenance.",
        (
            *("run", "view", "axis", "log", "find", "lines", "wrap", "server", "at"),
            *("export_target", "export_gguf", "export_gamma", "export_proposals"),
            *("export_context", "export_tensor_parallel", "export_served_target"),
        ),
        letter="u",
    ),
    "compare": Entry(
        "Compare",
        ":material/compare_arrows:",
        "Measure",
        "Drafts side by side, paired on the same target text.",
        (
            "study",
            "domain",
            "target",
            "map_temperature",
            "runs",
            "baseline",
            "temperature",
            "rate",
            "view",
            "axis",
            "gamma",
            "against",
            "prompt",
            "slice",
            "only",
        ),
        letter="c",
    ),
    "explorer": Entry(
        "Explorer",
        ":material/scatter_plot:",
        "Measure",
        "All runs at once: any two figures against each other, and the settings that matter.",
        (
            "alike",
            "where",
            "x",
            "y",
            "colour",
            "log_x",
            "log_y",
            "view",
            "picked",
            "lines",
            "settings",
            "axis",
            "smooth",
            "temperature",
            "log_steps",
            "log_loss",
            "seeds",
        ),
        letter="x",
    ),
    "findings": Entry(
        "Findings",
        ":material/science:",
        "Measure",
        "The paper's five claims and two of our own, tested on your runs.",
        ("study", "t", "scenario", "queries", "domain", "axis", "open_*"),
        letter="f",
    ),
    "live": Entry(
        "Live",
        ":material/play_circle:",
        "See tokens",
        "Ask the target, and watch each proposed token being accepted or rejected.",
        (
            "run",
            "run2",
            "prompt",
            "context",
            "system",
            "turns",
            "tools",
            "gamma",
            "temperature",
            "top_p",
            "top_k",
            "proposals",
            "seed",
            "max_new_tokens",
            "plain",
            "draft",
        ),
        letter="i",
    ),
    "replay": Entry(
        "Replay",
        ":material/history:",
        "See tokens",
        "Step through a stored trace: p, q, the draw and the outcome.",
        ("run", "temperature", "prompt", "trace", "round", "token"),
        letter="p",
    ),
    "learn": Entry(
        "Learn",
        ":material/menu_book:",
        "Understand",
        "The terms, the losses with their formulas, and common pitfalls.",
        ("topic", "alpha", "gamma", "c"),
        letter="n",
    ),
}


def page_of(name: str) -> st.Page:
    """The Streamlit page for a name in `PAGES`."""
    entry = PAGES[name]
    return st.Page(FOLDER / f"{name}.py", title=entry.title, icon=entry.icon, url_path=name, default=entry.default)


def link(name: str, **params: str | Sequence[str] | float | None) -> str:
    """The URL of a page with its parameters; None omits one, a list repeats it."""
    given: Mapping[str, object] = {key: value for key, value in params.items() if value is not None}
    query = urlencode(given, doseq=True, quote_via=quote)
    path = "/" if PAGES[name].default else f"/{name}"
    return f"{path}?{query}" if query else path


def shortcuts() -> list[tuple[str, str, str]]:
    """The keyboard shortcuts: the keys, what they do, and the path of the page that they lead to."""
    pages = [(f"g {entry.letter}", entry.title, link(name)) for name, entry in PAGES.items() if entry.letter]
    return [("?", "This list", ""), ("/", "Search the runs", link("runs")), *pages]


def leave_behind(name: str) -> None:
    """Forget, on the way to the page `name`, what widgets of the last page held whose names it uses too.

    `domain` is a list on Runs and one word on Findings: Streamlit would hand the list on, and put it into the URL.
    """
    last = st.session_state.get(_PAGE)
    st.session_state[_PAGE] = name
    if last not in (None, name) and last in PAGES:
        for key in {*PAGES[last].params} & {*PAGES[name].params}:
            st.session_state.pop(key, None)


def listed(key: str) -> list[str]:
    """All values of a repeated parameter of the current URL."""
    return st.query_params.get_all(key)
