"""Studies on the tiny pair, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.cli.text import study as text
from engine.jobs import queue
from engine.paths import home
from engine.study.results import mode_comparisons
from engine.study.spec import load_study
from engine.study.start import study
from tests.unit.conftest import Draftbench
from tests.unit.study.studies import ONLINE


@pytest.fixture
def tiny_study(recipe: Path, tmp_path: Path) -> Path:
    online = {**ONLINE, "train.online.update_interval": 2}
    values = {
        "name": "tiny-study",
        "base": str(recipe),
        "set": {"prompts.train_prompts": 8, "measure.speed_prompts": 0, "train.eval_every": 1},
        "axes": {"loss": ["sft"], "mode": {"offline": {}, "online": online}},
        "match": ["tokens"],
    }
    (tmp_path / "tiny-study.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "tiny-study.yaml"


def test_the_plan_starts_nothing(tiny_study: Path, draftbench: Draftbench):
    output = draftbench("study", str(tiny_study), "--plan", "--json").json()
    assert output["counts"] == {"to do": 3}
    assert output["costs"]["captures"] == 3
    assert output["costs"]["captures_there"] == 0
    assert output["costs"]["disk_bytes"] > 0
    assert output["costs"]["seconds"] is None
    assert output["costs"]["unknown"]
    assert not home().runs.exists()
    shown = draftbench("study", "run", str(tiny_study), "--plan", "--only", "mode=online")
    assert "1 cells: 1 to do" in shown.out
    assert "shared captures: 3, of which 0 exist" in shown.out


@pytest.mark.slow
def test_a_study_from_its_start_to_its_results(tiny_study: Path, draftbench: Draftbench, no_worker: None):
    from engine.runs.execution import execute

    queued = draftbench("study", str(tiny_study), "--queue", "--json").json()
    assert len(queued["submitted"]) == 3
    assert queued["counts"] == {"waiting": 3}
    for run in queue.waiting(home()):
        execute(home(), run, quiet=True)
    assert draftbench("study", str(tiny_study)).code == 0
    shown = draftbench("study", "show", "tiny-study", "--json").json()
    assert {row["state"] for row in shown["cells"]} == {"done"}
    assert all([found["temperature"] for found in row["exact"]] == [0.0, 1.0] for row in shown["cells"])
    compared = shown["modes_compared"]
    assert [(row["equal"], row["temperature"]) for row in compared] == [
        ("own schedule", 0.0),
        ("own schedule", 1.0),
        ("tokens", 0.0),
        ("tokens", 1.0),
    ]
    assert all(row["difference"]["n_prompts"] > 1 for row in compared)
    values = {row["cell"]: row["exact"][1]["value"] for row in shown["cells"]}
    difference = values["tiny-study-sft-equal-tokens"] - values["tiny-study-online-sft"]
    assert compared[3]["difference"]["value"] == pytest.approx(difference, abs=1e-9)
    assert compared[3]["tokens"][0] == compared[3]["tokens"][1]  # as many tokens, as it says
    text = draftbench("study", "show", "tiny-study").out
    assert "modes compared" in text
    assert "equal tokens" in text
    assert json.loads(draftbench("study", "list", "--json").out)[0]["done"] == 3
    assert "tiny-study" in draftbench("study", "list").out


def test_every_offline_cell_that_a_stream_is_compared_with_is_printed(capsys: pytest.CaptureFixture[str]):
    """An axis of offline training alone, such as its epochs, leaves one online cell to be compared with several."""

    def row(offline: str, equal: str, value: float) -> dict[str, Any]:
        difference = {"value": value, "low": value, "high": value, "n_prompts": 9}
        return {"other": "online", "offline": offline, "equal": equal, "temperature": 0.0, "difference": difference}

    text.modes([row("one", "own schedule", 0.1), row("three", "own schedule", 0.3), row("one", "tokens", 0.1)])
    printed = " ".join(capsys.readouterr().out.split())
    assert "online against one 0 .100" in printed
    assert "online against three 0 .300" in printed
    text.modes([row("one", "own schedule", 0.1), row("two", "tokens", 0.2)])
    assert "online 0 .100 [.100, .100] .200" in " ".join(capsys.readouterr().out.split())


def test_modes_that_are_not_measured_say_so(tiny_study: Path):
    found = study(home(), load_study(tiny_study))
    assert [(row["difference"], row["reason"].startswith("not measured")) for row in mode_comparisons(found)] == [
        (None, True),
        (None, True),
    ]


def test_a_decoded_stream_and_too_few_prompts_are_planned_also_after_an_earlier_run(
    tiny_study: Path, draftbench: Draftbench, finished_home: Path
):
    """An earlier run tells how fast training is; neither cell has a training capture."""
    values = yaml.safe_load(tiny_study.read_text())
    decoded = {"train.mode": "online", "train.online.stream": "decode"}
    values |= {"axes": {"loss": ["sft"], "mode": {"offline": {}, "online": decoded}, "queries": [8, 999]}, "match": []}
    tiny_study.write_text(yaml.safe_dump(values))
    output = draftbench("study", str(tiny_study), "--plan", "--json").json()
    assert output["costs"]["captures"] == 3  # two held out, one of the offline cell
    assert output["costs"]["based_on"]
    assert "999" in output["costs"]["notes"][0]


def test_a_served_study_looks_for_the_captures_its_runs_make(tiny_study: Path, monkeypatch: pytest.MonkeyPatch):
    from engine.planning.outlines import target_outline
    from engine.runs.plan import plan_run, split_prompts
    from engine.study import costs as costing

    values = yaml.safe_load(tiny_study.read_text())
    server = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "requests_per_minute": 4}
    values["set"] |= {"capture.server": server, "capture.signal": "none"}
    values |= {"axes": {"loss": ["sft"]}, "match": []}
    tiny_study.write_text(yaml.safe_dump(values))
    placed = study(home(), load_study(tiny_study)).placed
    recipe = placed[0].cell.recipe
    outlined = target_outline(recipe.target)
    assert outlined is not None
    single = plan_run(home().captures, recipe, outlined, split_prompts(recipe, outlined))
    found, _ = costing._plans(home(), [recipe], costing.SILENT)
    assert [plans.captures for plans in found.values()] == [single.captures]
    assert "server" in single.captures["training"].spec
    assert costing.costs(home(), placed).captures == 4  # training, watched, two held out
