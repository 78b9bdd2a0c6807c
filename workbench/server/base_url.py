"""Middleware that tells Streamlit's page the base URL of its server, so that it need not probe for it.

Opened at /compare, Streamlit's page first asks /compare/_stcore/... whether the application is
served there, and the browser's console reports the refusals as errors. On this machine the application
is always served at the root, and one line of script says so. Behind a proxy nothing is changed.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
_SCRIPT = (
    b"<script>(b => window.__streamlit = {BACKEND_BASE_URL: b, MAIN_PAGE_BASE_URL: b})(location.origin + '/')</script>"
)


class BaseUrl:
    """ASGI middleware that adds the script to the application's HTML pages, not to those mounted below it."""

    def __init__(self, app: ASGIApp, mounted: str) -> None:
        self._app, self._mounted = app, mounted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_page(scope, self._mounted):
            await self._app(scope, receive, send)
            return
        headers = [
            (name, value) for name, value in scope["headers"] if name != b"accept-encoding"
        ]  # it must be readable
        await self._app({**scope, "headers": headers}, receive, _Rewriter(send))


class _Rewriter:
    """Passes a response on, and adds the script to the head of an HTML one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_html(message):
            self._start = message
        elif not self._start:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._finish()

    async def _finish(self) -> None:
        body = self._body.replace(b"<head>", b"<head>" + _SCRIPT, 1)
        kept = [pair for pair in self._start["headers"] if pair[0].lower() not in (b"content-length", b"etag")]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": body})


def _is_page(scope: Scope, mounted: str) -> bool:
    if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].startswith(mounted + "/"):
        return False
    return bool(_LOCAL.fullmatch(dict(scope["headers"]).get(b"host", b"")))


def _is_html(message: Message) -> bool:
    kind: bytes = dict(message["headers"]).get(b"content-type", b"")
    return kind.startswith(b"text/html")
