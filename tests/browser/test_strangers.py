"""What a foreign web page, or a link by a stranger, can do to somebody whose workbench is open: in a real browser.

Each attack is also tried where it has to succeed, so that a test cannot pass because the attack was no attack.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socketserver
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from engine.paths import Home
from engine.runs.folder import run_folders
from tests.browser import harness
from workbench.shared.pages import link

EVIL = "evil.test"  # the browser is told that it is this machine: what DNS rebinding does
RULES = f"--host-resolver-rules=MAP {EVIL} 127.0.0.1, MAP *.{EVIL} 127.0.0.1"
MINUTE = 60_000

# What a page can try from outside, each promise ending in what it got.
TRIES = """async address => {
  const socket = path => new Promise(done => {
    const one = new WebSocket(address.replace('http', 'ws') + path, ['streamlit'])
    one.onopen = () => done('open'); one.onerror = () => done('refused')
  })
  const ask = (path, how) => fetch(address + path, how)
    .then(a => a.type == 'opaque' ? 'opaque' : String(a.status), () => 'refused')
  const load = (tag, path) => new Promise(done => {
    const one = document.createElement(tag); one.onload = () => done('loaded'); one.onerror = () => done('refused')
    one.src = address + path; document.body.append(one)
  })
  return {
    socket: await socket('/_stcore/stream'),
    read: await ask('/_stcore/health', {}),
    post: await ask('/live/gradio_api/queue/join',
      {method: 'POST', body: '{}', headers: {'content-type': 'application/json'}}),
    script: await load('script', '/live/theme.css'),
    image: await load('img', '/favicon.png'),
  }
}"""


@dataclass
class Site:
    """A web site of a stranger on this machine. `asked`: what came to it."""

    port: int = 0
    pages: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """The site; a request for a page that it does not have is noted like any other."""
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(f"{self.path} {dict(self.headers)}")
            body = state.pages.get(urlsplit(self.path).path, "<body>nothing</body>").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def do_CONNECT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Silence."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A browser that goes away is no error."""

    httpd: socketserver.BaseServer = Quiet(("127.0.0.1", 0), Handler)
    state.port = httpd.server_address[1]
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()


