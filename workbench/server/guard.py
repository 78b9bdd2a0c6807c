"""Middleware that decides which requests are answered: the outermost layer of the workbench and of the live view.

The server has no password: whoever reaches it can start processes as its user. Web pages from
elsewhere, open in the user's browser, must therefore not reach it. Three rules keep them out:

- `Host` must name an address the server is bound to, or one listed in `DRAFTBENCH_HOSTS`. A foreign
  name that resolves to this machine (DNS rebinding) is refused.
- `Origin` must be absent or the origin of that address, and `Sec-Fetch-Site` must not contradict it.
- Responses forbid being framed by another site.

Both headers are passed on in a normal form, so that no inner layer reads them differently.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import DraftbenchError
from engine.untrusted.visible import visible

SETTING = "DRAFTBENCH_HOSTS"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_AUTHORITY = re.compile(
    rf"(?P<name>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])(?::(?P<port>[1-9][0-9]{{0,4}}))?", re.I
)
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>.+)", re.I)
HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'self'"),  # the live view is framed by our own page
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_REFUSED = (
    "Draftbench does not answer this request: {why}.\n\n"
    "why: whoever reaches this server can start processes on its machine, so it answers only its own pages.\n"
    "fix: open it at the address it printed when it started. For another name or port, as with a proxy, a container or "
    f"a tunnel, start it with {SETTING}=NAME:PORT (https://NAME where a proxy adds TLS; separate several by commas).\n"
)


@dataclass(frozen=True)
class Address:
    """One address of a server in normal form: scheme, host in lower case without brackets, port."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as a browser writes them: IPv6 in brackets, no port where it is the scheme's usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Refused(Exception):
    """The request is not answered; the message is the reason."""


def parse_authority(text: str, scheme: str) -> Address:
    """Parse `host[:port]` as in a Host header. Raises Refused for anything else."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise Refused("its address is not a plain host and port")
    name, port = match["name"].lower(), int(match["port"] or _PORTS[scheme])
    if port > 65535:
        raise Refused("its port is out of range")
    if name.startswith("["):
        try:
            name = str(ipaddress.IPv6Address(name[1:-1]))
        except ValueError:
            raise Refused("its address is not an IPv6 address") from None
    return Address(scheme, name, port)


def parse_origin(text: str) -> Address:
    """Parse an Origin header. Raises Refused for `null` and for anything but scheme, host and port."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise Refused("it comes from another origin")
    return parse_authority(match["authority"], match["scheme"].lower())


def named_addresses(setting: str | None) -> tuple[str, ...]:
    """The addresses in `DRAFTBENCH_HOSTS`: `NAME`, `NAME:PORT` or `https://NAME`, separated by commas."""
    names = tuple(name.strip() for name in (setting or "").split(",") if name.strip())
    for name in names:
        try:
            _as_address(name, "http")
        except Refused:
            raise DraftbenchError(
                f"{SETTING} contains {name!r}, which is not an address",
                "the server answers only addresses that it knows; there is no wildcard",
                f"for example {SETTING}=bench.example:8501, or {SETTING}=https://bench.example,localhost:9000",
            ) from None
    return names


def named_or_exit() -> tuple[str, ...]:
    """The addresses in `DRAFTBENCH_HOSTS`; print the error and exit with status 2 if one is malformed."""
    try:
        return named_addresses(os.environ.get(SETTING))
    except DraftbenchError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        sys.exit(2)


def _as_address(named: str, scheme: str) -> Address:
    """Parse one of `named_addresses`, with the request's scheme where it names none."""
    return parse_origin(named if "://" in named else f"{scheme}://{named}")


def bound_addresses(server: Sequence[object] | None, scheme: str) -> frozenset[Address]:
    """The addresses of the socket that accepted a request: its IP address, and for loopback its usual names."""
    if server is None or len(server) < 2 or not isinstance(server[1], int):
        return frozenset()
    try:
        ip = ipaddress.ip_address(str(server[0]).partition("%")[0])
    except ValueError:
        return frozenset()
    ip = getattr(ip, "ipv4_mapped", None) or ip  # a dual-stack socket maps IPv4 addresses
    hosts = {str(ip), *(_LOOPBACK if ip.is_loopback else ())}
    return frozenset(Address(scheme, host, server[1]) for host in hosts)


