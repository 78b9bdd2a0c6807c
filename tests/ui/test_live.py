"""The live view as visitors use it: the Gradio app on a real port, clients beside each other, the tiny pair."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import uvicorn
import yaml
from gradio_client import Client
from safetensors.torch import load_file, save_file

from engine.config.reading import dump_recipe
from engine.decode.one_prompt import decode_prompt, question
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.errors import DraftbenchError
from engine.paths import home
from engine.records.interval import Interval
from engine.runs.folder import RunFolder
from engine.runs.labels import change_labels
from engine.runs.pair import load_pair
from engine.traces.saved import load_trace
from workbench.live import address as live_address
from workbench.live import answer_html, form, visitors
from workbench.live import decode as live_decode
from workbench.live import gradio_app as live
from workbench.live.conversation import asked
from workbench.live.decode import Ask, Live, Side, check_room, decode
from workbench.live.drafts import offered
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


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def filled(run_id: str, prompt: str = "Why?", run2: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "turns": [{"role": "user", "content": prompt}],
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


def test_what_reads_the_form_waits_until_it_is_filled(address: str):
    """Decode in the first second sent the empty question that the form is built with."""
    app = visitor(address).config
    by_label = {
        c["props"].get("value") if c["type"] == "button" else c["props"].get("label"): c for c in app["components"]
    }
    waiting = [by_label[name] for name in ("Decode", "Draft on", "Show what is sent")]
    assert [one["props"]["interactive"] for one in waiting] == [False] * 3
    (filling,) = [one for one in app["dependencies"] if any(event == "load" for _, event in one["targets"])]
    (freeing,) = [one for one in app["dependencies"] if one["trigger_after"] == filling["id"]]
    assert freeing["outputs"] == [one["id"] for one in waiting]
    assert not freeing["trigger_only_on_success"]


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
    job = visitor(address).submit(api_name="/decode", **filled(run_id))
    html, data = job.result(timeout=60)
    shown = [step[1]["sides"][0]["rounds"] for step in job.outputs()]
    assert data["stage"] == "done"
    assert shown == sorted(shown)
    assert data["sides"][0]["rounds"] in shown
    assert len(set(shown)) > 3
    assert data["sides"][0]["token_ids"] == alone(run_id, "Why?", 0)
    assert "fate-accepted" in html
    assert "of judged accepted" in html
    assert html.index("fate-accepted") < html.index("of judged accepted")  # tokens first


def test_stop_ends_before_the_next_round_but_one(address: str, run_id: str, monkeypatch: pytest.MonkeyPatch):
    one_by_one = live_decode.in_turn
    monkeypatch.setattr(live_decode, "in_turn", lambda work: (time.sleep(0.05), one_by_one(work))[1])
    client = visitor(address)
    job = client.submit(api_name="/decode", **filled(run_id, max_new_tokens=400))
    while not job.outputs() or job.outputs()[-1][1]["sides"][0]["rounds"] < 3:
        time.sleep(0.01)
    seen = job.outputs()[-1][1]["sides"][0]["rounds"]
    session = next(s for s in visitors.SESSIONS._sessions.values() if s.live and s.live.stage == "decoding")
    client.predict(api_name="/stop")
    at_stop = len(session.live.sides[0].rounds)
    _, data = job.result(timeout=120)
    assert data["stage"] == "stopped"
    assert at_stop >= seen
    assert data["sides"][0]["rounds"] <= at_stop + 1
    assert not data["sides"][0]["ended"]


def test_two_drafts_on_one_seed_and_plain_beside_them(address: str, run_id: str, finished_home: Path):
    other = second_run(finished_home, run_id)
    html, data = visitor(address).predict(api_name="/decode", **filled(run_id, run2=other, compare_plain=True))
    first, second = data["sides"]
    assert [first["name"], second["name"]] == [run_id, other]
    assert first["token_ids"] == second["token_ids"] == alone(run_id, "Why?", 0)  # the same draft twice
    assert len(data["plain"]["token_ids"]) == max(len(side["token_ids"]) for side in data["sides"])
    assert all(side["speedup"] > 0 for side in data["sides"])
    assert "In this one answer, over its first" in html
    assert "x plain decoding: not known to be faster" in html


def second_run(finished_home: Path, run_id: str) -> str:
    """A copy of the run under another id."""
    shutil.copytree(finished_home / "runs" / run_id, finished_home / "runs" / "second")
    return "second"


def test_four_visitors_at_once_each_get_only_their_own_tokens(address: str, run_id: str):
    asked = [(f"Question {i}: why {'so ' * i}?", 10 + i) for i in range(4)]
    clients = [visitor(address) for _ in asked]
    jobs = [
        client.submit(api_name="/decode", **filled(run_id, prompt, seed=seed, max_new_tokens=40))
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
    job = two.submit(api_name="/decode", **filled(run_id, max_new_tokens=60))
    one.predict(api_name="/stop")
    assert job.result(timeout=60)[1]["stage"] == "done"


def test_a_trace_is_saved_with_what_it_depends_on(address: str, run_id: str):
    client = visitor(address)
    _, data = client.predict(api_name="/decode", **filled(run_id, seed=5))
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
        ({"prompt": "x" * 200_001}, "characters with its tools"),
        ({"prompt": "word " * 2000}, "tokens and its answer up to 24, but the target reads"),
        ({"tools": "[{]"}, "the tools cannot be used: the text is not valid JSON"),
        ({"tools": '[{"type": "function"}]'}, "tool 1 has no"),
        ({"turns": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "the last turn is the"),
        ({"turns": [{"role": "assistant", "content": " "}, {"role": "user", "content": "b"}]}, "turn 1 (assistant) is"),
        ({"turns": [{"role": "assistant", "content": "", "tool_calls": "[x"}]}, "&#x27;tool_calls&#x27; is a string"),
        ({"seed": None}, "a setting is empty"),
    ],
)
def test_what_cannot_be_decoded_is_shown_in_the_page(address: str, run_id: str, changes: dict[str, Any], reason: str):
    html, data = visitor(address).predict(api_name="/decode", **filled(**{"run_id": run_id, **named(changes)}))
    assert data["stage"] == "error"
    assert reason in html
    assert 'role="alert"' in html


def named(changes: dict[str, Any]) -> dict[str, Any]:
    return {("run_id" if key == "run" else key): value for key, value in changes.items()}


def test_a_prompt_is_shown_as_text(address: str, run_id: str):
    html, _ = visitor(address).predict(api_name="/decode", **filled(run_id, "<img src=x onerror=alert(1)>"))
    assert "<img" not in html


def test_a_hostile_run_title_is_shown_as_text(address: str, run_id: str):
    change_labels(home(), RunFolder.open(home(), run_id), title="<script>alert(1)</script>")
    html, _ = visitor(address).predict(api_name="/decode", **filled(run_id))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


class Asked:
    """A request with these parameters in its address."""

    def __init__(self, **params: str) -> None:
        self.query_params = params


def opened(**params: str) -> dict[str, Any]:
    """The form's values by name, after its address was read; a value that is left alone is absent."""
    names = "system turns tools beside target run run2 gamma temperature top_p top_k seed max_new_tokens proposals"
    read = form.prefill(Asked(**params))  # type: ignore[arg-type]
    values = {}
    for name, value in zip([*names.split(), "plain", "draft", "view"], read, strict=True):
        if not isinstance(value, dict):
            values[name] = value
        elif "value" in value:
            values[name] = value["value"]
    return values | {"offered": [value for _, value in read[5]["choices"]]}


def test_the_address_fills_the_form(run_id: str):
    found = opened(run=run_id, prompt="Why is it?", gamma="7", seed="x", temperature="9", proposals="argmax", plain="2")
    assert found["turns"] == [{"role": "user", "content": "Why is it?"}]
    assert found["run"] == run_id
    assert run_id in found["offered"]
    assert found["run2"] == ""
    assert found["gamma"] == 7
    assert found["proposals"] == "argmax"
    assert found.keys().isdisjoint({"seed", "temperature", "plain"})  # what is out of range is left alone
    for said in ("seed is &#x27;x&#x27;", "temperature is &#x27;9&#x27;", "plain is &#x27;2&#x27;"):
        assert said in found["view"]


def test_the_view_names_its_address_and_the_form_takes_it_back(run_id: str):
    talk = replace(
        asked("a & b?"),
        messages=(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c & d?"},
        ),
        tools=(TOOL,),
    )
    ask = Ask(talk, (run_id,), 7, 0.5, 0.9, 3, "argmax", 11, 40, compare_plain=False, draft_on=False)
    found = opened(**dict(parse_qsl(urlsplit(live_address.address(ask)).query)))
    assert (found["system"], found["turns"]) == ("Be brief.", list(talk.messages[1:]))
    assert json.loads(found["tools"]) == [TOOL]
    assert (found["run"], found["plain"], found["draft"], found["proposals"]) == (run_id, False, False, "argmax")
    assert [found[name] for name in live_address.NUMBERS] == [7, 0.5, 0.9, 3, 11, 40]
    assert "Write a prompt" in found["view"]
    assert "Link to this view" in answer_html.page(Live(ask, [Side(run_id)], Side("plain")), {})


def test_a_view_too_long_for_a_link_says_so_with_its_length(run_id: str):
    ask = Ask(asked("x" * 5000), (run_id,))
    page = answer_html.page(Live(ask, [Side(run_id)], Side("plain")), {})
    assert f"it would have {len(live_address.address(ask)):,} characters" in page
    assert "href" not in page


def test_an_archived_run_that_has_a_draft_may_be_named(run_id: str):
    change_labels(home(), RunFolder.open(home(), run_id), archived=True)
    assert "there is no draft" not in opened(run=run_id)["view"]
    assert opened(run=run_id)["target"]


def test_without_the_pages_a_saved_trace_is_named_by_its_file():
    wording = answer_html.saved_as(["/home/traces/<x>.json"])
    assert "/home/traces/&lt;x&gt;.json" in wording
    assert "href" not in wording


def test_an_address_that_names_no_draft_is_reported(run_id: str):
    found = opened(run="<b>gone", run2="gone too")
    assert "there is no draft &#x27;&lt;b&gt;gone&#x27;" in found["view"]
    assert "the form shows what is used instead" in found["view"]
    assert (found["run"], found["run2"], found["offered"]) == (run_id, "", [run_id])
    assert found["target"]


def test_a_command_in_an_error_is_shown_as_code():
    error = DraftbenchError("no <b>", "it is so", "`draftbench runs` lists <them>")
    assert "<p>What to do: <code>draftbench runs</code> lists &lt;them&gt;</p>" in answer_html.error(error)
    assert "a ` alone" in answer_html.error(DraftbenchError("no", "a ` alone"))


def test_without_any_draft_the_page_says_what_to_do():
    assert "no run has a draft yet" in opened()["view"]


def test_only_drafts_that_fit_the_target_and_are_here_are_offered(run_id: str, finished_home: Path):
    other = second_run(finished_home, run_id)
    config = home().run(other) / "config.yaml"
    recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
    recipe["target"]["dtype"] = "bfloat16"
    config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    gone = home().run("gone")
    shutil.copytree(home().run(run_id), gone)
    (gone / "draft" / "best" / "draft.safetensors").unlink()
    found = opened(run=run_id)
    assert found["offered"] == [run_id]
    drafts, seconds = form.take_target(found["target"])
    assert [value for _, value in drafts["choices"]] == [run_id]
    assert [value for _, value in seconds["choices"]] == [""]
    both = opened(run=run_id, run2=other)
    assert "trained for another target" in both["view"]
    assert both["run2"] == ""
    assert "1 finished runs have no weights here" in form.prefill(Asked(run=run_id))[5]["info"]  # type: ignore[arg-type]


def test_waiting_for_others_is_not_counted_as_decoding(run_id: str, monkeypatch: pytest.MonkeyPatch):
    one_by_one = live_decode.in_turn
    monkeypatch.setattr(live_decode, "in_turn", lambda work: (time.sleep(0.5), one_by_one(work))[1])
    *_, found = decode(home(), Ask(asked("Why?"), (run_id,), max_new_tokens=5), threading.Event())
    assert found.sides[0].seconds < 0.5 * len(found.sides[0].rounds)


def test_models_are_loaded_once_and_shared(run_id: str):
    pairs = Pairs()
    with pairs.use(home(), [run_id]) as first, pairs.use(home(), [run_id]) as second:
        assert first.target is second.target
        assert first.drafts[0] is second.drafts[0]


def test_a_target_that_was_replaced_is_not_decoded_with_and_one_that_was_put_back_is_loaded_again(
    run_id: str, tiny_target_folder: Path, tmp_path: Path
):
    """The draft of a run of other layers under the same embeddings was shown as if it were this target's."""
    run = RunFolder.open(home(), run_id)
    place = Path(shutil.copytree(tiny_target_folder, tmp_path / "target"))
    recipe = run.recipe()
    moved = recipe.model_copy(update={"target": recipe.target.model_copy(update={"model": str(place)})})
    (run.path / "config.yaml").write_text(dump_recipe(moved), encoding="utf-8")
    pairs = Pairs()
    with pairs.use(home(), [run_id]) as pair:
        assert pair.notes == []
        first = pair.target
    weights = load_file(place / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    save_file(weights | {name: weights[name] * 2}, place / "model.safetensors", metadata={"format": "pt"})
    for refused in (lambda: load_pair(home(), run_id=run_id), lambda: pairs.use(home(), [run_id]).__enter__()):
        with pytest.raises(DraftbenchError, match=r"is not the one it began with: model.safetensors has changed"):
            refused()
    (run.path / "target.json").unlink()  # a run of before: it goes on, and that is said
    with pairs.use(home(), [run_id]) as pair:
        assert pair.target is not first
        assert "the target's files are not those of before" in pair.notes[0]
    *_, live_now = decode(home(), Ask(asked("Why?"), (run_id,), max_new_tokens=5), threading.Event())
    assert live_now.notes
    assert "files are not those of before" in answer_html.page(live_now, {})


def test_the_conversation_is_sent_whole_and_shown_as_it_is_sent(address: str, run_id: str):
    """The text on the page is, token for token, what was decoded after; what the template leaves out is said."""
    turns = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "It is noon <b>."},
        {"role": "user", "content": "And now?", "name": "Ada"},
    ]
    client = visitor(address)
    talk = {"system": "Be brief.", "turns": turns, "tools": json.dumps([TOOL])}
    html, data = client.predict(api_name="/sent", **talk, run=run_id, max_new_tokens=8)
    tokenizer = load_pair(home(), run_id=run_id).target.tokenizer
    for part in ("Be brief.", "What time is it?", "It is noon <b>.", "And now?", '"name": "now"'):
        assert part in data["text"]
    assert "noon &lt;b&gt;" in html
    assert data["tokens"] == len(tokenizer(data["text"], add_special_tokens=False)["input_ids"])
    assert "'name' of message 4 (user) is not written" in data["unused"]
    page, step = client.predict(api_name="/decode", **{**filled(run_id, max_new_tokens=8), **talk})
    assert step["stage"] == "done"
    assert f"prompt of {data['tokens']:,} tokens" in page
    assert data["unused"][0].replace("'", "&#x27;") in page
    (moved,) = data["rewritten"]
    assert moved == "The template has no place for tools, so they are written into the system text."
    assert moved in html
    assert moved in page
    assert "place for tools" not in str(data["unused"])


def test_an_answer_is_continued_by_its_own_turn(address: str, run_id: str):
    client = visitor(address)
    assert "there is no answer to continue" in client.predict(api_name="/continue")[0]
    client.predict(api_name="/decode", **filled(run_id, temperature=0.0))
    note, turns = client.predict(api_name="/continue")
    assert note == ""
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"]
    turns[2]["content"] = "And then?"
    _, data = client.predict(api_name="/decode", **{**filled(run_id), "turns": turns})
    assert data["stage"] == "done"


