"""Who may ask the server: Host and Origin in every form, websockets too, and the headers of each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from engine.errors import DraftbenchError
from workbench.server import guard
from workbench.server.guard import HEADERS, SETTING, Guard

HERE = ("127.0.0.1", 8501)
Pairs = Sequence[tuple[str, str]]


class Inner:
    """An application that notes what reaches it."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            headers = [(b"X-Frame-Options", b"ALLOWALL"), (b"content-type", b"text/html")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"fine"})


def ask(
    headers: Pairs,
    *,
    kind: str = "http",
    method: str = "GET",
    server: Any = HERE,
    hosts: str = "",
    scheme: str = "http",
) -> tuple[list[Message], list[Scope]]:
    """What is sent in answer to a request with these headers, and what reached the application."""
    inner, sent = Inner(), []

    async def receive() -> Message:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "headers": raw, "server": server, "path": "/", "method": method, "scheme": scheme}
    asyncio.run(Guard(inner, guard.named_addresses(hosts))(scope, receive, send))
    return sent, inner.scopes


def let_in(headers: Pairs, **how: Any) -> bool:
    """Whether the request reaches the application. A refusal is a 403, and a websocket is never accepted first."""
    sent, reached = ask(headers, **how)
    if reached:
        return True
    if how.get("kind") == "websocket":
        assert [message["type"] for message in sent] == ["websocket.close"]
    else:
        assert sent[0]["status"] == 403
    return False


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "server", "expected"),
    [
        ("127.0.0.1:8501", HERE, True),
        ("localhost:8501", HERE, True),
        ("LocalHost:8501", HERE, True),
        ("[::1]:8501", HERE, True),
        ("[0:0:0:0:0:0:0:1]:8501", ("::1", 8501), True),
        ("localhost", ("127.0.0.1", 80), True),
        ("localhost:80", ("127.0.0.1", 80), True),
        ("127.0.0.1:8501", ("::ffff:127.0.0.1", 8501), True),  # a socket for both families
        ("192.168.1.4:8501", ("192.168.1.4", 8501), True),
        ("[fe80::1]:8501", ("fe80::1%eth0", 8501), True),
        ("evil.test:8501", HERE, False),
        ("evil.test", ("127.0.0.1", 80), False),
        ("localhost.evil.test:8501", HERE, False),
        ("evil.localhost:8501", HERE, False),
        ("localhost.:8501", HERE, False),
        ("127.0.0.1.:8501", HERE, False),
        ("127.0.0.1:8502", HERE, False),
        ("127.0.0.1", HERE, False),
        ("127.0.0.1:", HERE, False),
        ("127.0.0.1:08501", HERE, False),
        ("127.0.0.1:99999", HERE, False),
        ("127.0.0.1:8501:8501", HERE, False),
        ("127.1:8501", HERE, False),
        ("2130706433:8501", HERE, False),
        ("0x7f.0.0.1:8501", HERE, False),
        ("0.0.0.0:8501", HERE, False),
        ("[::ffff:127.0.0.1]:8501", HERE, False),
        ("[::1:8501", HERE, False),
        ("::1:8501", HERE, False),
        ("[evil]:8501", HERE, False),
        ("user@localhost:8501", HERE, False),
        ("localhost:8501@evil.test", HERE, False),
        ("localhost:8501/x", HERE, False),
        ("localhost:8501?x", HERE, False),
        ("localhost%3A8501", HERE, False),
        ("%6cocalhost:8501", HERE, False),
        ("localhost:8501, evil.test", HERE, False),
        (" localhost:8501", HERE, False),
        ("localhost:8501\t", HERE, False),
        ("localh\u00f6st:8501", HERE, False),
        ("", HERE, False),
        ("*", HERE, False),
        ("localhost:8501", ("192.168.1.4", 8501), False),
        ("192.168.1.4:8501", HERE, False),
        ("testserver", ("testserver", 80), False),
        ("localhost", ("/run/bench.sock", None), False),
        ("localhost", None, False),
    ],
)
def test_a_host_is_answered_only_if_the_server_is_bound_to_it(host: str, server: Any, expected: bool, kind: str):
    assert let_in([("host", host)], server=server, kind=kind) is expected


def test_a_request_without_a_host_or_with_two_is_refused():
    assert not let_in([])
    assert not let_in([("host", "localhost:8501"), ("Host", "evil.test")])
    assert not let_in([("host", "localhost:8501"), ("host", "localhost:8501")])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8501", True),
        ("HTTP://LOCALHOST:8501", True),
        ("http://127.0.0.1:8501", False),  # another origin than the Host's
        ("https://localhost:8501", False),
        ("http://localhost:3000", False),
        ("http://localhost", False),
        ("http://evil.test", False),
        ("http://localhost:8501.evil.test", False),
        ("http://localhost:8501/", False),
        ("http://localhost:8501@evil.test", False),
        ("http://evil.test#http://localhost:8501", False),
        ("localhost:8501", False),
        ("//localhost:8501", False),
        ("file://", False),
        ("chrome-extension://abc", False),
        ("null", False),
        ("", False),
    ],
)
def test_an_origin_must_be_the_hosts_own(origin: str, expected: bool, kind: str):
    assert let_in([("host", "localhost:8501"), ("origin", origin)], kind=kind, method="POST") is expected
    assert let_in([("host", "localhost:8501"), ("origin", "http://localhost:8501"), ("origin", origin)]) is False


