"""What a server is asked and what it answers, in one form for all servers that parity is tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.catalogue import Proposals
from engine.chat.prompt import Message, Tool
from engine.deploy.server_process import Program
from engine.deploy.server_rounds import ServerRule
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals
from engine.served.http import BadAddress, Client, NoResponse, TooLarge
from engine.untrusted.visible import visible

_MOST_BYTES = 16_000_000
_TIMEOUT_S = 900.0
_SHOWN = 300  # characters of a reply, in an error


@dataclass(frozen=True)
class Asked:
    """One prompt as token ids, and how it is to be answered: the plain distribution of the target, nothing cut off."""

    prompt_id: str
    prompt_ids: Sequence[int]
    temperature: float
    limit: int
    """Tokens of the answer, at most."""
    seed: int


class AnswerNotGiven(DraftbenchError):
    """The server wrote an answer and could not send it: the others are not affected."""


@dataclass(frozen=True)
class ServedAnswer:
    """A server's answer to one prompt.

    `totals`: its own count of the rounds; None without a draft. `seconds`: what the answer took after the prompt was
    read; None where other requests ran meanwhile.
    """

    prompt_id: str
    temperature: float
    token_ids: list[int]
    totals: RoundTotals | None
    seconds: float | None


@dataclass(frozen=True)
class Deployment:
    """What a server is started with. Without a draft it decodes plainly. `context_tokens`: prompt and answer."""

    target: Path
    draft: Path | None
    gamma: int
    proposals: Proposals
    context_tokens: int
    dtype: str


class Server(Protocol):
    """A kind of server: how it is started, asked and read."""

    name: str
    rule: ServerRule
    health: str
    startup_s: float
    concurrency: int
    """Requests at once where nothing is timed."""

    def program(self, executable: Path, deployment: Deployment) -> Program: ...

    def version(self, executable: Path) -> str:
        """The version as the program prints it."""
        ...

    async def ask(self, client: Client, url: str, asked: Asked, *, timed: bool) -> ServedAnswer: ...

    async def chat_ids(self, client: Client, url: str, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The token ids that the server's own chat route makes of a conversation."""
        ...


async def exchange(client: Client, url: str, body: Mapping[str, Any] | None = None) -> bytes:
    """The body of a successful reply: POST of JSON, or GET. Raises DraftbenchError for any other outcome."""
    try:
        reply = await client.call(
            "GET" if body is None else "POST", url, headers={}, body=body, timeout_s=_TIMEOUT_S, most_bytes=_MOST_BYTES
        )
    except (NoResponse, TooLarge, BadAddress) as error:
        raise DraftbenchError(
            f"the server gave no answer: {error}", f"asked at {url}", "its log says more; try fewer prompts"
        ) from None
    if not reply.is_success:
        raise DraftbenchError(
            f"the server refused a request with status {reply.status}: {visible(reply.text)[:_SHOWN]}",
            f"asked at {url}",
            "its log says more",
        )
    return reply.body


async def exchange_json(client: Client, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object that a POST is answered with."""
    content = await exchange(client, url, body)
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise unexpected(url, "a JSON object", content[:_SHOWN].decode("utf-8", "replace"))
    return value


def whole(value: Any, what: str, url: str) -> int:
    """A count in a reply. Raises DraftbenchError if it is missing or no whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise unexpected(url, what, value)
    return value


def ids(value: Any, what: str, url: str) -> list[int]:
    """A list of token ids in a reply. Raises DraftbenchError if it is missing or holds anything else."""
    if not isinstance(value, list):
        raise unexpected(url, what, value)
    return [whole(item, what, url) for item in value]


def unexpected(url: str, what: str, value: object) -> DraftbenchError:
    """The error for a reply that is not of the form that this version knows."""
    return DraftbenchError(
        f"the server's reply has no {what}: {visible(repr(value))[:_SHOWN]}",
        f"asked at {url}: a build of another form than this version reads, or started without its options",
        "use the build that `draftbench served setup` installs",
    )
