"""A client of OpenAI-compatible servers that asks on, waits when it is told to, and never shows its key.

What may pass is asked again (too many requests, a server that restarts, half an answer); what
will not pass by itself (a wrong key, a model the server does not have) ends the work at once,
with what to type instead. Messages of the server are shown only with the key taken out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
from pydantic import SecretStr

from engine.capture.pace import Pace
from engine.config import ServerSpec
from engine.errors import DraftbenchError, did_you_mean

_POLL_S = 0.2  # how soon a wish to stop is seen
_SHOWN_CHARACTERS = 200  # of a server's message
_LONGEST_PAUSE_S = 3600.0  # that a server may ask for
_FAILURES_IN_A_ROW = 3  # prompts without an answer, and none answered between: the server is gone, not the prompt bad
_STOPPED = {"stop", "tool_calls", "function_call", "eos"}
_WANTED_EXTRAS = {"return_token_ids": True}  # vLLM and SGLang; others ignore it, or refuse and are asked without


@dataclass(frozen=True)
class Reply:
    """What a server answered. `token_ids` only from servers that tell them, end of turn included."""

    text: str
    finish_reason: Literal["stop", "length"]
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    reasoning: str = ""  # text that the server took out of the answer
    token_ids: list[int] | None = None
    prompt_tokens: int | None = None


class Unanswered(Exception):
    """One prompt got no usable answer; the message is the last cause, without the key."""


class _Again(Exception):
    """An attempt failed in a way that may pass."""


def read_key(spec: ServerSpec, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """The key out of the environment; None if the server needs none.

    Raises DraftbenchError, which names the variable and never shows its value, if it is not set,
    holds what no header can carry, or would travel unencrypted to another machine.
    """
    if spec.key_env is None:
        return None
    key = (os.environ if environ is None else environ).get(spec.key_env, "").strip()
    if not key:
        raise DraftbenchError(
            f"the environment variable {spec.key_env} is not set",
            f"capture.server.key_env names it as the one with the key of {spec.base_url}",
            f"`export {spec.key_env}=...` in the shell you start from, or leave key_env out if the server needs no key",
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise DraftbenchError(
            f"the value of {spec.key_env} is no key",
            "it holds spaces or characters that a request's header cannot carry",
            "set it to the key alone",
        )
    if spec.base_url.startswith("http:") and not is_this_machine(spec.base_url):
        raise DraftbenchError(
            f"{spec.base_url} is another machine, and the key of {spec.key_env} would go there unencrypted",
            "everyone on the way could read it",
            "use https://, or a tunnel such as `ssh -L 8000:localhost:8000 HOST` and http://127.0.0.1:8000/v1, "
            "or leave key_env out if the server needs no key",
        )
    return SecretStr(key)


def is_this_machine(url: str) -> bool:
    """Whether an address never leaves this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class ChatServer:
    """Answers of one server. Use as `async with`; `pace` sets how fast it is asked and takes a test's clock."""

    def __init__(self, spec: ServerSpec, key: SecretStr | None, pace: Pace | None = None) -> None:
        self.spec, self._key = spec, key
        self.pace = pace or Pace(spec.requests_per_minute)
        self._extras: Mapping[str, Any] = _WANTED_EXTRAS
        self._client = httpx2.AsyncClient(
            timeout=None,  # a request as a whole is timed, not each of its reads
            trust_env=not is_this_machine(spec.base_url),  # a proxy cannot reach this machine
            limits=httpx2.Limits(max_connections=None),
        )

    async def __aenter__(self) -> ChatServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def answer(self, body: Mapping[str, Any]) -> Reply:
        """The reply to a request for a chat completion.

        Raises Unanswered when its attempts are used up or the server refuses this request, and
        DraftbenchError where no request can succeed: wrong key, wrong model, wrong address.
        """
        cause = ""
        for attempt in range(1, self.spec.attempts + 1):
            await self.pace.turn()
            try:
                return await self._once(body)
            except _Again as again:
                cause = str(again)
            if attempt < self.spec.attempts:
                await self.pace.back_off(attempt)
        raise Unanswered(f"{cause} ({self.spec.attempts} attempts)")

    async def _once(self, body: Mapping[str, Any]) -> Reply:
        extras = self._extras
        response = await self._send("POST", "chat/completions", {**body, **extras})
        if response.status_code in (400, 422) and extras:
            self._extras = {}  # perhaps it refuses fields that it does not know
            await self.pace.turn()
            response = await self._send("POST", "chat/completions", dict(body))
        if response.is_success:
            return self._read(response)
        raise await self._failure(response)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        """A whole response. Raises _Again if none came."""
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                return await self._client.request(
                    method, _address(self.spec, path), json=body, headers=_headers(self._key)
                )
        except TimeoutError:
            raise _Again(f"no answer within {self.spec.timeout_s:g} s") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise _bad_address(self.spec, self._shown(error)) from None
        except httpx2.HTTPError as error:  # refused, broken off, fewer bytes than were announced
            raise _Again(f"{type(error).__name__}: {self._shown(error)}") from None

    async def _failure(self, response: httpx2.Response) -> Exception:
        """What an answer that is none means: to be asked again, this prompt's fault, or the end."""
        code, said = response.status_code, self._shown(response.text)
        told = f"status {code}" + (f": {said}" if said else "")
        if code in (429, 503):
            self.pace.pause(_retry_after_s(response.headers.get("Retry-After")))
        if code in (408, 425, 429) or code >= 500:
            return _Again(told)
        if code in (401, 403):
            return _key_refused(self.spec, told)
        if response.is_redirect:
            where = self._shown(response.headers.get("Location", ""))
            return _bad_address(self.spec, f"it redirects to {where}, and a key is not sent on to another address")
        if code in (400, 404):
            names = await self._names()
            if code == 404 or (names and self.spec.model not in names):
                return unknown_model(self.spec, names, told)
        return Unanswered(f"{told} (not asked again)")

    async def _names(self) -> list[str]:
        """Models that the server lists; none if it does not say."""
        try:
            return _model_names(await self._send("GET", "models"))
        except (_Again, DraftbenchError):
            return []

    def _read(self, response: httpx2.Response) -> Reply:
        """The reply in a response's body. Raises _Again if it is empty, broken or holds no text."""
        if not response.content.strip():
            raise _Again("an empty answer")
        try:
            told = json.loads(response.content)
        except (ValueError, RecursionError):
            raise _Again(f"an answer that is not whole JSON: {self._shown(response.text)}") from None
        choices = told.get("choices") if isinstance(told, dict) else None
        if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
            raise _Again(f"an answer without choices: {self._shown(response.text)}")
        return _reply(told, choices[0])

    def _shown(self, text: object) -> str:
        return shown(text, self._key)


