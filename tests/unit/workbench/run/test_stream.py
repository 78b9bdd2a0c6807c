"""What the page of an online run is drawn from: the rolling rates of its stream, the tail of its events, its facts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from engine.config.reading import parse_recipe
from engine.records.events import StreamedQuery
from engine.records.training import Training
from workbench.run import facts, stream_chart
from workbench.run.training_curve import EventTail
from workbench.shared.method_names import method_name


def point(query: int, accepted: int, examined: int, expected: float | None, step: int = 0) -> StreamedQuery:
    counts = {"emitted": examined + 2, "rounds": 3, "drafted": 9, "accepted": accepted, "examined": examined}
    return StreamedQuery(query=query, step=step, prompt_id=f"p{query}", expected=expected, **counts)


def test_the_rolling_rate_is_of_sums_over_the_last_queries():
    frame = stream_chart.along([point(1, 1, 4, 2.0), point(2, 0, 0, 0.0), point(3, 6, 8, 4.0)], window=2)
    assert list(frame.acceptance) == [1 / 4, 1 / 4, 6 / 8]
    assert list(frame.expected_acceptance) == [2 / 4, 2 / 4, 4 / 8]
    assert list(frame.window_examined) == [4, 4, 8]


def test_what_nobody_judged_has_no_rate():
    frame = stream_chart.along([point(1, 0, 0, 0.0), point(2, 1, 2, None)], window=4)
    assert math.isnan(frame.acceptance[0])
    assert math.isnan(frame.expected_acceptance[1])  # what was to be expected of the second is not known
    assert frame.acceptance[1] == 1 / 2
    assert stream_chart.along([]).empty


def test_an_expectation_that_is_not_known_does_not_count_as_none():
    frame = stream_chart.along([point(1, 2, 4, None), point(2, 2, 4, 3.0)], window=4)
    assert frame.expected_acceptance[1] == 3 / 4


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_the_chart_has_both_lines_and_a_mark_before_the_first_query_after_an_update(tone: str):
    points = [point(i, i % 3, 4, 1.5, step=(i - 1) // 2) for i in range(1, 7)]
    accepted, expected, updates = stream_chart.figure(stream_chart.along(points), tone).data
    assert (len(accepted.y), len(expected.y)) == (6, 6)
    assert accepted.line.dash != expected.line.dash
    assert list(updates.x) == [2.5, 4.5]


def test_the_chart_of_a_stream_without_updates_is_drawn():
    assert stream_chart.figure(stream_chart.along([point(1, 0, 0, None)]), "light").data
    assert "unknown accepted" in stream_chart.alt(stream_chart.along([point(1, 0, 0, None)]), "it")


def test_a_tail_follows_a_stream_through_a_torn_line_and_a_resume(tmp_path: Path):
    path = tmp_path / "events.jsonl"

    def line(query: int, accepted: int, step: int = 0) -> str:
        event = {"kind": "stream", "query": query, "accepted": accepted, "examined": 4, "expected": 1.0, "step": step}
        return json.dumps(event) + "\n"

    tail = EventTail(path)
    assert tail.stream() == []
    path.write_text('{"kind": "started"}\n' + line(1, 1) + line(2, 4, 1)[:20])
    assert [p.query for p in tail.stream()] == [1]
    with open(path, "a") as file:
        file.write(line(2, 4, 1)[20:] + line(3, 4, 1) + '{"kind": "skipped", "step": 1}\n')
    assert ([p.accepted for p in tail.stream()], tail.skipped()) == ([1, 4, 4], 1)
    with open(path, "a") as file:
        file.write('{"kind": "started"}\n{"kind": "resumed", "step": 1}\n' + line(2, 2, 1))
    assert ([p.accepted for p in tail.stream()], tail.skipped()) == ([1, 2], 1)


def recipe(train: dict[str, Any], **more: Any) -> Any:
    prompts = {"train": "a.jsonl", "heldout": "b.jsonl"}
    return parse_recipe({"prompts": prompts, "train": train, **more})


def figures(
    train: dict[str, Any], training: dict[str, Any] | None = None, skipped: int = 0, **more: Any
) -> dict[str, str]:
    return dict(facts.facts(recipe(train, **more), facts.effort(Training.of_values(training or {}), skipped)))


def test_facts_of_an_online_run():
    spec = {"mode": "online", "online": {"stream": "replay", "replay_share": 0.25, "swap_every": 0}}
    done = {"steps": 8, "steps_done": 8, "tokens_seen": 4000, "positions_trained": 1000, "steps_skipped": 2}
    found = figures(spec, done)
    assert (found["Mode"], found["Supervision"], found["Replay share"]) == ("online", "white box", "25%")
    assert found["Stream"] == "replayed, gamma 3"
    assert found["Positions trained"] == "1,000 of 4,000 tokens seen (25%)"
    assert (found["Steps"], found["Steps with nothing to learn"]) == ("8 of 8", "2")
    assert found["New weights used"] == "never"


def test_facts_name_what_applies_and_nothing_else():
    found = figures({})
    assert found == {
        "Target": "smollm2-135m-instruct",
        "Draft starts from": "4 layers of the target",
        "Mode": "offline",
        "Supervision": "white box",
        "Loss": "forward_kl",
    }
    assert figures({}, skipped=3)["Steps with nothing to learn"] == "3"  # of a run at work its events tell
    assert "Token selection" in figures({"selection": {"share": 0.4, "reference": "r"}})
    old = {"steps": 2, "steps_done": 2, "tokens_seen": 50, "positions_trained": 0}  # from before positions were counted
    assert figures({}, old)["Target tokens seen"] == "50"


def test_a_server_is_named_with_its_address():
    server = {"base_url": "http://127.0.0.1:8000/v1", "model": "m", "key_env": "A_KEY"}
    found = figures({"loss": "sft"}, capture={"signal": "none", "server": server})
    assert found["Answers from"] == "m at http://127.0.0.1:8000/v1"
    assert found["Supervision"] == "black box"
    assert "A_KEY" not in str(found)


@pytest.mark.parametrize(
    ("loss", "mode", "name"),
    [
        ("forward_kl", "offline", "forward_kl"),
        ("forward_kl", "online", "online forward_kl"),
        ("jsd(beta=0.1)", "on_policy", "on-policy jsd(beta=0.1)"),
        ("tvd", None, "tvd"),
        (None, "online", "online unknown loss"),
        (float("nan"), float("nan"), "unknown loss"),
    ],
)
def test_a_method_is_named_by_its_loss_and_any_mode_but_the_usual_one(loss: object, mode: object, name: str):
    assert method_name(loss, mode) == name
