"""HTTP requests to a stranger's server, bounded in time, in bytes and in hops. All HTTP goes through this module.

The time limit covers the whole call: looking up the address, the connection, headers that never end, the last byte of
the body. The size limit holds for the unpacked body, so that 3 MB of gzip cannot become 2.7 GB. Redirects are
returned and not followed, since a key would go with them; cookies are dropped.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx2

_ENCODINGS = ("", "identity", "gzip", "deflate")
ERROR_BYTES = 64 * 1024  # of the body of an error, of which only the beginning is shown


class NoResponse(Exception):
    """No complete response came, for a reason that may be transient: refused, broken off, too late."""


class BadAddress(Exception):
    """The URL is not one that a request can be sent to."""


class TooLarge(Exception):
    """The body is larger than its limit."""


@dataclass(frozen=True)
class Response:
    """A complete response. `body` is unpacked; that of an error is cut at ERROR_BYTES."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def location(self) -> str | None:
        """Where a redirect points; None for other responses."""
        return self.headers.get("location", "") if 300 <= self.status < 400 else None

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@cache
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """The authorities to trust, read once: it takes longer than a request to this machine."""
    return httpx2.create_ssl_context(trust_env=trust_env)


class Client:
    """A connection pool for the server at one address. Use as `async with`."""

    def __init__(self, base_url: str) -> None:
        self._client = httpx2.AsyncClient(
            timeout=None,  # a call as a whole is timed, not each of its reads
            trust_env=not is_this_machine(base_url),  # a proxy cannot reach this machine
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=None),
            headers={"Accept-Encoding": "identity"},
            verify=_certificates(not is_this_machine(base_url)),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        timeout_s: float,
        most_bytes: int,
    ) -> Response:
        """Send `body` as JSON and read the response to its end.

        Raises NoResponse if it is not complete within `timeout_s`, TooLarge if it has more than `most_bytes` unpacked,
        and BadAddress for a URL to which nothing can be sent.
        """
        check_address(url)
        content = None if body is None else json.dumps(body).encode()  # escaped: half a character cannot break it
        sent = {**headers, "Content-Type": "application/json"} if content is not None else dict(headers)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(method, url, sent, content, most_bytes)
        except TimeoutError:
            raise NoResponse(f"no answer within {timeout_s:g} s") from None
        except (NoResponse, TooLarge):
            raise
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, UnicodeError) as error:
            raise BadAddress(str(error)) from None
        except Exception as error:  # refused, broken off, no HTTP, what a library makes of a stranger's bytes
            raise NoResponse(f"{type(error).__name__}: {error}") from None
        finally:
            self._client.cookies.clear()

    async def _exchange(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None, most_bytes: int
    ) -> Response:
        async with self._client.stream(method, url, headers=headers, content=content) as response:
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in _ENCODINGS:  # among them several at once, each of which would unpack the next
                raise NoResponse(f"a body with the encoding {encoding[:40]!r}, which was not asked for")
            most = most_bytes if response.is_success else ERROR_BYTES
            body = bytearray()
            async for piece in response.aiter_bytes():  # the library unpacks at most 1 MiB at a time
                body += piece
                if len(body) > most and response.is_success:
                    raise TooLarge(f"more than {most_bytes / 1e6:,.1f} MB")
                if len(body) > most:
                    break
            return Response(response.status_code, bytes(body[:most]), dict(response.headers))


def check_address(url: str) -> None:
    """Raise BadAddress for a URL without a host, with an invalid port, or that cannot be parsed at all."""
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise BadAddress(str(error)) from None
    if not is_valid:
        raise BadAddress(f"{url!r} names no host")


def is_this_machine(url: str) -> bool:
    """Whether an address never leaves this machine."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