@dataclass
class Stage:
    """One workbench, one stranger's site, one browser, and what stands for the rest of the world."""

    server: harness.Server
    stranger: Site
    outside: Site  # the proxy that the workbench would ask the network through
    visitor: harness.Browser

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    @property
    def runs(self) -> int:
        return len(run_folders(Home(self.server.home)))

    def elsewhere(self, path: str = "/") -> Page:
        """A tab that shows a page of the stranger's site."""
        page = self.visitor.context.new_page()
        page.goto(self.stranger.url + path)
        return page


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One server for all: nothing here changes it."""
    place = tmp_path_factory.mktemp("strangers")
    home = place / "home"
    with site() as stranger, site() as outside, pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, outside.url)
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost")
        patch.setenv("STRANGERS_WANT_KEY", "s3cret-of-the-user")
        server = harness.start(home, place / "server.log", samples=False)
        patch.undo()
        try:
            with harness.browser(flags=[RULES]) as visitor:
                yield Stage(server, stranger, outside, visitor)
        finally:
            server.stop()
            harness.end_jobs(home)


def test_a_name_that_is_rebound_to_this_machine_is_refused(stage: Stage):
    page = stage.visitor.context.new_page()
    for name in (EVIL, f"127.0.0.1.{EVIL}"):
        answer = page.goto(f"http://{name}:{stage.port}/launch")
        assert answer is not None
        assert answer.status == 403
        assert "DRAFTBENCH_HOSTS" in page.content()
        got = page.evaluate(TRIES, f"http://{name}:{stage.port}")
        assert got == {"socket": "refused", "read": "403", "post": "403", "script": "refused", "image": "refused"}
    page.close()


def test_another_origin_gets_nothing_and_no_address_service_is_asked(stage: Stage):
    page = stage.elsewhere()
    got = page.evaluate(TRIES, stage.server.url)
    assert got == dict.fromkeys(("socket", "read", "post", "script", "image"), "refused")
    page.close()
    own = stage.visitor.context.new_page()  # the same from its own page works
    own.goto(stage.server.url + "/_stcore/health")
    got = own.evaluate(TRIES, stage.server.url)
    assert (got["socket"], got["read"], got["image"]) == ("open", "200", "loaded")
    assert got["post"] not in ("refused", "403", "404")
    own.close()
    assert stage.outside.asked == []


def test_a_foreign_page_cannot_frame_ours(stage: Stage):
    stage.stranger.pages["/frame"] = "".join(
        f"<iframe src='{stage.server.url}{path}'></iframe>" for path in ("/launch", "/live/", "/live/?prompt=x")
    )
    page = stage.elsewhere("/frame")
    page.wait_for_timeout(1500)
    frames = [frame for frame in page.frames if frame is not page.main_frame]
    assert len(frames) == 3
    for frame in frames:
        assert frame.get_by_role("button").count() == 0
        assert not frame.url.startswith(stage.server.url)
    page.close()
    own = stage.visitor.context.new_page()  # a page of ours frames the live view
    own.goto(stage.server.url + "/_stcore/health")
    own.evaluate("document.body.append(Object.assign(document.createElement('iframe'), {src: '/live/'}))")
    expect(own.frame_locator("iframe").get_by_role("button", name="Decode")).to_be_visible(timeout=MINUTE)
    own.close()


def test_a_form_of_a_foreign_page_starts_nothing(stage: Stage):
    stage.stranger.pages["/form"] = (
        f"<form method=post enctype=text/plain action='{stage.server.url}/live/gradio_api/queue/join'>"
        "<input name='{\"a\":\"' value='\"}'><button>Win</button></form>"
    )
    page = stage.elsewhere("/form")
    with page.expect_response(lambda answer: answer.url.startswith(stage.server.url)) as answer:
        page.get_by_role("button").click()
    assert answer.value.status == 403
    page.close()


def test_a_link_gives_no_right_and_names_no_server(stage: Stage):
    """The link of the fault: remote code, and a variable of the user's sent to the stranger at one click on Check."""
    page = stage.visitor.context.new_page()
    asked = [
        "target.trust_remote_code=true",
        f"capture.server.base_url={stage.stranger.url}/v1",
        "capture.server.model=m",
        "capture.server.key_env=STRANGERS_WANT_KEY",
    ]
    before, stage.stranger.asked = stage.runs, []
    page.goto(stage.server.url + link("launch", recipe="smoke", set=asked))
    harness.settle(page)
    expect(page.get_by_text("This link also asked for")).to_be_visible()
    code = page.get_by_test_id("stCode")  # its part of Streamlit is loaded when it is first drawn
    expect(code).to_have_count(2, timeout=MINUTE)
    refused, command = code.all_inner_texts()
    assert "target.trust_remote_code=true" in refused
    assert stage.stranger.url in refused
    assert "STRANGERS_WANT_KEY" in refused
    assert page.locator(f"a[href*='{stage.stranger.port}']").count() == 0, "the stranger's address is no link"
    assert command.strip() == "draftbench run recipes/smoke.yaml --queue"
    assert "set=" not in page.url
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_text("Checks:").first).to_be_visible(timeout=MINUTE)
    harness.settle(page)
    assert stage.stranger.asked == []
    assert stage.runs == before
    page.close()


def test_a_link_to_an_endless_file_stops_nobody(stage: Stage, tmp_path: Path):
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    for name in ("/dev/zero", str(pipe)):
        page = stage.visitor.context.new_page()
        page.goto(stage.server.url + link("launch", recipe="smoke", set=[f"prompts.train={name}"]))
        harness.settle(page)
        expect(page.get_by_text("is neither a file nor a folder")).to_be_visible()
        other = stage.visitor.context.new_page()
        other.goto(stage.server.url + link("launch", recipe="smoke"))
        harness.settle(other)
        other.get_by_role("button", name="Check", exact=True).click()
        expect(other.get_by_text("Checks:").first).to_be_visible(timeout=MINUTE)
        page.close()
        other.close()


