"""What llama-server and vLLM answer, read over HTTP: the forms of their builds, and forms that are refused."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.deploy.answer_log import AnswerLog
from engine.deploy.llama_server import LlamaServer
from engine.deploy.parity_bench import Bench
from engine.deploy.serving import AnswerNotGiven, Asked, Deployment, ServedAnswer
from engine.deploy.vllm_server import VllmServer
from engine.errors import DraftbenchError
from engine.progress import SILENT
from engine.served.http import Client

ASKED = Asked("p", (1, 5, 6), 0.0, 6, 1)
METRICS = """# TYPE llamacpp:spec_decode_num_drafts_total counter
llamacpp:spec_decode_num_drafts_total {drafts}
llamacpp:spec_decode_num_accepted_tokens_total 99
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="0"}} {first}
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="1"}} {second}
"""
LLAMA: dict[str, Any] = {
    "tokens": [7, 8, 9, 10, 11, 2],
    "timings": {"predicted_n": 6, "predicted_ms": 250.0, "draft_n": 6, "draft_n_accepted": 2},
}
VLLM: dict[str, Any] = {
    "choices": [{"token_ids": [7, 8, 9, 10, 11, 2], "prompt_token_ids": [1, 5, 6], "finish_reason": "stop"}],
    "metrics": {
        "speculative_decoding": {
            "num_spec_steps": 3,
            "num_accepted_draft_tokens": 2,
            "num_draft_tokens": 9,
            "num_spec_tokens": 3,
            "per_step_accepted": [0, 2, 0],
            "per_step_drafted": [3, 3, 3],
        }
    },
}


class Recorded:
    """A server that gives recorded replies by path, one after another, the last one for ever."""

    def __init__(self) -> None:
        self.replies: dict[str, list[bytes]] = {}
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer()

            def answer(self) -> None:
                left = outer.replies.get(self.path)
                body = b"none" if left is None else left.pop(0) if len(left) > 1 else left[0]
                self.send_response(404 if left is None else 500 if b'"error"' in body else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def llama(self, reply: object, before: tuple[int, int, int] = (4, 2, 1), after: tuple[int, int, int] = (7, 3, 2)):
        scrapes = [METRICS.format(drafts=d, first=f, second=s).encode() for d, f, s in (before, after)]
        self.replies = {"/completion": [json.dumps(reply).encode()], "/metrics": scrapes}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    server = Recorded()
    yield server
    server.server.shutdown()
    server.server.server_close()


def ask(server: LlamaServer | VllmServer, url: str, *, timed: bool = False) -> ServedAnswer:
    async def run() -> ServedAnswer:
        async with Client(url) as client:
            return await server.ask(client, url, ASKED, timed=timed)

    return asyncio.run(run())


def test_llama_server_answers_with_its_counters_of_that_request(recorded: Recorded):
    recorded.llama(LLAMA)
    answer = ask(LlamaServer(), recorded.url)
    assert answer.token_ids == LLAMA["tokens"]
    assert answer.seconds == 0.25
    totals = answer.totals
    assert totals is not None
    assert (totals.rounds, totals.proposed, totals.accepted, totals.accepted_at) == (3, 6, 2, [1, 1])
    sent = recorded.asked[0]
    assert sent["prompt"] == [1, 5, 6]
    assert (sent["top_k"], sent["top_p"], sent["min_p"], sent["samplers"]) == (0, 1.0, 0.0, ["temperature"])
    assert sent["cache_prompt"] is False


def test_llama_server_without_a_draft_has_no_rounds(recorded: Recorded):
    plain = {"tokens": [7, 8], "timings": {"predicted_n": 2, "predicted_ms": 90.0}}
    recorded.replies = {"/completion": [json.dumps(plain).encode()], "/metrics": [b"llamacpp:n_decode_total 3\n"]}
    assert ask(LlamaServer(), recorded.url).totals is None


def test_counters_of_another_client_are_noticed(recorded: Recorded):
    recorded.llama(LLAMA, after=(9, 5, 4))
    with pytest.raises(DraftbenchError, match="2 accepted tokens in its reply"):
        ask(LlamaServer(), recorded.url)


def test_counters_that_fell_are_refused(recorded: Recorded):
    recorded.llama(LLAMA, after=(3, 3, 2))
    with pytest.raises(DraftbenchError, match="num_drafts is -1"):
        ask(LlamaServer(), recorded.url)


@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    [
        {**LLAMA, "tokens": None},
        {**LLAMA, "tokens": [1, "2"]},
        {**LLAMA, "tokens": [1, True]},
        {**LLAMA, "timings": []},
        {**LLAMA, "timings": {**LLAMA["timings"], "predicted_ms": "250"}},
        {**LLAMA, "timings": {**LLAMA["timings"], "predicted_ms": float("nan")}},
        {**LLAMA, "timings": {**LLAMA["timings"], "draft_n": -1}},
        ["no object"],
    ],
)
def test_a_reply_of_llama_server_in_another_form_is_refused(recorded: Recorded, reply: object):
    recorded.llama(reply)
    with pytest.raises(DraftbenchError, match=r"the server's reply has no|predicted_ms is"):
        ask(LlamaServer(), recorded.url)


@pytest.mark.parametrize(
    ("right", "odd"),
    [
        ('position="1"', 'position="999999999999"'),
        ('position="1"', 'position="٣"'),
        ("{second}", "1e999"),
        ("{drafts}", "-1"),
    ],
)
def test_counters_of_llama_server_that_cannot_be_are_refused(recorded: Recorded, right: str, odd: str):
    recorded.llama(LLAMA)
    recorded.replies["/metrics"] = [METRICS.replace(right, odd).format(drafts=4, first=2, second=1).encode()]
    with pytest.raises(DraftbenchError, match="/metrics: "):
        ask(LlamaServer(), recorded.url)


def test_vllm_answers_with_its_figures_per_request(recorded: Recorded):
    recorded.replies = {"/v1/completions": [json.dumps(VLLM).encode()]}
    answer = ask(VllmServer(), recorded.url)
    totals = answer.totals
    assert totals is not None
    assert (totals.rounds, totals.proposed, totals.accepted, totals.accepted_at) == (3, 9, 2, [1, 1, 0])
    assert answer.seconds is None
    assert recorded.asked[0]["prompt"] == [1, 5, 6]
    timed = ask(VllmServer(), recorded.url, timed=True)
    assert timed.seconds is not None
    assert [sent["max_tokens"] for sent in recorded.asked] == [6, 1, 6]


def test_a_reply_of_vllm_in_another_form_is_refused(recorded: Recorded):
    figures = VLLM["metrics"]["speculative_decoding"]
    wrong = [
        {**VLLM, "choices": []},
        {**VLLM, "choices": [{**VLLM["choices"][0], "token_ids": None}]},
        {**VLLM, "choices": [{**VLLM["choices"][0], "prompt_token_ids": [1, 1, 5, 6]}]},
        {**VLLM, "metrics": {"speculative_decoding": {**figures, "per_step_accepted": None}}},
        {**VLLM, "metrics": {"speculative_decoding": {**figures, "num_accepted_draft_tokens": 3}}},
        {**VLLM, "metrics": {"speculative_decoding": {**figures, "num_spec_steps": 4}}},
        {**VLLM, "metrics": {"speculative_decoding": {**figures, "num_spec_tokens": 10**15}}},
        {**VLLM, "metrics": {"speculative_decoding": [1]}},
    ]
    for reply in wrong:
        recorded.replies = {"/v1/completions": [json.dumps(reply).encode()]}
        with pytest.raises(DraftbenchError):
            ask(VllmServer(), recorded.url)
    recorded.replies = {"/v1/completions": [json.dumps({**VLLM, "metrics": None}).encode()]}
    assert ask(VllmServer(), recorded.url).totals is None


def test_a_refusal_says_what_the_server_wrote(recorded: Recorded):
    with pytest.raises(DraftbenchError, match="status 404: none"):
        ask(VllmServer(), recorded.url)


def test_the_chat_routes_ids(recorded: Recorded):
    async def ids(server: LlamaServer | VllmServer) -> list[int]:
        async with Client(recorded.url) as client:
            return await server.chat_ids(client, recorded.url, [{"role": "user", "content": "hi"}], [])

    recorded.replies = {
        "/apply-template": [b'{"prompt": "<|im_start|>user"}'],
        "/tokenize": [b'{"tokens": [1, 4093]}'],
        "/v1/chat/completions": [b'{"prompt_token_ids": [1, 4093], "choices": []}'],
    }
    assert asyncio.run(ids(LlamaServer())) == [1, 4093]
    assert recorded.asked[1] == {"content": "<|im_start|>user", "add_special": False, "parse_special": True}
    assert asyncio.run(ids(VllmServer())) == [1, 4093]


def test_a_server_is_started_with_the_draft_and_its_rule_or_without(tmp_path: Path):
    with_draft = Deployment(tmp_path / "t", tmp_path / "d", 3, "sampled", 512, "bfloat16")
    command = VllmServer().program(tmp_path / "vllm", with_draft).command
    speculative = json.loads(command[command.index("--speculative-config") + 1])
    assert speculative["draft_sample_method"] == "probabilistic"
    assert speculative["num_speculative_tokens"] == 3
    plain = Deployment(tmp_path / "t", None, 3, "argmax", 512, "bfloat16")
    assert "--speculative-config" not in VllmServer().program(tmp_path / "vllm", plain).command
    llama = LlamaServer().program(tmp_path / "llama-server", with_draft).command
    assert llama[llama.index("--spec-draft-n-max") + 1] == "3"
    assert llama[llama.index("-md") + 1] == str(tmp_path / "d")
    assert "-md" not in LlamaServer().program(tmp_path / "llama-server", plain).command


UNPARSED = {"error": {"code": 500, "message": "The model produced output that does not match the expected format"}}


def test_an_answer_that_llama_server_cannot_send_is_not_an_error_of_the_measurement(recorded: Recorded):
    """Build 10434 refuses to send a text that ends inside a character; other refusals end the measurement."""
    recorded.llama(UNPARSED)
    with pytest.raises(AnswerNotGiven, match="does not match the expected"):
        ask(LlamaServer(), recorded.url)
    recorded.llama({"error": {"code": 500, "message": "out of memory"}})
    with pytest.raises(DraftbenchError) as refused:
        ask(LlamaServer(), recorded.url)
    assert not isinstance(refused.value, AnswerNotGiven)


def test_answers_that_are_not_sent_are_left_out_and_counted(recorded: Recorded, tmp_path: Path):
    recorded.llama(UNPARSED)
    deployment = Deployment(tmp_path, tmp_path, 2, "argmax", 64, "float16")
    bench = Bench(LlamaServer(), tmp_path, deployment, tmp_path, AnswerLog(None, []), SILENT)
    assert asyncio.run(bench._ask_all(recorded.url, [ASKED], "argmax", timed=False)) == []
    assert len(bench.notes) == 1
    assert "1 of 1 answers were written and not sent" in bench.notes[0]
