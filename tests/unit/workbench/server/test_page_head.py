"""What the head of a page gets: the workbench's script, and on this machine where the server is."""

import html
import json

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from workbench.server.page_head import SCRIPT, PageHead, script

SHORTCUTS = [('g "', "</script><b>", "/")]
PAGE = "<html><head><title>x</title></head><body>" + "text " * 500 + "</body></html>"


@pytest.fixture
def application() -> Starlette:
    async def page(_: object) -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"etag": "as-it-was"})

    async def data(_: object) -> JSONResponse:
        return JSONResponse({"head": "<head>"})

    routes = [Route("/", page), Route("/launch", page), Route("/live/", page), Route("/data", data)]
    head = Middleware(PageHead, mounted="/live", shortcuts=SHORTCUTS)
    return Starlette(routes=[*routes, Route(SCRIPT, script)], middleware=[head, Middleware(GZipMiddleware)])


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost", "[::1]:80"])
@pytest.mark.parametrize("path", ["/", "/launch"])
def test_a_page_on_this_machine_is_recognised(application: Starlette, host: str, path: str):
    answer = TestClient(application).get(path, headers={"host": host})
    assert "window.__streamlit" in answer.text
    assert answer.text.endswith(PAGE[-2000:])
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("path", "host"), [("/launch", "bench.example"), ("/live/", "127.0.0.1"), ("/data", "127.0.0.1")]
)
def test_only_a_page_on_this_machine_learns_its_base_url(application: Starlette, path: str, host: str):
    assert "__streamlit" not in TestClient(application).get(path, headers={"host": host}).text


@pytest.mark.parametrize(("path", "has"), [("/launch", True), ("/live/", False), ("/data", False)])
def test_a_page_has_our_script_behind_a_proxy_too_and_what_is_mounted_has_not(
    application: Starlette, path: str, has: bool
):
    assert (f'<script src=".{SCRIPT}"' in TestClient(application).get(path, headers={"host": "a.example"}).text) == has


def test_shortcuts_are_data_whatever_they_say(application: Starlette):
    text = TestClient(application).get("/launch").text
    written = text.partition('data-shortcuts="')[2].partition('"')[0]
    assert json.loads(html.unescape(written)) == [list(each) for each in SHORTCUTS]
    assert "<b>" not in text


def test_the_script_is_asked_for_again_at_each_start(application: Starlette):
    answer = TestClient(application).get(SCRIPT)
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"
