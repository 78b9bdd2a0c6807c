"""What a template leaves out of a prompt is said; what it writes is not."""

from __future__ import annotations

from typing import Any

import pytest

from engine.chat.prompt import Prompt
from engine.chat.unwritten import Unwritten, rewritten, unused, unwritten
from tests.unit.chat.test_rendering import CHATML, HELLO, WEATHER, WITH_CALLS, WITH_TOOLS, make_tokenizer

THINKING = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def talk(*messages: dict[str, Any], tools: tuple[dict[str, Any], ...] = ()) -> Prompt:
    return Prompt("p1", messages, tools)


def test_a_template_that_writes_everything_leaves_out_nothing():
    assert unused(make_tokenizer(CHATML), HELLO) == []
    assert unused(make_tokenizer(WITH_TOOLS), Prompt("p1", HELLO.messages, (WEATHER,))) == []
    assert rewritten(make_tokenizer(WITH_TOOLS), Prompt("p1", HELLO.messages, (WEATHER,))) == []


def test_tools_that_go_into_the_system_text_are_moved_and_not_left_out():
    prompt = Prompt("p1", HELLO.messages, (WEATHER,))
    assert unused(make_tokenizer(CHATML), prompt) == []
    assert rewritten(make_tokenizer(CHATML), prompt) == [
        "The template has no place for tools, so they are written into the system text."
    ]
    assert rewritten(make_tokenizer(CHATML), HELLO) == []


def test_a_text_in_another_form_is_not_called_left_out():
    loud = CHATML.replace("m['content']", "m['content'] | upper")
    question = talk({"role": "user", "content": "Hello there, who is it?"})
    assert unused(make_tokenizer(loud), question) == []
    assert rewritten(make_tokenizer(loud), question) == ["The text of message 1 (user) is written in another form."]


def test_a_key_of_the_tools_that_is_never_written_is_named():
    names_only = WITH_TOOLS.replace("tools | tojson", "tools | map(attribute='function.name') | join")
    said = unused(make_tokenizer(names_only), Prompt("p1", HELLO.messages, (WEATHER,)))
    assert said == ["'description' of the tools is not written", "'parameters' of the tools is not written"]


def test_other_keys_of_a_message_are_named_where_they_are_of_no_effect():
    question = {"role": "user", "content": "Hello there, who is it?", "name": "Ada"}
    assert unused(make_tokenizer(CHATML), talk(question)) == ["'name' of message 1 (user) is not written"]
    named = CHATML.replace("{{ m['content'] }}", "{{ m['name'] }}: {{ m['content'] }}")
    assert unused(make_tokenizer(named), talk(question)) == []


def test_reasoning_and_text_beside_calls_that_are_dropped_on_purpose_are_said():
    thought = {"role": "assistant", "content": "<think>first this</think>An answer of some length"}
    asked, more = (
        {"role": "user", "content": "A question of some length"},
        {"role": "user", "content": "One more of it"},
    )
    assert unused(make_tokenizer(THINKING), talk(asked, thought, more)) == [
        "the reasoning in message 2 (assistant) is not written"
    ]
    assert rewritten(make_tokenizer(THINKING), talk(asked, thought, more)) == []
    silent = WITH_CALLS.replace("{{ m['content'] }}", "{% if not m['tool_calls'] %}{{ m['content'] }}{% endif %}")
    call = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    calling = {"role": "assistant", "content": "I shall look it up", "tool_calls": [call]}
    assert unused(make_tokenizer(silent), talk(asked, calling, more)) == [
        "the text of message 2 (assistant) is not written"
    ]


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("[:10]", ["end"]),
        ("[-10:]", ["beginning"]),
        ("[3:-3]", ["end", "beginning"]),
        (" | truncate(12)", ["end"]),
        ("[:5] + '...' + m['content'][-5:]", ["middle"]),
        (" | trim", []),
        (" | upper", []),
    ],
)
def test_a_text_that_is_cut_is_said_to_be_and_not_to_have_another_form(how: str, parts: list[str]):
    tokenizer = make_tokenizer(CHATML.replace("m['content']", f"(m['content']{how})"))
    question = talk({"role": "user", "content": "  Hello there, who is it, and why so late in the day?\n"})
    assert unused(tokenizer, question) == [
        f"the {part} of the text of message 1 (user) is not written" for part in parts
    ]
    assert rewritten(tokenizer, question) == (
        ["The text of message 1 (user) is written in another form."] if how == " | upper" else []
    )
    short = [talk({"role": "user", "content": f"Hello {n}"}) for n in range(200)]
    counted = unwritten(tokenizer, [*short, question]).parts
    assert {f"the {part} of the text of user messages" for part in parts} <= counted.keys(), "the longest is looked at"


def test_a_set_of_prompts_counts_what_is_left_out_by_kind_and_role():
    question = {"role": "user", "content": "Hello there, who is it?"}
    thought = {"role": "assistant", "content": "It is Ada Lovelace", "reasoning_content": "who else", "weight": 0}
    long, short = talk(question, thought, question, thought, question), talk(question, {**question, "name": "Bob"})
    said = unwritten(make_tokenizer(CHATML), [talk(question), long, long, short])
    assert said == Unwritten(
        {
            "'reasoning_content' of assistant messages": 2,
            "'weight' of assistant messages": 2,
            "'name' of user messages": 1,
        },
        4,
    )
    assert said.in_words()[2] == "'name' of user messages, in 1 of 4 prompts"
    assert unwritten(make_tokenizer(CHATML), [talk(question)]) == Unwritten({}, 1)


def test_of_many_prompts_those_are_looked_at_that_carry_more_than_text():
    question = {"role": "user", "content": "Hello there, who is it?"}
    many = [talk(question)] * 300 + [talk({**question, "name": "Bob"})]
    said = unwritten(make_tokenizer(CHATML), many)
    assert (said.parts, said.looked_at) == ({"'name' of user messages": 1}, 200)
