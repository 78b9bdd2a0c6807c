"""Traces: saved and loaded, and put together from a measurement."""

import json
import os

import pytest

from engine.decode.events import Alternative, Fate, Round, Token
from engine.decode.text import TextStream
from engine.errors import DraftbenchError
from engine.paths import Home, home
from engine.runs.folder import RunFolder
from engine.traces import saved
from engine.traces.measured import trace_of_run, traced_prompts
from engine.traces.saved import list_traces, load_trace, save_trace
from engine.traces.trace import Trace
from tests.conftest import byte_tokenizer

TOKENIZER = byte_tokenizer()


def ids_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def trace(title="Why <b>?") -> Trace:
    one, two, three = ids_of("你")
    x, y = ids_of("xy")
    others = (Alternative(x, 0.5, 0.25), Alternative(y, 0.25, 0.0))
    rounds = [
        Round(
            0,
            0,
            2,
            (
                Token(x, Fate.ACCEPTED, 0, 0.5, 0.25, 0.1, 0.75, others),
                Token(y, Fate.REJECTED, 1, 0.1, 0.4, 0.9, 0.6),
                Token(one, Fate.CORRECTED, 1, 0.3, 0.0, 0.2),
            ),
            0.1,
            0.2,
            0.01,
        ),
        Round(
            0,
            1,
            1,
            (Token(two, Fate.ACCEPTED, 2, 0.5, 0.5, 0.1, 1.0), Token(three, Fate.BONUS, 3, 0.9)),
            0.1,
            0.2,
            0.0,
            "length",
        ),
    ]
    return Trace(
        "", title, "Why?\n<script>", {"seed": 3, "temperature": 1.0}, tuple(map(TextStream(TOKENIZER).read, rounds))
    )


def test_rounds_are_read_with_text_numbers_and_alternatives():
    made = trace()
    assert made.text == "x你"
    assert [t.text for r in made.rounds for t in r.tokens] == ["x", "y", "", "", "你"]
    assert made.rounds[0].tokens[0].alternatives[1].text == "y"
    assert (made.counts.drafted, made.counts.accepted, made.counts.rejected, made.counts.emitted) == (3, 2, 1, 4)
    assert sum(r.seconds for r in made.rounds) == pytest.approx(0.61)


@pytest.mark.parametrize(("slot", "prob"), [(0, 1.0), (1, 0.25), (2, None)])
def test_judged_tokens_have_an_acceptance_probability(slot, prob):
    assert trace().rounds[0].tokens[slot].acceptance_prob == (prob if prob is None else pytest.approx(prob))


def test_a_token_that_the_draft_could_not_have_proposed_is_never_accepted():
    assert Token(1, Fate.REJECTED, 0, target_prob=0.6, draft_prob=0.0).acceptance_prob == 0.0


def test_a_saved_trace_comes_back_as_it_was():
    made = trace()
    trace_id = save_trace(home(), made)
    found = load_trace(home(), trace_id)
    assert found.id == trace_id
    assert found.saved_at
    assert (found.title, found.prompt, found.settings, found.rounds) == (
        made.title,
        made.prompt,
        made.settings,
        made.rounds,
    )
    assert [t.id for t in list_traces(home())] == [trace_id]


def test_two_traces_of_one_title_have_two_ids():
    assert len({save_trace(home(), trace()) for _ in range(3)}) == 3


def test_a_title_of_any_letters_makes_a_harmless_id():
    for title in ("../../etc/passwd", "为什么", "", "x" * 500):
        trace_id = save_trace(home(), trace(title))
        assert home().trace(trace_id).parent == home().traces
        assert load_trace(home(), trace_id).title == title


@pytest.mark.parametrize("trace_id", ["../x", "a/b", "..", "", "a..b", "x\n", "/etc/passwd"])
def test_an_id_cannot_leave_the_folder(trace_id):
    with pytest.raises(DraftbenchError, match="not a valid name"):
        load_trace(home(), trace_id)


def test_an_unknown_trace_is_reported():
    with pytest.raises(DraftbenchError, match="no saved trace"):
        load_trace(home(), "none")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 99}', '{"format": 1, "rounds": [{"tokens": [1]}]}'])
