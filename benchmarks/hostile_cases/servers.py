"""Servers that answer wrongly, too much, too slowly or elsewhere; each is asked for two answers and for its models.

A server here is a function that gets the request's body and writes whatever it likes to the connection. A case passes
if both questions end in an explained error or in the right text; text that the server did not write is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import socket
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.hostile_cases.case import Case
from engine.errors import DraftbenchError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

Send = Callable[[bytes], None]
Server = Callable[[bytes, Send], None]
KEY, TEXT, TIMEOUT_S = "sk-hostile-0123456789", "A river.", 1.5
MODEL = "served"
SAY = Path(tempfile.gettempdir())


def cases() -> list[Case]:
    """Every server as the source of answers, as a list of models, and as one that is asked what it counts."""
    _prepared()
    return [
        Case(f"{kind}: {name}", partial(attempt, server))
        for name, server in SERVERS.items()
        for kind, attempt in (("answers", _answers), ("models", _models), ("probe", _probe))
    ] + [Case(f"address: {address}", partial(_fetch, address)) for address in ADDRESSES]


# -- how they are asked


@cache
def _prepared() -> tuple[Any, list[Any]]:
    """A target and two prompts, made before the first case, so that none pays for the libraries."""
    import engine.deploy.probe
    import engine.served.client  # noqa: F401
    from tests.conftest import tiny_llama
    from tests.tiny_pair import loaded, questions

    _bomb()
    return loaded(tiny_llama()), questions(2)


def _spec(address: str) -> Any:
    from engine.config.schema import ServerSpec

    os.environ["HOSTILE_KEY"] = KEY
    return ServerSpec(
        base_url=address, model=MODEL, attempts=2, concurrency=2, timeout_s=TIMEOUT_S, key_env="HOSTILE_KEY"
    )


def _answers(server: Server, folder: Path) -> None:
    with _listening(server) as address:
        _fetch(address, folder)


def _fetch(address: str, folder: Path) -> None:
    """Two prompts of the server; what is learnt must be the right text and nothing else."""
    from engine.config.schema import CaptureSpec
    from engine.served.capture import make_served, plan_served
    from engine.served.request_rate import RateLimiter

    async def no_sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    spec, (target, prompts) = _spec(address), _prepared()
    plan = plan_served(folder, target, prompts, CaptureSpec(max_new_tokens=40, signal="none", server=spec))
    try:
        capture = make_served(plan, spec, target, limiter=RateLimiter(sleep=no_sleep))
    except DraftbenchError as error:
        if KEY in str(error):
            raise AssertionError("the key is shown") from None
        raise
    texts = {target.tokenizer.decode(answer.token_ids, skip_special_tokens=True) for answer in capture.answers}
    assert texts == {TEXT}, f"learnt {texts}"
    assert KEY not in "".join(path.read_text(errors="replace") for path in plan.folder.glob("*.json*")), "kept the key"


def _models(server: Server, folder: Path) -> None:
    from engine.served.client import listed_models

    with _listening(server) as address:
        names = listed_models(_spec(address), timeout_s=TIMEOUT_S)
    assert all(isinstance(name, str) and len(name) <= 200 for name in names), "names that are none"
    assert len(names) <= 10_000, f"{len(names)} names"


def _probe(server: Server, folder: Path) -> None:
    from engine.deploy.importing import Stated
    from engine.deploy.probe import Asked, probe

    os.environ["HOSTILE_KEY"] = KEY
    _, prompts = _prepared()
    with _listening(server) as address:
        asked = Asked(
            address,
            prompts[:1],
            (0.0,),
            model=MODEL,
            key_env="HOSTILE_KEY",
            timeout_s=TIMEOUT_S,
            attempts=1,
            stated=Stated(server="llama.cpp"),
        )
        try:
            (result,) = probe(asked)
        except DraftbenchError as error:
            if KEY in str(error):
                raise AssertionError("the key is shown") from None
            raise
    raise AssertionError(f"figures of a server that sent none: {result.measurement.totals}")


@contextlib.contextmanager
def _listening(server: Server) -> Iterator[str]:
    """The address of a server of our own making; each connection is a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_speak, args=(connection, server), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.close()


def _speak(connection: socket.socket, server: Server) -> None:
    with contextlib.suppress(OSError), connection:
        request = b""
        while b"\r\n\r\n" not in request and (piece := connection.recv(65536)):
            request += piece
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head.lower())  # an unread request would reset the connection
        while length and len(body) < int(length[1]) and (piece := connection.recv(65536)):
            body += piece
        server(request, connection.sendall)