def shown(text: object, key: SecretStr | None) -> str:
    """A stranger's text as one short line, with the key taken out."""
    line = str(text)
    if key is not None:
        secret = key.get_secret_value()
        for form in (secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/")):
            line = line.replace(form, "[key]")
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + " ..."


def _reply(told: Mapping[str, Any], choice: Mapping[str, Any]) -> Reply:
    said = choice.get("message")
    message = said if isinstance(said, dict) else {}
    reason = choice.get("finish_reason")
    if reason not in _STOPPED and reason != "length":
        raise Unanswered(f"the answer ended with finish_reason {reason!r} (not asked again)")
    text, calls, ids = _text(message.get("content")), message.get("tool_calls") or [], choice.get("token_ids")
    reply = Reply(
        text,
        "length" if reason == "length" else "stop",
        [call for call in calls if isinstance(call, dict)],
        _text(message.get("reasoning_content") or message.get("reasoning")),
        ids if isinstance(ids, list) and ids and all(isinstance(i, int) for i in ids) else None,
        (told.get("usage") or {}).get("prompt_tokens"),
    )
    if reply.finish_reason == "length" and not (reply.text or reply.tool_calls or reply.reasoning or reply.token_ids):
        raise _Again("an answer without text")
    return reply


def _text(content: Any) -> str:
    """Text of a message, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _headers(key: SecretStr | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}


def _address(spec: ServerSpec, path: str) -> str:
    return f"{spec.base_url.rstrip('/')}/{path}"


def _retry_after_s(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, given in seconds or as a date; 0 if it is missing or senseless."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE_S) if seconds == seconds else 0.0


def _model_names(response: httpx2.Response) -> list[str]:
    try:
        listed = response.json()["data"] if response.is_success else []
        return [str(model["id"]) for model in listed]
    except (ValueError, LookupError, TypeError):
        return []


def _bad_address(spec: ServerSpec, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"{spec.base_url} does not serve this API", why, "capture.server.base_url ends where /chat/completions begins"
    )


def _key_refused(spec: ServerSpec, told: str) -> DraftbenchError:
    fix = (
        f"set the environment variable {spec.key_env} to a key that is valid there"
        if spec.key_env
        else "put the key into an environment variable and its name into capture.server.key_env"
    )
    return DraftbenchError(f"{spec.base_url} refuses the key", told, fix)


def unknown_model(spec: ServerSpec, names: Sequence[str], told: str = "") -> DraftbenchError:
    """The server does not have the model, or is at another address."""
    if names and spec.model not in names:
        return DraftbenchError(
            f"{spec.base_url} has no model {spec.model!r}",
            told,
            f"correct capture.server.model: {did_you_mean(spec.model, names)}",
        )
    return DraftbenchError(
        f"{spec.base_url} does not answer for the model {spec.model!r}",
        told,
        "check capture.server.model, and that base_url ends where /chat/completions begins (often /v1)",
    )


def listed_models(spec: ServerSpec, *, timeout_s: float = 5.0) -> list[str]:
    """Names of the models that the server lists, none if it lists none: a look before a run.

    Raises DraftbenchError if the server cannot be reached, or refuses the key.
    """
    key = read_key(spec)
    try:
        with httpx2.Client(timeout=timeout_s, trust_env=not is_this_machine(spec.base_url)) as client:
            response = client.get(_address(spec, "models"), headers=_headers(key))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DraftbenchError(
            f"{spec.base_url} cannot be reached: {shown(error, key) or type(error).__name__}",
            "the training answers come from there",
            "start the server, or correct capture.server.base_url",
        ) from None
    if response.status_code in (401, 403):
        raise _key_refused(spec, f"status {response.status_code}: {shown(response.text, key)}")
    return _model_names(response)


async def fetch(
    server: ChatServer,
    bodies: Sequence[Mapping[str, Any]],
    keep: Callable[[int, Reply], None],
    stop_if_asked: Callable[[], None],
) -> list[tuple[int, str]]:
    """Ask everything, `spec.concurrency` requests at once; returns who got no answer, and why.

    `keep` gets each reply with its index as it comes, in no order; an Unanswered that it raises
    counts as no answer. A few prompts that fail in a row end it: then the server is the fault.
    `stop_if_asked` may raise between two replies; requests under way are given up then.
    """
    waiting, failed, in_a_row = iter(range(len(bodies))), [], 0
    going: dict[asyncio.Task[Reply], int] = {}
    try:
        while in_a_row < _FAILURES_IN_A_ROW:
            for index in islice(waiting, server.spec.concurrency - len(going)):
                going[asyncio.create_task(server.answer(bodies[index]))] = index
            if not going:
                break
            done, _ = await asyncio.wait(going, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: task.exception() is not None):  # answers are kept before an error
                index = going.pop(task)
                try:
                    keep(index, task.result())
                    in_a_row = 0
                except Unanswered as why:
                    failed.append((index, str(why)))
                    in_a_row += 1
            stop_if_asked()
    finally:
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
    return failed
