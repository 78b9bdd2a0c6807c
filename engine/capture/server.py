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
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import SecretStr

from engine.capture.pace import Pace
from engine.capture.replies import Again, Reply, Unanswered, read_reply
from engine.config import ServerSpec
from engine.errors import DraftbenchError, did_you_mean
from engine.keys import require_allowed
from engine.paths import home

_SHOWN_CHARACTERS = 200  # of a server's message
_LONGEST_PAUSE_S = 3600.0  # that a server may ask for
# Fields beyond the API, the fullest set first; a server that refuses one set is asked with the next.
# llama.cpp draws from the 40 likeliest tokens that have a twentieth of the best one's probability unless it is told not
# to, vLLM and SGLang as the model's generation_config.json says: the text would not be the target's distribution.
_WHOLE = {"min_p": 0.0, "repetition_penalty": 1.0}
_EXTRAS: tuple[Mapping[str, Any], ...] = (
    {"return_token_ids": True, "top_k": -1, **_WHOLE},  # vLLM, SGLang, llama.cpp
    {"top_k": 0, **_WHOLE},  # those that have 0 for "all", as llama-cpp-python
    {},
)


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
    if environ is None and not is_this_machine(spec.base_url):
        require_allowed(home(), spec)
    return SecretStr(key)


def is_this_machine(url: str) -> bool:
    """Whether an address never leaves this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class ChatServer:
    """Answers of one server. Use as `async with`; `pace` sets how fast it is asked and takes a test's clock.

    `under_way`: the tasks whose request is with the server now, not those that wait to ask again.
    """

    def __init__(self, spec: ServerSpec, key: SecretStr | None, pace: Pace | None = None) -> None:
        self.spec, self._key = spec, key
        self.pace = pace or Pace(spec.requests_per_minute)
        self.under_way: set[asyncio.Task[Any] | None] = set()
        self._extras = _EXTRAS
        self._extras_fit = False  # whether the server has answered a request that had the first of them
        self._listed: list[str] | None = None
        self._listing = asyncio.Lock()
        self._client = httpx2.AsyncClient(
            timeout=None,  # a request as a whole is timed, not each of its reads
            trust_env=not is_this_machine(spec.base_url),  # a proxy cannot reach this machine
            limits=httpx2.Limits(max_connections=None),
        )

    async def __aenter__(self) -> ChatServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def samples_its_own_way(self) -> bool:
        """Whether it answers, but refuses to be told that nothing is to be cut off its distribution."""
        return self._extras_fit and not self._extras[0]

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
            except Again as again:
                cause = str(again)
            if attempt < self.spec.attempts:
                await self.pace.back_off(attempt)
        raise Unanswered(f"{cause} ({self.spec.attempts} attempts)", in_vain=True)

    async def _once(self, body: Mapping[str, Any]) -> Reply:
        """One attempt. A refusal of the fields beyond the API leads to the next set of them, until one has been answered.

        Only an answer shows that they were the cause; else it is the prompt that is refused.
        """
        sets = self._extras[:1] if self._extras_fit else self._extras
        for number, extras in enumerate(sets):
            if number:
                await self.pace.turn()
            response = await self._send("POST", "chat/completions", {**extras, **body})
            if response.is_success:
                if not self._extras_fit:
                    self._extras, self._extras_fit = sets[number:], True
                return read_reply(response.content, self._shown)
            if response.status_code not in (400, 422):
                break
        raise await self._failure(response)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        """A whole response. Raises Again if none came."""
        task = asyncio.current_task()
        self.under_way.add(task)
        try:
            async with asyncio.timeout(self.spec.timeout_s):
                return await self._client.request(
                    method, _address(self.spec, path), json=body, headers=_headers(self._key)
                )
        except TimeoutError:
            raise Again(f"no answer within {self.spec.timeout_s:g} s") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise _bad_address(self.spec, self._shown(error)) from None
        except httpx2.HTTPError as error:  # refused, broken off, fewer bytes than were announced
            raise Again(f"{type(error).__name__}: {self._shown(error)}") from None
        finally:
            self.under_way.discard(task)

    async def _failure(self, response: httpx2.Response) -> Exception:
        """What an answer that is none means: to be asked again, this prompt's fault, or the end."""
        code, said = response.status_code, self._shown(response.text)
        told = f"status {code}" + (f": {said}" if said else "")
        if code in (429, 503):
            self._heed(code, _retry_after_s(response.headers.get("Retry-After")))
        if code in (408, 425, 429) or code >= 500:
            return Again(told)
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

    def _heed(self, code: int, wish_s: float) -> None:
        """Hold all requests back for as long as the server wishes, or, if it only says "too many", for a growing time."""
        if wish_s > 0:
            self.pace.pause(wish_s)
        elif code == 429:
            self.pace.pause_longer()

    async def _names(self) -> list[str]:
        """Models that the server lists, asked for once; none if it does not say."""
        async with self._listing:
            if self._listed is None:
                await self.pace.turn()
                try:
                    self._listed = _model_names(await self._send("GET", "models"))
                except (Again, DraftbenchError):
                    self._listed = []
        return self._listed

    def without_key(self, text: str) -> str:
        """A text with the key taken out, should a server have repeated it."""
        return without_key(text, self._key)

    def _shown(self, text: object) -> str:
        return shown(text, self._key)


def shown(text: object, key: SecretStr | None) -> str:
    """A stranger's text as one short line, with the key taken out."""
    line = without_key(str(text), key)
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + " ..."


def without_key(text: str, key: SecretStr | None) -> str:
    """A text with the key taken out, as it is or as JSON has it."""
    if key is not None:
        secret = key.get_secret_value()
        for form in (secret, json.dumps(secret)[1:-1], secret.replace("/", "\\/")):
            text = text.replace(form, "[key]")
    return text


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
    except (ValueError, LookupError, TypeError, RecursionError):
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
