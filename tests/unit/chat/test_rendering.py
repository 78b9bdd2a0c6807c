"""Rendering through chat templates, on a byte-level tokenizer made in code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from engine.chat.prompt import Prompt
from engine.chat.rendering import missing_header, render, template_hash, tools_as_system
from engine.errors import DraftbenchError

TURNS = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
ANSWER = "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
CHATML = TURNS + ANSWER
WITH_BOS = "{{ bos_token }}" + CHATML
WITH_TOOLS = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}" + CHATML
WITH_CALLS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}<|end|>\n{% endfor %}" + ANSWER
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% endfor %}" + CHATML
)

WEATHER = {"type": "function", "function": {"name": "weather", "description": "Wetter für {city}", "parameters": {}}}
HELLO = Prompt("p1", ({"role": "user", "content": "Hello 你好"},))


def make_tokenizer(template: str | None, *, bos: str | None = None, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte and three special ones; `adds_bos` puts `bos` before plain text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|start|>", "<|end|>", "<s>"])
    if adds_bos and bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    special = {"bos_token": bos} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template, **special)


def rendered(tokenizer: PreTrainedTokenizerFast, prompt: Prompt = HELLO) -> str:
    return tokenizer.decode(render(tokenizer, prompt, context_tokens=None, max_new_tokens=1))


def with_tools(*messages: dict[str, Any]) -> Prompt:
    return Prompt("p1", messages or HELLO.messages, (WEATHER,))


MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)
THOUGHT = "{% if m['role'] == 'assistant' %}<think>\n\n</think>\n{% endif %}"
THINKS = TURNS.replace("{{ m['content'] }}", THOUGHT + "{{ m['content'] }}")


@pytest.mark.parametrize(
    ("template", "header"),
    [
        (CHATML, ""),
        (TURNS, "<|start|>assistant\n"),
        ("{{ messages[0]['content'] }}{% for m in messages[1:] %} Bot: {{ m['content'] }}{% endfor %}", " Bot: "),
        (MISTRAL, ""),
        (THINKS + ANSWER, ""),
        (THINKS, "<|start|>assistant\n<think>\n\n</think>\n"),
        (NO_SYSTEM, ""),
        ("{{ messages[1]['content'] }}", ""),
    ],
)
def test_a_header_that_the_template_does_not_write_when_asked_is_missing(template: str, header: str):
    assert missing_header(make_tokenizer(template)) == header


def test_ends_with_the_header_of_the_answer_and_special_tokens_are_single_ids():
    tokenizer = make_tokenizer(CHATML)
    assert rendered(tokenizer) == "<|start|>user\nHello 你好<|end|>\n<|start|>assistant\n"
    ids = render(tokenizer, HELLO, context_tokens=None, max_new_tokens=1)
    start, end = tokenizer.convert_tokens_to_ids(["<|start|>", "<|end|>"])
    assert (ids[0], ids.count(start), ids.count(end)) == (start, 2, 1)


# -- beginning of sequence -------------------------------------------------------------------


def test_tokenizer_that_adds_a_bos_does_not_double_that_of_the_template():
    tokenizer = make_tokenizer(WITH_BOS, bos="<s>", adds_bos=True)
    bos = tokenizer.bos_token_id
    assert tokenizer("a")["input_ids"][0] == bos
    ids = render(tokenizer, HELLO, context_tokens=None, max_new_tokens=1)
    assert (ids[0], ids.count(bos)) == (bos, 1)


def test_doubled_bos_is_refused():
    with pytest.raises(DraftbenchError, match=r"'p1' begins with two '<s>'"):
        rendered(make_tokenizer("{{ bos_token }}" + WITH_BOS, bos="<s>"))


def test_template_without_the_bos_the_tokenizer_adds_is_refused():
    with pytest.raises(DraftbenchError, match="begins without '<s>'"):
        rendered(make_tokenizer(CHATML, bos="<s>", adds_bos=True))


def test_bos_that_is_never_used_is_not_asked_for():
    assert "<s>" not in rendered(make_tokenizer(CHATML, bos="<s>"))


def test_bos_that_opens_every_turn_is_fine():
    assert rendered(make_tokenizer(CHATML, bos="<|start|>")).count("<|start|>") == 2


# -- templates -------------------------------------------------------------------------------


def test_text_that_the_tokenizer_has_no_token_for_is_refused_with_the_prompt():
    raw = Tokenizer(models.WordPiece(vocab={"a": 0, "user": 1}, unk_token="missing"))  # not in the vocabulary
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, chat_template="{{ messages[0]['content'] }}")
    known = Prompt("p", ({"role": "user", "content": "a user"},))
    assert render(tokenizer, known, context_tokens=None, max_new_tokens=1) == [0, 1]
    with pytest.raises(DraftbenchError, match="prompt 'p1' cannot be written in the tokens of"):
        render(tokenizer, HELLO, context_tokens=None, max_new_tokens=1)


@pytest.mark.parametrize("template", [None, ""])
def test_no_template_is_refused_not_guessed(template):
    tokenizer = make_tokenizer(template)
    for call in (lambda: rendered(tokenizer), lambda: template_hash(tokenizer)):
        with pytest.raises(DraftbenchError, match="no chat template") as caught:
            call()
        assert "plain text" in caught.value.fix


def test_role_the_template_rejects_names_the_prompt():
    prompt = Prompt("p9", ({"role": "system", "content": "x"}, *HELLO.messages))
    with pytest.raises(DraftbenchError, match=r"'p9' \(roles: system, user\): System role not supported"):
        rendered(make_tokenizer(NO_SYSTEM), prompt)


def test_broken_template_is_an_error_of_ours():
    for broken in ("{% for %}", "{{ messages[0]['content'] + 1 }}"):
        with pytest.raises(DraftbenchError, match="'p1'"):
            rendered(make_tokenizer(broken))


def test_template_hash_follows_the_template_only():
    first = template_hash(make_tokenizer(CHATML))
    assert first == template_hash(make_tokenizer(CHATML, bos="<s>"))
    assert first != template_hash(make_tokenizer(WITH_BOS))


# -- tools -----------------------------------------------------------------------------------


def test_tools_go_to_a_template_that_knows_them():
    text = rendered(make_tokenizer(WITH_TOOLS), with_tools())
    assert text.startswith('<tools>[{"type": "function"')
    assert "<|start|>system" not in text


def test_tools_go_into_the_system_message_where_the_template_ignores_them():
    text = rendered(make_tokenizer(CHATML), with_tools())
    assert text.startswith("<|start|>system\nYou can call these functions:\n")
    assert json.dumps(WEATHER["function"], ensure_ascii=False) in text
    assert text.count("Hello 你好") == 1


def test_tools_as_system_merges_with_the_first_system_message_and_changes_nothing_else():
    system, user = {"role": "system", "content": "Be brief.", "name": "s"}, {"role": "user", "content": "x"}
    inserted = tools_as_system([user], [WEATHER, WEATHER])
    merged = tools_as_system([system, user], [WEATHER])
    assert [message["role"] for message in inserted] == ["system", "user"]
    assert inserted[0]["content"].count('"name": "weather"') == 2
    assert merged[0] == {**system, "content": "Be brief.\n\n" + tools_as_system([user], [WEATHER])[0]["content"]}
    assert merged[1:] == inserted[1:] == [user]
    assert system["content"] == "Be brief."
    assert '{"name": <function name>, "arguments": {<name>: <value>}}' in inserted[0]["content"]


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Wien"}}}
CALLED = (
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "rain"},
)


@pytest.mark.parametrize("tools", [(), (WEATHER,)])
def test_tool_call_that_the_template_drops_is_refused(tools):
    for template in (CHATML, WITH_TOOLS):
        with pytest.raises(DraftbenchError, match="drops the tool calls of prompt 'p1'"):
            rendered(make_tokenizer(template), Prompt("p1", CALLED, tools))


def test_tool_call_that_the_template_writes_is_kept():
    assert "Wien" in rendered(make_tokenizer(WITH_CALLS), Prompt("p1", CALLED))
    strict = "{% for m in messages %}{% if m['role'] == 'assistant' and not m['tool_calls'] %}"
    strict += "{{ raise_exception('no call') }}{% endif %}{% endfor %}" + WITH_CALLS
    assert "Wien" in rendered(make_tokenizer(strict), Prompt("p1", CALLED))


# -- length ----------------------------------------------------------------------------------


def test_prompt_must_leave_room_for_the_answer():
    tokenizer = make_tokenizer(CHATML)
    length = len(render(tokenizer, HELLO, context_tokens=None, max_new_tokens=10_000))
    assert len(render(tokenizer, HELLO, context_tokens=length + 10, max_new_tokens=10)) == length
    with pytest.raises(DraftbenchError) as caught:
        render(tokenizer, HELLO, context_tokens=length + 9, max_new_tokens=10)
    assert f"has {length} tokens; at most {length - 1} fit" in caught.value.what
    assert "max_prompt_tokens" in caught.value.fix
    with pytest.raises(DraftbenchError, match="at most 0 fit"):
        render(tokenizer, HELLO, context_tokens=10, max_new_tokens=20)


DIALOGUE = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
)
PARTS_ONLY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{% for p in m['content'] %}{{ p['text'] }}{% endfor %}<|end|>\n"
    "{% endfor %}" + ANSWER
)


@pytest.mark.parametrize(
    ("template", "dropped"),
    [
        (TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"), r"1 \(system\)"),
        ("<|start|>user\n{{ messages[0]['content'] }}{{ messages[-1]['content'] }}<|end|>\n", r"2 \(user\)"),
        (TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'assistant' %}"), "assistant"),
        (PARTS_ONLY, r"1 \(system\)"),
        ("<|start|>assistant\n", r"1 \(system\)"),
    ],
)
def test_a_template_that_drops_a_message_is_refused(template: str, dropped: str):
    with pytest.raises(DraftbenchError, match=f"drops message .*{dropped}"):
        rendered(make_tokenizer(template + ANSWER), Prompt("p1", DIALOGUE))


def test_a_tools_answer_that_the_template_drops_is_refused():
    template = TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] in ('user', 'assistant') %}")
    asked = (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "f()"},
        {"role": "tool", "content": "5"},
    )
    with pytest.raises(DraftbenchError, match=r"drops message 3 \(tool\)"):
        rendered(make_tokenizer(template + ANSWER), Prompt("p1", asked))


def test_tools_that_have_no_place_are_not_called_a_message_of_the_prompt():
    template = TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    with pytest.raises(DraftbenchError, match="drops the tools of prompt"):
        rendered(make_tokenizer(template + ANSWER), with_tools({"role": "user", "content": "How is the weather?"}))
    last = "{% for m in messages[-1:] %}" + TURNS.partition("%}")[2]
    talk = ({"role": "user", "content": "one"}, {"role": "user", "content": "two"})
    with pytest.raises(DraftbenchError, match=r"drops message 1 \(user\)"):
        rendered(
            make_tokenizer("{{ messages[0]['content'] * (messages | length > 2) }}" + last + ANSWER), with_tools(*talk)
        )


def test_a_template_may_leave_out_earlier_reasoning_and_change_blanks():
    template = (
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] | trim }}<|end|>\n"
        "{% endfor %}" + ANSWER
    )
    turns = ({"role": "user", "content": " a "}, {"role": "assistant", "content": "<think>x</think>"}, DIALOGUE[1])
    assert "x" not in rendered(make_tokenizer(template), Prompt("p1", turns))
