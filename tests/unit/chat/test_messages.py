"""One normal form of a chat, whoever wrote it down, and the way back to the API's form."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from engine.chat.messages import BadRecordError, for_api, normal, normal_call, normal_tools

ASKED = {"role": "user", "content": "Add 1 and 2"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
SAID = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def as_text(value: object) -> str:
    return json.dumps(value)


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
        {"name": "add", "arguments": {"a": 1, "b": 2}},
        {"name": "add", "arguments": '{"a": 1, "b": 2}'},
        {"name": "add", "parameters": {"a": 1, "b": 2}},
        {"type": "function", "name": "add", "arguments": '{"a": 1, "b": 2}'},
        {"function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
        {"function": "add", "arguments": {"a": 1, "b": 2}},
    ],
)
def test_every_spelling_of_a_call_has_one_normal_form(call):
    assert normal_call(call) == CALL


@pytest.mark.parametrize(
    "message",
    [
        SAID,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None},
        {"role": "assistant", "content": [], "tool_calls": as_text([CALL])},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
        {"role": "model", "tool_calls": CALL["function"]},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
        {"role": "tool_call", "content": '[{"name": "add", "arguments": {"a": 1, "b": 2}}]'},
    ],
)
def test_every_spelling_of_a_calling_turn_has_one_normal_form(message):
    assert normal([ASKED, message]) == (ASKED, SAID)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"from": "human", "value": "x"}, {"role": "user", "content": "x"}),
        ({"from": "gpt", "value": "x"}, {"role": "assistant", "content": "x"}),
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "User", "content": "x"}, {"role": "user", "content": "x"}),
        ({"role": "function", "name": "add", "content": "3"}, {"role": "tool", "name": "add", "content": "3"}),
        ({"from": "observation", "value": "3"}, {"role": "tool", "content": "3"}),
        ({"role": "tool", "content": None}, {"role": "tool", "content": ""}),
        ({"role": "assistant", "content": ""}, {"role": "assistant", "content": ""}),
        ({"role": "user", "content": ["a", {"type": "text", "text": "b"}]}, {"role": "user", "content": "a\nb"}),
        ({"role": "model", "parts": [{"text": "x"}]}, {"role": "assistant", "content": "x"}),
    ],
)
def test_other_dialects_are_translated_and_counted(message, expected):
    seen: Counter[str] = Counter()
    assert normal([message], "messages", seen) == (expected,)
    assert seen.total() >= 1


def test_a_message_in_normal_form_keeps_its_keys_their_order_and_their_values():
    messages = [
        {"content": "x", "role": "user", "weight": 0},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"arguments": {"unit": None}, "name": "f"}, "id": "1", "type": "function"}],
            "content": "",
        },
    ]
    seen: Counter[str] = Counter()
    assert as_text(normal(messages, "messages", seen)) == as_text(messages)
    assert not seen


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant", "content": None}, "is missing or null"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "a part of type image_url"),
        ({"role": "narrator", "content": "x"}, "role 'narrator'"),
        ({"role": "assistants", "content": "x"}, "did you mean 'assistant'"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{a: 1}"}]}, "is not valid JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": '"{}"'}]}, "must be an object, not text"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, "must be an object, not a list"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1, "a": 2}'}]}, "the key 'a' twice"),
        ({"role": "assistant", "tool_calls": [{"arguments": {}}]}, "no function name"),
        ({"role": "assistant", "tool_calls": [None]}, "must be an object, not null"),
        ({"role": "function_call", "content": "add 1 and 2"}, "the call in message 1 is not valid JSON"),
    ],
)
def test_what_serving_engines_refuse_or_no_text_can_say_is_a_bad_record(message, reason):
    with pytest.raises(BadRecordError, match=reason):
        normal([message])


@pytest.mark.parametrize("arguments", [None, "", " ", {}, [], "null", "{}"])
def test_a_call_without_arguments_has_an_empty_object(arguments):
    assert normal_call({"name": "now", "arguments": arguments})["function"]["arguments"] == {}


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"function": {"name": "f", "parameters": {"type": "object"}}},
        {"name": "f", "parameters": {"type": "object"}},
        {"type": "function", "name": "f", "parameters": '{"type": "object"}'},
        {"name": "f", "input_schema": {"type": "object"}},
    ],
)
def test_every_spelling_of_a_schema_has_one_normal_form(tool):
    expected = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert normal_tools([tool]) == (expected,)
    assert normal_tools(as_text([tool])) == (expected,)


def test_null_says_nothing_in_a_schema_but_where_it_is_data():
    unit = {"type": ["string", "null"], "enum": ["C", None], "default": None, "description": None}
    tool = {"name": "f", "description": None, "parameters": {"properties": {"unit": unit, "at": None}}, "strict": None}
    (made,) = normal_tools([{"type": "function", "function": tool, "cache": None}])
    kept = {"type": ["string", "null"], "enum": ["C", None], "default": None}
    assert made == {"type": "function", "function": {"name": "f", "parameters": {"properties": {"unit": kept}}}}


def test_tools_that_no_recursion_could_walk_are_refused():
    deep: dict[str, object] = {}
    for _ in range(400):
        deep = {"properties": deep}
    for parameters in (deep, json.dumps(deep)):
        with pytest.raises(BadRecordError, match="tool 1 is nested too deeply"):
            normal_tools([{"name": "f", "parameters": parameters}])


def test_a_server_gets_arguments_as_text_and_a_tools_answer_names_its_call():
    messages = normal(
        [ASKED, {**SAID, "tool_calls": [CALL, {**CALL, "id": "mine"}]}, *[{"role": "tool", "content": "3"}] * 2, SAID]
    )
    _, called, first, second, again = for_api(messages)
    assert [call["id"] for call in called["tool_calls"]] == ["call_0", "mine"]
    assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"a": 1, "b": 2}
    assert (first["tool_call_id"], second["tool_call_id"]) == ("call_0", "mine")
    assert again["tool_calls"][0]["id"] == "call_2"
    assert normal(for_api(messages))[1]["tool_calls"][0]["function"] == CALL["function"]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "What is this?", "images": ["iVBORw0"]},
        {"content": "Listen", "audio": {"data": "UklGR"}},
        {"content": "Read it", "experimental_attachments": [{"url": "data:..."}]},
        {"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
        {"content": [{"type": "image", "text": ""}, {"type": "text", "text": "a"}]},
        {"content": [{"type": "image", "image": "a.png", "text": "a caption"}]},
        {"content": [{"type": "input_audio", "input_audio": {}}]},
        {"parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png"}}]},
    ],
)
def test_what_is_no_text_is_refused_and_never_dropped(message):
    with pytest.raises(BadRecordError, match="only text can be used"):
        normal([{"role": "user", **message}])


def test_empty_places_for_images_are_none():
    message = {"role": "user", "content": "hi", "images": [], "audio": None}
    assert normal([message]) == ({"role": "user", "content": "hi", "images": []},)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "user", "content": "A", "value": "B"}, "one thing in 'content' and another in 'value'"),
        ({"role": "assistant", "from": "human", "content": "A"}, "role 'assistant', and is from 'human'"),
        ({**SAID, "function_call": {"name": "other", "arguments": "{}"}}, "a different function_call"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"a": 1}, "parameters": {"b": 2}}]},
            "arguments twice",
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"arguments": {"a": 1}, "function": {"name": "f", "arguments": {"a": 2}}}],
            },
            "'arguments' twice",
        ),
    ],
)
def test_a_record_that_says_two_things_is_refused(message, reason):
    with pytest.raises(BadRecordError, match=reason):
        normal([message])


def test_the_same_thing_under_two_names_is_said_once():
    (turn,) = normal([{**SAID, "function_call": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}])
    assert turn["tool_calls"] == [CALL]
    assert normal([{"role": "user", "content": "", "parts": [{"type": "text", "text": "hi"}]}])[0]["content"] == "hi"
    assert normal([{"role": "user", "from": "human", "content": "hi", "text": "hi"}])[0]["content"] == "hi"


def test_arguments_are_not_lost_with_an_unknown_name_or_place():
    with pytest.raises(BadRecordError, match="'kwargs' but no 'arguments'; did you mean 'args'"):
        normal_call({"name": "add", "kwargs": {"a": 1}})
    with pytest.raises(BadRecordError, match="'params'"):
        normal_call({"type": "function", "function": {"name": "add", "params": {"a": 1}}})
    beside = {"type": "function", "function": {"name": "add"}, "arguments": '{"a": 1, "b": 2}'}
    assert normal_call(beside) == CALL
    assert normal_call({"type": "function_call", "call_id": "c", "status": "completed", "name": "look"})[
        "function"
    ] == {
        "name": "look",
        "arguments": {},
    }
