"""The Origin section of a run's page: versions, commit, seeds, device and hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from engine.fileio import finite
from engine.records.provenance import Provenance
from engine.records.training import Training
from engine.runs.folder import RunFolder


def origin(run: RunFolder) -> None:
    """Draw versions, commit, seeds, device and hashes as a table, and offer them as JSON."""
    records = {"provenance": Provenance.read_or_empty(run.path), "training": Training.read_or_empty(run.path)}
    documents = {name: record.model_dump(exclude_unset=True) for name, record in records.items()}
    if not any(documents.values()):
        st.info(
            "Nothing recorded yet: versions, seeds and hashes are written when the prompts are read.",
            icon=":material/fingerprint:",
        )
        return
    rows = [("training", *row) for row in flat(documents["training"])]
    rows += [("origin", *row) for row in flat(documents["provenance"])]
    frame = pd.DataFrame(rows, columns=["part", "name", "value"])
    st.dataframe(frame, hide_index=True, height=480, alt="Versions, seeds, hashes and device of the run")
    whole = json.dumps(finite(documents), indent=2, ensure_ascii=False)
    st.download_button(
        "Origin (JSON)",
        whole,
        f"{run.id}-provenance.json",
        "application/json",
        key="json",
        icon=":material/download:",
        on_click="ignore",
    )


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """The leaves of a nested mapping as (dotted name, text)."""
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in flat(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and not any(isinstance(item, (Mapping, list)) for item in value):
        return [(name, " ".join(str(item) for item in value))]
    if isinstance(value, list):
        return [row for place, inner in enumerate(value) for row in flat(inner, f"{name}[{place}]")]
    if isinstance(value, float):
        return [(name, f"{value:.6g}")]  # all its digits are in the JSON
    return [(name, "" if value is None else str(value))]
