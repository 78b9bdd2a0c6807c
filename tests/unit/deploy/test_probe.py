"""A probe finds out what it talks to, sends each prompt once a temperature, and reads what that server counts."""

from __future__ import annotations

import contextlib
import copy
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engine.chat.prompt import Prompt, prompts_hash
from engine.deploy.importing import Stated
from engine.deploy.probe import Asked, probe
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals, added
from tests.unit.deploy.readers import recorded
from tests.unit.deploy.readers.recorded import TEXT, changed, vllm_scrape

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"What is {i}?"},)) for i in range(3)]
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}]}


@dataclass
class StandIn:
    """A server of one kind: its pages by path, its answers, and what it was asked."""

    answer: Callable[[int], dict[str, Any]]
    pages: dict[str, Any] = field(default_factory=dict)
    metrics: Callable[[int], str] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def running(stand_in: StandIn) -> Iterator[StandIn]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/metrics" and stand_in.metrics is not None:
                self.say(200, stand_in.metrics(len(stand_in.asked)).encode())
            elif self.path in stand_in.pages:
                self.say(200, json.dumps(stand_in.pages[self.path]).encode())
            else:
                self.say(404, b"{}")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stand_in.asked.append(body)
            stand_in.headers.append(dict(self.headers))
            self.say(200, json.dumps(stand_in.answer(len(stand_in.asked))).encode())

        def say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    stand_in.url = f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    try:
        yield stand_in
    finally:
        httpd.shutdown()
        httpd.server_close()


def listed(owner: str, *names: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "owned_by": owner} for name in names or ("target",)]}


def asked(stand_in: StandIn, **changes: Any) -> Asked:
    return Asked(stand_in.url, PROMPTS, **({"temperatures": (0.0,), "max_new_tokens": 60} | changes))


