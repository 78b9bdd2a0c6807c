"""A served model is timed, by its own count of tokens, and nothing more is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.measure.decision import decide
from engine.paths import Home, home
from engine.planning.checks import checks
from engine.planning.estimate import estimate
from engine.runs.as_it_is import recipe_as_it_is
from engine.runs.folder import RunFolder
from tests.chat_server import MODEL, Said, Script, chat_server, reply
from tests.unit.conftest import Draftbench

TOKENS, WAIT_S = 5, 0.05


def counting(uncounted: str = "", refused: str = "") -> Script:
    """A server that writes five tokens in at least a twentieth of a second."""

    def say(body: dict[str, object], number: int) -> Said:
        asked = str(body["messages"][-1]["content"])  # type: ignore[index]
        if refused and refused in asked:
            return Said(status=500, body={"error": {"message": "out of memory"}})
        usage = {} if uncounted and uncounted in asked else {"usage": {"completion_tokens": TOKENS, "prompt_tokens": 3}}
        return Said(body={**reply("one two three four five"), **usage}, wait_s=WAIT_S)

    return say


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"question {word}"}) for word in "abcdefghij"), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_server_is_timed_and_what_has_no_count_is_left_out(draftbench: Draftbench, prompts: Path):
    with chat_server(counting(uncounted="question c", refused="question d")) as server:
        result = draftbench("measure-only", server.base_url, "--prompts", str(prompts), "--json")
        assert result.code == 0, result.err
        assert len(server.requests) == 9  # eight, after one that is not counted
        assert server.most_at_once == 1
        assert {body["model"] for body in server.requests} == {MODEL}
        document = result.json()
        rate = document["speed"]["tokens_per_s"]["served"]
        assert rate["n_prompts"] == 6
        assert 0 < rate["value"] <= TOKENS / WAIT_S
        assert (document["subject"], document["served"]["model"]) == ("target alone", MODEL)
        run = RunFolder.open(home(), document["run"])
        log = (run.path / "log.txt").read_text("utf-8")
        assert "does not say how many tokens it wrote" in log
        assert "mine-4" in log
        decision = decide(run.summary())
        assert decision.reasons[0] == "no draft was measured"
        assert decision.reasons[1].startswith("the server gives")
        shown = draftbench("show", run.id).out
        assert f"{MODEL} at {server.base_url}" in " ".join(shown.split())
        assert "smollm2" not in shown
        again = draftbench("measure", run.id, "--set", "measure.speed_tokens=8", "--json")
        assert again.code == 0, again.err


@pytest.mark.slow
def test_what_cannot_be_measured_of_a_server_is_refused(draftbench: Draftbench, prompts: Path, tmp_path: Path):
    with chat_server(counting(uncounted="question")) as server:
        refused = draftbench("measure-only", server.base_url, "--prompts", str(prompts), "--draft", "latest")
        assert refused.code == 2
        assert "the target, which is not here" in " ".join(refused.err.split())
        uncounted = draftbench("measure-only", server.base_url, "--prompts", str(prompts))
        assert uncounted.code == 2
        assert "no answer that can be timed" in uncounted.err
        server.models = [MODEL, "another"]
        several = draftbench("measure-only", server.base_url, "--prompts", str(prompts))
        assert several.code == 2
        assert "lists 2 models" in several.err
    gone = draftbench("measure-only", server.base_url, "--prompts", str(prompts))
    assert gone.code == 2
    assert "cannot be reached" in gone.err


def test_checks_and_estimate_look_at_no_model(prompts: Path, tmp_path: Path):
    with chat_server(counting()) as server:
        recipe = recipe_as_it_is(Home(tmp_path), server.base_url, [str(prompts)])
        found = checks(Home(tmp_path), recipe)
    assert [(c.name, c.ok) for c in found] == [("settings", True), ("held-out prompts", True), ("server", True)]
    assert "takes to answer" in estimate(Home(tmp_path), recipe).seconds_unknown
