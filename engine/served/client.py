"""A client of OpenAI-compatible servers that retries, pauses when the server asks for it, and never shows its key.

Transient failures are retried (too many requests, a server that restarts, half an answer). Others (a wrong key, a
model that the server does not have) end the work at once, with what to type instead. Messages of the server are shown
only with the key taken out.
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
from engine.served.http import BadAddress, Client, NoResponse, Response, TooLarge, check_address, is_this_machine
from engine.served.keys import require_allowed
from engine.served.replies import Reply, Retry, Unanswered, read_reply
from engine.served.request_rate import RateLimiter
from engine.untrusted import json_text

_SHOWN_CHARACTERS = 200  # of a server's message
_READ_CHARACTERS = 4 * _SHOWN_CHARACTERS
_MAX_PAUSE_S = 3600.0  # a server that asks for more is given up
_NOTED_PAUSE_S = 30.0  # shorter pauses are not mentioned
# Most bytes of a reply: its text, and of each token asked for its log-probability and those of the likeliest ones.
_REPLY_BYTES, _TOKEN_BYTES, _ALTERNATIVE_BYTES, _MOST_REPLY_BYTES = 4 * 2**20, 2048, 256, 64 * 2**20
_LIST_BYTES = 4 * 2**20
_MOST_NAMES, _NAME_CHARACTERS = 10_000, 200  # of models in a list
_SHOWN_NAMES = 12
# Fields beyond the API, the fullest set first; a server that refuses one set is sent the next.
# By default llama.cpp draws from the 40 likeliest tokens with at least a twentieth of the best one's probability, vLLM
# and SGLang as the model's generation_config.json says: the text would not follow the target's distribution.
_FULL_DISTRIBUTION = {"min_p": 0.0, "repetition_penalty": 1.0}
_EXTRAS: tuple[Mapping[str, Any], ...] = (
    {"return_token_ids": True, "top_k": -1, **_FULL_DISTRIBUTION},  # vLLM, SGLang, llama.cpp
    {"top_k": 0, **_FULL_DISTRIBUTION},  # servers where 0 means "all", such as llama-cpp-python
    {},
)


def read_key(spec: ServerSpec, environ: Mapping[str, str] | None = None) -> SecretStr | None:
    """Read the key from the environment; None if the server needs none.

    Raises DraftbenchError, which names the variable and never shows its value, if it is not set, contains characters
    that no header can carry, or would travel unencrypted to another machine.
    """
    if spec.key_env is None:
        return None
    try:
        check_address(spec.base_url)
    except BadAddress as error:
        raise _bad_address(spec, str(error)) from None
    key = (os.environ if environ is None else environ).get(spec.key_env, "").strip()
    if not key:
        raise DraftbenchError(
            f"the environment variable {spec.key_env} is not set",
            f"capture.server.key_env says that it holds the key of {spec.base_url}",
            f"`export {spec.key_env}=...` in the shell you start from, or leave key_env out if the server needs no key",
        )
    if not re.fullmatch(r"[!-~]+", key):
        raise DraftbenchError(
            f"the value of {spec.key_env} is not a key",
            "it contains spaces or characters that a request's header cannot carry",
            "set it to the key alone",
        )
    if spec.base_url.startswith("http:") and not is_this_machine(spec.base_url):
        raise DraftbenchError(
            f"{spec.base_url} is another machine, and the key in {spec.key_env} would be sent there unencrypted",
            "anyone on the way could read it",
            "use https://, or a tunnel such as `ssh -L 8000:localhost:8000 HOST` and http://127.0.0.1:8000/v1, "
            "or leave key_env out if the server needs no key",
        )
    if environ is None and not is_this_machine(spec.base_url):
        require_allowed(home(), spec)
    return SecretStr(key)


def read_keys(spec: ServerSpec) -> SecretStr | None:
    """Read the key of all servers that share the load, once it may be sent to each of them. Raises as `read_key`."""
    keys = [read_key(one) for one in spec.each]
    return keys[0]


class ChatServer:
    """The answers of one server. Use as `async with`; `limiter` limits the rate of requests and takes a test's clock.

    `note` is called about long pauses that the server asks for, `seen` with the body of each request that was answered
    and that of its answer.
    """

    def __init__(
        self,
        spec: ServerSpec,
        key: SecretStr | None,
        limiter: RateLimiter | None = None,
        note: Callable[[str], None] = lambda message: None,
        seen: Callable[[Mapping[str, Any], bytes], None] = lambda request, answer: None,
    ) -> None:
        self.spec, self._key, self._note, self._seen = spec, key, note, seen
        self.limiter = limiter or RateLimiter(spec.requests_per_minute)
        self._in_flight: set[asyncio.Task[Any] | None] = set()
        self._extras = _EXTRAS
        self._extras_known = False  # whether the server has answered a request with the first of them
        self._listed: list[str] | None = None
        self._listing = asyncio.Lock()
        self._client = Client(spec.base_url)

    async def __aenter__(self) -> ChatServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def in_flight(self) -> set[asyncio.Task[Any] | None]:
        """The tasks whose request is at the server now, without those that wait for another attempt."""
        return self._in_flight

    @property
    def concurrency(self) -> int:
        """Requests in flight at once."""
        return self.spec.concurrency

    @property
    def samples_its_own_way(self) -> bool:
        """Whether it answers, but refuses the fields that keep its distribution whole."""
        return self._extras_known and not self._extras[0]

    async def answer(self, body: Mapping[str, Any]) -> Reply:
        """Send a request for a chat completion and return the reply.

        Raises Unanswered once all attempts have failed or if the server refuses this request, and DraftbenchError
        where no request can succeed: wrong key, wrong model, wrong address.
        """
        cause = ""
        for attempt in range(1, self.spec.attempts + 1):
            try:
                return await self.attempt(body)
            except Retry as error:
                cause = str(error)
            if attempt < self.spec.attempts:
                await self.limiter.back_off(attempt)
        raise Unanswered(f"{cause} ({self.spec.attempts} attempts)", exhausted=True)

    async def attempt(self, body: Mapping[str, Any]) -> Reply:
        """Make one attempt: after a refusal with the next set of fields beyond the API, until one set was answered.

        Only an answer proves that the fields were the cause; otherwise the prompt is refused. Raises as `answer`, and
        Retry if another attempt may succeed.
        """
        await self.limiter.turn()
        sets = self._extras[:1] if self._extras_known else self._extras
        for number, extras in enumerate(sets):
            if number:
                await self.limiter.turn()
            response = await self._send("POST", "chat/completions", {**_with_names(extras, body), **body})
            if response.is_success:
                if not self._extras_known:
                    self._extras, self._extras_known = sets[number:], True
                reply = read_reply(response.body, self._shown, body)
                self._seen(body, response.body)
                return reply
            if response.status not in (400, 422):
                break
        raise await self._failure(response)

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Response:
        """Return a complete response. Raises Retry if none came, and Unanswered if it is too large."""
        asked = body or {}
        token_bytes = _TOKEN_BYTES + _ALTERNATIVE_BYTES * int(asked.get("top_logprobs", 0))
        reply_bytes = _REPLY_BYTES + token_bytes * int(asked.get("max_tokens", 0))
        most_bytes = _LIST_BYTES if body is None else min(_MOST_REPLY_BYTES, reply_bytes)
        task = asyncio.current_task()
        self._in_flight.add(task)
        try:
            return await self._client.call(
                method,
                _address(self.spec, path),
                headers=_headers(self._key),
                body=body,
                timeout_s=self.spec.timeout_s,
                most_bytes=most_bytes,
            )
        except NoResponse as error:
            raise Retry(self._shown(error), gone=True) from None
        except TooLarge as error:
            raise Unanswered(f"an answer of {error} (not retried)") from None
        except BadAddress as error:
            raise _bad_address(self.spec, self._shown(error)) from None
        finally:
            self._in_flight.discard(task)

    async def _failure(self, response: Response) -> Exception:
        """The error for a response that is not an answer: retry, give up this prompt, or end the work."""
        code, text = response.status, self._shown(response.text)
        message = f"status {code}" + (f": {text}" if text else "")
        if code in (429, 503):
            self._heed(code, _retry_after_s(response.headers.get("retry-after")), message)
        if code in (408, 425, 429) or code >= 500:
            return Retry(message, gone=code == 408 or code >= 500)
        if code in (401, 403):
            return _key_refused(self.spec, message)
        if response.location is not None:
            return _redirected(self.spec, self._shown(response.location))
        if code in (400, 404):
            names = await self._names()
            if code == 404 or (names and self.spec.model not in names):
                return unknown_model(self.spec, names, message)
        return Unanswered(f"{message} (not retried)")

    def _heed(self, code: int, retry_after_s: float, message: str) -> None:
        """Pause all requests for as long as the server asks, or, if it only says "too many", for a growing time.

        Raises DraftbenchError for a pause that nobody would wait for.
        """
        if retry_after_s > _MAX_PAUSE_S:
            raise DraftbenchError(
                f"{self.spec.base_url} accepts no request for {_duration(retry_after_s)}",
                f"{message}; pauses of over an hour are not waited for, and the answers so far are kept",
                "run the same command after that time; until then another server or another key may answer",
            )
        if retry_after_s >= _NOTED_PAUSE_S:
            self._note(f"{self.spec.base_url} asks for a pause of {_duration(retry_after_s)}: all requests wait")
        if retry_after_s > 0:
            self.limiter.pause(retry_after_s)
        elif code == 429:
            self.limiter.pause_longer()

    async def _names(self) -> list[str]:
        """The models that the server lists, requested once; none if it lists none."""
        async with self._listing:
            if self._listed is None:
                await self.limiter.turn()
                try:
                    self._listed = _model_names(await self._send("GET", "models"), self._key)
                except (Retry, Unanswered, DraftbenchError):
                    self._listed = []
        return self._listed

    def without_key(self, text: str) -> str:
        """The text with the key taken out, in case a server repeated it."""
        return without_key(text, self._key)

    def _shown(self, text: object) -> str:
        return shown(text, self._key)


def shown(text: object, key: SecretStr | None) -> str:
    """A stranger's text as one short line with the key taken out."""
    line = without_key(str(text), key)[:_READ_CHARACTERS]
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + " ..."


