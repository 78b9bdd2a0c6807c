"""Identity of prompts and of prompt lists."""

from __future__ import annotations

from engine.chat.prompt import Prompt, prompts_hash

USER = {"role": "user", "content": "hello"}


def test_text_is_the_last_user_message():
    tool = {"role": "tool", "content": "42"}
    later = {"role": "user", "content": "and then?"}
    assert Prompt("a", (USER, later, tool)).text == "and then?"
    assert Prompt("a", (tool,)).text == ""


def test_key_ignores_the_order_of_keys_but_not_content_tools_or_turns():
    prompt = Prompt("a", (USER,))
    assert prompt.key() == Prompt("b", ({"content": "hello", "role": "user"},), group="x").key()
    other_tool = {"type": "function", "function": {"name": "f"}}
    others = [Prompt("a", (USER, USER)), Prompt("a", (USER,), (other_tool,)), Prompt("a", ({**USER, "content": "x"},))]
    assert prompt.key() not in {other.key() for other in others}


def test_hash_depends_on_ids_content_and_order():
    first, second = Prompt("a", (USER,)), Prompt("b", ({"role": "user", "content": "再见 👋"},))
    base = prompts_hash([first, second])
    assert base == prompts_hash([Prompt("a", (dict(USER),)), second])
    changed = [[second, first], [first], [Prompt("c", (USER,)), second], [Prompt("a", second.messages), second]]
    assert base not in {prompts_hash(prompts) for prompts in changed}
