"""The settings of an export as fields of a form, and as options of `draftbench export --for`, which has the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from engine.catalogue import EXPORTERS, SERVERS
from engine.errors import DraftbenchError
from engine.runs.folder import RunFolder
from workbench.run import export_job
from workbench.shared import queries

_TARGETS = {
    "as the server wants it": "",
    "not with it": "none",
    "whole, its adapter merged": "merged",
    "its adapter apart": "apart",
}
_RULES = {"argmax": "the likeliest token (argmax)", "sampled": "drawn from the draft's distribution (sampled)"}
_DEFAULT_RULE = "as the server does by default"
_FIELDS = ("target", "gguf", "gamma", "proposals", "context", "tensor-parallel", "served-target")


def fields(run: RunFolder, server: str) -> None:
    """Draw the fields, inside a form. The folder apart, they are in the address, and stay with another server."""
    card = SERVERS[server]
    bound: dict[str, dict[str, Any]] = {name: {"key": _key(name), "bind": "query-params"} for name in _FIELDS}
    st.text_input("Folder", str(export_job.default_folder(queries.home(), run, server)), key=_folder_key(run, server))
    left, right = st.columns(2)
    left.selectbox("Target", list(_TARGETS), **bound["target"])
    precisions = EXPORTERS[card.weights].precisions
    if precisions:
        right.selectbox("Precision", precisions, **bound["gguf"])
    with st.expander("More settings"):
        left, right = st.columns(2)
        left.number_input(
            "Draft tokens per round (gamma)", 1, value=None, placeholder=_measured_gamma(run), **bound["gamma"]
        )
        rules = [_DEFAULT_RULE, *map(_RULES.__getitem__, card.proposals)]
        right.selectbox("Proposals", rules, **bound["proposals"])
        left.number_input(
            "Longest text, tokens", 1, value=None, placeholder="what both models support", **bound["context"]
        )
        right.number_input(
            "Devices that share both models", 1, value=None, placeholder="one", **bound["tensor-parallel"]
        )
        st.text_input(
            "Served target",
            placeholder="the run's own",
            help="Another copy of the target, if the server has one: a folder, a .gguf file or hub:ORG/NAME. The "
            "command starts it, and the draft gets as many rows as it has.",
            **bound["served-target"],
        )


def chosen(run: RunFolder, server: str) -> tuple[str, list[str]]:
    """The folder and the options that the fields of the form hold."""
    given = {name: st.session_state.get(_key(name)) for name in _FIELDS}
    rules = {words: rule for rule, words in _RULES.items()}
    given["target"] = _TARGETS.get(str(given["target"]), "")
    given["proposals"] = rules.get(str(given["proposals"]), "")
    return str(st.session_state.get(_folder_key(run, server)) or ""), _options(given)


def _key(name: str) -> str:
    """The key of a field, which is its name in the address."""
    return f"export_{name.replace('-', '_')}"


def _folder_key(run: RunFolder, server: str) -> str:
    return f"serve-out-{server}-{run.id}"


def _options(given: Mapping[str, Any]) -> list[str]:
    """Options of the command, each with its value in one word: a value may begin with a dash."""
    filled = {name: str(value).strip() for name, value in given.items() if value not in (None, "")}
    return [f"--{name}={value}" for name, value in filled.items() if value]


def _measured_gamma(run: RunFolder) -> str:
    try:
        return f"as measured: {run.recipe().measure.num_draft_tokens}"
    except DraftbenchError:
        return "as measured"
