"""Middleware that closes every route of Streamlit and Gradio that the workbench does not use.

Streamlit's pages read over HTTP and do everything else over one websocket, but for Home's prompt file: it is put, and
taken back, under two random ids, of which Streamlit knows the first as that of an open page and asks for its token
besides. The live view posts to its queue. Its uploads, files by path, proxies and monitoring are closed, and every body
is limited.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.server.guard import refuse

MAX_BODY_BYTES = 1_000_000  # a prompt and some numbers
MAX_UPLOAD_BYTES = 51_000_000  # a prompt file of `own_prompts.MOST_BYTES`, and what is around it
_BODY_TIMEOUT_S, _UPLOAD_TIMEOUT_S = 30.0, 300.0

_NAME = r"[A-Za-z0-9_.-]+"
_LIVE_READS = re.compile(
    rf"/?|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/pwa_icon(/\d+)?|/(assets|static|svelte)/.+"
    rf"|/gradio_api/(info/?|app_id/?|theme\.css|startup-events|queue/data|heartbeat/{_NAME}|call/{_NAME}/{_NAME})"
)
_LIVE_POSTS = re.compile(rf"/gradio_api/(queue/join|cancel|reset/?|(call|call/v2|run|api)/{_NAME}/?)")
_STREAMLIT = re.compile(r"^/[^.]*_stcore/(health|host-config|stream|bidi-components/.+)$")
_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_UPLOAD = re.compile(rf"/([^.]*/)?_stcore/upload_file/{_UUID}/{_UUID}")

Allows = Callable[[Scope], bool]


def for_pages(mounted: str) -> Allows:
    """The routes of the Streamlit pages; those below `mounted` are left to the middleware of the mounted app."""

    def allows(scope: Scope) -> bool:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            return path.endswith("/_stcore/stream") and not path.startswith(f"{mounted}/")
        if path == mounted or path.startswith(f"{mounted}/"):
            return True
        if is_upload(scope):
            return True
        return scope["method"] in ("GET", "HEAD") and ("/_stcore/" not in path or bool(_STREAMLIT.search(path)))

    return allows


def is_upload(scope: Scope) -> bool:
    """Whether a page puts a file, or takes it back."""
    return scope["method"] in ("PUT", "DELETE") and bool(_UPLOAD.fullmatch(scope["path"]))


def for_live(scope: Scope) -> bool:
    """The routes of the live view's Gradio app."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if scope["type"] == "websocket" or ".." in path:
        return False
    if scope["method"] in ("GET", "HEAD"):
        return bool(_LIVE_READS.fullmatch(path))
    return scope["method"] == "POST" and bool(_LIVE_POSTS.fullmatch(path))


class AllowedRoutes:
    """ASGI middleware that passes on allowed requests, with a body of at most `MAX_BODY_BYTES`; files may be larger."""

    def __init__(self, app: ASGIApp, allows: Allows) -> None:
        self._app, self._allows = app, allows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif not self._allows(scope):
            await refuse(scope, receive, send, 404, "Draftbench does not serve this address.\n")
        elif scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body before passing it on: one that is too long or too slow never reaches the application."""
        body = bytearray()
        most, seconds = (MAX_UPLOAD_BYTES, _UPLOAD_TIMEOUT_S) if is_upload(scope) else (MAX_BODY_BYTES, _BODY_TIMEOUT_S)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return  # the client has disconnected
                    body += message.get("body", b"")
                    if len(body) > most:
                        await refuse(scope, receive, send, 413, f"The request body is limited to {most:,} bytes.\n")
                        return
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            await refuse(scope, receive, send, 408, f"The request took longer than {seconds:g} s to arrive.\n")
            return
        await self._app(scope, _replayed(bytes(body), receive), send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body first and then whatever follows it."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay
