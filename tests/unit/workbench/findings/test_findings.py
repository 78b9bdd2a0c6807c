"""Findings as tables, lines and figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from engine.findings.claim import MissingRun
from engine.findings.claims import LEAD, MODE, SUPERVISION
from engine.findings.efforts import EFFORTS
from engine.findings.evaluate import Cell, Finding, Outcome, Pooled
from engine.findings.home import HomeFindings, TakingPart
from engine.findings.missing import command
from engine.findings.pairs import Pair
from engine.findings.runs import Run
from engine.findings.verdicts import FEW, NOT, REPRODUCED, SAME
from engine.records.interval import Interval
from workbench.findings import acceptance, view
from workbench.findings import figures as findings_figures

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
    row = view.table(SUPERVISION, (cell(),)).iloc[0]
    assert row["where"] == "biology, forward_kl, against sft"
    assert row["relative"] == "+5.0% [+3.0%, +7.0%]"
    assert row["absolute"] == "+0.020 [+0.010, +0.030]"
    assert (row["seeds"], row["prompts"], row["each seed"]) == (3, 40, "+0.020, +0.010, +0.030")
    assert row["runs"] == "/compare?runs=a0&runs=b0&runs=a1&runs=b1&runs=a2&runs=b2"


def test_intervals_that_are_not_there_are_not_made_up():
    assert view.percent(NOTHING) == "–"
    assert view.points(Interval(0.1, math.nan, math.nan, 1)) == "+0.100"


def test_the_command_survives_odd_names():
    line = command(MissingRun("x", "run-1", ('prompts.train=[{"path": "a b"}]',)), Path("/my home/runs"))
    assert line == "draftbench run '/my home/runs/run-1/config.yaml' --set 'prompts.train=[{\"path\": \"a b\"}]'"


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_the_effects_show_the_paper_s_band_and_a_mark_for_each_verdict(tone: str):
    cells = tuple(cell(verdict) for verdict in (REPRODUCED, SAME, NOT, FEW))
    figure = view.effects(SUPERVISION, cells, tone)
    assert [trace.name for trace in figure.data] == [REPRODUCED, SAME, NOT, FEW]
    assert len({trace.marker.symbol for trace in figure.data}) == 4
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"] == [SUPERVISION.band]


def test_a_lead_is_shown_in_acceptance():
    figure = view.effects(LEAD, (cell(SAME, NOTHING),), "light")
    assert list(figure.data[0].x) == [0.02]


def test_what_is_not_counted_is_in_the_table_and_not_in_the_figure():
    odd = replace(cell(NOT), counts=False)
    figure = view.effects(SUPERVISION, (cell(), odd), "light")
    assert [trace.name for trace in figure.data] == [REPRODUCED]
    assert list(view.table(SUPERVISION, (cell(), odd)).verdict) == [REPRODUCED, f"{NOT} (not counted)"]


def test_the_pooled_figure_has_a_row_for_all_and_for_each_domain_of_each_kind_of_effort():
    whole = Pooled(USUAL, USUAL, 0.4, 0.42, (0.02,), (0.0,), 3, (), SAME, "why")
    one = Outcome("own schedule", SAME, "why", (), whole, {"biology": whole, EVIL: whole})
    alone = Outcome("equal target tokens", NOT, "why", (), replace(whole, verdict=NOT), {"biology": whole})
    figure = view.pooled_effects(MODE, (one, alone, Outcome("none", FEW, "why", ())), "light")
    assert [name.split(",")[0] for name in figure.layout.yaxis.ticktext] == ["own schedule"] * 3 + [
        "equal target tokens"
    ]
    assert {trace.name: list(trace.y) for trace in figure.data} == {SAME: [0, 1, 2], NOT: [3]}
    assert EVIL not in drawn(figure)


def test_a_figure_of_one_kind_of_effort_says_which():
    assert "equal target tokens" in view.effects(MODE, (cell(),), "light", "equal target tokens").layout.title.text


def test_each_kind_of_effort_is_reported_in_words():
    lines = view.effort_lines(Finding(MODE, tuple(Outcome(e, FEW, "none", ()) for e in EFFORTS)))
    assert len(lines) == 3
    assert lines[0].startswith("own schedule (offline as it is usually trained")
    assert view.effort_lines(Finding(SUPERVISION, (Outcome("", FEW, "none", ()),))) == []


def run(name: str, **facts: object) -> Run:
    usual = {
        "target": "t",
        "heldout": "h",
        "dtype": "f",
        "domain": "biology",
        "scenario": "curated",
        "n_train": 50,
        "loss": "sft",
        "train.mode": "offline",
        "train.seed": "0",
        "train.epochs": "3.0",
        "capture.seed": 0,
    }
    return Run(name, usual | facts)


def evaluated(runs: list[Run]) -> HomeFindings:
    rows = [
        {
            "run_id": r.id,
            "draft": draft,
            "temperature": t,
            "prompt_id": f"p{i}",
            "exact_sum": (10.0 + i) * share,
            "argmax_sum": float("nan"),
            "n_positions": 50.0,
            "answer": f"answer {i}",
        }
        for r in runs
        for draft, share in (("trained", 1.0), ("initial", 0.5))
        for t in (0.0, 1.0)
        for i in range(6)
    ]
    part = TakingPart(runs, {}, {}, {})
    return HomeFindings([], {}, len(runs), 0, {}, lambda: part, lambda _: pd.DataFrame(rows))


def test_acceptance_adds_seeds_up_and_keeps_sizes_methods_and_temperatures_apart():
    runs = [run("a"), run("a1", **{"train.seed": "1"}), run("b", n_train=200), run("c", loss="tvd")]
    frame = acceptance.acceptance(evaluated(runs))
    assert len(frame) == 6
    row = frame[(frame.n_train == 50) & (frame.loss == "sft") & (frame.temperature == 0)].iloc[0]
    assert (row.seeds, sorted(row.runs), row.n_prompts, row.method) == (2, ["a", "a1"], 6, "sft")
    assert row.value == pytest.approx(75 / 300)
    assert row.initial == pytest.approx(0.125)
    assert row.low < row.value < row.high


def test_acceptance_shows_one_kind_of_run_a_domain_and_counts_the_others():
    runs = [run("a"), run("b", loss="tvd"), run("stranger", target="other")]
    frame = acceptance.acceptance(evaluated(runs))
    assert {name for names in frame.runs for name in names} == {"a", "b"}
    assert acceptance.elsewhere(runs) == 1


def test_runs_cut_to_a_stream_s_effort_are_methods_of_their_own():
    def effort(tokens: int, steps: int) -> dict[str, int]:
        return {"tokens_seen": tokens, "steps_done": steps}

    runs = [
        replace(run("on", **{"train.mode": "online"}), effort=effort(100, 10)),
        replace(run("once", **{"train.epochs": "1.0"}), effort=effort(100, 5)),
        replace(run("own"), effort=effort(300, 15)),
    ]
    runs.append(run("own text", loss="jsd", **{"train.mode": "on_policy"}))
    frame = acceptance.acceptance(evaluated(runs))
    assert set(frame.method) == {"on-policy jsd", "online sft", "sft", "sft, equal tokens"}


def test_the_usual_size_is_the_one_most_methods_have():
    runs = [run("a"), run("b", loss="tvd"), run("c", n_train=400)]
    frame = acceptance.usual_size(acceptance.acceptance(evaluated(runs)))
    assert set(frame.n_train) == {50}


def test_sizes_lie_on_a_log_axis_with_a_line_a_method():
    runs = [run(f"{loss}{n}", n_train=n, loss=loss) for n in (50, 200) for loss in ("sft", "tvd")]
    figure = findings_figures.by_size(acceptance.acceptance(evaluated(runs)), "curated", 0.0, "dark")
    assert figure.layout.xaxis.type == "log"
    assert [list(trace.x) for trace in figure.data] == [[50, 200], [50, 200]]
    assert all(trace.error_y.array is not None for trace in figure.data)


def test_at_most_a_dozen_curves_and_no_two_look_alike():
    labels = {f"r{i}": f"method {i}" for i in range(20)}
    frame = pd.DataFrame(
        [
            {"run_id": r, "kind": "eval", "step": s, "temperature": 0.0, "value": 0.1, "tokens_seen": s, "seconds": s}
            for r in labels
            for s in (0, 10)
        ]
    )
    figure = findings_figures.curves(frame, labels, "tokens", 0.0, "light")
    looks = {(t.line.color, t.line.dash, t.marker.symbol) for t in figure.data}
    assert len(figure.data) == len(looks) == findings_figures.MOST_CURVES


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_names_are_text_in_figures(tone: str):
    frame = acceptance.acceptance(evaluated([run(EVIL, loss=EVIL, domain=EVIL, scenario=EVIL)]))
    figures = [
        view.effects(SUPERVISION, (cell(domain=EVIL),), tone),
        findings_figures.by_method(frame, 0.0, tone),
        findings_figures.by_size(frame, EVIL, 0.0, tone),
    ]
    for one in figures:
        assert "<img" not in drawn(one)
        assert "&lt;img" in drawn(one)


def test_what_keeps_runs_apart_is_reported_briefly():
    assert view.differences({"train.epochs": ("1.0", "5.0")}) == "train.epochs (1.0 and 5.0)"
    assert len(view.differences({"x": ("a" * 100, "b")})) < 50


def test_sizes_on_a_log_axis_are_named_where_there_is_room():
    assert findings_figures.apart([50, 200, 300, 621, 778, 50]) == [50, 200, 300, 778]
    assert findings_figures.apart([]) == []