@pytest.mark.parametrize(
    ("hosts", "host", "origin", "expected"),
    [
        ("bench.example:8501", "bench.example:8501", "http://bench.example:8501", True),
        ("BENCH.example", "bench.example", "http://bench.example", True),
        ("https://bench.example", "bench.example", "https://bench.example", True),
        ("https://bench.example", "bench.example:443", "https://bench.example", True),
        ("https://bench.example", "bench.example", "http://bench.example", False),
        ("bench.example", "bench.example:8501", None, False),
        ("a.example, localhost:9000", "localhost:9000", "http://localhost:9000", True),
        ("bench.example", "www.bench.example", None, False),
        ("bench.example", "localhost:8501", None, True),  # names come on top
    ],
)
def test_the_operator_may_name_more_addresses(hosts: str, host: str, origin: str | None, expected: bool):
    headers = [("host", host), *([("origin", origin)] if origin else [])]
    assert let_in(headers, hosts=hosts) is expected


def test_a_name_without_a_scheme_goes_with_the_servers_own():
    headers = [("host", "bench.example:8501"), ("origin", "https://bench.example:8501")]
    assert let_in(headers, hosts="bench.example:8501", scheme="https")
    assert let_in(headers, hosts="bench.example:8501", scheme="wss", kind="websocket")
    assert not let_in(headers, hosts="bench.example:8501")


@pytest.mark.parametrize("hosts", ["*", "*.example", "bench.example/", "a b", "ftp://bench.example", "bench:0", "x,*"])
def test_a_setting_that_is_no_address_stops_the_start(
    hosts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(DraftbenchError, match="is not an address"):
        guard.named_addresses(hosts)
    monkeypatch.setenv(SETTING, hosts)
    with pytest.raises(SystemExit) as ended:
        guard.named_or_exit()
    assert ended.value.code == 2
    assert "fix: for example" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("site", "mode", "dest", "method", "expected"),
    [
        ("same-origin", "cors", "empty", "POST", True),
        ("same-origin", "navigate", "iframe", "GET", True),
        ("none", "navigate", "document", "GET", True),
        ("cross-site", "navigate", "document", "GET", True),  # a link
        ("cross-site", "navigate", "iframe", "GET", False),
        ("same-site", "navigate", "iframe", "GET", False),  # another port of this machine
        ("cross-site", "navigate", "document", "POST", False),
        ("cross-site", "no-cors", "image", "GET", False),
        ("same-site", "no-cors", "script", "GET", False),
        ("cross-site", "websocket", "websocket", "GET", False),
        ("anything", "navigate", "iframe", "GET", False),
    ],
)
def test_what_the_browser_says_of_the_source_must_fit(site: str, mode: str, dest: str, method: str, expected: bool):
    fetched = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
    assert let_in([("host", "localhost:8501"), *fetched], method=method) is expected


@pytest.mark.parametrize("host", ["localhost:8501", "evil.test"])
def test_every_answer_forbids_foreign_frames(host: str):
    sent, _ = ask([("host", host)])
    headers = [(bytes(name).lower(), value) for name, value in sent[0]["headers"]]
    for name, value in HEADERS:
        assert [found for key, found in headers if key == name] == [value]
    assert b"frame-ancestors 'self'" in dict(headers)[b"content-security-policy"]


def test_the_application_sees_host_and_origin_in_one_form():
    _, [scope] = ask([("Host", "LOCALHOST:80"), ("Origin", "HTTP://Localhost")], server=("127.0.0.1", 80))
    assert dict(scope["headers"]) == {b"Host": b"localhost", b"Origin": b"http://localhost"}


def test_a_refusal_says_what_to_do_and_repeats_nothing_of_the_request():
    sent, _ = ask([("host", "evil.test")])
    body = sent[1]["body"].decode()
    assert SETTING in body
    assert "evil" not in body
    assert ask([("host", "evil.test")], method="HEAD")[0][1]["body"] == b""


def test_other_messages_pass():
    inner = Inner()
    asyncio.run(_lifespan(inner))
    assert inner.scopes[0]["type"] == "lifespan"


async def _lifespan(inner: Inner) -> None:
    async def nothing(*_: Any) -> Message:
        return {"type": "lifespan.startup"}

    await Guard(inner)({"type": "lifespan"}, nothing, nothing)


def test_bound_addresses_need_a_number_for_a_port():
    assert guard.bound_addresses(("127.0.0.1", None), "http") == frozenset()
