"""A client of OpenAI-compatible servers that asks on, waits when it is told to, and never shows its key.

What may pass is asked again (too many requests, a server that restarts, half an answer); what
will not pass by itself (a wrong key, a model the server does not have) ends the work at once,
with what to type instead. Messages of the server are shown only with the key taken out.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from engine.config.schema import ServerSpec
from engine.errors import DraftbenchError, did_you_mean
from engine.paths import home
from engine.served.http import Client, Exchange, NoResponse, NotAnAddress, TooMuch, check_address, is_this_machine
from engine.served.keys import require_allowed
from engine.served.replies import Again, Reply, Unanswered, read_reply
from engine.served.request_rate import Pace
from engine.untrusted import json_text

_SHOWN_CHARACTERS = 200  # of a server's message
_READ_CHARACTERS = 4 * _SHOWN_CHARACTERS
_LONGEST_PAUSE_S = 3600.0  # that a server may ask for; one that asks for more is not waited for
_NOTED_PAUSE_S = 30.0  # from which on a pause is said
# A reply's size: text, and up to 2 KiB of log-probabilities for each token that was asked for.
_REPLY_BYTES, _TOKEN_BYTES, _MOST_REPLY_BYTES = 4 * 2**20, 2048, 64 * 2**20
_LIST_BYTES = 4 * 2**20
_MOST_NAMES, _NAME_CHARACTERS = 10_000, 200  # of models in a list
_SHOWN_NAMES = 12
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
    try:
        check_address(spec.base_url)
    except NotAnAddress as error:
        raise _bad_address(spec, str(error)) from None
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


class ChatServer:
    """Answers of one server. Use as `async with`; `pace` sets how fast it is asked and takes a test's clock.

    `note` is told of long pauses that the server asks for.
    `under_way`: the tasks whose request is with the server now, not those that wait to ask again.
    """

    def __init__(
        self,
        spec: ServerSpec,
        key: SecretStr | None,
        pace: Pace | None = None,
        note: Callable[[str], None] = lambda said: None,
    ) -> None:
        self.spec, self._key, self._note = spec, key, note
        self.pace = pace or Pace(spec.requests_per_minute)
        self.under_way: set[asyncio.Task[Any] | None] = set()
        self._extras = _EXTRAS
        self._extras_fit = False  # whether the server has answered a request that had the first of them
        self._listed: list[str] | None = None
        self._listing = asyncio.Lock()
        self._client = Client(spec.base_url)

    async def __aenter__(self) -> ChatServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

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
                return read_reply(response.body, self._shown, body)
            if response.status not in (400, 422):
                break
        raise await self._failure(response)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Exchange:
        """A whole response. Raises Again if none came, and Unanswered if it has no end."""
        task = asyncio.current_task()
        self.under_way.add(task)
        try:
            return await self._client.call(
                method,
                _address(self.spec, path),
                headers=_headers(self._key),
                body=body,
                timeout_s=self.spec.timeout_s,
                most_bytes=_LIST_BYTES if body is None else _most_bytes(body),
            )
        except NoResponse as error:
            raise Again(self._shown(error)) from None
        except TooMuch as error:
            raise Unanswered(f"an answer of {error} (not asked again)") from None
        except NotAnAddress as error:
            raise _bad_address(self.spec, self._shown(error)) from None
        finally:
            self.under_way.discard(task)

    async def _failure(self, response: Exchange) -> Exception:
        """What an answer that is none means: to be asked again, this prompt's fault, or the end."""
        code, said = response.status, self._shown(response.text)
        told = f"status {code}" + (f": {said}" if said else "")
        if code in (429, 503):
            self._heed(code, _retry_after_s(response.headers.get("retry-after")), told)
        if code in (408, 425, 429) or code >= 500:
            return Again(told)
        if code in (401, 403):
            return _key_refused(self.spec, told)
        if response.location is not None:
            return _redirected(self.spec, self._shown(response.location))
        if code in (400, 404):
            names = await self._names()
            if code == 404 or (names and self.spec.model not in names):
                return unknown_model(self.spec, names, told)
        return Unanswered(f"{told} (not asked again)")

    def _heed(self, code: int, wish_s: float, told: str) -> None:
        """Hold all requests back for as long as the server wishes, or, if it only says "too many", for a growing time.

        Raises DraftbenchError for a wish that nobody would sit out.
        """
        if wish_s > _LONGEST_PAUSE_S:
            raise DraftbenchError(
                f"{self.spec.base_url} wants no request for {_duration(wish_s)}",
                f"{told}; a pause of over an hour is not waited for, and what is answered is kept",
                "the same command goes on then; until then another server, or another key, may answer",
            )
        if wish_s >= _NOTED_PAUSE_S:
            self._note(f"{self.spec.base_url} asks for a pause of {_duration(wish_s)}: all requests wait")
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
                    self._listed = _model_names(await self._send("GET", "models"), self._key)
                except (Again, Unanswered, DraftbenchError):
                    self._listed = []
        return self._listed

    def without_key(self, text: str) -> str:
        """A text with the key taken out, should a server have repeated it."""
        return without_key(text, self._key)

    def _shown(self, text: object) -> str:
        return shown(text, self._key)


def shown(text: object, key: SecretStr | None) -> str:
    """A stranger's text as one short line, with the key taken out."""
    line = without_key(str(text), key)[:_READ_CHARACTERS]
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + " ..."


def without_key(text: str, key: SecretStr | None) -> str:
    """A text with the key taken out, as it is or as JSON has it."""
    if key is not None:
        secret = key.get_secret_value()
        for form in (
            secret,
            json.dumps(secret)[1:-1],
            secret.replace("/", "\\/"),
            quote(secret),
            quote(secret, safe=""),
        ):
            text = text.replace(form, "[key]")
    return text


def holds_key(text: str, key: SecretStr | None) -> bool:
    """Whether a stranger's text repeats the key."""
    return without_key(text, key) != text


def _headers(key: SecretStr | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}


def _address(spec: ServerSpec, path: str) -> str:
    return f"{spec.base_url.rstrip('/')}/{path}"


def _most_bytes(body: Mapping[str, Any]) -> int:
    """Bytes that the answer to a request may have."""
    return min(_MOST_REPLY_BYTES, _REPLY_BYTES + _TOKEN_BYTES * int(body.get("max_tokens", 0)))


def _retry_after_s(value: str | None) -> float:
    """Seconds that a Retry-After header asks for, given in seconds or as a date; 0 if it is missing or senseless."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"


def _model_names(response: Exchange, key: SecretStr | None) -> list[str]:
    """Names in a list of models, as far as they can be read, each as one short line; none if it is no such list."""
    try:
        told = json_text.loads(response.body) if response.is_success else None
    except ValueError:
        return []
    listed = told.get("data") if isinstance(told, dict) else told
    models = listed if isinstance(listed, list) else []
    names = [model.get("id") for model in models[:_MOST_NAMES] if isinstance(model, dict)]
    return [without_key(name, key) for name in names if isinstance(name, str) and len(name) <= _NAME_CHARACTERS]


def _bad_address(spec: ServerSpec, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"{spec.base_url} does not serve this API", why, "capture.server.base_url ends where /chat/completions begins"
    )


def _redirected(spec: ServerSpec, where: str) -> DraftbenchError:
    return _bad_address(spec, f"it redirects to {where}, and a key is not sent on to another address")


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
            f"correct capture.server.model: {_known(spec.model, names)}",
        )
    return DraftbenchError(
        f"{spec.base_url} does not answer for the model {spec.model!r}",
        told,
        "check capture.server.model, and that base_url ends where /chat/completions begins (often /v1)",
    )


def _known(wrong: str, names: Sequence[str]) -> str:
    """The nearest names, and a few of a long list."""
    near = difflib.get_close_matches(wrong, names, n=_SHOWN_NAMES, cutoff=0.5)
    few = list(dict.fromkeys([*near, *names]))[:_SHOWN_NAMES]
    more = f" and {len(names) - len(few):,} more" if len(names) > len(few) else ""
    return did_you_mean(wrong, [shown(name, None) for name in few]) + more


def listed_models(spec: ServerSpec, *, timeout_s: float = 5.0) -> list[str]:
    """Names of the models that the server lists, none if it lists none: a look before a run.

    Raises DraftbenchError if the server cannot be reached or redirects, refuses the key, or answers without end.
    """
    key = read_key(spec)

    async def look() -> Exchange:
        async with Client(spec.base_url) as client:
            return await client.call(
                "GET", _address(spec, "models"), headers=_headers(key), timeout_s=timeout_s, most_bytes=_LIST_BYTES
            )

    try:
        response = asyncio.run(look())
    except NotAnAddress as error:
        raise _bad_address(spec, shown(error, key)) from None
    except (NoResponse, TooMuch) as error:
        raise DraftbenchError(
            f"{spec.base_url} cannot be reached: {shown(error, key)}"
            if isinstance(error, NoResponse)
            else f"{spec.base_url} answers a question for its models with {shown(error, key)}",
            "the training answers come from there",
            "start the server, or correct capture.server.base_url",
        ) from None
    if response.location is not None:
        raise _redirected(spec, shown(response.location, key))
    if response.status in (401, 403):
        raise _key_refused(spec, f"status {response.status}: {shown(response.text, key)}")
    return _model_names(response, key)
