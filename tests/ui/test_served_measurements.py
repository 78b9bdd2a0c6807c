"""What servers reported, on a run's page: verdicts, causes, a chart by place, damaged files and hostile words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.deploy.importing import Stated, measurement_of
from engine.deploy.measurements import keep
from engine.deploy.prediction import Predictor
from engine.deploy.readers.reading import Reading
from engine.deploy.verdict import judge
from engine.records.served import RoundTotals, ServedMeasurement, added
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import EVIL, finished_id
from tests.ui.test_run_page import words
from workbench.shared import ui


def served(run: Path, temperature: float, *, less: float = 0.0) -> ServedMeasurement:
    """A server that answered the run's own texts by proposing the likeliest token, or accepts less."""
    rows = Predictor.of_run(run, run.name).positions
    rows = rows[(rows.temperature == temperature) & (rows.position > 0)].sort_values(["prompt_id", "position"])
    rng, requests = np.random.default_rng(0), []
    for _, text in rows.groupby("prompt_id"):
        hits = text.hit.to_numpy(bool) & (rng.random(len(text)) >= less)
        rounds, places, start = 0, [0, 0], 0
        while start < len(hits):
            kept = 0
            while kept < 2 and start + kept < len(hits) and hits[start + kept]:
                places[kept] += 1
                kept += 1
            rounds, start = rounds + 1, start + kept + 1
        counts = {"rounds": rounds, "proposed": 2 * rounds, "accepted": sum(places), "accepted_at": places}
        requests.append(RoundTotals(requests=1, emitted=len(hits) + 1, **counts))  # type: ignore[arg-type]
    reading = Reading("vllm", "recorded", added(requests), tuple(requests))
    return measurement_of(reading, "vllm", Stated(temperature=temperature, gamma=2))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_server_that_does_as_measured_agrees(finished_home: Path, page: OpenPage, temperature: float):
    run = finished_home / "runs" / finished_id(finished_home)
    keep(run, "day1", served(run, temperature))
    test = page("run", run=run.name, view="Serve")
    assert not test.exception
    assert not test.error
    assert "agrees" in words(test)
    assert "**day1**" in words(test)
    assert "What servers reported" in words(test)
    chart = next(chart for chart in test.get("plotly_chart") if "served-places-day1" in str(chart.proto))
    assert "predicted" in chart.proto.spec
    assert "served" in chart.proto.spec
    second_line = json.loads(chart.proto.spec)["layout"]["title"]["subtitle"]["text"].replace("<br>", " ")
    assert f"T = {temperature:g}, gamma" in second_line, "which measurement it is of"
    assert run.name in second_line


def test_a_gap_is_shown_with_its_causes(finished_home: Path, page: OpenPage):
    run = finished_home / "runs" / finished_id(finished_home)
    measurement = served(run, 1.0, less=0.9).model_copy(update={"weights": "Q4_0", "model": EVIL, "notes": [EVIL]})
    verdict = judge(measurement, Predictor.of_run(run, run.name))
    keep(run, "day2", measurement)
    test = page("run", run=run.name, view="Serve")
    assert not test.exception
    if verdict.outcome == "differs":  # a tiny draft may accept next to nothing anyway
        assert "differs" in words(test)
        assert verdict.causes[0].title in words(test)
    assert ui.text(EVIL) in words(test)
    assert EVIL not in words(test)


def test_damaged_measurements_and_earlier_runs_leave_the_page_whole(finished_home: Path, page: OpenPage):
    run = finished_home / "runs" / finished_id(finished_home)
    assert "No server has reported" in words(page("run", run=run.name, view="Serve"))
    keep(run, "torn", served(run, 0.0))
    (run / "served" / "torn" / "measurement.json").write_text('{"totals"')
    test = page("run", run=run.name, view="Serve")
    assert not test.exception
    assert "cannot be read" in words(test)
    keep(run, "whole", served(run, 0.0))
    (run / "measure" / "positions.parquet").write_bytes(b"PAR1")
    test = page("run", run=run.name, view="Serve")
    assert not test.exception
    assert "is damaged" in words(test)
