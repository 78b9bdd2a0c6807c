"""Events to points of a curve and queries of a stream."""

import math

from engine.index.curves import CurvePoint, curve_points, skipped_steps, streamed_queries
from engine.records.events import parse_events, replay
from tests.unit.records.test_events import evaluation, query, train, typed


def accepted_of(*documents):
    return [(event.query, event.accepted) for event in streamed_queries(replay(typed(*documents)))]


def test_points_of_both_kinds():
    events = typed(train(4, loss=0.25), evaluation(4, exact=0.6), {"kind": "checkpoint", "step": 4})
    assert curve_points(events) == [
        CurvePoint(step=4, kind="train", temperature=None, value=0.25, tokens_seen=40, seconds=2.0),
        CurvePoint(step=4, kind="eval", temperature=1.0, value=0.6, tokens_seen=40, seconds=2.0),
    ]


def test_a_diverged_loss_is_a_gap():
    events = parse_events(b'{"kind":"train","step":1,"loss":NaN}\n{"kind":"train","step":2,"loss":null}\n').events
    assert [point.value for point in curve_points(events)] == [None, None]


def test_the_queries_of_a_stream_come_in_order():
    first, second = streamed_queries(typed(train(1), query(1, step=3), query(2, expected=None)))
    assert (first.query, first.step, first.prompt_id, first.expected) == (1, 3, "p1", 1.9)
    assert math.isnan(second.expected)


def test_queries_streamed_again_after_a_resume_replace_the_earlier_ones():
    before = [query(1), query(2), train(1), query(3, 9, examined=9, step=1), query(4, 9, examined=9, step=1), train(2)]
    resumed = [*before, {"kind": "started"}, {"kind": "resumed", "step": 1}]
    again = [*resumed, query(3, step=1)]
    assert accepted_of(*again) == [(1, 2), (2, 2), (3, 2)]  # what followed the earlier third query is still to come
    assert accepted_of(*again, query(4, step=1), train(2)) == [(1, 2), (2, 2), (3, 2), (4, 2)]
    assert accepted_of(query(1), query(2), query(2, 3), query(2, 1)) == [(1, 2), (2, 1)]


def test_queries_of_lost_updates_are_dropped_at_once_also_with_several_steps_an_update():
    """Two steps an update; the checkpoint comes after the first update, and nothing is streamed again yet."""
    before = [query(1), query(2), train(1), train(2), query(3, step=2), query(4, step=2), train(3)]
    assert accepted_of(*before, {"kind": "resumed", "step": 2}) == [(1, 2), (2, 2)]
    assert len(accepted_of(*before, {"kind": "resumed", "step": 3})) == 4


def test_a_stream_begun_anew_without_a_checkpoint_is_not_mixed_with_the_first():
    started = {"kind": "started"}
    assert accepted_of(started, query(1), query(2), query(3), started, query(1, 4)) == [(1, 4)]


def test_skipped_steps_are_counted_once_and_are_no_points():
    skipped = {"kind": "skipped", "step": 2, "tokens_seen": 20, "seconds": 1.0}
    events = replay(typed(train(1), skipped, {"kind": "resumed", "step": 1}, skipped, train(3)))
    assert skipped_steps(events) == 1
    assert [point.step for point in curve_points(events)] == [1, 3]