def test_the_draft_is_switched_off_and_the_difference_is_that_of_both_answers(address: str, run_id: str):
    client = visitor(address)
    _, on = client.predict(api_name="/decode", **filled(run_id, temperature=0.0))
    html, off = client.predict(api_name="/decode", **filled(run_id, temperature=0.0, draft_on=False))
    assert on["plain"]["token_ids"] == []
    assert off["sides"][0]["token_ids"] == on["sides"][0]["token_ids"]  # kept, not decoded again
    assert off["plain"]["token_ids"] == on["sides"][0]["token_ids"]  # greedy: one text
    assert off["sides"][0]["same_as_alone"] is True
    assert "Same text as without the draft: yes, 24 of 24 tokens." in html
    assert "sampled proposals" not in html  # at temperature 0 both kinds are one
    assert off["sides"][0]["speedup"] > 0
    assert html.index("Draft off: the target alone") < html.index("fate-")
    _, again = client.predict(api_name="/decode", **filled(run_id, temperature=0.0))
    assert again["plain"]["seconds"] == off["plain"]["seconds"]
    _, other = client.predict(api_name="/decode", **filled(run_id, "Another?", temperature=0.0, draft_on=False))
    assert other["sides"][0]["token_ids"] == []  # of another question


def test_without_a_draft_in_view_nothing_of_drafts_is_said(address: str, run_id: str):
    html, _ = visitor(address).predict(api_name="/decode", **filled(run_id, draft_on=False))
    words = re.sub(r"<[^>]*>", "", html)  # the address of the link to the view has every setting
    for said in ("rejected", "gamma", "proposals", "Same text"):
        assert said not in words
    assert "temperature 1" in html


def test_where_a_greedy_answer_parts_from_the_targets_own_is_said():
    from engine.decode.events import Fate, Round, Token

    def side(name: str, words: str) -> Side:
        tokens = [Token(ord(word), Fate.BONUS, place, text=word) for place, word in enumerate(words)]
        return Side(name, [Round(0, place, 0, (token,), 0.0, 1.0, 0.0) for place, token in enumerate(tokens)])

    def shown(ours: str, alone: str, temperature: float = 0.0, stage: str = "done") -> str:
        ask = Ask(asked("x"), ("a",), temperature=temperature)
        return answer_html.page(Live(ask, [side("a", ours)], side("plain", alone), stage), {})

    assert "draft: no, they part at token 3 of 4: &#x27;c&#x27; with the draft, &#x27;x&#x27;" in shown("abcd", "abxd")
    assert "draft: yes, 2 of 4 tokens, as many as were decoded without it." in shown("abcd", "ab", stage="stopped")
    assert "Same text" not in shown("abcd", "abxd", temperature=1.0)  # other draws, no fault
    assert "Same text" not in shown("abcd", "ab", stage="plain")  # not yet decoded
    assert "Same text" not in shown("abcd", "")