def test_nothing_that_a_link_names_is_read_before_a_click(stage: Stage, tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "What is blood made of?"}\n' * 30)
    os.utime(prompts, (1, 1))
    page = stage.visitor.context.new_page()
    page.goto(stage.server.url + link("launch", recipe="smoke", set=[f"prompts.train={prompts}"]))
    harness.settle(page)
    expect(page.get_by_text("until then nothing they name is read")).to_be_visible()
    assert page.get_by_test_id("stMetric").count() == 0
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_text("30 prompts")).to_be_visible(timeout=MINUTE)
    expect(page.get_by_test_id("stMetric").first).to_be_visible(timeout=MINUTE)
    page.close()


def raw(stage: Stage, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> int:
    """The status of a request as a program could write it."""
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=120)
    try:
        connection.request(method, path, body=body or None, headers=headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/live/gradio_api/upload"),
        ("POST", "/live/upload"),
        ("GET", "/live/gradio_api/file=/etc/passwd"),
        ("GET", "/live/file=/etc/passwd"),
        ("GET", "/live/gradio_api/proxy=http://127.0.0.1/"),
        ("GET", "/live/monitoring"),
        ("POST", "/live/gradio_api/component_server"),
        ("GET", "/live/docs"),
        ("GET", "/live/openapi.json"),
        ("GET", "/live/assets/..%2fgradio_api/file=/etc/passwd"),
        ("GET", "/live/%67radio_api/file=/etc/passwd"),
        ("PUT", "/_stcore/upload_file/a/b"),
        ("DELETE", "/_stcore/upload_file/a/b"),
        ("POST", "/_stcore/agent/mcp"),
        ("GET", "/_stcore/metrics"),
        ("OPTIONS", "/_stcore/upload_file/a/b"),
    ],
)
def test_routes_of_the_libraries_that_nobody_needs_are_closed(stage: Stage, method: str, path: str):
    status = raw(stage, method, path, body=b"x" if method in ("POST", "PUT") else b"")
    assert status == (400 if "%2f" in path else 404)  # Streamlit itself refuses a path that climbs


def test_a_file_is_taken_from_an_open_page_alone(stage: Stage):
    """Without the page's token, with another site's origin, and for a session that is none."""
    path = f"/_stcore/upload_file/{uuid.uuid4()}/{uuid.uuid4()}"
    assert raw(stage, "PUT", path, body=b"x") in (400, 403)
    assert raw(stage, "DELETE", path) in (400, 403)
    assert raw(stage, "PUT", path, {"Origin": f"http://{EVIL}"}, b"x") == 403
    assert raw(stage, "PUT", path, {"Sec-Fetch-Site": "cross-site"}, b"x") == 403


def test_each_header_is_checked_on_the_wire_and_every_answer_has_ours(stage: Stage):
    here = f"127.0.0.1:{stage.port}"
    for name, expected in (
        (here, 200),
        (f"localhost:{stage.port}", 200),
        (f"{EVIL}:{stage.port}", 403),
        ("127.0.0.1", 403),
    ):
        assert raw(stage, "GET", "/_stcore/health", {"Host": name}) == expected, name
    assert raw(stage, "GET", "/_stcore/health", {"Host": here, "Origin": "null"}) == 403
    assert raw(stage, "POST", "/live/gradio_api/queue/join", {"Host": here}, b"x" * 1_100_000) == 413
    for path in (
        "/",
        "/launch",
        "/live/",
        "/_stcore/health",
        "/static/none.js",
        "/live/none",
        "/_stcore/upload_file/a/b",
    ):
        connection = http.client.HTTPConnection(here, timeout=120)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"], path
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN", path
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        connection.close()