def without_key(text: str, key: SecretStr | None) -> str:
    """The text with the key taken out, also where it is escaped as in JSON or a URL."""
    if key is None:
        return text
    secret = key.get_secret_value()
    escaped = (json.dumps(secret)[1:-1], secret.replace("/", "\\/"), quote(secret), quote(secret, safe=""))
    for form in (secret, *escaped):
        text = text.replace(form, "[key]")
    return text


def holds_key(text: str, key: SecretStr | None) -> bool:
    """Whether a stranger's text repeats the key."""
    return without_key(text, key) != text


def _with_names(extras: Mapping[str, Any], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields beyond the API, with the one by which vLLM names the likeliest tokens by their ids, if they matter."""
    names_ids = "return_token_ids" in extras and body.get("top_logprobs", 0) > 1
    return {**extras, "return_tokens_as_token_ids": True} if names_ids else extras


def _headers(key: SecretStr | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}


def _address(spec: ServerSpec, path: str) -> str:
    return f"{spec.base_url.rstrip('/')}/{path}"


def _retry_after_s(value: str | None) -> float:
    """The seconds of a Retry-After header, which gives seconds or a date; 0 if it is missing or invalid."""
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


def _model_names(response: Response, key: SecretStr | None) -> list[str]:
    """The names in a list of models, as far as they can be read; none if the response is not such a list."""
    try:
        value = json_text.loads(response.body) if response.is_success else None
    except ValueError:
        return []
    listed = value.get("data") if isinstance(value, dict) else value
    models = listed if isinstance(listed, list) else []
    names = [model.get("id") for model in models[:_MOST_NAMES] if isinstance(model, dict)]
    return [without_key(name, key) for name in names if isinstance(name, str) and len(name) <= _NAME_CHARACTERS]


def _bad_address(spec: ServerSpec, why: str) -> DraftbenchError:
    return DraftbenchError(
        f"{spec.base_url} does not serve this API", why, "capture.server.base_url ends where /chat/completions begins"
    )


def _redirected(spec: ServerSpec, where: str) -> DraftbenchError:
    return _bad_address(spec, f"it redirects to {where}, and a key is not sent on to another address")


def _key_refused(spec: ServerSpec, message: str) -> DraftbenchError:
    fix = (
        f"set the environment variable {spec.key_env} to a key that is valid there"
        if spec.key_env
        else "put the key into an environment variable and its name into capture.server.key_env"
    )
    return DraftbenchError(f"{spec.base_url} refuses the key", message, fix)


def unknown_model(spec: ServerSpec, names: Sequence[str], message: str = "") -> DraftbenchError:
    """The error for a server that does not have the model, or is at another address."""
    if names and spec.model not in names:
        return DraftbenchError(
            f"{spec.base_url} has no model {spec.model!r}",
            message,
            f"correct capture.server.model: {_known(spec.model, names)}",
        )
    return DraftbenchError(
        f"{spec.base_url} does not answer for the model {spec.model!r}",
        message,
        "check capture.server.model, and that base_url ends where /chat/completions begins (often /v1)",
    )


def _known(wrong: str, names: Sequence[str]) -> str:
    """The nearest names and a few others of a long list."""
    near = difflib.get_close_matches(wrong, names, n=_SHOWN_NAMES, cutoff=0.5)
    few = list(dict.fromkeys([*near, *names]))[:_SHOWN_NAMES]
    more = f" and {len(names) - len(few):,} more" if len(names) > len(few) else ""
    return did_you_mean(wrong, [shown(name, None) for name in few]) + more


def listed_models(spec: ServerSpec, *, timeout_s: float = 5.0) -> list[str]:
    """List the names of the server's models, for a check before a run; none if it lists none.

    Raises DraftbenchError if the server cannot be reached, redirects, refuses the key, or sends too much.
    """
    key = read_key(spec)

    async def request() -> Response:
        async with Client(spec.base_url) as client:
            return await client.call(
                "GET", _address(spec, "models"), headers=_headers(key), timeout_s=timeout_s, most_bytes=_LIST_BYTES
            )

    try:
        response = asyncio.run(request())
    except BadAddress as error:
        raise _bad_address(spec, shown(error, key)) from None
    except (NoResponse, TooLarge) as error:
        raise DraftbenchError(
            f"{spec.base_url} cannot be reached: {shown(error, key)}"
            if isinstance(error, NoResponse)
            else f"{spec.base_url} lists its models in a response of {shown(error, key)}",
            "the training answers come from this server",
            "start the server, or correct capture.server.base_url",
        ) from None
    if response.location is not None:
        raise _redirected(spec, shown(response.location, key))
    if response.status in (401, 403):
        raise _key_refused(spec, f"status {response.status}: {shown(response.text, key)}")
    return _model_names(response, key)
