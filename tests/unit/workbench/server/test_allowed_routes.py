"""Which routes of Streamlit and Gradio are open, and that what is posted is short."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from workbench.server import allowed_routes
from workbench.server.allowed_routes import MAX_BODY_BYTES, MAX_UPLOAD_BYTES, AllowedRoutes, for_live, for_pages

UPLOAD = "/_stcore/upload_file/7b6f0b1e-5a52-4d0e-9c52-6f0f0f0f0f0f/0d9f2f4c-2a1b-4f6d-8f5e-1a2b3c4d5e6f"
PAGES = for_pages("/live")


def scope_of(method: str, path: str, root: str = "") -> Scope:
    kind = "websocket" if method == "WS" else "http"
    return {"type": kind, "method": method, "path": path, "root_path": root, "headers": [], "scheme": "http"}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", True),
        ("GET", "/launch", True),
        ("HEAD", "/static/js/index.js", True),
        ("GET", "/media/abc.csv", True),
        ("GET", "/component/x/index.html", True),
        ("GET", "/_stcore/health", True),
        ("GET", "/_stcore/host-config", True),
        ("WS", "/_stcore/stream", True),
        ("WS", "/behind/a/proxy/_stcore/stream", True),
        ("POST", "/live/gradio_api/queue/join", True),  # decided by `for_live`
        ("PUT", "/_stcore/upload_file/session/file", False),
        ("DELETE", "/_stcore/upload_file/session/file", False),
        ("OPTIONS", "/_stcore/upload_file/session/file", False),
        ("GET", "/_stcore/upload_file/session/file", False),
        ("PUT", UPLOAD, True),
        ("DELETE", f"/base{UPLOAD}", True),
        ("GET", UPLOAD, False),
        ("POST", UPLOAD, False),
        ("PUT", f"{UPLOAD}/more", False),
        ("PUT", f"/../x{UPLOAD}", False),
        ("PUT", f"/live{UPLOAD}", True),  # decided by `for_live`, which knows no PUT
        ("GET", "/_stcore/metrics", False),
        ("GET", "/_stcore/agent/openapi.json", False),
        ("POST", "/_stcore/agent/mcp", False),
        ("GET", "/base/_stcore/metrics", False),
        ("POST", "/", False),
        ("WS", "/live/anything", False),
        ("WS", "/live/_stcore/stream", False),
        ("WS", "/", False),
    ],
)
def test_what_the_pages_need(method: str, path: str, expected: bool):
    assert PAGES(scope_of(method, path)) is expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", True),
        ("GET", "/config", True),
        ("GET", "/theme.css", True),
        ("GET", "/assets/index-abc.js", True),
        ("GET", "/gradio_api/info", True),
        ("GET", "/gradio_api/queue/data", True),
        ("GET", "/gradio_api/heartbeat/abc123", True),
        ("POST", "/gradio_api/queue/join", True),
        ("POST", "/gradio_api/cancel", True),
        ("POST", "/gradio_api/call/decode", True),
        ("GET", "/gradio_api/call/decode/abc", True),
        ("POST", "/gradio_api/upload", False),
        ("POST", "/upload", False),
        ("GET", "/gradio_api/upload_progress", False),
        ("GET", "/gradio_api/file=/etc/passwd", False),
        ("GET", "/gradio_api/file/etc/passwd", False),
        ("GET", "/file=/etc/passwd", False),
        ("HEAD", "/gradio_api/proxy=http://evil.test/", False),
        ("GET", "/gradio_api/proxy=http://evil.test/", False),
        ("POST", "/gradio_api/component_server", False),
        ("POST", "/gradio_api/process_recording", False),
        ("POST", "/gradio_api/vibe-edit", False),
        ("POST", "/gradio_api/stream/x", False),
        ("GET", "/monitoring", False),
        ("GET", "/gradio_api/custom_component/a/b/c/d", False),
        ("POST", "/login", False),
        ("GET", "/docs", False),
        ("GET", "/openapi.json", False),
        ("GET", "/assets/../gradio_api/file=/etc/passwd", False),
        ("GET", "//gradio_api/upload_progress", False),
        ("OPTIONS", "/gradio_api/queue/join", False),
        ("WS", "/gradio_api/queue/join", False),
    ],
)
def test_what_the_live_view_needs(method: str, path: str, expected: bool):
    assert for_live(scope_of(method, path)) is expected
    assert for_live(scope_of(method, f"/live{path}", "/live")) is expected  # mounted


def post(
    chunks: list[bytes], pause_s: float = 0, *, method: str = "POST", path: str = "/x"
) -> tuple[int, bytes | None]:
    """Status of a request with such a body, and the body that reached the application."""
    sent: list[Message] = []
    reached: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        reached.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    left = list(chunks)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(AllowedRoutes(application, lambda _: True)(scope_of(method, path), receive, send))
    return int(sent[0]["status"]), reached[0] if reached else None


def test_a_short_body_arrives_whole():
    assert post([b"ab", b"", b"cd"]) == (200, b"abcd")
    assert post([b"x" * MAX_BODY_BYTES])[0] == 200


def test_a_long_body_is_refused_before_it_is_all_read():
    assert post([b"x" * MAX_BODY_BYTES, b"x", b"never read"]) == (413, None)


def test_a_prompt_file_may_be_larger_and_not_endless():
    file = b"x" * (20 * MAX_BODY_BYTES)
    assert post([file], method="PUT", path=UPLOAD) == (200, file)
    assert post([b"x" * MAX_UPLOAD_BYTES, b"x", b"never read"], method="PUT", path=UPLOAD) == (413, None)
    assert post([file], method="POST", path=UPLOAD)[0] == 413


def test_a_body_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allowed_routes, "_BODY_TIMEOUT_S", 0.05)
    assert post([b"x"] * 100, pause_s=0.01) == (408, None)


def test_what_is_not_needed_reaches_nobody():
    sent: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        pytest.fail("reached")

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(AllowedRoutes(application, lambda _: False)(scope_of("PUT", "/x"), receive, send))
    assert sent[0]["status"] == 404
