"""One record as a prompt: a conversation that stands as text, and labels that are no text."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from engine.chat.prompt import Prompt
from engine.config.schema import PromptSource
from engine.data.records import BadRecordError, to_prompt

TALK = [
    {"role": "user", "content": 'What\'s a "cell"?\nSay so.'},
    {"role": "assistant", "content": "A unit.", "name": None},
    {"role": "user", "content": "Thanks. 细胞?"},
]


def made(record: dict[str, Any], seen: Counter[str] | None = None, **columns: str) -> Prompt:
    return to_prompt(record, PromptSource(path="x.jsonl", **columns), "x-1", seen)


@pytest.mark.parametrize("text", [json.dumps(TALK), f"\n{TALK}", str([{"from": "human", "value": "x"}])])
def test_messages_as_the_text_of_a_prompt_are_refused_with_the_setting_that_reads_them(text: str):
    with pytest.raises(BadRecordError, match="'prompt' is a list of messages as text; messages_column: prompt would"):
        made({"prompt": text})
    seen = Counter[str]()
    read = made({"prompt": text}, seen, messages_column="prompt")
    assert read.messages[-1]["content"] in (TALK[-1]["content"], "x")
    assert not any("left aside" in said for said in seen)


def test_messages_that_pandas_wrote_into_csv_are_those_of_json():
    assert made({"messages": str(TALK)}).key() == made({"messages": json.dumps(TALK)}).key()
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": [True, None]}}}]
    assert made({"prompt": "x", "tools": str(tools)}).tools == made({"prompt": "x", "tools": tools}).tools


@pytest.mark.parametrize("text", ["[{1: 2}]", '[{"a": 1}] is what?', "[{'role': __import__('os')}]", "[x] or [y]?"])
def test_a_question_that_only_looks_like_messages_stays_a_question(text: str):
    assert made({"prompt": text}).text == text


@pytest.mark.parametrize("text", ['[{"role": "a", "role": "b"}]', "[{'role': 'a', 'role': 'b'}]", "[{'role'"])
def test_text_in_the_column_of_messages_that_is_no_list_stays_refused(text: str):
    with pytest.raises(BadRecordError, match="'messages' is a string that"):
        made({"messages": text})


@pytest.mark.parametrize(
    ("value", "group"), [(0, "0"), (1, "1"), (False, "False"), ("a", "a"), ("", ""), (None, ""), (float("nan"), "")]
)
def test_a_group_is_what_the_record_says(value: Any, group: str):
    assert made({"prompt": "x", "group": value}).group == group


def test_an_input_of_zero_is_refused_and_not_left_out():
    with pytest.raises(BadRecordError, match="'input' must be text, not a number"):
        made({"instruction": "Halve it", "input": 0}, prompt_column="instruction")
    assert made({"instruction": "Halve it", "input": None}, prompt_column="instruction").text == "Halve it"