def test_a_reload_opens_the_turns_that_were_decoded(run_id: str):
    turns = [
        {"role": "user", "content": "a & b?"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c?"},
    ]
    rest = (7, 0.5, 0.9, 3, "argmax", 11, 40, False, True)
    url = visitors.kept_address("Be brief.", turns, json.dumps([TOOL]), run_id, "", *rest)
    found = opened(**dict(parse_qsl(urlsplit(url).query)))
    assert (found["system"], found["turns"], json.loads(found["tools"])) == ("Be brief.", turns, [TOOL])
    assert [found[name] for name in live_address.NUMBERS] == [7, 0.5, 0.9, 3, 11, 40]
    long = [{"role": "user", "content": "x" * live_address.LONGEST_KEPT}]
    assert visitors.kept_address("", long, "", run_id, "", *rest) == ""  # refused by servers: the address stays
    page = answer_html.page(Live(Ask(asked(long[0]["content"]), (run_id,)), [Side(run_id)], Side("plain")), {})
    assert "A reload of this page loses it." in page
    assert visitors.kept_address("", [{"role": "user", "content": " "}], "", run_id, "", *rest) == ""


@pytest.mark.parametrize(
    ("system", "tools", "said"),
    [
        ("", "", "System text and tools"),
        ("Be brief.", "", "System text and tools: a system text"),
        (" ", json.dumps([TOOL, TOOL | {"function": TOOL["function"] | {"name": "then"}}]), "tools: 2 tools"),  # type: ignore[operator]
        ("Be brief.", "[x", "a system text and tools that cannot be read"),
    ],
)
def test_the_heading_above_system_text_and_tools_says_what_is_in_them(system: str, tools: str, said: str):
    assert form.heading(system, tools)["label"].endswith(said)


def test_argmax_proposals_are_decoded_and_shown(address: str, run_id: str):
    html, data = visitor(address).predict(api_name="/decode", **filled(run_id, proposals="argmax"))
    assert "argmax proposals" in html
    assert data["sides"][0]["token_ids"] != alone(run_id, "Why?", 0)  # drawn otherwise at temperature 1
    trace = list(visitors.SESSIONS._sessions.values())[-1].live  # the newest visitor
    assert trace is not None
    assert trace.trace(trace.sides[0]).settings["proposals"] == "argmax"


def test_a_conversation_that_leaves_no_room_is_refused_with_numbers():
    check_room(100, None, 50)
    check_room(78, 128, 50)
    with pytest.raises(DraftbenchError, match=r"has 79 tokens and its answer up to 50, .* reads 128") as refused:
        check_room(79, 128, 50)
    assert "Max new tokens to 49 or less" in str(refused.value.fix)
    check_room(10, None, 50, [None, 60])
    with pytest.raises(DraftbenchError, match=r"the draft reads 60 at most"):
        check_room(11, 128, 50, [None, 60])


def test_the_target_alone_answers_no_further_than_to_its_end():
    """It goes on for as many tokens as the draft's answer has, whose text read as the target's own answer."""
    from engine.decode.events import Fate, Round, Token

    words = ["Yes", ".", "<|end|>", "junk", "more"]
    decoded = [Token(place, Fate.BONUS, place, text=word) for place, word in enumerate(words)]
    plain = Side("plain", [Round(0, place, 0, (token,), 0.0, 1.0, 0.0) for place, token in enumerate(decoded)])
    live_ = Live(Ask(asked("x"), ("a",)), [Side("a")], plain, "done", stop_ids=frozenset({2}))
    shown = answer_html.page(live_, {})
    assert "Yes.&lt;|end|&gt;</div>" in shown
    assert "junk" not in shown
    assert "5 tokens</span> <span>2 of them after the end of its answer, to compare the times" in shown
    live_.stop_ids = frozenset()
    assert "junkmore" in answer_html.page(live_, {})
    live_.plain.rounds = live_.plain.rounds[:1]
    assert "1 token</span></p>" in answer_html.page(live_, {})


def test_a_speedup_compares_the_same_number_of_tokens():
    from engine.decode.events import Fate, Round, Token

    def rounds(sizes: list[int], seconds: float) -> list[Round]:
        tokens = [tuple(Token(1, Fate.BONUS, 0, text="x") for _ in range(size)) for size in sizes]
        return [Round(0, i, 0, some, 0.0, seconds, 0.0) for i, some in enumerate(tokens)]

    side, plain = Side("a", rounds([2, 3, 2], 1.0)), Side("plain", rounds([1] * 6, 0.6))
    live_ = Live(Ask(asked("x"), ("a",)), [side], plain)
    assert live_.speedup(side) == (pytest.approx(5 * 0.6 / 2.0), 5)  # the third round would pass what plain has
    assert Live(Ask(asked("x"), ("a",)), [side], Side("plain")).speedup(side) is None


def test_transformers_is_imported_whole_before_there_are_visitors():
    """Imported by two threads at once it lacks its parts for one of them, which was the first Decode after a start."""
    code = (
        "import sys; from workbench.live import gradio_app; before = 'transformers' in sys.modules; "
        "gradio_app.mounted(); print(before, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


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
    drafts = offered(home()).drafts
    assert drafts[0].run_id == better
    assert "serve it" in drafts[0].about
    assert "1.50x plain decoding [1.40, 1.60]: faster" in drafts[0].measured
    assert run_id in [choice.run_id for choice in drafts[1:]]