def test_a_damaged_file_is_reported_and_left_out_of_the_list(content):
    good = save_trace(home(), trace())
    (home().traces / "bad.json").write_text(content)
    with pytest.raises(DraftbenchError, match=r"damaged|not valid JSON|format 99"):
        load_trace(home(), "bad")
    assert [t.id for t in list_traces(home())] == [good]


def test_a_list_reads_each_file_once_until_it_changes(monkeypatch):
    trace_id = save_trace(home(), trace("one"))
    assert [t.title for t in list_traces(home())] == ["one"]
    with monkeypatch.context() as patched:
        patched.setattr(saved, "read_json", lambda path: pytest.fail(f"{path} was read again"))
        assert [t.title for t in list_traces(home())] == ["one"]
    path = home().trace(trace_id)
    path.write_text(path.read_text(encoding="utf-8").replace('"title":"one"', '"title":"two"'), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert [t.title for t in list_traces(home())] == ["two"]


def drop_all_tokens(stored):
    stored["rounds"][0]["tokens"] = []


def claim_more_tokens_than_there_are(stored):
    stored["rounds"][0]["num_draft_tokens"] = 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("p", "0.5"),
        ("p", [1]),
        ("p", 2.0),
        ("q", float("nan")),
        ("u", "z"),
        ("u", -0.1),
        ("overlap", 10**400),
        ("position", None),
        ("position", -1),
        ("token_id", "a"),
        ("text", None),
        ("text", 5),
    ],
)
def test_a_token_with_a_value_that_cannot_be_shown_is_damage(name, value):
    """Each of them ended Replay in a traceback, or was shown as a probability."""
    trace_id = save_trace(home(), trace())
    stored = json.loads(home().trace(trace_id).read_text(encoding="utf-8"))
    token = stored["rounds"][0]["tokens"][0]
    for place in (token, token["alternatives"][0]):
        if name not in place:
            continue
        kept, place[name] = place[name], value
        home().trace(trace_id).write_text(json.dumps(stored))
        with pytest.raises(DraftbenchError, match="damaged"):
            load_trace(home(), trace_id)
        place[name] = kept


@pytest.mark.parametrize(
    ("name", "value"), [("draft_s", None), ("verify_s", "a"), ("overhead_s", -1.0), ("number", "0"), ("number", 1)]
)
def test_a_round_with_a_value_that_cannot_be_shown_is_damage(name, value):
    trace_id = save_trace(home(), trace())
    stored = json.loads(home().trace(trace_id).read_text(encoding="utf-8"))
    stored["rounds"][0][name] = value
    home().trace(trace_id).write_text(json.dumps(stored))
    with pytest.raises(DraftbenchError, match="damaged"):
        load_trace(home(), trace_id)


@pytest.mark.parametrize("damage", [drop_all_tokens, claim_more_tokens_than_there_are])
def test_a_round_that_does_not_add_up_is_damage(damage):
    trace_id = save_trace(home(), trace())
    stored = json.loads(home().trace(trace_id).read_text(encoding="utf-8"))
    damage(stored)
    home().trace(trace_id).write_text(json.dumps(stored))
    with pytest.raises(DraftbenchError, match="damaged"):
        load_trace(home(), trace_id)


def test_nothing_was_saved_yet():
    assert list_traces(home()) == []


# ---- traces of a measurement


@pytest.fixture
def run(finished_home) -> RunFolder:
    return RunFolder.open(Home(finished_home), "latest")


def test_a_run_tells_which_prompts_it_traced(run):
    found = traced_prompts(run)
    assert len(found) == 2 * 3  # two temperatures, measure.trace_prompts of the fixture
    assert {temperature for temperature, _ in found} == {0.0, 1.0}


def test_a_trace_of_a_run_has_the_prompt_its_settings_and_every_round(run):
    summary = {
        (m["metric"], m["temperature"]): m for m in run.summary().document()["metrics"] if m["draft"] == "trained"
    }
    for temperature in (0.0, 1.0):
        answer = [trace_of_run(run, t, p) for t, p in traced_prompts(run) if t == temperature]
        accepted, drafted = sum(t.counts.accepted for t in answer), sum(t.counts.drafted for t in answer)
        assert accepted / drafted == pytest.approx(summary["per_proposed", temperature]["value"])
        for found in answer:
            assert found.prompt.startswith("heldout question")
            assert found.settings["temperature"] == temperature
            assert found.settings["draft"] == run.id
            assert found.rounds[-1].finish_reason in ("stop", "length")
            assert [r.number for r in found.rounds] == list(range(len(found.rounds)))
            assert all(r.num_draft_tokens == r.accepted + r.rejected + r.discarded for r in found.rounds)