# -- what they say


def _body(text: Any = TEXT, **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": MODEL, "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}


def _message(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


def _http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def _says(body: Any, *headers: str, status: str = "200 OK") -> Server:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request, send: send(_http(raw, *headers, status=status))


def _raw(*pieces: bytes) -> Server:
    def speak(request: bytes, send: Send) -> None:
        for piece in pieces:
            send(piece)

    return speak


def _for_ever(head: bytes, piece: bytes, pause_s: float = 0.0) -> Server:
    def speak(request: bytes, send: Send) -> None:
        send(head)
        while True:
            send(piece)
            if pause_s:
                time.sleep(pause_s)

    return speak


@cache
def _bomb() -> bytes:
    """500 kB of gzip that are 500 MB of an answer."""
    packer, blank = zlib.compressobj(9, zlib.DEFLATED, 31), b" " * 2**20
    return b"".join([packer.compress(blank) for _ in range(500)]) + packer.flush()


def _bombed(request: bytes, send: Send) -> None:
    send(_http(_bomb(), "Content-Encoding: gzip"))


def _twice_packed(request: bytes, send: Send) -> None:
    send(_http(gzip.compress(_bomb()), "Content-Encoding: gzip, gzip"))


def _silent(request: bytes, send: Send) -> None:
    time.sleep(30)


def _elsewhere(request: bytes, send: Send) -> None:
    """Redirects to another port of this machine, which must not hear of the key."""

    def stranger(asked: bytes, answer: Send) -> None:
        (SAY / f"hostile-{os.getpid()}").write_bytes(asked)

    with _listening(stranger) as address:
        send(_http(b"", f"Location: {address}/chat/completions", status="307 Temporary Redirect"))
        time.sleep(0.5)
    heard = SAY / f"hostile-{os.getpid()}"
    if heard.exists():
        heard.unlink()
        os._exit(3)  # the redirect was followed


OK, HEAD = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_USAGE = {"prompt_tokens": 9, "completion_tokens": 57}
_WHOLE = _http(json.dumps(_body()).encode())
_DEEP = b'{"choices": ' + b"[" * 200_000
_MANY = {"data": [{"id": f"model-{i}"} for i in range(200_000)]}
SERVERS: dict[str, Server] = {
    # too much
    "a gzip bomb": _bombed,
    "gzip in gzip": _twice_packed,
    "brotli that nobody asked for": _says(b"\x1b\xff\xff\xff" * 99, "Content-Encoding: br"),
    "gzip that is none": _says(b"no gzip", "Content-Encoding: gzip"),
    "a thousand packings": _says(_body(), "Content-Encoding: " + "gzip, " * 1000 + "gzip"),
    "a body without end": _for_ever(HEAD + b"\r\n", b" " * 2**20),
    "chunks without end": _for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 10_000),
    "headers without end": _for_ever(OK, b"X-A: " + b"a" * 1000 + b"\r\n"),
    "one header without end": _for_ever(OK + b"X-A: ", b"a" * 65536),
    "endless 100 Continue": _for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "cookies by the thousand": _says(_body(), *(f"Set-Cookie: c{i}={'x' * 40}" for i in range(1000))),
    "an error without end": _for_ever(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 2**20),
    "200,000 models": _says(_MANY),
    "a model's name of a megabyte": _says({"data": [{"id": "m" * 2**20}]}),
    "two million empty lists": _says(b'{"choices": [' + b"[]," * 2_000_000 + b"[]]}"),
    # too slow
    "one byte a second": _for_ever(HEAD + b"Content-Length: 900\r\n\r\n", b" ", 0.3),
    "a byte of a header a second": _for_ever(b"", b"H", 0.3),
    "no word": _silent,
    "a pause of a year": _says({}, "Retry-After: 31536000", status="429 Too Many Requests"),
    "a pause until the year 9999": _says({}, "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT", status="503 Busy"),
    "a pause of 1e999": _says({}, "Retry-After: 1e999", status="503 Busy"),
    # no HTTP
    "TLS on a plain port": _raw(b"\x15\x03\x01\x00\x02\x02\x28" * 9),
    "chunks that are none": _raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
    "a chunk of 2^64 bytes": _raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{"),
    "two lengths": _raw(OK + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\nabcde"),
    "a length below zero": _raw(OK + b"Content-Length: -5\r\n\r\nabcde"),
    "fewer bytes than announced": _raw(OK + b"Content-Length: 5000\r\n\r\n{}"),
    "a status of 999": _says(_body(), status="999 What"),
    "a switch of protocols": _raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "nothing": _raw(),
    "two answers at once": _raw(_WHOLE, _WHOLE),
    # elsewhere
    "a redirect to another host": _elsewhere,
    "a redirect to a file": _says(b"", "Location: file:///etc/passwd", status="302 Found"),
    "a redirect without where": _says(b"", status="301 Moved"),
    "the key in an error": _says({"error": f"bad {KEY}"}, status="401 No"),
    "the key in an answer": _says(_body(f"you sent {KEY}")),
    "the key as a model": _says({"data": [{"id": f"m {KEY}"}], **_body(TEXT)}),
    # no JSON
    "no UTF-8": _says(b'{"choices": [{"message": {"content": "\xff\xfe"}, "finish_reason": "stop"}]}'),
    "nesting of 200,000": _says(_DEEP),
    "an integer of 4,400 digits": _says(b'{"choices": [], "n": ' + b"9" * 4400 + b"}"),
    "an id of 4,000 digits": _says(_body(token_ids=[int("9" * 4000)])),
    "a key twice": _says(b'{"choices": [{"message": {"content": "a", "content": "b"}, "finish_reason": "stop"}]}'),
    "100,000 keys, the last one twice": _says(b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b',"99999":2}'),
    "NaN as a count": _says(b'{"usage": {"completion_tokens": NaN}, ' + json.dumps(_body()).encode()[1:]),
    "a stream": _says(b'data: {"choices": [{"delta": {"content": "A"}}]}\n\ndata: [DONE]\n\n'),
    "a web page": _says(b"<html>login</html>", "Content-Type: text/html"),
    # absent is not empty
    "content null, 57 tokens": _says({**_body(None), "usage": _USAGE}),
    "content null": _says(_body(None)),
    "no content": _says(_message()),
    "content empty, 57 tokens": _says({**_body(""), "usage": _USAGE}),
    "three letters, 57 tokens": _says({**_body("yes"), "usage": _USAGE}),
    "text in place of a message": _says({"choices": [{"text": TEXT, "finish_reason": "stop"}]}),
    "a piece of a stream": _says({"choices": [{"delta": {"content": TEXT}, "finish_reason": "stop"}]}),
    "no choices": _says({"choices": []}),
    "a refusal": _says(_message(content=None, refusal="I will not")),
    "reasoning alone": _says(_message(content="", reasoning_content="hm")),
    "reasoning as an object": _says(_message(content=TEXT, reasoning={"text": "hm"})),
    "reasoning that is only counted": _says(
        {**_body(), "usage": {"completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 5}}}
    ),
    "an error with status 200": _says({"error": {"message": "overloaded"}, "choices": []}),
    "an error in the choice": _says(_body(error={"message": "overloaded"})),
    "calls that are none": _says(_message(content=None, tool_calls=[{"function": "add"}])),
    "content of another kind": _says(_body({"text": TEXT})),
    # right
    "an answer": _says(_body()),
    "an answer in parts": _says(_body([{"type": "text", "text": "A "}, {"type": "text", "text": "river."}])),
    "a word of its own for the end": _says(_body(finish_reason="eos_token")),
    "an unknown word for the end": _says(_body(finish_reason="served_up")),
    "no word for the end, but counts": _says({**_body(finish_reason=None), "usage": {"completion_tokens": 8}}),
    "another model": _says({**_body(), "model": "another"}),
    "packed as gzip": _says(gzip.compress(json.dumps(_body()).encode()), "Content-Encoding: gzip"),
    # words for what is no end
    "aborted": _says(_body(finish_reason="abort")),
    "filtered": _says(_body("A", finish_reason="content_filter")),
    "no word for the end": _says(_body(finish_reason=None)),
    "a sentence for the end": _says(_body(finish_reason="out of memory!")),
}
ADDRESSES = (
    "http://127.0.0.1:1/v1",
    "http://127.0.0.1:99999/v1",
    "http://[::1",
    "http://",
    "http://127.0.0.1:x/v1",
    "http://localhost\x00/v1",
    "http://a..b.localhost:1/v1",
    "https://127.0.0.1:1/v1",
)
