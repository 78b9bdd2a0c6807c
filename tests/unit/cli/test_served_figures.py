"""`served import`, `show`, `remove`, `probe`: from files or a live server to a verdict, in the terminal and as JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.paths import home
from engine.runs.folder import RunFolder
from engine.runs.removing import remove_run
from engine.runs.samples import SAMPLES
from tests.unit.conftest import Result, call
from tests.unit.deploy.readers import recorded
from tests.unit.deploy.readers.recorded import vllm_scrape
from tests.unit.deploy.real_run import RUN
from tests.unit.deploy.test_probe import StandIn, listed, running, whole

pytestmark = pytest.mark.slow


@pytest.fixture
def run() -> RunFolder:
    home().runs.mkdir(parents=True)
    return RunFolder(Path(shutil.copytree(RUN, home().runs / "sample")))


def written(folder: Path, name: str, content: Any) -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder / name)


def two_scrapes(folder: Path) -> tuple[str, str]:
    return (
        written(folder, "before.txt", vllm_scrape(100, [40, 12, 4])),
        written(folder, "after.txt", vllm_scrape(1100, [376, 131, 42])),
    )


def only(result: Result) -> Any:
    assert result.code == 0, result.err
    (one,) = result.json()["served"]
    return one


def test_two_scrapes_become_a_measurement_with_a_verdict(run: RunFolder, tmp_path: Path):
    before, after = two_scrapes(tmp_path)
    result = call("served", "import", "sample", before, "--after", after, "--temperature", "0", "--name", "day-1")
    assert result.code == 0, result.err
    assert "agrees: as predicted" in result.out
    assert "token 1 accepted" in result.out
    assert "they include other requests of that time" in result.out
    shown = only(call("served", "show", "sample", "day-1", "--json"))
    assert shown["verdict"]["outcome"] == "agrees"
    assert shown["measurement"]["totals"]["accepted_at"] == [336, 119, 38]
    assert [file["name"] for file in shown["measurement"]["files"]] == ["before.txt", "after.txt"]


def test_a_gap_is_printed_with_its_causes_and_what_to_do(run: RunFolder, tmp_path: Path):
    answers = written(tmp_path, "a.json", recorded.with_ids(recorded.VLLM, 12))
    result = call("served", "import", "sample", answers, "--temperature", "0")
    assert result.code == 0
    assert "differs: not as predicted" in result.out
    assert "  1. " in result.out
    assert "fix: " in result.out
    document = only(call("served", "show", "sample", "--json"))
    weights = [cause["weight"] for cause in document["verdict"]["causes"]]
    assert weights == sorted(weights, reverse=True)
    assert weights


def test_without_a_temperature_the_verdict_is_open(run: RunFolder, tmp_path: Path):
    document = only(call("served", "import", "sample", written(tmp_path, "a.json", recorded.SGLANG), "--json"))
    assert document["verdict"]["outcome"] == "open"
    assert "--temperature" in document["verdict"]["fix"]


def test_a_run_without_a_measurement_keeps_the_figures_and_says_what_to_run(run: RunFolder, tmp_path: Path):
    shutil.rmtree(run.path / "measure")
    document = only(
        call("served", "import", "sample", written(tmp_path, "a.json", recorded.VLLM), "--temperature", "0", "--json")
    )
    assert document["verdict"]["outcome"] == "open"
    assert document["verdict"]["fix"] == "measure it: `draftbench measure sample`"


def test_contradicting_figures_are_refused_and_nothing_is_kept(run: RunFolder, tmp_path: Path):
    wrong = recorded.changed(recorded.LLAMA_CPP, "timings.draft_n_accepted", 99)
    result = call("served", "import", "sample", written(tmp_path, "a.json", wrong), "--json")
    assert result.code == 2
    assert "99 tokens were accepted, 71 proposed" in result.json()["error"]["what"]
    assert not (run.path / "served").exists()


def test_one_is_removed_by_name(run: RunFolder, tmp_path: Path):
    call("served", "import", "sample", written(tmp_path, "a.json", recorded.VLLM), "--name", "one")
    assert call("served", "remove", "sample", "one").code == 0
    assert "has no served measurement" in call("served", "show", "sample").out
    assert call("served", "remove", "sample", "one").code == 2


def test_a_damaged_one_is_listed_and_the_others_too(run: RunFolder, tmp_path: Path):
    for name in ("a", "b"):
        call("served", "import", "sample", written(tmp_path, "a.json", recorded.VLLM), "--name", name)
    (run.path / "served" / "a" / "measurement.json").write_text("{")
    result = call("served", "show", "sample")
    assert result.code == 0
    assert "a: " in result.out
    assert "not valid JSON" in result.out
    assert "b: vLLM's answers" in result.out


def test_a_run_is_removed_with_its_served_measurements(run: RunFolder, tmp_path: Path):
    call("served", "import", "sample", written(tmp_path, "a.json", recorded.VLLM))
    remove_run(home(), run)
    assert not run.path.exists()


def test_names_and_texts_of_a_server_do_not_steer_the_terminal(run: RunFolder, tmp_path: Path):
    evil = recorded.changed(recorded.AIPERF, "spec_decode_acceptance.engine", "\x1b[2Jevil")
    result = call("served", "import", "sample", written(tmp_path, "a.json", evil), "--temperature", "0")
    assert result.code == 0, result.err
    assert "\x1b" not in result.out


def test_a_live_server_is_asked_the_held_out_prompts_of_a_run():
    """Of a sample whose prompts come with the project."""
    home().runs.mkdir(parents=True)
    run = RunFolder(Path(shutil.copytree(SAMPLES / "biology-forward-kl-20261122-101542-9142", home().runs / "sample")))
    stand_in = StandIn(whole(recorded.VLLM), {"/v1/models": listed("vllm")})
    with running(stand_in):
        result = call(
            "served", "probe", stand_in.url, "--run", "sample", "--limit", "9", "--temperatures", "0", "--json"
        )
    document = only(result)
    assert document["name"].endswith("-t0")
    assert len(stand_in.asked) == 9
    assert stand_in.asked[0]["max_tokens"] == 96
    assert document["verdict"]["figures"][0]["basis"] == "prompts"
    assert (run.path / "served" / document["name"] / "raw" / "1-answers.jsonl").is_file()


def test_a_name_that_is_taken_or_too_long_is_refused_before_anything_is_asked():
    home().runs.mkdir(parents=True)
    run = RunFolder(Path(shutil.copytree(SAMPLES / "biology-forward-kl-20261122-101542-9142", home().runs / "sample")))
    (run.path / "served" / "day-t1").mkdir(parents=True)
    stand_in = StandIn(whole(recorded.VLLM), {"/v1/models": listed("vllm")})
    with running(stand_in):
        for name, message in (("day", "there is a served measurement day-t1 already"), ("d" * 78, "not the name")):
            result = call("served", "probe", stand_in.url, "--run", "sample", "--name", name)
            assert result.code == 2
            assert message in result.err
        result = call("served", "probe", stand_in.url, "--run", "sample", "--gamma", "65")
        assert (result.code, "--gamma is 65" in result.err) == (2, True)
        assert stand_in.asked == []
        near = "0.1234567,0.1234568"  # one name, were they rounded to six digits
        document = call(
            *("served", "probe", stand_in.url, "--run", "sample", "--limit", "1", "--temperatures", near),
            *("--name", "near", "--json"),
        ).json()
    assert [one["name"] for one in document["served"]] == ["near-t0.1234567", "near-t0.1234568"]


def test_without_a_run_nothing_is_kept(tmp_path: Path):
    prompts = written(tmp_path, "p.jsonl", '{"prompt": "What is a cell?"}\n{"prompt": "What is DNA?"}\n')
    stand_in = StandIn(whole(recorded.VLLM), {"/v1/models": listed("vllm")})
    with running(stand_in):
        result = call("served", "probe", stand_in.url, "--prompts", prompts)
    assert result.code == 0, result.err
    assert "accepted / proposed" in result.out
    assert len(stand_in.asked) == 4
    assert not home().runs.exists()


def test_prompts_that_repeat_another_one_are_not_sent_and_that_is_said(tmp_path: Path):
    rows = ["What is a cell?", "What is a cell?", "What is DNA?"]
    prompts = written(tmp_path, "p.jsonl", "".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    stand_in = StandIn(whole(recorded.VLLM), {"/v1/models": listed("vllm")})
    with running(stand_in):
        result = call(
            *("served", "probe", stand_in.url, "--prompts", prompts, "--temperatures", "0", "--limit", "2", "--json")
        )
    assert [body["messages"][0]["content"] for body in stand_in.asked] == ["What is a cell?", "What is DNA?"]
    (one,) = result.json()["served"]
    assert "1 of 3 prompts repeat another one and are left out" in one["measurement"]["notes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("http://127.0.0.1:9/v1",), "no prompts to send"),
        (("http://127.0.0.1:9/v1", "--prompts", "missing.jsonl"), "missing.jsonl"),
        (("http://127.0.0.1:9/v1", "--prompts", "x", "--temperatures", "0,hot"), "is not a list of numbers"),
    ],
)
def test_what_cannot_be_probed_is_explained(arguments: tuple[str, ...], message: str):
    result = call("served", "probe", *arguments)
    assert result.code == 2
    assert message in result.err


def test_a_name_for_what_is_not_kept_is_refused():
    result = call("served", "probe", "http://127.0.0.1:9/v1", "--name", "day")
    assert result.code == 2
    assert "--name without --run" in result.err
