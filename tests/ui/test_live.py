"""The live view as visitors use it: the Gradio app on a real port, clients beside each other, the tiny pair."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from gradio_client import Client

from engine.chat.prompt import Prompt
from engine.decode.one_prompt import decode_prompt, question
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.errors import DraftbenchError
from engine.paths import home
from engine.records.interval import Interval
from engine.runs.folder import RunFolder
from engine.runs.pair import load_pair
from engine.traces.saved import load_trace
from workbench.live import answer_html
from workbench.live import decode as live_decode
from workbench.live import gradio_app as live
from workbench.live.decode import Ask, Live, Side, decode
from workbench.live.pairs import Pairs


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The live view, served alone in this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(live.alone(), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/live/"
    server.should_exit = server.force_exit = True  # clients keep their heartbeat open
    thread.join(10)


@pytest.fixture
def run_id(finished_home: Path) -> str:
    return RunFolder.open(home(), "latest").id


def form(run_id: str, prompt: str = "Why?", run2: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "run": run_id,
        "run2": run2,
        "gamma": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 0,
        "max_new_tokens": 24,
        "compare_plain": False,
        **changes,
    }


def visitor(address: str) -> Client:
    return Client(address, verbose=False)


def alone(run_id: str, prompt: str, seed: int, gamma: int = 3, tokens: int = 24) -> list[int]:
    """Ids of the same answer, decoded by the command line's function."""
    pair = load_pair(home(), run_id=run_id)
    settings = DecodeSettings(Sampling(1.0), FixedLength(gamma), tokens, pair.target.stop_ids, seed)
    decoding = decode_prompt(pair.target, pair.draft, question(prompt), settings)
    return [token for item in decoding.rounds() for token in item.emitted]


