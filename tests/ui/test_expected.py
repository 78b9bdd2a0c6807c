"""The Serve section of a run's page under AppTest: what servers should do with the draft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.catalogue import SERVERS
from engine.fileio import read_json
from engine.measure.step_times import TimedRound, round_seconds
from engine.records.provenance import Machine
from engine.records.step_times import StepCell, StepTimes
from tests.ui.conftest import OpenPage
from tests.ui.run_homes import finished_id
from tests.ui.test_run_page import words


def with_times(home: Path) -> str:
    """The finished run with step times at two batch sizes: a cheap draft, then a dear one."""
    run_id = finished_id(home)
    folder = home / "runs" / run_id
    cells = [
        StepCell(
            batch_size=batch,
            context=30,
            load=0.1,
            rounds=[
                round_seconds(gamma, [TimedRound(gamma * draft_s, 0.04 + 0.0001 * turn, 0.001) for turn in range(9)])
                for gamma in range(5)
            ],
        )
        for batch, draft_s in ((1, 0.004), (8, 0.04))
    ]
    sha256 = read_json(folder / "draft" / "best" / "draft.json")["weights_sha256"]
    record = StepTimes(
        machine=Machine(processor="Imagined CPU", cores=4),
        device="cpu",
        dtype="float32",
        draft_sha256=sha256,
        usual_context=30,
        cells=cells,
    )
    record.write(folder)
    return run_id


def test_every_server_has_a_row_and_the_chosen_one_its_answer_chart_and_flags(finished_home: Path, page: OpenPage):
    test = page("run", run=with_times(finished_home), view="Serve", server="vLLM", at="1,sampled")
    frame = next(shown.value for shown in test.dataframe if "server" in shown.value)
    assert set(frame.server) == {server.title for server in SERVERS.values()}
    assert {"serve it", "no gain", "not decided yet"} >= set(frame.answer)
    assert next(box.value for box in test.selectbox if box.label == "At") == "1,sampled"
    assert any("plain steps" in box.value for box in test.info)
    (chart,) = test.get("plotly_chart")
    second_line = " ".join(json.loads(chart.proto.spec)["layout"]["title"]["subtitle"]["text"].split("<br>"))
    assert "vLLM, temperature 1, sampled proposals" in second_line, "the figure alone says of which server it is"
    assert finished_id(finished_home) in second_line
    flags = "\n".join(block.value for block in test.code)
    assert '"rejection_sample_method": "synthetic"' in flags
    shown = words(test).replace("\\", "")
    assert "true of it alone" in shown
    assert "Imagined CPU" in shown


def test_another_temperature_is_chosen_and_kept_in_the_address(finished_home: Path, page: OpenPage):
    test = page("run", run=with_times(finished_home), view="Serve", server="SGLang")
    box = next(box for box in test.selectbox if box.label == "At")
    box.set_value("1,argmax").run()
    assert not test.exception
    assert test.query_params["at"] in ("1,argmax", ["1,argmax"])
    assert "SGLANG_SIMULATE_ACC_LEN" in "\n".join(block.value for block in test.code)
    assert "accept rate" in words(test)
    assert "cannot show everything that the URL asks for" not in words(test)


@pytest.mark.parametrize("damage", [None, "{"])
def test_without_readable_step_times_the_section_says_what_to_do(finished_home: Path, page: OpenPage, damage):
    run_id = finished_id(finished_home)
    if damage:
        (finished_home / "runs" / run_id / StepTimes.FILE).write_text(damage, encoding="utf-8")
    test = page("run", run=run_id, view="Serve")
    shown = words(test).replace("\\", "")
    assert ("step_times.json" if damage else "--batch-sizes 1,2,4,8") in shown
