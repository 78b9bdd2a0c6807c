"""The Prompt, and the hash of a list of prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.fileio import content_hash

Message = dict[str, Any]
"""{"role", "content", ...}; see `engine.chat.messages` for the normal form."""
Tool = dict[str, Any]
"""A function schema in OpenAI's form."""
ToolCall = dict[str, Any]
"""{"type": "function", "function": {"name", "arguments"}}."""


@dataclass(frozen=True)
class Prompt:
    """A query to the target: a conversation that ends where the answer begins.

    `messages` are {"role", "content", ...} dicts, `tools` OpenAI-style function schemas. `group` names a part of the
    domain ("" if none), for rates by group. Treat the dicts as read-only: `key` is the prompt's identity.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    group: str = ""

    @property
    def text(self) -> str:
        """Content of the last user message; "" if there is none."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return str(message["content"])
        return ""

    def key(self) -> str:
        """Messages and tools as canonical JSON, which is equal for equal prompts.

        The order of keys inside a message or schema does not matter, so the same prompt read from JSON lines and from
        Parquet has one key.
        """
        content = {"messages": self.messages, "tools": self.tools}
        return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def prompts_hash(prompts: Iterable[Prompt]) -> str:
    """Hex sha256 of the prompts' ids and keys, in order: `first 64 prompts` depends on the order."""
    return content_hash([[prompt.id, prompt.key()] for prompt in prompts])
