"""The conversation that a visitor's form holds, in the form that the target's chat template takes, and the samples.

A conversation is a `Prompt`: system text, turns and tools. It is sent as it stands, or refused with the turn that is
wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from engine.chat.messages import BadRecordError, normal, normal_tools
from engine.chat.prompt import Message, Prompt, Tool
from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT
from engine.untrusted import json_text

LONGEST = 200_000  # characters of a conversation with its tools
TOOLS_EXAMPLE = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", ...}}}]'


def read_form(turns: Any, system: str | None = "", tools: str | None = "") -> Prompt:
    """The conversation in the form. `turns`: messages as the editor has them; `tools`: JSON, '' for none.

    Raises DraftbenchError that names the part which cannot be sent.
    """
    messages = [{"role": "system", "content": system}] if system and system.strip() else []
    try:
        read = normal([*messages, *_listed(turns)])
    except BadRecordError as error:
        raise DraftbenchError(
            f"the conversation cannot be sent: {error}",
            "the target would not see it as it stands here",
            "correct that turn, or remove it" + (" (the system text is message 1)" if messages else ""),
        ) from None
    found = Prompt("prompt", read, read_tools(tools))
    check(found)
    return found


def read_tools(text: str | None) -> tuple[Tool, ...]:
    """Tools written as JSON; none for blank text. Raises DraftbenchError that says what is wrong with them."""
    if not text or not text.strip():
        return ()
    try:
        return normal_tools(json_text.loads(text))
    except (BadRecordError, ValueError) as error:
        reason = str(error) if isinstance(error, BadRecordError) else f"the text {error}"
        raise DraftbenchError(
            f"the tools cannot be used: {reason}",
            "the target would be asked without them",
            f"write a JSON list such as {TOOLS_EXAMPLE}, or leave it empty",
        ) from None


def check(conversation: Prompt) -> None:
    """Raise DraftbenchError for a conversation to which there is no next answer, and one that is too long to send."""
    messages = conversation.messages
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        raise DraftbenchError(
            "the prompt is empty", "there is nothing to answer", "type a question, or choose a sample prompt"
        )
    first = 0 if messages[0]["role"] == "system" else 1
    for number, message in enumerate(messages, first):
        if message["role"] in ("user", "assistant") and not message["content"].strip() and not _calls(message):
            raise DraftbenchError(
                f"turn {number} ({message['role']}) is empty", "it would be sent empty", "write it, or remove it"
            )
    if messages[-1]["role"] in ("assistant", "system"):
        raise DraftbenchError(
            f"the last turn is the {messages[-1]['role']}'s",
            "the target answers a user's turn, or what a tool sent back",
            "add a user's turn, or remove the last one",
        )
    if (size := len(conversation.key())) > LONGEST:
        raise DraftbenchError(
            f"the conversation has {size:,} characters with its tools",
            f"the limit is {LONGEST:,}",
            "shorten it, or remove turns or tools",
        )


def _calls(message: Message) -> bool:
    return bool(message.get("tool_calls"))


def _listed(turns: Any) -> list[Any]:
    if isinstance(turns, str):  # of a program
        return [{"role": "user", "content": turns}]
    return list(turns) if isinstance(turns, Sequence) else []


def asked(words: str) -> Prompt:
    """A conversation of one question."""
    return Prompt("prompt", ({"role": "user", "content": words},))


def asked_with(words: str, context: Prompt | None) -> Prompt:
    """Replace a sample prompt's question by these words, keeping its tools and other messages."""
    if context is None:
        return asked(words)
    last = max(i for i, message in enumerate(context.messages) if message["role"] == "user")
    messages = list(context.messages)
    messages[last] = {**messages[last], "content": words}
    return replace(context, messages=tuple(messages))


def parts(conversation: Prompt) -> tuple[str, list[Message], str]:
    """System text, turns and tools as the form shows them: the tools as indented JSON."""
    messages = list(conversation.messages)
    system = str(messages.pop(0)["content"]) if messages and messages[0]["role"] == "system" else ""
    tools = json.dumps(list(conversation.tools), ensure_ascii=False, indent=1) if conversation.tools else ""
    return system, messages, tools


def brings(conversation: Prompt) -> str:
    """'3 tools and 1 other message': what a conversation has besides its question; '' if nothing."""
    counts = ((len(conversation.tools), "tool"), (len(conversation.messages) - 1, "other message"))
    return " and ".join(f"{n} {name}{'s' if n > 1 else ''}" for n, name in counts if n)


@lru_cache(maxsize=1)
def samples() -> Mapping[str, tuple[Prompt, ...]]:
    """The held-out sample prompts by domain; empty without sample_data."""
    from engine.config.schema import PromptSource
    from engine.data.readers import read_prompts

    files = sorted((PROJECT_ROOT / "sample_data" / "prompts").glob("*/heldout.jsonl"))
    return {
        path.parent.name: tuple(read_prompts([PromptSource(path=str(path))], skip_bad=True).prompts) for path in files
    }


def every_sample() -> list[Prompt]:
    """The samples of all domains."""
    return [prompt for prompts in samples().values() for prompt in prompts]


def sample(prompt_id: str) -> Prompt | None:
    """The sample prompt with that id."""
    return next((prompt for prompt in every_sample() if prompt.id == prompt_id), None)


def sample_of(domain: str) -> Prompt | None:
    """A sample prompt of the domain, or of any if it has none."""
    known = samples()
    return next((prompts[0] for prompts in (known.get(domain, ()), *known.values()) if prompts), None)
