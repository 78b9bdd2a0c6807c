"""A user's own logs: the forms they come in, what is scrubbed, how they are split, and what is left when it breaks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config.schema import PromptSource
from engine.data.overlap import remove_overlap
from engine.data.readers import read_prompts
from engine.data.records import BadRecordError
from engine.errors import DraftbenchError
from engine.logs import importing
from engine.logs.importing import ImportOptions, import_logs
from engine.logs.queries import LogSource, queries_of
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow

WORDS = [
    "river",
    "mountain",
    "protein",
    "engine",
    "harvest",
    "lantern",
    "violin",
    "glacier",
    "orbit",
    "compass",
    "meadow",
    "anchor",
]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


def question(number: int) -> str:
    """A question unlike all others."""
    chosen = [WORDS[(number // 12**power) % 12] for power in range(3)]
    return f"Tell me about the {chosen[0]} of number {number * 7919}, its {chosen[1]} and its {chosen[2] * 2}?"


def chats(count: int = 60) -> list[dict[str, Any]]:
    return [{"messages": [user(question(i)), assistant(f"answer {i}")]} for i in range(count)]


def log(folder: Path, rows: Sequence[Any], name: str = "log.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def imported(
    tmp_path: Path, rows: Sequence[Any], columns: dict[str, str] | None = None, **options: Any
) -> dict[str, Any]:
    source = LogSource(path=str(log(tmp_path, rows)), **(columns or {}))
    return import_logs([source], tmp_path / "out", ImportOptions(**options))


def records(tmp_path: Path, side: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()]


def everything(tmp_path: Path) -> list[dict[str, Any]]:
    return records(tmp_path) + records(tmp_path, "heldout")


def read(record: dict[str, Any], every_turn: bool = False, **columns: str) -> list[tuple[list[str], str]]:
    """What is asked (roles and texts) and the reference, of each query in one row."""
    result = queries_of(record, LogSource(path="x.jsonl", **columns), "x-1", every_turn=every_turn)
    return [([f"{m['role'][0]}:{m['content']}" for m in q.prompt.messages], q.reference) for q in result]


# --- where a conversation is cut ---


def test_the_last_answer_is_cut_off_and_kept():
    assert read({"messages": [user("a"), assistant("b"), user("c"), assistant(" d ")]}) == [
        (["u:a", "a:b", "u:c"], "d")
    ]
    assert read({"messages": [user("a")]}) == [(["u:a"], "")]
    assert read({"prompt": "a"}) == [(["u:a"], "")]


def test_every_turn_gives_a_prompt_with_all_that_came_before():
    conversation = [{"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"), assistant("d"), user("e")]
    assert read({"messages": conversation}, every_turn=True) == [
        (["s:s", "u:a"], "b"),
        (["s:s", "u:a", "a:b", "u:c"], "d"),
        (["s:s", "u:a", "a:b", "u:c", "a:d", "u:e"], ""),
    ]


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def test_an_answer_of_calls_is_the_text_that_a_prompt_asks_for():
    one = {"messages": [user("a"), assistant(None, tool_calls=[CALL])], "tools": [tool("f")]}
    assert read(one) == [(["u:a"], '{"name": "f", "arguments": {"x": 1}}')]
    two = {"messages": [user("a"), assistant("", tool_calls=[CALL, CALL])]}
    assert json.loads(read(two)[0][1]) == [{"name": "f", "arguments": {"x": 1}}] * 2
    answered = [
        user("a"),
        assistant(None, tool_calls=[CALL]),
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ]
    source = LogSource(path="x.jsonl")
    (query,) = queries_of({"messages": [*answered, assistant("It is 2.")]}, source, "x", every_turn=False)
    assert query.prompt.messages[1]["tool_calls"] == [{**CALL, "function": {"name": "f", "arguments": {"x": 1}}}]
    assert query.reference == "It is 2."


def answered(record: dict[str, Any], every_turn: bool = False, **columns: str) -> tuple[list[str], dict[str, int]]:
    """The references of one row, and what was left aside or translated."""
    seen = Counter[str]()
    source = LogSource(path="x.jsonl", **columns)
    queries = queries_of(record, source, "x-1", every_turn=every_turn, seen=seen)
    return [query.reference for query in queries], dict(+seen)


def test_what_an_answer_has_no_place_for_is_left_aside_and_counted():
    calls = '{"name": "f", "arguments": {"x": 1}}'
    assert answered({"messages": [user("a"), assistant("Let me look", tool_calls=[CALL])]}) == (
        [calls],
        {"text beside calls left aside": 1},
    )
    for name in ("reasoning_content", "reasoning", "thinking"):
        message = assistant("b", **{name: "hm"})
        noted = {"reasoning beside an answer left aside": 1}
        assert answered({"messages": [user("a"), message]}) == (["b"], noted)
        assert answered({"prompt": "a", "answer": message}, reference_column="answer") == (["b"], noted)
    more = {"further message of the assistant after its answer left aside": 2}
    turns = [user("a"), assistant("b"), assistant("c"), assistant("d")]
    assert answered({"messages": turns}) == (["b"], more)
    assert answered({"messages": [*turns, user("e"), assistant("f")]}, every_turn=True) == (["b", "f"], more)
    assert answered({"messages": [user("a"), assistant("b")], "answer": "c"}, reference_column="answer") == (
        ["c"],
        {"answer in the messages left aside beside 'answer', which says something else": 1},
    )
    assert answered({"messages": [user("a"), assistant("b")], "answer": "b"}, reference_column="answer") == (["b"], {})


@pytest.mark.parametrize(
    ("word", "whole"),
    [("stop", True), ("tool_calls", True), (None, True), (7, True), ("length", False), ("content_filter", False)],
)
def test_an_answer_that_was_cut_or_refused_is_no_reference(word: Any, whole: bool):
    noted = {} if whole else {f"answer that ended with {word!r} left aside": 1}
    expected = (["b"] if whole else [""], noted)
    chat = [user("a"), assistant("b")]
    assert answered({"messages": chat, "finish_reason": word}) == expected
    assert answered({"messages": [user("a"), assistant("b", finish_reason=word)]}) == expected
    row = {"prompt": "a", "response": {"choices": [{"message": assistant("b"), "finish_reason": word}]}}
    assert answered(row, reference_column="response.choices.0.message") == expected
    assert answered(row, reference_column="response.choices.0.message.content") == expected
    with pytest.raises(BadRecordError, match=r"name a part of it, such as response\.choices\.0\.message"):
        answered(row, reference_column="response.choices")
    turns = {"messages": [*chat, user("c"), assistant("d")], "finish_reason": word}
    assert answered(turns, every_turn=True) == (["b", "d" if whole else ""], noted)  # the row's word is of its last one


def test_the_column_that_says_how_an_answer_ended_is_read_of_every_format(tmp_path: Path):
    rows = [{**chat, "finish_reason": "length" if i < 3 else "stop"} for i, chat in enumerate(chats(40))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    for name in ("log.jsonl", "log.parquet"):
        summary = import_logs([LogSource(path=str(tmp_path / name))], tmp_path / f"{name}-out", ImportOptions())
        (file,) = summary["files"]
        assert file["translated"] == {"answer that ended with 'length' left aside": 3}
        assert "left_aside" not in file
        assert sum(summary["counts"][f"{side}_with_reference"] for side in ("train", "heldout")) == 37


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            {"messages_column": "conversations"},
        ),
        (
            {"request": {"messages": [user("a")]}, "response": {"choices": [{"message": assistant("b")}]}},
            {"messages_column": "request.messages", "reference_column": "response.choices.0.message"},
        ),
        ({"question": "a", "answer": "b"}, {"prompt_column": "question", "reference_column": "answer"}),
        ({"messages": json.dumps([user("a"), assistant("b")])}, {}),
        ({"messages": [user([{"type": "text", "text": "a"}]), assistant([{"type": "text", "text": "b"}])]}, {}),
    ],
)
def test_forms_of_logs(record: dict[str, Any], columns: dict[str, str]):
    assert read(record, **columns) == [(["u:a"], "b")]


def test_older_forms_of_tools_and_calls():
    call = {"name": "f", "arguments": "{}"}
    row = {
        "messages": [
            {"role": "developer", "content": "s"},
            user("a"),
            {"role": "assistant", "content": None, "function_call": call},
        ],
        "functions": [{"name": "f", "parameters": {}}],
    }
    (query,) = queries_of(row, LogSource(path="x", tools_column="functions"), "x", every_turn=False)
    assert [m["role"] for m in query.prompt.messages] == ["system", "user"]
    assert query.prompt.tools[0]["function"]["name"] == "f"
    assert json.loads(query.reference) == {"name": "f", "arguments": {}}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a"}, "neither 'messages' nor 'prompt'; it has: text"),
        ({"messages": [assistant("a")]}, "has no question"),
        ({"messages": []}, "must be a list of messages"),
        ({"messages": "not json"}, "not valid JSON"),
        ({"messages": [user([{"type": "image_url", "image_url": {}}])]}, "type image_url"),
        (
            {"messages": [user("a"), assistant(None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}])]},
            "call of f",
        ),
        ({"messages": [{"role": "narrator", "content": "a"}]}, "role 'narrator'"),
        ({"prompt": "a", "time": "yesterday"}, "neither a number nor a date"),
        ({"prompt": "a", "id": {"a": 1}}, "text or numbers"),
    ],
)
def test_a_row_that_is_no_conversation_says_why(record: dict[str, Any], reason: str):
    with pytest.raises(BadRecordError, match=reason):
        read(record, time_column="time")


# --- the whole import ---


def test_an_import_is_two_files_that_a_recipe_can_name(tmp_path: Path):
    summary = imported(tmp_path, chats())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["heldout.jsonl", "import.json", "train.jsonl"]
    assert json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8")) == summary
    train, heldout = (
        read_prompts([PromptSource(path=str(tmp_path / "out" / f"{side}.jsonl"))]).prompts
        for side in ("train", "heldout")
    )
    assert (len(train), len(heldout)) == (summary["counts"]["train"], summary["counts"]["heldout"])
    assert len(train) + len(heldout) == 60
    assert 1 <= len(heldout) <= 20
    assert remove_overlap(train, heldout)[1] == []
    by_text = {record["messages"][-1]["content"]: record["reference"] for record in everything(tmp_path)}
    assert by_text == {question(i): f"answer {i}" for i in range(60)}
    assert {record["scenario"] for record in everything(tmp_path)} == {"historical"}


def test_the_same_log_gives_the_same_bytes(tmp_path: Path):
    rows = chats(30)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        imported(tmp_path / name, rows)
    for file in ("train.jsonl", "heldout.jsonl", "import.json"):
        assert (tmp_path / "a/out" / file).read_bytes() == (tmp_path / "b/out" / file).read_bytes()


def test_scrubbing_reaches_messages_calls_references_and_names(tmp_path: Path):
    arguments = json.dumps({"to": "bob@example.com", "phone": 13812345678})
    call = {"id": "c", "type": "function", "function": {"name": "mail", "arguments": arguments}}
    row = {
        "id": "bob@example.com",
        "group": "alice@example.com",
        "messages": [
            user("I am alice@example.com, write to bob@example.com"),
            assistant(None, tool_calls=[call]),
            {"role": "tool", "tool_call_id": "c", "content": "sent to bob@example.com"},
            user("And call 13812345678"),
            assistant(None, tool_calls=[call]),
        ],
    }
    summary = imported(tmp_path, [row, *chats(30)])
    text = "".join(
        (tmp_path / "out" / f).read_text(encoding="utf-8") for f in ("train.jsonl", "heldout.jsonl", "import.json")
    )
    assert "example.com" not in text
    assert "13812345678" not in text
    (record,) = [r for r in everything(tmp_path) if "<EMAIL" in json.dumps(r)]
    assert record["id"] == "log-1"
    assert record["messages"][0]["content"] == "I am <EMAIL_1>, write to <EMAIL_2>"
    assert record["group"] == "<EMAIL_1>"
    assert record["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"to": "<EMAIL_2>", "phone": "<PHONE_1>"}
    assert json.loads(record["reference"])["arguments"] == {"to": "<EMAIL_2>", "phone": "<PHONE_1>"}
    assert summary["pii"] == {
        "scrubbed": True,
        "found": {"EMAIL": 6, "PHONE": 3},
        "prompts": 1,
        "remark": importing.REMARK,
    }


def test_one_person_has_one_placeholder_in_all_rows_of_a_conversation(tmp_path: Path):
    rows = [
        {"prompt": f"{question(i)} Ask {name}@example.com", "chat": chat}
        for i, (name, chat) in enumerate([("a", "x"), ("b", "y"), ("b", "x"), ("a", "x")])
    ]
    imported(tmp_path, [*rows, *chats(20)], {"conversation_column": "chat"})
    texts = {record["messages"][0]["content"] for record in everything(tmp_path)}
    asked = [next(text for text in texts if text.startswith(question(i)) and "Ask" in text)[-9:] for i in range(4)]
    assert asked == ["<EMAIL_1>", "<EMAIL_1>", "<EMAIL_2>", "<EMAIL_1>"]


def test_personal_data_stays_if_it_is_asked_to(tmp_path: Path):
    summary = imported(tmp_path, [{"prompt": "Write to bob@example.com now"}, *chats(20)], keep_pii=True)
    assert any("bob@example.com" in r["messages"][0]["content"] for r in everything(tmp_path))
    assert summary["pii"]["scrubbed"] is False
    assert summary["pii"]["found"] == {}


def test_a_conversation_falls_on_one_side_however_many_rows_and_turns_it_has(tmp_path: Path):
    rows = [
        {"chat": i // 3, "messages": [user(question(i)), assistant("b"), user(question(1000 + i)), assistant("d")]}
        for i in range(240)
    ]
    summary = imported(tmp_path, rows, {"conversation_column": "chat"}, every_turn=True)
    assert summary["counts"]["train"] + summary["counts"]["heldout"] == 480
    number_of = {question(i): (i % 1000) // 3 for i in [*range(240), *range(1000, 1240)]}
    sides = [
        {number_of[r["messages"][-1]["content"]] for r in records(tmp_path, side)} for side in ("train", "heldout")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_sets_of_tools_fall_on_one_side_where_there_are_enough_of_them(tmp_path: Path):
    rows = [{"prompt": question(i), "tools": [tool(f"tool_{i % 40}")]} for i in range(200)]
    summary = imported(tmp_path, rows)
    names = [{r["tools"][0]["function"]["name"] for r in records(tmp_path, side)} for side in ("train", "heldout")]
    assert all(names)
    assert not names[0] & names[1]
    assert summary["split_by"] == "conversation and set of tools"


def test_a_conversation_that_changes_its_tools_brings_no_heldout_set_to_training(tmp_path: Path):
    rows = [{"chat": i % 50, "prompt": question(i), "tools": [tool(f"tool_{i % 41}")]} for i in range(200)]
    summary = imported(tmp_path, rows, {"conversation_column": "chat"})
    names = [{r["tools"][0]["function"]["name"] for r in records(tmp_path, side)} for side in ("train", "heldout")]
    assert not names[0] & names[1]
    removed = {step["step"]: step["removed"] for step in summary["steps"]}
    assert removed["has a held-out set of tools"] > 0


def test_a_log_of_one_set_of_tools_is_split_by_conversation_and_says_so(tmp_path: Path):
    summary = imported(tmp_path, [{"prompt": question(i), "tools": [tool("only")]} for i in range(100)])
    assert summary["counts"]["train"] > summary["counts"]["heldout"] > 0
    assert summary["split_by"] == "conversation"
    assert any("both sides have the same" in note for note in summary["notes"])


def test_each_step_says_what_it_took_out(tmp_path: Path):
    again = [{"prompt": question(i) + " !"} for i in range(7)]
    near = [{"prompt": question(i).replace("Tell", "tell").replace("about", "abouts")} for i in range(3)]
    other_tools = [{"prompt": question(i), "tools": [tool("f")]} for i in range(60)]
    summary = imported(tmp_path, [*chats(), *again, *near, {"nothing": 1}, *other_tools], skip_bad=True)
    removed = {step["step"]: step["removed"] for step in summary["steps"]}
    assert removed["not a conversation"] == summary["bad_rows"] == 1
    assert removed["exact repeat of an earlier one"] == 7
    assert removed["near repeat of an earlier one"] == 3
    assert removed["held out"] == summary["counts"]["heldout"]
    assert summary["steps"][-1]["left"] == summary["counts"]["train"]
    assert summary["files"][0]["rows"] == 131


def test_a_query_that_is_held_out_under_other_tools_leaves_the_training_side(tmp_path: Path):
    rows = [{"prompt": question(i % 100), "tools": [tool(f"tool_{i}")]} for i in range(200)]
    summary = imported(tmp_path, rows)
    removed = {step["step"]: step["removed"] for step in summary["steps"]}
    assert removed["near repeat of a held-out one"] > 0
    texts = [{r["messages"][0]["content"] for r in records(tmp_path, side)} for side in ("train", "heldout")]
    assert not texts[0] & texts[1]


def test_prompts_are_kept_in_order_of_time_whatever_the_rows_order(tmp_path: Path):
    times = ["2026-01-03", "2026-01-01T05:00:00+08:00", 1767222000, "1767222001.5", "2026-01-02 10:00"]
    rows = [{"prompt": question(i), "when": time} for i, time in enumerate(times)]
    imported(tmp_path, rows, {"time_column": "when"}, heldout_share=1e-9)
    asked = [record["messages"][0]["content"] for record in records(tmp_path)]
    assert asked == [question(i) for i in (1, 2, 3, 4, 0)]


def test_columns_of_parquet_and_csv_reach_the_import(tmp_path: Path):
    table = {
        "q": [question(i) for i in range(30)],
        "a": [f"answer {i}" for i in range(30)],
        "n": [f"row{i}" for i in range(30)],
        "chat": [i // 2 for i in range(30)],
        "unused": ["x"] * 30,
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    lines = ["q,a,n,chat", *(f'"{q}",{a},{n},{c}' for q, a, n, c, _ in zip(*table.values(), strict=True))]
    (tmp_path / "log.csv").write_text("\n".join(lines), encoding="utf-8")
    columns = {"prompt_column": "q", "reference_column": "a", "id_column": "n", "conversation_column": "chat"}
    created = []
    for name in ("log.parquet", "log.csv"):
        out = tmp_path / name.partition(".")[2]
        import_logs([LogSource(path=str(tmp_path / name), **columns)], out, ImportOptions())
        created.append((out / "train.jsonl").read_bytes())
    assert created[0] == created[1]
    assert json.loads(created[0].splitlines()[0])["id"].startswith("row")


def test_two_files_make_one_import(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    first, second = log(tmp_path, chats(30)), log(tmp_path / "sub", chats(40)[30:])
    summary = import_logs([LogSource(path=str(p)) for p in (first, second)], tmp_path / "out", ImportOptions())
    assert summary["counts"]["train"] + summary["counts"]["heldout"] == 40
    assert [file["rows"] for file in summary["files"]] == [30, 10]


# --- what must not happen ---


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("log.jsonl", "home", "cache"))


def test_bad_rows_are_reported_and_stop_the_import(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="1 of 61 rows") as caught:
        imported(tmp_path, [*chats(), {"text": "a"}])
    assert "log.jsonl:61: has neither" in caught.value.what
    assert "--skip-bad" in caught.value.fix
    assert "out" not in left_behind(tmp_path)


def test_a_log_without_a_good_row_is_an_error_even_if_bad_rows_are_skipped(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="2 of 2 rows") as caught:
        imported(tmp_path, [{"text": "a"}, {"text": "b"}], skip_bad=True)
    assert "--skip-bad" not in caught.value.fix
    with pytest.raises(DraftbenchError, match="is empty"):
        imported(tmp_path, [])


def test_an_id_that_comes_twice_is_a_bad_row(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="the id 'a' was used before"):
        imported(tmp_path, [{"id": "a", "prompt": question(1)}, {"id": "a", "prompt": question(2)}])


def test_no_two_records_have_one_id_where_a_place_is_the_name_of_another_row(tmp_path: Path):
    rows = [
        {"id": "log-2", "prompt": question(1)},
        {"id": "a@example.com", "prompt": question(2)},
        {"prompt": question(3)},
        {"id": "log-3", "prompt": question(4)},
        {"id": "log-2-b2", "prompt": question(5)},
    ]
    imported(tmp_path, rows, heldout_share=1e-9)
    ids = {record["messages"][0]["content"]: record["id"] for record in everything(tmp_path)}
    assert [ids[question(i)] for i in range(1, 6)] == ["log-2", "log-2-b3", "log-3-b2", "log-3", "log-2-b2"]


def test_a_repeat_takes_out_no_row_whose_place_has_its_name(tmp_path: Path):
    again = {"id": "log-2", "prompt": question(1)}
    rows = [{"id": "b@example.com", "prompt": question(1)}, {"id": "c@example.com", "prompt": question(2)}, again]
    summary = imported(tmp_path, rows, heldout_share=1e-9)
    assert {record["messages"][0]["content"] for record in everything(tmp_path)} == {question(1), question(2)}
    assert {step["step"]: step["removed"] for step in summary["steps"]}["exact repeat of an earlier one"] == 1


def test_a_conversation_named_like_the_place_of_a_row_is_another(tmp_path: Path):
    rows = [
        {"chat": "log-2", "prompt": f"{question(1)} Ask a@example.com"},
        {"prompt": f"{question(2)} Ask b@example.com"},
    ]
    imported(tmp_path, [*rows, *chats(20)[3:]], {"conversation_column": "chat"})
    asked = [r["messages"][0]["content"] for r in everything(tmp_path) if "Ask" in r["messages"][0]["content"]]
    assert sorted(text[-9:] for text in asked) == ["<EMAIL_1>", "<EMAIL_1>"]
    first, second = ({"prompt": question(n), **more} for n, more in ((1, {"chat": "x-2"}), (2, {})))
    source = LogSource(path="x.jsonl", conversation_column="chat")
    (one,), (two,) = (queries_of(row, source, f"x-{n}", every_turn=False) for n, row in ((1, first), (2, second)))
    assert one.conversation != two.conversation


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(tmp_path: Path, share: float):
    with pytest.raises(DraftbenchError, match="held-out share"):
        imported(tmp_path, chats(), heldout_share=share)


def test_an_import_without_training_prompts_is_refused(tmp_path: Path):
    with pytest.raises(DraftbenchError, match="no training prompt is left"):
        imported(tmp_path, chats(5), heldout_share=1 - 1e-12)
    assert "out" not in left_behind(tmp_path)


def test_few_heldout_prompts_are_remarked(tmp_path: Path):
    assert any("few to measure on" in note for note in imported(tmp_path, chats(20))["notes"])


def test_what_exists_is_replaced_only_if_asked_and_only_if_it_is_an_import(tmp_path: Path):
    source = LogSource(path=str(log(tmp_path, chats(40))))
    out = tmp_path / "out"
    import_logs([source], out, ImportOptions())
    before = (out / "train.jsonl").read_bytes()
    with pytest.raises(DraftbenchError, match="exists") as caught:
        import_logs([source], out, ImportOptions())
    assert "--overwrite" in caught.value.fix
    log(tmp_path, chats(50))
    import_logs([source], out, ImportOptions(), overwrite=True)
    assert (out / "train.jsonl").read_bytes() != before
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DraftbenchError, match="was not written by this command"):
        import_logs([source], mine, ImportOptions(), overwrite=True)
    assert left_behind(tmp_path) == ["mine", "out"]


def test_a_break_while_writing_leaves_the_former_import_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = LogSource(path=str(log(tmp_path, chats(40)))), tmp_path / "out"
    import_logs([source], out, ImportOptions())
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importing, "write_json", full)
    with pytest.raises(DraftbenchError, match="disk is full"):
        import_logs([source], out, ImportOptions(), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert left_behind(tmp_path) == ["out"]


def test_after_a_kill_between_the_two_renames_the_former_import_comes_back(tmp_path: Path):
    source, out = LogSource(path=str(log(tmp_path, chats(40)))), tmp_path / "out"
    import_logs([source], out, ImportOptions())
    room = tmp_path / ".out-making-killed"
    (room / "new").mkdir(parents=True)
    os.rename(out, room / "old")
    with pytest.raises(DraftbenchError, match="exists"):
        import_logs([source], out, ImportOptions())
    assert left_behind(tmp_path) == ["out"]
    assert (out / "import.json").exists()


# --- the command ---


def test_the_command_shows_each_step_and_what_was_scrubbed(tmp_path: Path, draftbench: Draftbench):
    path = log(tmp_path, [{"prompt": "Write to bob@example.com now"}, *chats(40)])
    shown = draftbench("data", "import", str(path), "--out", str(tmp_path / "out"))
    assert shown.code == 0, shown.err
    assert "EMAIL 1" in shown.out
    output = " ".join(shown.out.split())
    assert "keys of a recognisable form were replaced; names and postal addresses were not" in output
    assert "look at a sample before you share it" in output
    assert "exact repeat of a held-out one" in shown.out
    report = draftbench(
        "data", "import", str(path), "--out", str(tmp_path / "out"), "--overwrite", "--keep-pii", "--json"
    )
    assert report.json()["pii"]["scrubbed"] is False
    again = draftbench("data", "import", str(path), "--out", str(tmp_path / "out"))
    assert (again.code, "--overwrite" in again.err) == (2, True)


@pytest.mark.parametrize(
    "failed", [assistant(None), {"role": "gpt"}, assistant(None, tool_calls=[], function_call=None)]
)
def test_a_logged_answer_without_content_is_no_empty_answer(failed: dict[str, Any]):
    assert read({"messages": [user("a"), failed]}) == [(["u:a"], "")]


def of_time(value: Any) -> float:
    source = LogSource(path="log.jsonl", time_column="at")
    return queries_of({**chats(1)[0], "at": value}, source, "log-1", every_turn=False)[0].time


@pytest.mark.parametrize(
    "value", [1735689600, "1735689600.0", 1735689600000, "1735689600000000", "2025-01-01T00:00:00Z"]
)
def test_times_in_thousandths_and_in_words_are_one_order(value: Any):
    assert of_time(value) == 1735689600.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20260131", "2026-01-31"),
        (20260131, "2026-01-31"),
        (20260131.0, "2026-01-31"),
        ("202601311230", "2026-01-31T12:30"),
        (20260131123005, "2026-01-31T12:30:05"),
        ("20260131T1230", "2026-01-31T12:30"),
        ("20261331", "1970-08-23T12:08:51"),  # no month 13: a number of seconds, as 20260131.5 is
        ("20260131.5", "1970-08-23T11:48:51.5"),
    ],
)
def test_a_date_in_digits_alone_is_a_date(value: Any, expected: str):
    assert of_time(value) == datetime.fromisoformat(f"{expected}+00:00").timestamp()


@pytest.mark.parametrize("value", [float("inf"), "nan", "-inf", 10**400, "01/02/2025"])
def test_what_is_no_time_would_spoil_the_order_and_is_refused(value: Any):
    with pytest.raises(BadRecordError):
        of_time(value)


def test_a_reference_that_a_table_keeps_as_json_text_is_the_message_in_it():
    source = LogSource(path="log.csv", reference_column="answer")
    record = {"messages": [user("hi")], "answer": json.dumps(assistant("yes"))}
    assert queries_of(record, source, "log-1", every_turn=False)[0].reference == "yes"
    plain = {"messages": [user("hi")], "answer": '{"role": "admin"}'}
    assert queries_of(plain, source, "log-1", every_turn=False)[0].reference == '{"role": "admin"}'


def test_two_columns_that_say_two_things_are_refused_or_counted(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": [user("b")], "tools": [tool("f")], "functions": [tool("g")]}))
    with pytest.raises(DraftbenchError, match="has tools in 'tools' and other ones in 'functions'"):
        read_prompts([PromptSource(path=str(path))])
    path.write_text(json.dumps({"messages": [user("b")], "prompt": "a"}))
    translated = read_prompts([PromptSource(path=str(path))]).sources[0]["translated"]
    assert translated == {"'prompt' left aside beside 'messages', which says something else": 1}


def test_conversations_that_end_with_the_same_follow_up_are_not_repeats(tmp_path: Path):
    rows = [
        {"messages": [user(question(n)), assistant("One."), user("Please continue."), assistant("Two.")]}
        for n in range(40)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[3]]))
    summary = import_logs([LogSource(path=str(tmp_path / "log.jsonl"))], tmp_path / "out", ImportOptions())
    removed = {step["step"]: step["removed"] for step in summary["steps"]}
    assert removed["exact repeat of an earlier one"] == 1
    assert removed["exact repeat of a held-out one"] == 0
    assert summary["counts"]["train"] + summary["counts"]["heldout"] == 40


def test_replacements_are_counted_in_the_written_prompts_alone(tmp_path: Path):
    rows = [{"messages": [user(f"{question(n)} Write to anna@example.org.")]} for n in range(30)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    summary = import_logs([LogSource(path=str(tmp_path / "log.jsonl"))], tmp_path / "out", ImportOptions())
    written = "".join((tmp_path / "out" / f"{side}.jsonl").read_text() for side in ("train", "heldout"))
    assert summary["pii"]["found"] == {"EMAIL": written.count("<EMAIL_1>")}
    assert summary["pii"]["prompts"] == written.count("\n") == 30


def test_rows_that_are_left_out_are_named_with_their_reason(tmp_path: Path, draftbench: Draftbench):
    bad = [{"id": 1, "prompt": "river of stones"}, {"id": "1", "prompt": "x"}, {"id": "a@b.org", "role": "a@b.org"}]
    path = log(tmp_path, [*chats(40), *bad, *[{"text": "a"}] * 5])
    shown = draftbench("data", "import", str(path), "--out", str(tmp_path / "out"), "--skip-bad")
    assert "left out: log.jsonl:42: the id '1' was used before" in shown.out
    assert "left out: 2 more" in shown.out
    kept = json.loads((tmp_path / "out" / "import.json").read_text())
    assert (kept["bad_rows"], len(kept["bad_examples"])) == (7, 5)
    assert "a@b.org" not in json.dumps(kept)


def test_an_import_that_holds_nothing_out_names_no_empty_file_for_a_recipe(tmp_path: Path, draftbench: Draftbench):
    path = log(tmp_path, [{"prompt": "Tell me about the river of stones"}])
    shown = draftbench("data", "import", str(path), "--out", str(tmp_path / "out"), "--heldout-share", "0.0001")
    output = " ".join(shown.out.split())
    assert "no prompt is held out" in output
    assert "prompts.heldout:" not in output
