"""Findings as tables, lines and figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from engine.measure.claims import LEAD, SUPERVISION
from engine.measure.findings import Cell, Finding
from engine.measure.pairing import Pair
from engine.measure.statistics import Interval
from engine.measure.verdicts import FEW, NOT, REPRODUCED, SAME
from engine.measure.wanted import Wanted
from workbench.findings import findings_view

EVIL = "<img src=x onerror=alert(1)>"
USUAL = Interval(0.05, 0.03, 0.07, 40)
NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def cell(verdict: str = REPRODUCED, relative: Interval = USUAL, domain: str = "biology") -> Cell:
    pairs = tuple(Pair(((f"a{i}", 1),), ((f"b{i}", 1),), (i, 0)) for i in range(3))
    where = {"domain": domain, "loss": "forward_kl", "against": "sft"}
    return Cell(
        where,
        0.0,
        pairs,
        relative,
        Interval(0.02, 0.01, 0.03, 40),
        0.4,
        0.42,
        (0.02, 0.01, 0.03),
        verdict,
        "why",
        "unequal",
    )


def drawn(figure: go.Figure) -> str:
    return json.dumps(json.loads(figure.to_json()), ensure_ascii=False)


def test_the_table_names_place_effect_and_runs():
    row = findings_view.table(Finding(SUPERVISION, REPRODUCED, "", (cell(),))).iloc[0]
    assert row["where"] == "biology, forward_kl, against sft"
    assert row["relative"] == "+5.0% [+3.0%, +7.0%]"
    assert row["absolute"] == "+0.020 [+0.010, +0.030]"
    assert (row["seeds"], row["prompts"], row["each seed"]) == (3, 40, "+0.020, +0.010, +0.030")
    assert row["runs"] == "/compare?runs=a0&runs=b0&runs=a1&runs=b1&runs=a2&runs=b2"


def test_intervals_that_are_not_there_are_not_made_up():
    assert findings_view.percent(NOTHING) == "–"
    assert findings_view.points(Interval(0.1, math.nan, math.nan, 1)) == "+0.100"


def test_the_command_survives_odd_names():
    line = findings_view.command(Wanted("x", "run-1", ('prompts.train=[{"path": "a b"}]',)), Path("/my home/runs"))
    assert line == "draftbench run '/my home/runs/run-1/config.yaml' --set 'prompts.train=[{\"path\": \"a b\"}]'"


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_the_effects_show_the_paper_s_band_and_a_mark_for_each_verdict(tone: str):
    cells = tuple(cell(verdict) for verdict in (REPRODUCED, SAME, NOT, FEW))
    figure = findings_view.effects(Finding(SUPERVISION, NOT, "", cells), tone)
    assert [trace.name for trace in figure.data] == [REPRODUCED, SAME, NOT, FEW]
    assert len({trace.marker.symbol for trace in figure.data}) == 4
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"] == [SUPERVISION.band]


def test_a_lead_is_shown_in_acceptance():
    figure = findings_view.effects(Finding(LEAD, SAME, "", (cell(SAME, NOTHING),)), "light")
    assert list(figure.data[0].x) == [0.02]


def test_names_are_text_in_figures():
    figure = findings_view.effects(Finding(SUPERVISION, SAME, "", (cell(domain=EVIL),)), "light")
    runs = pd.DataFrame([{"loss": EVIL, "domain": EVIL, "label": EVIL, "exact": 0.3, "exact_low": 0.2, "exact_high": 0.4,
                          "seed": 0, "temperature": 0.0, "n_prompts": 40.0}])  # fmt: skip
    for one in (figure, findings_view.by_loss(runs, "dark")):
        assert "<img" not in drawn(one)
        assert "&lt;img" in drawn(one)


def test_what_keeps_runs_apart_is_told_briefly():
    assert findings_view.differences({"train.epochs": ("1.0", "5.0")}) == "train.epochs (1.0 and 5.0)"
    assert len(findings_view.differences({"x": ("a" * 100, "b")})) < 50
