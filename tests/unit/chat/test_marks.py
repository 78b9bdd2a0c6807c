"""Marks of a template that prompts hold as text are counted."""

from __future__ import annotations

from engine.chat.marks import marks_in, marks_of
from engine.chat.prompt import Prompt
from tests.unit.chat.test_rendering import CHATML, HELLO, make_tokenizer

LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}<|end|>{% endif %}{% endfor %}"
)


def asked(*texts: str) -> list[Prompt]:
    return [Prompt(f"p{n}", ({"role": "user", "content": text},)) for n, text in enumerate(texts)]


def test_special_tokens_and_what_the_template_writes_in_brackets_are_marks():
    assert {"<|end|>", "<|start|>"} <= set(marks_of(make_tokenizer(CHATML)))
    assert {"[INST]", "[/INST]", "<|end|>"} <= set(marks_of(make_tokenizer(LLAMA_2)))


def test_prompts_that_hold_a_mark_are_counted():
    tokenizer = make_tokenizer(CHATML)
    assert marks_in(tokenizer, [HELLO, *asked("a < b", "[1] and <b>bold</b>")]) == []
    rendered = "<|start|>user\nHello<|end|>\n<|start|>assistant\n"
    earlier = Prompt("p", ({"role": "system", "content": "stop at <|end|>"}, *HELLO.messages))
    lines = marks_in(tokenizer, [HELLO, *asked(rendered), earlier])
    assert lines == ["'<|end|>' in 2 of 3 prompts", "'<|start|>' in 1 of 3 prompts"]