def whole(answer: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
    return lambda number: copy.deepcopy(answer)


def in_chat(meta: dict[str, Any]) -> dict[str, Any]:
    answer = copy.deepcopy(CHAT)
    answer["choices"][0]["meta_info"] = meta
    return answer | {"usage": {"completion_tokens": 30}}


VLLM_SILENT = CHAT | {"usage": {"completion_tokens": 5}}
SERVERS: dict[str, tuple[StandIn, RoundTotals]] = {
    "vllm": (
        StandIn(whole(recorded.VLLM), {"/v1/models": listed("vllm"), "/version": {"version": "0.32.0"}}),
        added([recorded.VLLM_COUNTS] * 3),
    ),
    "sglang": (
        StandIn(
            whole(in_chat(recorded.SGLANG["meta_info"])),
            {
                "/v1/models": listed("sglang"),
                "/server_info": {"version": "0.5.9", "speculative_num_draft_tokens": 4, "internal_states": []},
            },
        ),
        added([recorded.SGLANG_COUNTS] * 3),
    ),
    "llama.cpp": (
        StandIn(
            whole(recorded.LLAMA_CPP),
            {
                "/v1/models": listed("llamacpp"),
                "/props": {"default_generation_settings": {}, "build_info": "b10434", "model_ftype": "Q4_K_M"},
            },
        ),
        added([recorded.LLAMA_CPP_COUNTS] * 3),
    ),
    "tensorrt-llm": (
        StandIn(
            whole(CHAT | recorded.TENSORRT | {"choices": [recorded.TENSORRT["choices"][0] | CHAT["choices"][0]]}),
            {"/v1/models": listed("tensorrt_llm"), "/version": {"version": "1.3.0"}},
        ),
        added([recorded.TENSORRT_COUNTS] * 3),
    ),
    "lm-studio": (
        StandIn(whole(CHAT | recorded.LM_STUDIO), {"/v1/models": listed("organization_owner")}),
        added([recorded.LM_STUDIO_COUNTS] * 3),
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_is_known_by_what_it_says_and_read_by_its_own_means(name: str):
    stand_in, counts = SERVERS[name]
    stand_in.asked.clear()
    with running(stand_in):
        (result,) = probe(asked(stand_in))
    measurement = result.measurement
    assert (measurement.server, measurement.totals, len(measurement.per_request)) == (name, counts, 3)
    assert measurement.form == "probe"
    assert measurement.prompt_ids == ["p0", "p1", "p2"]
    assert measurement.prompts_hash == prompts_hash(PROMPTS)
    assert [body["messages"][0]["content"] for body in stand_in.asked] == [prompt.text for prompt in PROMPTS]
    assert measurement.tokens_per_s is not None
    assert measurement.max_new_tokens == 60


def test_what_a_server_says_of_itself_is_kept():
    for name, version, weights, gamma in (
        ("vllm", "0.32.0", None, 3),
        ("sglang", "0.5.9", None, 3),
        ("llama.cpp", "b1-7e4c0a9", "Q4_K_M", None),
    ):
        with running(SERVERS[name][0]) as stand_in:
            measurement = probe(asked(stand_in))[0].measurement
        assert (measurement.version, measurement.weights, measurement.num_draft_tokens) == (version, weights, gamma)


def test_counters_alone_are_read_by_difference_at_each_temperature():
    def metrics(number: int) -> str:
        return vllm_scrape(100 + 30 * number, [60 + 18 * number, 30 + 9 * number, 10 + 3 * number])

    stand_in = StandIn(whole(VLLM_SILENT), {"/v1/models": listed("vllm")}, metrics)
    with running(stand_in):
        results = probe(asked(stand_in, temperatures=(0.0, 1.0)))
    for result, temperature in zip(results, (0.0, 1.0), strict=True):
        totals = result.measurement.totals
        assert (totals.rounds, totals.proposed, totals.accepted_at) == (90, 270, [54, 27, 9])
        assert (result.measurement.temperature, result.measurement.num_draft_tokens) == (temperature, 3)
        assert [document.name for document in result.documents] == [
            "answers.jsonl",
            "metrics-before.txt",
            "metrics-after.txt",
        ]
        assert any("by this machine's clock" in note for note in result.measurement.notes)
    assert [body["temperature"] for body in stand_in.asked] == [0.0] * 3 + [1.0] * 3


def llama_metrics(number: int) -> str:
    return (
        f"llamacpp:tokens_predicted_total {40 * number}\n"
        f"llamacpp:spec_decode_num_draft_tokens_total {71 * number}\n"
        f"llamacpp:spec_decode_num_accepted_tokens_total {14 * number}\n"
        f"llamacpp:spec_decode_num_drafts_total {24 * number}\n"
        f'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="0"}} {10 * number}\n'
        f'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="1"}} {4 * number}\n'
        f'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{{position="2"}} 0\n'
    )


def test_answers_give_the_requests_and_counters_the_rounds():
    stand_in = StandIn(whole(recorded.LLAMA_CPP), {"/v1/models": listed("llamacpp")}, llama_metrics)
    with running(stand_in):
        measurement = probe(asked(stand_in))[0].measurement
    assert measurement.totals == RoundTotals(
        requests=3, rounds=72, proposed=213, accepted=42, accepted_at=[30, 12, 0], emitted=120
    )
    assert len(measurement.per_request) == 3
    assert measurement.source.endswith("and /metrics")
    assert not any("rounds are not in" in note for note in measurement.notes)


def test_counters_with_others_requests_in_them_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.deploy.probe._SETTLE_S", 0.0)
    stand_in = StandIn(whole(recorded.LLAMA_CPP), {"/v1/models": listed("llamacpp")}, lambda n: llama_metrics(2 * n))
    with running(stand_in):
        measurement = probe(asked(stand_in))[0].measurement
    assert measurement.totals == added([recorded.LLAMA_CPP_COUNTS] * 3)
    assert any("other requests were served meanwhile" in note for note in measurement.notes)


def test_counters_that_cannot_be_read_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.deploy.probe._SETTLE_S", 0.0)
    falling = StandIn(whole(recorded.LLAMA_CPP), {"/v1/models": listed("llamacpp")}, lambda n: llama_metrics(9 - n))
    with running(falling):
        measurement = probe(asked(falling))[0].measurement
    assert measurement.totals == added([recorded.LLAMA_CPP_COUNTS] * 3)
    assert any(note.startswith("/metrics is not read: /metrics after: llamacpp:") for note in measurement.notes)


def test_a_server_that_does_not_say_what_it_is_must_be_named():
    stand_in = StandIn(whole(recorded.VLLM), {"/v1/models": listed("somebody")})
    with running(stand_in):
        with pytest.raises(DraftbenchError, match="does not say which server it is"):
            probe(asked(stand_in))
        assert probe(asked(stand_in, stated=Stated(server="vllm")))[0].measurement.server == "vllm"


def test_one_of_several_models_must_be_named():
    stand_in = StandIn(whole(recorded.VLLM), {"/v1/models": listed("vllm", "target", "other")})
    with running(stand_in):
        with pytest.raises(DraftbenchError, match="lists 2 models") as error:
            probe(asked(stand_in))
        assert "target, other" in error.value.fix
        probe(asked(stand_in, model="other"))
    assert {body["model"] for body in stand_in.asked} == {"other"}


def test_a_server_that_reports_nothing_is_told_how_to():
    stand_in = StandIn(whole(VLLM_SILENT), {"/v1/models": listed("vllm")})
    with running(stand_in), pytest.raises(DraftbenchError, match="reports nothing of speculation") as error:
        probe(asked(stand_in))
    assert "--per-request-spec-decode-metrics" in error.value.fix


def test_contradicting_answers_are_refused():
    wrong = changed(recorded.VLLM, "metrics.speculative_decoding.num_spec_steps", 44)
    stand_in = StandIn(whole(wrong), {"/v1/models": listed("vllm")})
    with running(stand_in), pytest.raises(DraftbenchError, match="answer 1: the histogram has 43 rounds"):
        probe(asked(stand_in))


def test_a_prompt_without_an_answer_is_counted():
    def answer(number: int) -> dict[str, Any]:
        return {"choices": [{"message": {"refusal": "no"}, "finish_reason": "stop"}]} if number == 2 else recorded.VLLM

    stand_in = StandIn(answer, {"/v1/models": listed("vllm")})
    with running(stand_in):
        measurement = probe(asked(stand_in))[0].measurement
    assert (measurement.totals.requests, measurement.prompt_ids) == (2, ["p0", "p2"])
    assert any("1 of 3 prompts got no answer" in note for note in measurement.notes)


def test_an_answer_whose_count_cannot_be_is_left_out_and_one_far_off_is_said():
    def answer(number: int) -> dict[str, Any]:
        odd = changed(recorded.VLLM, "usage.completion_tokens", {2: 300, 3: 1}.get(number, 54))
        return changed(odd, "choices.0.message.content", TEXT * 3)

    stand_in = StandIn(answer, {"/v1/models": listed("vllm")})
    with running(stand_in):
        (result,) = probe(asked(stand_in))
    assert (result.measurement.prompt_ids, result.measurement.totals.emitted) == (["p0", "p2"], 55)
    assert b": 300" not in result.documents[0].raw
    notes = " ".join(result.measurement.notes)
    assert "1 of 3 prompts got no answer that can be used: a count of more tokens than were asked for" in notes
    assert "in 1 of 2 answers: another count of tokens" in notes


def test_the_key_is_sent_and_never_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_KEY", "sk-probe-0123456789")
    leaking = changed(recorded.VLLM, "id", "you sent sk-probe-0123456789")
    stand_in = StandIn(whole(leaking), {"/v1/models": listed("vllm")})
    with running(stand_in):
        (result,) = probe(asked(stand_in, key_env="PROBE_KEY"))
    assert stand_in.headers[0]["Authorization"] == "Bearer sk-probe-0123456789"
    kept = b"".join(document.raw for document in result.documents) + result.measurement.json_text().encode()
    assert b"sk-probe" not in kept
    assert b"[key]" in kept


def test_a_key_for_another_machine_needs_permission(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_KEY", "sk-probe-0123456789")
    far = Asked("https://api.example.test/v1", PROMPTS, key_env="PROBE_KEY")
    with pytest.raises(DraftbenchError, match="never sent to") as error:
        probe(far)
    assert "allow-key PROBE_KEY" in error.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (-1.0,)}, "temperatures"),
        ({"temperatures": (0.0, 1e-40)}, "temperatures"),
        ({"max_new_tokens": 1}, "answers of 1 tokens"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://user:pass@x/v1"}, "must not hold a user"),
        ({"prompts": []}, "0 prompts"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(changes: dict[str, Any], message: str):
    with pytest.raises(DraftbenchError) as error:
        probe(Asked(**({"base_url": "http://127.0.0.1:9/v1", "prompts": PROMPTS} | changes)))
    assert message in str(error.value)


def test_a_server_that_is_not_there_is_an_explained_error():
    with pytest.raises(DraftbenchError, match="no server answers there"):
        probe(Asked("http://127.0.0.1:9/v1", PROMPTS))
