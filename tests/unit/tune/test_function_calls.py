"""When is an answer a call of a function it was offered?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.tune.function_calls import is_calls, judge

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "at": {"type": "array"},
                    "span": {"type": ["number", "null"]},
                    "any": {},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
)


def call(name: str = "weather", **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


REFERENCE = call(city="Bern", days=2)


def test_the_reference_itself_is_valid_and_matches():
    found = judge(REFERENCE, TOOLS, REFERENCE)
    assert (found.valid, found.misfit, found.names_match, found.arguments_match) == (True, "", True, True)


def test_spaces_around_it_and_the_order_of_keys_do_not_count():
    text = '\n {"arguments": {"days": 2.0, "city": "bern "}, "name": "weather"} \n'
    assert judge(text, TOOLS, REFERENCE).arguments_match


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty answer"),
        (f"```json\n{REFERENCE}\n```", "Markdown fence"),
        (f"{REFERENCE}\nThat gives the weather.", "text after the JSON"),
        (f"Sure: {REFERENCE}", "prose with JSON in it"),
        ("It will rain.", "prose"),
        (REFERENCE[:-4], "JSON breaks off"),
        ('{"name": "weather", "arguments": {"city": "Be', "JSON breaks off"),
        ("{'name': 'weather'}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no call in the array"),
        ('{"name": "weather"}', "JSON of another form"),
        ('{"name": "weather", "arguments": "city"}', "JSON of another form"),
        ('{"weather": {"city": "Bern"}}', "JSON of another form"),
        ("7", "JSON of another form"),
        (call("wether", city="Bern"), "unknown function"),
        (call(days=2), "required argument missing"),
        (f"[{REFERENCE}, {call(days=1)}]", "required argument missing"),
    ],
)
def test_why_an_answer_is_no_valid_call(answer: str, reason: str):
    found = judge(answer, TOOLS, REFERENCE)
    assert not found.valid
    assert found.reason == reason


@pytest.mark.parametrize(
    ("arguments", "misfit"),
    [
        ({"days": "two"}, "argument of the wrong type"),
        ({"days": 2.5}, "argument of the wrong type"),
        ({"days": True}, "argument of the wrong type"),
        ({"exact": 1}, "argument of the wrong type"),
        ({"at": "noon"}, "argument of the wrong type"),
        ({"when": "noon"}, "unknown argument"),
        ({"days": 2.0, "exact": False, "at": [], "span": None, "any": {"a": 1}}, ""),
        ({"span": 1.5}, ""),
    ],
)
def test_a_valid_call_may_still_not_fit_its_schema(arguments: dict[str, Any], misfit: str):
    found = judge(call(city="Bern", **arguments), TOOLS, REFERENCE)
    assert found.valid
    assert found.misfit == misfit
    assert found.names_match
    assert not found.arguments_match


def test_several_calls_in_any_order():
    both = f"[{call('now')}, {REFERENCE}]"
    found = judge(f"[{REFERENCE}, {call('now')}]", TOOLS, both)
    assert found.valid
    assert found.arguments_match
    assert len(found.calls) == 2
    assert not judge(REFERENCE, TOOLS, both).names_match, "one of two calls is not the reference's"
    assert not judge(f"[{REFERENCE}, {REFERENCE}]", TOOLS, both).names_match
    assert not judge(f"{REFERENCE}\n{call('now')}", TOOLS, both).valid, "two objects in a row are no JSON"


def test_a_plain_sentence_is_no_reference_of_calls():
    assert is_calls(REFERENCE)
    assert not is_calls("None of the functions fits.")