def admitted(scope: Scope, named: Iterable[str]) -> Address:
    """Return the address that a request was sent to. Raises Refused, with the reason, if it may not be answered."""
    scheme: str = {"ws": "http", "wss": "https"}.get(scope["scheme"]) or scope["scheme"]
    headers = _Headers(scope)
    text = headers.only("host")
    if text is None:
        raise Refused("it does not name the address it wants")
    known = [*bound_addresses(scope.get("server"), scheme), *(_as_address(name, scheme) for name in named)]
    # parsed with each address's own scheme: behind a proxy that adds TLS, a Host without port means 443
    address = next((candidate for candidate in known if parse_authority(text, candidate.scheme) == candidate), None)
    if address is None:
        raise Refused("it asks for an address that this server does not have")
    origin = headers.only("origin")
    if origin is not None and parse_origin(origin) != address:
        raise Refused("it comes from another origin")
    _refuse_foreign_source(headers, scope)
    return address


def _refuse_foreign_source(headers: _Headers, scope: Scope) -> None:
    """Refuse what another site loads from here. A link on it may still lead here, as a page of its own."""
    source = headers.only("sec-fetch-site")
    if source in (None, "same-origin", "none"):
        return
    leads_here = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
    leads_here &= headers.only("sec-fetch-mode") == "navigate" and headers.only("sec-fetch-dest") == "document"
    if not leads_here:
        raise Refused("another site requests it")


class _Headers:
    """Request headers by name. A duplicate or non-ASCII one is refused when it is read."""

    def __init__(self, scope: Scope) -> None:
        self._values: dict[str, list[bytes]] = {}
        for name, value in scope["headers"]:
            self._values.setdefault(name.decode("latin-1").lower(), []).append(value)

    def only(self, name: str) -> str | None:
        values = self._values.get(name, [])
        if len(values) > 1:
            raise Refused(f"it has the header {name} twice")
        if not values:
            return None
        try:
            return values[0].decode("ascii")
        except UnicodeDecodeError:
            raise Refused(f"its header {name} is not ASCII") from None


class Guard:
    """ASGI middleware that answers admitted requests only, with headers that forbid framing by other sites."""

    installed: ClassVar[bool] = False
    """Whether an application of this process is guarded. The pages refuse to be drawn without."""

    def __init__(self, app: ASGIApp, named: Sequence[str] = ()) -> None:
        """`named`: the addresses listed by the operator, as returned by `named_addresses`."""
        self._app, self._named = app, tuple(named)
        Guard.installed = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            address = admitted(scope, self._named)
        except Refused as refused:
            await refuse(scope, receive, send, 403, _REFUSED.format(why=refused))
            return
        await self._app(_normal(scope, address), receive, _framed(send))


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, words: str) -> None:
    """Respond with plain text. A websocket is closed before it is accepted, which its client sees as status 403."""
    if scope["type"] == "websocket":
        await receive()  # the request to connect
        await send({"type": "websocket.close", "code": 1008})
        return
    body = words.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    framed = _framed(send)
    await framed({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await framed({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _normal(scope: Scope, address: Address) -> Scope:
    """Return the request with Host and Origin in normal form."""
    forms = {b"host": address.authority.encode(), b"origin": address.origin.encode()}
    return {**scope, "headers": [(name, forms.get(name.lower(), value)) for name, value in scope["headers"]]}


def _framed(send: Send) -> Send:
    """Wrap `send` so that every response has `HEADERS`, replacing the application's headers of the same names."""
    replaced = {name for name, _ in HEADERS}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message.get("headers", ()) if bytes(pair[0]).lower() not in replaced]
            message = {**message, "headers": [*kept, *HEADERS]}
        await send(message)

    return sending
