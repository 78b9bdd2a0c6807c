"""Events to curves: torn lines, redone steps, senseless numbers; and single values."""

import json
from datetime import datetime

import pytest

from engine.index.curves import CurvePoint, curve_points, parse_events, replay, skipped_steps, stream_points
from engine.records.values import integer, json_text, number, text, timestamp


def train(step, loss=1.0):
    return {"kind": "train", "step": step, "loss": loss, "tokens_seen": step * 10, "seconds": step / 2}


def steps(events):
    return [event["step"] for event in events if event["kind"] == "train"]


def test_an_unbroken_run_is_left_as_it_is():
    events = [train(1), {"kind": "eval", "step": 1, "exact": 0.5}, train(2)]
    assert replay(events) == events


def test_steps_redone_after_a_resume_count_once_and_the_second_time():
    events = [train(1), train(2, loss=9.0), train(3, loss=9.0), {"kind": "resumed", "step": 1}, train(2), train(3)]
    kept = replay(events)
    assert steps(kept) == [1, 2, 3]
    assert all(event.get("loss", 1.0) == 1.0 for event in kept)


def test_resuming_again_and_further_back():
    events = [train(1), train(2), {"kind": "resumed", "step": 1}, train(2), train(3), {"kind": "resumed", "step": 0}]
    assert steps(replay(events)) == []
    assert steps(replay([*events, train(1), {"kind": "resumed", "step": 1}, train(2)])) == [1, 2]


def test_a_session_that_found_no_checkpoint_did_everything_again():
    started, first_eval = {"kind": "started"}, {"kind": "eval", "step": 0, "exact": 0.5}
    killed = [started, first_eval, train(1, loss=9.0), train(2, loss=9.0)]
    kept = replay([*killed, started, first_eval, train(1), started, {"kind": "resumed", "step": 1}, train(2)])
    assert [event for event in kept if event["kind"] in ("train", "eval")] == [first_eval, train(1), train(2)]
    assert replay([*killed, started, {"kind": "ended"}])[:4] == killed  # a session that only measures redoes no step


def test_events_without_a_step_are_never_redone():
    note = {"kind": "note", "text": "warm-up"}
    assert note in replay([note, train(5), {"kind": "resumed", "step": 2}])
    assert replay([train(5), {"kind": "resumed"}])[0] == train(5)  # a resume from nowhere drops nothing


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_torn_last_line_costs_itself_and_nothing_else(cut):
    raw = b"".join(json.dumps(train(step)).encode() + b"\n" for step in range(3))
    events, damaged = parse_events(raw + json.dumps(train(3)).encode()[:cut])
    assert (steps(events), damaged) == ([0, 1, 2], 1)


def test_damage_in_the_middle_is_counted():
    raw = b'{"kind":"train","step":1}\n\xff\xfe\n[1, 2]\n\n' + b"[" * 100_000 + b'\n{"kind":"train","step":2}\n'
    events, damaged = parse_events(raw)
    assert (steps(events), damaged) == ([1, 2], 3)
    assert parse_events(b"") == ([], 0)


def test_points_of_both_kinds():
    evaluation = {"kind": "eval", "step": 4, "temperature": 1.0, "exact": 0.6, "tokens_seen": 40, "seconds": 2.0}
    points, damaged = curve_points([train(4, loss=0.25), evaluation, {"kind": "checkpoint", "step": 4}])
    assert points == [
        CurvePoint(step=4, kind="train", temperature=None, value=0.25, tokens_seen=40, seconds=2.0),
        CurvePoint(step=4, kind="eval", temperature=1.0, value=0.6, tokens_seen=40, seconds=2.0),
    ]
    assert damaged == 0


def test_a_diverged_loss_is_a_gap_and_a_senseless_event_is_left_out():
    events, _ = parse_events(b'{"kind":"train","step":1,"loss":NaN}\n')
    assert curve_points(events)[0][0].value is None
    bad_steps = [{**train(1), "step": step} for step in ("x", 1.5, 2**80, True, None, [1])]
    senseless = [*bad_steps, {"kind": "train"}, train(1, loss="low")]
    assert curve_points(senseless) == ([], len(senseless))