def status(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """Of a request to the live view's server; `path` from its root."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    connection.request(method, path, body=b"x" if method == "POST" else None, headers=headers)
    answer = connection.getresponse()
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    connection.close()
    return answer.status


def test_the_live_view_alone_answers_its_own_page_alone(address: str):
    join = "/live/gradio_api/queue/join"
    assert status(address, "/live/") == 200
    assert status(address, "/live/", Host="evil.test") == 403
    assert status(address, join, "POST", Origin="http://evil.test") == 403
    assert status(address, join, "POST", Origin=address.removesuffix("/live/")) not in (403, 404)
    assert status(address, "/live/gradio_api/upload", "POST") == 404
    assert status(address, "/live/gradio_api/file=/etc/passwd") == 404
    assert status(address, "/docs") == 404


def test_tokens_stream_round_by_round_and_are_those_of_the_command_line(address: str, run_id: str):
    job = visitor(address).submit(api_name="/decode", **form(run_id))
    html, data = job.result(timeout=60)
    shown = [step[1]["sides"][0]["rounds"] for step in job.outputs()]
    assert data["stage"] == "done"
    assert shown == sorted(shown)
    assert data["sides"][0]["rounds"] in shown
    assert len(set(shown)) > 3
    assert data["sides"][0]["token_ids"] == alone(run_id, "Why?", 0)
    assert "fate-accepted" in html
    assert "acceptance per_examined" in html


def test_stop_ends_before_the_next_round_but_one(address: str, run_id: str, monkeypatch: pytest.MonkeyPatch):
    one_by_one = live_decode.in_turn
    monkeypatch.setattr(live_decode, "in_turn", lambda work: (time.sleep(0.05), one_by_one(work))[1])
    client = visitor(address)
    job = client.submit(api_name="/decode", **form(run_id, max_new_tokens=400))
    while not job.outputs() or job.outputs()[-1][1]["sides"][0]["rounds"] < 3:
        time.sleep(0.01)
    seen = job.outputs()[-1][1]["sides"][0]["rounds"]
    session = next(s for s in live.SESSIONS._sessions.values() if s.live and s.live.stage == "decoding")
    client.predict(api_name="/stop")
    at_stop = len(session.live.sides[0].rounds)
    _, data = job.result(timeout=120)
    assert data["stage"] == "stopped"
    assert at_stop >= seen
    assert data["sides"][0]["rounds"] <= at_stop + 1
    assert not data["sides"][0]["ended"]


def test_two_drafts_on_one_seed_and_plain_beside_them(address: str, run_id: str, finished_home: Path):
    other = second_run(finished_home, run_id)
    html, data = visitor(address).predict(api_name="/decode", **form(run_id, run2=other, compare_plain=True))
    first, second = data["sides"]
    assert [first["name"], second["name"]] == [run_id, other]
    assert first["token_ids"] == second["token_ids"] == alone(run_id, "Why?", 0)  # the same draft twice
    assert len(data["plain"]["token_ids"]) == max(len(side["token_ids"]) for side in data["sides"])
    assert all(side["speedup"] > 0 for side in data["sides"])
    assert "speed-up over plain" in html


def second_run(finished_home: Path, run_id: str) -> str:
    """A copy of the run under another id."""
    import shutil

    shutil.copytree(finished_home / "runs" / run_id, finished_home / "runs" / "second")
    return "second"


def test_four_visitors_at_once_each_get_only_their_own_tokens(address: str, run_id: str):
    asked = [(f"Question {i}: why {'so ' * i}?", 10 + i) for i in range(4)]
    clients = [visitor(address) for _ in asked]
    jobs = [
        client.submit(api_name="/decode", **form(run_id, prompt, seed=seed, max_new_tokens=40))
        for client, (prompt, seed) in zip(clients, asked, strict=True)
    ]
    for job, (prompt, seed) in zip(jobs, asked, strict=True):
        whole = alone(run_id, prompt, seed, tokens=40)
        _, data = job.result(timeout=60)
        assert data["sides"][0]["token_ids"] == whole
        for _, step in job.outputs():
            ids = step["sides"][0]["token_ids"]
            assert ids == whole[: len(ids)]


def test_one_visitors_stop_leaves_the_others_alone(address: str, run_id: str):
    one, two = visitor(address), visitor(address)
    job = two.submit(api_name="/decode", **form(run_id, max_new_tokens=60))
    one.predict(api_name="/stop")
    assert job.result(timeout=60)[1]["stage"] == "done"


def test_a_trace_is_saved_with_what_it_depends_on(address: str, run_id: str):
    client = visitor(address)
    _, data = client.predict(api_name="/decode", **form(run_id, seed=5))
    html, ids = client.predict(api_name="/save")
    (trace_id,) = ids
    trace = load_trace(home(), trace_id)
    assert f"{trace_id}.json" in html  # served alone: there is no Replay page to link to
    assert "/replay" not in html
    assert f"/replay?trace={trace_id}" in answer_html.saved([trace_id])
    assert trace.prompt == "Why?"
    assert (trace.settings["draft"], trace.settings["seed"], trace.settings["num_draft_tokens"]) == (run_id, 5, 3)
    assert trace.counts.accepted == data["sides"][0]["accepted"]
    assert trace.rounds[0].tokens[0].alternatives


def test_nothing_to_save_is_reported(address: str):
    html, ids = visitor(address).predict(api_name="/save")
    assert ids == []
    assert "nothing to save" in html


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"run": "nobody"}, "unknown run"),
        ({"run": ""}, "no draft is selected"),
        ({"run": "../../etc"}, "not a valid name"),
        ({"prompt": "x" * 20_001}, "20,001 characters"),
        ({"prompt": "word " * 2000}, "tokens"),
        ({"seed": None}, "a setting is empty"),
    ],
)
def test_what_cannot_be_decoded_is_shown_in_the_page(address: str, run_id: str, changes: dict[str, Any], reason: str):
    html, data = visitor(address).predict(api_name="/decode", **form(**{"run_id": run_id, **named(changes)}))
    assert data["stage"] == "error"
    assert reason in html
    assert 'role="alert"' in html


def named(changes: dict[str, Any]) -> dict[str, Any]:
    return {("run_id" if key == "run" else key): value for key, value in changes.items()}


def test_a_prompt_is_shown_as_text(address: str, run_id: str):
    html, _ = visitor(address).predict(api_name="/decode", **form(run_id, "<img src=x onerror=alert(1)>"))
    assert "<img" not in html


def test_a_hostile_run_title_is_shown_as_text(address: str, run_id: str):
    from engine.runs.labels import change_labels

    change_labels(home(), RunFolder.open(home(), run_id), title="<script>alert(1)</script>")
    html, _ = visitor(address).predict(api_name="/decode", **form(run_id))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_address_fills_the_form(run_id: str):
    class Asked:
        query_params = {"run": run_id, "prompt": "Why is it?", "gamma": "7", "seed": "x", "temperature": "9"}  # noqa: RUF012

    prompt, run, run2, gamma, *rest = live._prefill(Asked())  # type: ignore[arg-type]
    assert prompt == "Why is it?"
    assert run["value"] == run_id
    assert run_id in [value for _, value in run["choices"]]
    assert run2["value"] == ""
    assert gamma["value"] == 7
    assert "value" not in rest[3]  # a seed that is no number is left alone
    assert "value" not in rest[0]  # nor is a temperature beyond the slider's end
    assert "seed is &#x27;x&#x27;" in rest[-1]  # which is said
    assert "temperature is &#x27;9&#x27;" in rest[-1]


def test_the_view_names_its_address_and_the_form_takes_it_back(run_id: str):
    from urllib.parse import parse_qsl, urlsplit

    ask = Ask("a & b?", (run_id,), 7, 0.5, 0.9, 3, 11, 40, compare_plain=False)
    found = dict(parse_qsl(urlsplit(answer_html.address(ask) or "").query))

    class Asked:
        query_params = found

    prompt, run, _, *rest, plain, context, welcome = live._prefill(Asked())  # type: ignore[arg-type]
    assert (prompt, run["value"], plain["value"], context["value"]) == (ask.prompt, run_id, False, "")
    assert "Choose a prompt" in welcome
    assert [part["value"] for part in rest] == [7, 0.5, 0.9, 3, 11, 40]
    assert "Link to this view" in answer_html.page(Live(ask, [Side(run_id)], Side("plain")), {})
    assert answer_html.address(Ask("x" * 5000, (run_id,))) is None


def test_an_archived_run_that_has_a_draft_may_be_named(run_id: str):
    from engine.runs.labels import change_labels

    change_labels(home(), RunFolder.open(home(), run_id), archived=True)

    class Asked:
        query_params = {"run": run_id}  # noqa: RUF012

    assert "there is no draft" not in live._prefill(Asked())[-1]  # type: ignore[arg-type]


def test_without_the_pages_a_saved_trace_is_named_by_its_file():
    wording = answer_html.saved_as(["/home/traces/<x>.json"])
    assert "/home/traces/&lt;x&gt;.json" in wording
    assert "href" not in wording


def test_an_address_that_names_no_draft_is_reported(run_id: str):
    class Asked:
        query_params = {"run": "<b>gone"}  # noqa: RUF012

    assert "there is no draft &#x27;&lt;b&gt;gone&#x27;" in live._prefill(Asked())[-1]  # type: ignore[arg-type]


def test_without_any_draft_the_page_says_what_to_do():
    class Asked:
        query_params: dict[str, str] = {}  # noqa: RUF012

    assert "no run has a draft yet" in live._prefill(Asked())[-1]  # type: ignore[arg-type]


def test_waiting_for_others_is_not_counted_as_decoding(run_id: str, monkeypatch: pytest.MonkeyPatch):
    one_by_one = live_decode.in_turn
    monkeypatch.setattr(live_decode, "in_turn", lambda work: (time.sleep(0.5), one_by_one(work))[1])
    *_, found = decode(home(), Ask("Why?", (run_id,), max_new_tokens=5), threading.Event())
    assert found.sides[0].seconds < 0.5 * len(found.sides[0].rounds)


def test_models_are_loaded_once_and_shared(run_id: str):
    pairs = Pairs()
    with pairs.use(home(), [run_id]) as first, pairs.use(home(), [run_id]) as second:
        assert first.target is second.target
        assert first.drafts[0] is second.drafts[0]


def with_tools() -> Any:
    """The first sample question that brings tools."""
    return next(p for prompts in live_decode.samples().values() for p in prompts if p.tools)


def test_a_sample_keeps_its_tools_while_its_words_are_edited():
    question = with_tools()
    prompt, context = live._take_sample(question.id)
    assert (prompt, context) == (question.text, question.id)
    edited = live_decode.asked_with(prompt + " Please.", live_decode.sample(context))
    assert edited.tools == question.tools
    assert edited.text == question.text + " Please."
    assert edited.messages[:-1] == question.messages[:-1]
    assert live_decode.asked_with(prompt, None).tools == ()  # what the visitor takes away is gone


def test_what_a_prompt_is_asked_with_is_shown_saved_and_in_the_address(run_id: str, monkeypatch: pytest.MonkeyPatch):
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    question = Prompt("t1", ({"role": "user", "content": "What time is it?"},), (tool,))
    monkeypatch.setattr(live_decode, "samples", lambda: {"tiny": (question,)})
    ask = Ask("Another question?", (run_id,), context=question.id, max_new_tokens=4)
    *_, live_ = decode(home(), ask, threading.Event())
    assert "with 1 tool of sample t1" in answer_html.page(live_, {})
    assert live_.trace(live_.sides[0]).settings["context"] == live_.context
    assert f"context={question.id}" in str(answer_html.address(ask))
    with pytest.raises(DraftbenchError, match="no sample prompt 'no-such'"):
        Ask("Why?", (run_id,), context="no-such").check()


def test_a_speedup_compares_the_same_number_of_tokens():
    from engine.decode.events import Fate, Round, Token

    def rounds(sizes: list[int], seconds: float) -> list[Round]:
        tokens = [tuple(Token(1, Fate.BONUS, 0, text="x") for _ in range(size)) for size in sizes]
        return [Round(0, i, 0, some, 0.0, seconds, 0.0) for i, some in enumerate(tokens)]

    side, plain = Side("a", rounds([2, 3, 2], 1.0)), Side("plain", rounds([1] * 6, 0.6))
    live_ = Live(Ask("x", ("a",)), [side], plain)
    assert live_.speedup(side) == (pytest.approx(5 * 0.6 / 2.0), 5)  # the third round would pass what plain has
    assert Live(Ask("x", ("a",)), [side], Side("plain")).speedup(side) is None


def test_the_command_serves_the_live_view_alone_and_warns_when_others_can_reach_it():
    import os
    import subprocess
    import sys
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "engine", "live", "--host", "0.0.0.0", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        assert str(port) in process.stdout.readline()
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert answer.url.endswith("/live/")
                    break
            except OSError:
                time.sleep(0.05)
        else:
            raise AssertionError("it does not answer")
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=120)
    assert "warning: Draftbench listens on 0.0.0.0" in errors


def test_a_draft_that_is_worth_serving_comes_first(run_id: str, finished_home: Path):
    """Of two drafts alike but for their timing, the older one is offered first because it should be served."""
    summary = RunFolder(home().run(run_id)).summary()
    fast = Interval(1.5, 1.4, 1.6, 12)
    better = "faster-20000101-000000-0000"
    shutil.copytree(home().run(run_id), home().run(better))
    assert summary.speed is not None
    timed = summary.speed.model_copy(update={"speedup": fast, "speedup_over_transformers": fast})
    summary.model_copy(update={"speed": timed}).write(home().run(better))
    offered = live_decode.choices(home())
    assert offered[0].run_id == better
    assert "serve it" in offered[0].about
    assert run_id in [choice.run_id for choice in offered[1:]]
