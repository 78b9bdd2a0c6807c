"""One record of a pack, and the words for where it belongs."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

from engine.chat.prompt import Message, Prompt, Tool

Domain = Literal["general", "function_calling", "biology", "chinese"]
Scenario = Literal["historical", "curated"]
Side = Literal["train", "heldout"]

DOMAINS: tuple[Domain, ...] = ("general", "function_calling", "biology", "chinese")
SCENARIOS: tuple[Scenario, ...] = ("historical", "curated")
SIDES: tuple[Side, ...] = ("train", "heldout")


class Entry(TypedDict):
    """A prompt with its origin. `reference` is what an assistant should say.

    For a function call it is the text of the call as `rendering.PLAIN_TOOLS_FORM` asks for it:
    `{"name": ..., "arguments": {...}}`, several calls as a JSON array of those.
    """

    id: str
    domain: Domain
    scenario: Scenario
    messages: list[Message]
    tools: NotRequired[list[Tool]]
    reference: NotRequired[str]
    source: str
    licence: str
    group: NotRequired[str]


def as_prompt(entry: Entry) -> Prompt:
    """The entry as the rest of the engine sees it."""
    return Prompt(entry["id"], tuple(entry["messages"]), tuple(entry.get("tools", [])), entry.get("group", ""))


def user(text: str) -> list[Message]:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]
