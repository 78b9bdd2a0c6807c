"""The line that tells a page where its server is: in the application's own pages on this machine, nowhere else."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from workbench.server.base_url import BaseUrl

PAGE = "<html><head><title>x</title></head><body>" + "text " * 500 + "</body></html>"


@pytest.fixture
def application() -> Starlette:
    async def page(_: object) -> HTMLResponse:
        return HTMLResponse(PAGE, headers={"etag": "as-it-was"})

    async def data(_: object) -> JSONResponse:
        return JSONResponse({"head": "<head>"})

    routes = [Route("/", page), Route("/launch", page), Route("/live/", page), Route("/data", data)]
    return Starlette(routes=routes, middleware=[Middleware(BaseUrl, mounted="/live"), Middleware(GZipMiddleware)])


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost", "[::1]:80"])
@pytest.mark.parametrize("path", ["/", "/launch"])
def test_a_page_on_this_machine_is_recognised(application: Starlette, host: str, path: str):
    answer = TestClient(application).get(path, headers={"host": host})
    assert answer.text.startswith("<html><head><script>")
    assert answer.text.endswith(PAGE[-2000:])
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("path", "host"), [("/launch", "bench.example"), ("/live/", "127.0.0.1"), ("/data", "127.0.0.1")]
)
def test_everything_else_passes_as_it_is(application: Starlette, path: str, host: str):
    assert "__streamlit" not in TestClient(application).get(path, headers={"host": host}).text
