"""Middleware that adds to the head of Streamlit's page: the workbench's own script, and the base URL of its server.

The script (`browser.js`) holds what Streamlit has no means for: light or dark by a switch, and keyboard shortcuts. It
has to run before Streamlit's own, so that no page is drawn in the wrong colours first.

Opened at /compare, Streamlit's page first asks /compare/_stcore/... whether the application is
served there, and the browser's console reports the refusals as errors. On this machine the application
is always served at the root, and one line of script says so. Behind a proxy no base URL is added.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOCAL = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
_BASE_URL = (
    b"<script>(b => window.__streamlit = {BACKEND_BASE_URL: b, MAIN_PAGE_BASE_URL: b})(location.origin + '/')</script>"
)
SCRIPT = "/draftbench.js"


def script(_: Request) -> FileResponse:
    """The workbench's own script. A browser asks for it again at each start, so that it fits this version's pages."""
    path = Path(__file__).with_name("browser.js")
    return FileResponse(path, media_type="text/javascript", headers={"cache-control": "no-cache"})


class PageHead:
    """ASGI middleware that adds to the head of the application's HTML pages, not of those mounted below it."""

    def __init__(self, app: ASGIApp, mounted: str, shortcuts: Sequence[tuple[str, str, str]] = ()) -> None:
        """`shortcuts`: the keys, what they do, and the path of the page that they lead to."""
        self._app, self._mounted = app, mounted
        listed = html.escape(json.dumps(shortcuts))
        # relative, as Streamlit's own files are: behind a proxy the application may stand below a path
        self._script = f'<script src=".{SCRIPT}" data-shortcuts="{listed}"></script>'.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_page(scope, self._mounted):
            await self._app(scope, receive, send)
            return
        headers = [
            (name, value) for name, value in scope["headers"] if name != b"accept-encoding"
        ]  # it must be readable
        added = self._script + (_BASE_URL if _LOCAL.fullmatch(dict(headers).get(b"host", b"")) else b"")
        await self._app({**scope, "headers": headers}, receive, _Rewriter(send, added))


class _Rewriter:
    """Passes a response on, and adds to the head of an HTML one."""

    def __init__(self, send: Send, added: bytes) -> None:
        self._send, self._added = send, added
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
        body = self._body.replace(b"<head>", b"<head>" + self._added, 1)
        kept = [pair for pair in self._start["headers"] if pair[0].lower() not in (b"content-length", b"etag")]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": body})


def _is_page(scope: Scope, mounted: str) -> bool:
    """Whether the request may be for a page: any other file of Streamlit's keeps its compression."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return False
    path: str = scope["path"]
    return not path.startswith((f"{mounted}/", "/static/", "/_stcore/", SCRIPT))


def _is_html(message: Message) -> bool:
    kind: bytes = dict(message["headers"]).get(b"content-type", b"")
    return kind.startswith(b"text/html")
