"""A server of the chat completions API on this machine, in a thread, which misbehaves on request."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "served-model"


def reply(text: str = "yes", reason: str = "stop", **choice: Any) -> dict[str, Any]:
    """The body of a good answer."""
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason, **choice}]}


@dataclass(frozen=True)
class Said:
    """A response to give: status, body (a dict is sent as JSON) and headers; or how to spoil it."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # announce more bytes than are sent
    close: bool = False  # send nothing at all
    wait_s: float = 0.0
    byte_wait_s: float = 0.0  # before each byte of the body


Script = Callable[[dict[str, Any], int], Said]
"""Request body, and how many came before it -> what to say."""


@dataclass
class Server:
    """A running server: its address, the requests it got, and most of them at once; `looks` at its models."""

    base_url: str
    script: Script
    models: list[str] = field(default_factory=lambda: [MODEL])
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    listing: Said | None = None  # in place of the models
    looks: int = 0
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self) -> list[str]:
        """Last message of each request, in the order they came."""
        return [str(body["messages"][-1]["content"]) for body in self.requests]


def good(body: dict[str, Any], number: int) -> Said:
    return Said(body=reply(f"about {body['messages'][-1]['content'][:20]}"))


@contextlib.contextmanager
def chat_server(script: Script = good) -> Iterator[Server]:
    """A server that follows `script`, which may be changed while it runs."""
    state = Server("", script)

    class Handler(_Handler):
        server_state = state

    httpd = _Listener(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state.base_url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()


class _Listener(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence where the other side hung up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server_state: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server_state.looks += 1
        listed = Said(body={"data": [{"id": name} for name in self.server_state.models]})
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._say(self.server_state.listing or listed)

    def do_POST(self) -> None:
        state, body = self.server_state, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.requests)
            state.requests.append(body)
            state.headers.append(dict(self.headers))
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
        said = state.script(body, number)
        time.sleep(said.wait_s)
        with state.lock:
            state.at_once -= 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._say(said)

    def _say(self, said: Said) -> None:
        if said.close:
            self.close_connection = True
            return
        raw = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        for piece in (raw[i : i + 1] for i in range(len(raw))) if said.byte_wait_s else ():
            time.sleep(said.byte_wait_s)
            self.wfile.write(piece)
        if not said.byte_wait_s:
            self.wfile.write(raw[: len(raw) // 2] if said.cut else raw)
        self.close_connection = self.close_connection or said.cut

    def log_message(self, *_: Any) -> None:
        """Silence."""
