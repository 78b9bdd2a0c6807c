"""Events of a run: torn lines, redone steps, senseless numbers."""

import json

import pytest

from engine.records.events import Event, event_of, parse_events, replay


def train(step, loss=1.0, **more):
    return {"kind": "train", "step": step, "loss": loss, "tokens_seen": step * 10, "seconds": step / 2, **more}


def evaluation(step, exact=0.5):
    return {"kind": "eval", "step": step, "temperature": 1.0, "exact": exact, "tokens_seen": 40, "seconds": 2.0}


def query(number, accepted=2, step=0, **more):
    counts = {"emitted": 6, "rounds": 2, "drafted": 6, "accepted": accepted, "examined": 4, "expected": 1.9}
    return {"kind": "stream", "query": number, "prompt_id": f"p{number}", "step": step, **counts, **more}


def typed(*documents) -> list[Event]:
    events = [event_of(document) for document in documents]
    assert None not in events
    return [event for event in events if event is not None]


def replayed(*documents):
    """Kind, step and loss of what counts in the end."""
    return [(e.kind, getattr(e, "step", None), getattr(e, "loss", None)) for e in replay(typed(*documents))]


def steps(*documents):
    return [step for kind, step, _ in replayed(*documents) if kind == "train"]


def test_an_unbroken_run_is_left_as_it_is():
    events = typed(train(1), evaluation(1), train(2))
    assert replay(events) == events


def test_steps_redone_after_a_resume_count_once_and_the_second_time():
    events = [train(1), train(2, loss=9.0), train(3, loss=9.0), {"kind": "resumed", "step": 1}, train(2), train(3)]
    assert steps(*events) == [1, 2, 3]
    assert 9.0 not in [loss for _, _, loss in replayed(*events)]


def test_resuming_again_and_further_back():
    events = [train(1), train(2), {"kind": "resumed", "step": 1}, train(2), train(3), {"kind": "resumed", "step": 0}]
    assert steps(*events) == []
    assert steps(*events, train(1), {"kind": "resumed", "step": 1}, train(2)) == [1, 2]


def test_a_session_that_found_no_checkpoint_did_everything_again():
    started, first_eval = {"kind": "started"}, evaluation(0)
    killed = [started, first_eval, train(1, loss=9.0), train(2, loss=9.0)]
    again = [*killed, started, first_eval, train(1), started, {"kind": "resumed", "step": 1}, train(2)]
    kept = [event for event in replay(typed(*again)) if event.kind in ("train", "eval")]
    assert kept == typed(first_eval, train(1), train(2))
    assert replay(typed(*killed, started, {"kind": "ended"}))[:4] == typed(*killed)  # a session that only measures


def test_events_without_a_step_are_never_redone():
    note = {"kind": "note", "text": "warm-up"}
    assert replayed(note, train(5), {"kind": "resumed", "step": 2})[0][0] == "note"
    assert event_of({"kind": "resumed"}) is None


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_torn_last_line_costs_itself_and_nothing_else(cut):
    raw = b"".join(json.dumps(train(step)).encode() + b"\n" for step in range(3))
    parsed = parse_events(raw + json.dumps(train(3)).encode()[:cut])
    assert ([event.step for event in parsed.events], parsed.torn, parsed.senseless) == ([0, 1, 2], 1, 0)


def test_damage_in_the_middle_is_counted():
    raw = b'{"kind":"train","step":1}\n\xff\xfe\n[1, 2]\n\n' + b"[" * 100_000 + b'\n{"kind":"train","step":2}\n'
    parsed = parse_events(raw)
    assert ([event.step for event in parsed.events], parsed.torn) == ([1, 2], 3)
    assert parse_events(b"").events == []


def test_two_events_on_one_line_are_damage():
    parsed = parse_events(b'{"kind":"train","step":1},{"kind":"train","step":2}\n')
    assert (parsed.events, parsed.torn) == ([], 1)


def test_kinds_of_another_version_are_events_that_say_nothing():
    raw = b'{"kind":"train","step":1}\n{"kind":"moved","step":2}\n{"kind":["x"]}\n{}\n'
    parsed = parse_events(raw)
    assert ([event.kind for event in parsed.events], parsed.torn, parsed.senseless) == (
        ["train", "moved", "", ""],
        0,
        0,
    )


def test_a_senseless_event_is_left_out_and_counted():
    bad_steps = [train(1) | {"step": step} for step in ("x", 1.5, 2**80, True, None, [1])]
    bad_queries = [query("x"), query(0), query(None), query(2, accepted=5), query(2, accepted=None)]
    senseless = [*bad_steps, {"kind": "train"}, train(1, loss="low"), *bad_queries, query(2, expected="much")]
    raw = b"".join(json.dumps(document).encode() + b"\n" for document in [*senseless, train(2)])
    parsed = parse_events(raw)
    assert (parsed.torn, parsed.senseless) == (0, len(senseless))
    assert [event.step for event in parsed.events] == [2]
