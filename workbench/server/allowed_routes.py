"""Which requests the workbench needs; the libraries it is made of have routes for much more.

Streamlit's pages read over HTTP and do everything else over one websocket; no page uploads a file.
The live view posts to its queue. Uploads, files by path, proxies and monitoring are closed, and what
is posted is short.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.server.guard import refuse

MOST_BYTES = 1_000_000  # of what is posted: a prompt and some numbers
_BODY_WITHIN_S = 30.0

_NAME = r"[A-Za-z0-9_.-]+"
_LIVE_READS = re.compile(
    rf"/?|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/pwa_icon(/\d+)?|/(assets|static|svelte)/.+"
    rf"|/gradio_api/(info/?|app_id/?|theme\.css|startup-events|queue/data|heartbeat/{_NAME}|call/{_NAME}/{_NAME})"
)
_LIVE_POSTS = re.compile(rf"/gradio_api/(queue/join|cancel|reset/?|(call|call/v2|run|api)/{_NAME}/?)")
_CORE = re.compile(
    r"^/[^.]*_stcore/(health|host-config|stream|bidi-components/.+)$"
)  # what Streamlit's own page asks for

Needed = Callable[[Scope], bool]


def of_pages(mounted: str) -> Needed:
    """What the Streamlit pages need. What is below `mounted` is looked at there."""

    def needed(scope: Scope) -> bool:
        path: str = scope["path"]
        if scope["type"] == "websocket":
            return path.endswith("/_stcore/stream") and not path.startswith(f"{mounted}/")
        if path == mounted or path.startswith(f"{mounted}/"):
            return True
        return scope["method"] in ("GET", "HEAD") and ("/_stcore/" not in path or bool(_CORE.search(path)))

    return needed


def of_live(scope: Scope) -> bool:
    """What the Gradio app of the live view needs."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if scope["type"] == "websocket" or ".." in path:
        return False
    if scope["method"] in ("GET", "HEAD"):
        return bool(_LIVE_READS.fullmatch(path))
    return scope["method"] == "POST" and bool(_LIVE_POSTS.fullmatch(path))


class OnlyNeeded:
    """ASGI middleware that passes on what is needed, with a body of at most `MOST_BYTES`."""

    def __init__(self, app: ASGIApp, needed: Needed) -> None:
        self._app, self._needed = app, needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif not self._needed(scope):
            await refuse(scope, receive, send, 404, "Draftbench has no use for this address.\n")
        elif scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body before it is passed on, so that one too long or too slow reaches nobody."""
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_WITHIN_S):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return  # gone
                    body += message.get("body", b"")
                    if len(body) > MOST_BYTES:
                        await refuse(scope, receive, send, 413, f"More than {MOST_BYTES:,} bytes are not taken.\n")
                        return
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            await refuse(scope, receive, send, 408, f"The request took longer than {_BODY_WITHIN_S:g} s to arrive.\n")
            return
        await self._app(scope, _replayed(bytes(body), receive), send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body first, then what comes after it."""
    left = [body]

    async def receiving() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return receiving