def test_a_stored_trace_has_the_likeliest_of_both_models(run):
    temperature, prompt_id = next(key for key in traced_prompts(run) if key[0] == 1.0)
    for item in trace_of_run(run, temperature, prompt_id).rounds:
        for token in item.tokens:
            if token.fate is Fate.DISCARDED:
                assert token.alternatives == ()
                continue
            assert len(token.alternatives) >= 10
            ordered = [a.target_prob for a in token.alternatives[:10]]
            assert ordered == sorted(ordered, reverse=True)
            mine = [a for a in token.alternatives if a.token_id == token.token_id]
            assert all(a.target_prob == pytest.approx(token.target_prob, abs=1e-6) for a in mine)


def test_an_untraced_prompt_is_reported(run):
    with pytest.raises(DraftbenchError, match="no trace of prompt"):
        trace_of_run(run, 0.0, "nobody")
    with pytest.raises(DraftbenchError, match="no trace of prompt"):
        trace_of_run(run, 0.5, traced_prompts(run)[0][1])


def test_a_measurement_of_an_earlier_version_is_read_without_alternatives(run):
    import pandas as pd

    key = traced_prompts(run)[0]
    for name, lost in (
        ("tokens", ["alt_ids", "alt_texts", "alt_p", "alt_q"]),
        ("rounds", ["finish_reason"]),
        ("prompts", ["text"]),
    ):
        path = run.path / "measure" / f"{name}.parquet"
        pd.read_parquet(path).drop(columns=lost).to_parquet(path)
    found = trace_of_run(run, *key)
    assert found.prompt == key[1]
    assert all(t.alternatives == () for r in found.rounds for t in r.tokens)


def test_a_run_without_measurement_is_reported(run):
    (run.path / "measure" / "rounds.parquet").unlink()
    with pytest.raises(DraftbenchError, match="has no traces"):
        traced_prompts(run)


def test_a_damaged_table_is_reported(run):
    (run.path / "measure" / "rounds.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DraftbenchError, match="damaged"):
        traced_prompts(run)


def test_a_round_whose_tokens_are_lost_is_reported(run):
    import pandas as pd

    key = traced_prompts(run)[0]
    path = run.path / "measure" / "tokens.parquet"
    table = pd.read_parquet(path)
    table[table["round"] > 0].to_parquet(path)
    with pytest.raises(DraftbenchError, match=r"measurement of run .* is damaged"):
        trace_of_run(run, *key)
    table.drop(columns="p").to_parquet(path)
    with pytest.raises(DraftbenchError, match=r"measurement of run .* is damaged"):
        trace_of_run(run, *key)


@pytest.mark.parametrize("summary", ["{}", '{"conditions": null}', "[]"])
def test_a_summary_without_conditions_is_reported(run, summary):
    run.summary_path.write_text(summary)
    with pytest.raises(DraftbenchError, match=r"summary\.json"):
        trace_of_run(run, *traced_prompts(run)[0])


def test_the_stored_format_keeps_its_names():
    trace_id = save_trace(home(), trace())
    stored = json.loads(home().trace(trace_id).read_text(encoding="utf-8"))
    assert stored.keys() == {"id", "title", "prompt", "settings", "rounds", "saved_at", "format"}
    first = stored["rounds"][0]
    seconds = {"draft_s", "verify_s", "overhead_s"}
    assert first.keys() == {"number", "num_draft_tokens", "tokens", "finish_reason", *seconds}
    assert first["tokens"][1] == {
        "text": "y",
        "token_id": ids_of("y")[0],
        "fate": "rejected",
        "position": 1,
        "p": 0.1,
        "q": 0.4,
        "u": 0.9,
        "overlap": 0.6,
        "alternatives": [],
    }
    assert first["tokens"][0]["alternatives"][0] == {"text": "x", "token_id": ids_of("x")[0], "p": 0.5, "q": 0.25}
