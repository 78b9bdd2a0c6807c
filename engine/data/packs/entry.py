"""A record of a pack, and the domain, scenario and side that it belongs to."""

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
    """A prompt with its origin: what the reader of a pack yields, and one line of a pack's files."""

    id: str
    """Unique over all packs: it begins with the pack's name."""
    domain: Domain
    scenario: Scenario
    messages: list[Message]
    tools: NotRequired[list[Tool]]
    reference: NotRequired[str]
    """A right answer. A function call is written as `chat.rendering.PLAIN_TOOLS_FORM` asks for it:
    `{"name": ..., "arguments": {...}}`, several calls as a JSON array of those."""
    source: str
    licence: str
    group: NotRequired[str]
    """Part of the domain, for rates by group."""


def as_prompt(entry: Entry) -> Prompt:
    """The entry as a Prompt of the engine."""
    return Prompt(entry["id"], tuple(entry["messages"]), tuple(entry.get("tools", [])), entry.get("group", ""))


def user(text: str) -> list[Message]:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]
