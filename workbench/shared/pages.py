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


@dataclass(frozen=True)
class Entry:
    """One page in the navigation.

    `purpose` is the sentence at its top, `params` the parameters that its URL may have (`train-*`: all with that
    prefix).
    """

    title: str
    icon: str
    section: str
    purpose: str
    params: tuple[str, ...] = ()
    default: bool = False


PAGES: dict[str, Entry] = {
    "home": Entry(
        "Home",
        ":material/home:",
        "",
        "The best draft for each target, running jobs, and first steps.",
        default=True,
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
    ),
    "runs": Entry(
        "Runs",
        ":material/table_rows:",
        "Train",
        "All runs: search, group, label, and set the baseline.",
        (
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
    ),
    "run": Entry(
        "Run",
        ":material/monitoring:",
        "Train",
        "One run: live curves, log, configuration and provenance.",
        ("run", "view", "axis", "log", "find", "lines", "wrap", "server", "at"),
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
            "against",
            "prompt",
            "slice",
            "only",
        ),
    ),
    "findings": Entry(
        "Findings",
        ":material/science:",
        "Measure",
        "The paper's five claims and two of our own, tested on your runs.",
        ("study", "t", "scenario", "queries", "domain", "axis", "open_*"),
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
    ),
    "replay": Entry(
        "Replay",
        ":material/history:",
        "See tokens",
        "Step through a stored trace: p, q, the draw and the outcome.",
        ("run", "temperature", "prompt", "trace", "round", "token"),
    ),
    "learn": Entry(
        "Learn",
        ":material/menu_book:",
        "Understand",
        "The terms, the losses with their formulas, and common pitfalls.",
        ("topic", "alpha", "gamma", "c"),
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


def listed(key: str) -> list[str]:
    """All values of a repeated parameter of the current URL."""
    return st.query_params.get_all(key)