def query(number, accepted=2, step=0, **more):
    counts = {"emitted": 6, "rounds": 2, "drafted": 6, "accepted": accepted, "examined": 4, "expected": 1.9}
    return {"kind": "stream", "query": number, "prompt_id": f"p{number}", "step": step, **counts, **more}


def accepted_of(events):
    return [(point.query, point.accepted) for point in stream_points(replay(events))[0]]


def test_the_queries_of_a_stream_are_points():
    points, damaged = stream_points([train(1), query(1, step=3), query(2, expected=None)])
    assert (points[0].query, points[0].step, points[0].prompt_id, points[0].expected) == (1, 3, "p1", 1.9)
    assert points[1].expected is None
    assert damaged == 0


def test_queries_streamed_again_after_a_resume_replace_the_earlier_ones():
    before = [query(1), query(2), train(1), query(3, 9, examined=9, step=1), query(4, 9, examined=9, step=1), train(2)]
    resumed = [*before, {"kind": "started"}, {"kind": "resumed", "step": 1}]
    again = [*resumed, query(3, step=1)]
    assert accepted_of(again) == [(1, 2), (2, 2), (3, 2)]  # what followed the earlier third query is still to come
    assert accepted_of([*again, query(4, step=1), train(2)]) == [(1, 2), (2, 2), (3, 2), (4, 2)]
    assert accepted_of([query(1), query(2), query(2, 3), query(2, 1)]) == [(1, 2), (2, 1)]


def test_queries_of_lost_updates_are_dropped_at_once_also_with_several_steps_an_update():
    """Two steps an update; the checkpoint lies behind the first update, and nothing is streamed again yet."""
    before = [query(1), query(2), train(1), train(2), query(3, step=2), query(4, step=2), train(3)]
    assert accepted_of([*before, {"kind": "resumed", "step": 2}]) == [(1, 2), (2, 2)]
    assert len(accepted_of([*before, {"kind": "resumed", "step": 3}])) == 4


def test_a_stream_begun_anew_without_a_checkpoint_is_not_mixed_with_the_first():
    started = {"kind": "started"}
    assert accepted_of([started, query(1), query(2), query(3), started, query(1, 4)]) == [(1, 4)]


def test_a_query_that_makes_no_sense_is_left_out_and_counted():
    bad = [query("x"), query(0), query(None), query(2, accepted=5), query(2, accepted=None), query(2, expected="much")]
    assert stream_points(bad) == ([], len(bad))
    torn = b"".join(json.dumps(query(number)).encode() + b"\n" for number in (1, 2)) + b'{"kind":"stream","query":3,'
    events, damaged = parse_events(torn)
    assert ([point.query for point in stream_points(events)[0]], damaged) == ([1, 2], 1)


def test_skipped_steps_are_counted_once_and_are_no_points():
    skipped = {"kind": "skipped", "step": 2, "tokens_seen": 20, "seconds": 1.0}
    events = replay([train(1), skipped, {"kind": "resumed", "step": 1}, skipped, train(3)])
    assert skipped_steps(events) == 1
    assert [point.step for point in curve_points(events)[0]] == [1, 3]


def test_values_are_none_or_a_value():
    assert number(None) is number(float("nan")) is integer(None) is text(None) is timestamp(None) is None
    assert (number(3), integer(3.0), integer(2**62), text(3), text("ü")) == (3.0, 3, 2**62, "3", "ü")
    assert text("half \ud83d") == "half ?"


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (number, True),
        (number, "1"),
        (number, 10**400),
        (integer, 0.5),
        (integer, 2**63),
        (integer, float("inf")),
        (text, []),
        (text, {}),
        (timestamp, 5),
        (timestamp, "yesterday"),
        (timestamp, "0001-01-01T00:00:00+14:00"),
    ],
)
def test_what_makes_no_sense_is_an_error(read, bad):
    with pytest.raises(ValueError, match=r"not|no|large|Invalid"):
        read(bad)


def test_times_are_utc_without_a_zone():
    noon = datetime(2025, 6, 1, 12)
    for written in ("2025-06-01T12:00:00Z", "2025-06-01T14:00:00+02:00", "2025-06-01T12:00:00", "2025-06-01 12:00"):
        assert timestamp(written) == noon


def test_json_text_is_strict():
    written = json_text({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "ü": "\udc00"})
    assert json.loads(written) == {"a": [None, 1.5], "b": {"c": None}, "ü": "?"}
