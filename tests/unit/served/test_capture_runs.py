"""Training on answers that a server gave: the capture, the run, what is kept after a failure, and no key anywhere."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.capture.plan import CapturePlan
from engine.capture.shards import fill_one_by_one, make_in_shards
from engine.capture.store import Capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, PromptSource, ServerSpec
from engine.data.readers import read_prompts
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import read_json, read_lines
from engine.models.load import LoadedModel
from engine.paths import home
from engine.planning.checks import checks
from engine.planning.estimate import estimate
from engine.progress import SILENT, Progress
from engine.runs.folder import RunFolder
from engine.runs.recipes import read_recipe
from engine.served.capture import count_served, make_served, plan_served
from engine.served.request_rate import RateLimiter
from tests.chat_server import MODEL, Said, Server, good, reply
from tests.conftest import byte_tokenizer, tiny_llama
from tests.tiny_pair import loaded, questions
from tests.unit.conftest import Draftbench

pytestmark = pytest.mark.slow

KEY = "sk-very-secret-0123456789"
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOLS = ({"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},)
TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}{% for c in m['tool_calls'] or [] %}"
    "{{ '<call>' + (c['function']['arguments'] | tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


async def no_sleep(seconds: float) -> None:
    """Waits between attempts take no time here."""


def settings_of(server: Server, **changes: Any) -> CaptureSpec:
    own = {"attempts": 2, "concurrency": 1, **changes.pop("how", {})}
    spec = ServerSpec(base_url=server.base_url, model=MODEL, **own)
    return CaptureSpec(**{"max_new_tokens": 40, "signal": "none", "server": spec, **changes})


def plan_in(
    folder: Path, target: LoadedModel, settings: CaptureSpec, prompts: list[Prompt] | None = None
) -> CapturePlan:
    return plan_served(folder, target, prompts or questions(), settings)


def fetched(
    folder: Path,
    target: LoadedModel,
    settings: CaptureSpec,
    prompts: list[Prompt] | None = None,
    progress: Progress = SILENT,
) -> Capture:
    assert settings.server is not None
    plan = plan_in(folder, target, settings, prompts)
    return make_served(plan, settings.server, target, limiter=RateLimiter(sleep=no_sleep), progress=progress)


def texts(capture: Capture) -> dict[str, str]:
    return {a.prompt_id: byte_tokenizer().decode(a.token_ids) for a in capture.answers}


def test_answers_become_a_capture_like_any_other(tmp_path: Path, server: Server, target: LoadedModel):
    plan = plan_in(tmp_path, target, settings_of(server))
    fetched(tmp_path, target, settings_of(server))
    capture = Capture(plan.folder, plan.signal)
    assert texts(capture)["q2"] == "about 你好<|im_end|>"
    assert [a.prompt_ids for a in capture.answers] == plan.prompt_ids
    assert capture.raw_signal(capture.answers[0]).shape == (len(capture.answers[0].token_ids), 0)
    assert capture.counts.server.document() == {
        "base_url": server.base_url,
        "model": MODEL,
        "ids_from_server": 0,
        "ids_from_text": 6,
        "other_prompt_tokens": 0,
    }
    assert server.requests[0]["max_tokens"] == 40
    assert len({body["seed"] for body in server.requests}) == 6
    asked = len(server.requests)
    fetched(tmp_path, target, settings_of(server))
    assert len(server.requests) == asked


@pytest.mark.parametrize("knows", [True, False])
def test_a_server_that_keeps_its_own_sampling_is_noted(
    tmp_path: Path, server: Server, target: LoadedModel, monkeypatch: pytest.MonkeyPatch, knows: bool
):
    notes: list[str] = []
    progress = Progress(quiet=True)
    monkeypatch.setattr(progress, "note", notes.append)
    server.script = lambda body, number: (
        Said(400, {"error": "unknown field"}) if "min_p" in body and not knows else good(body, number)
    )
    fetched(tmp_path, target, settings_of(server), progress=progress)
    assert any("draws with its own settings" in note for note in notes) is not knows


def test_an_answer_cut_at_the_limit_has_no_end_of_turn(tmp_path: Path, server: Server, target: LoadedModel):
    server.script = lambda body, number: Said(body=reply("x" * 50, "length"))
    capture = fetched(tmp_path, target, settings_of(server))
    assert set(texts(capture).values()) == {"x" * 40}
    assert capture.counts.stopped == 0


def test_token_ids_are_taken_as_the_server_tells_them(tmp_path: Path, server: Server, target: LoadedModel):
    response = reply("bc", token_ids=[67, 68, 1]) | {"usage": {"prompt_tokens": 3}}
    server.script = lambda body, number: Said(body=response)
    capture = fetched(tmp_path, target, settings_of(server))
    assert all(a.token_ids == [67, 68, 1] for a in capture.answers)
    assert capture.counts.server.ids_from_server == 6
    assert capture.counts.server.other_prompt_tokens == 6


OTHER_IDS = "token ids that do not spell the text, which was tokenised here"
MORE_IDS = "token ids that spell more than the text"
PAST_END = "text after an end of turn, which was left out"


def ids_of(text: str) -> list[int]:
    return list(byte_tokenizer()(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("text", "sent", "learnt", "noted"),
    [
        ("Paris is the capital", [101, 7, 9, 44, 200], "Paris is the capital<|im_end|>", OTHER_IDS),
        ("Paris", [*ids_of("Paris"), 1], "Paris<|im_end|>", None),
        ("Paris", ids_of("  Paris\n"), "  Paris\n<|im_end|>", None),  # a server may strip white space
        ("Paris<|im_end|>", [*ids_of("Paris"), 1], "Paris<|im_end|>", None),  # or show the mark
        ("\ufffd\ufffd", ids_of("é")[:1], "\ufffd<|im_end|>", None),  # half a character
        ("yes", [*ids_of("<think>so</think>yes"), 1], "<think>so</think>yes<|im_end|>", MORE_IDS),
        ("Par", ids_of("Lyon"), "Par<|im_end|>", OTHER_IDS),
    ],
)
def test_token_ids_are_learnt_only_if_they_spell_the_text(
    tmp_path: Path, server: Server, target: LoadedModel, text: str, sent: list[int], learnt: str, noted: str | None
):
    server.script = lambda body, number: Said(body=reply(text, token_ids=sent))
    capture = fetched(tmp_path, target, settings_of(server), questions(2))
    assert set(texts(capture).values()) == {learnt}
    assert capture.counts.server.noted == ({noted: 2} if noted else {})
    assert capture.counts.server.ids_from_text == (2 if noted == OTHER_IDS else 0)


def test_token_ids_beside_an_empty_text_are_no_answer(tmp_path: Path, server: Server, target: LoadedModel):
    server.script = lambda body, number: Said(body=reply("", token_ids=[*ids_of("Paris"), 1]))
    with pytest.raises(DraftbenchError, match="token ids spell text that it does not have"):
        fetched(tmp_path, target, settings_of(server))


def test_token_ids_beside_calls_must_hold_their_names(tmp_path: Path, server: Server):
    knows = replace(loaded(tiny_llama()), tokenizer=byte_tokenizer(TOOLS_TEMPLATE))

    def called(name: str, spelt: str) -> set[str]:
        said = reply(None, "tool_calls", token_ids=[*ids_of(spelt), 1])  # type: ignore[arg-type]
        said["choices"][0]["message"]["tool_calls"] = [{"function": {"name": name, "arguments": "{}"}}]
        server.script = lambda body, number: Said(body=said)
        return set(texts(fetched(tmp_path / name, knows, settings_of(server), questions(1))).values())

    assert called("look", "<call>look()") == {"<call>look()<|im_end|>"}
    assert called("find", "<call>look()") == {"<call>{}</call><|im_end|>"}  # as the template writes the call


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("by_ids", [True, False])
@pytest.mark.parametrize("after", ["", "\n", "<|im_end|>", "\n<|im_start|>user\nnext?", " and more<|im_end|>"])
def test_an_answer_is_learnt_up_to_its_first_end_of_turn(
    tmp_path: Path, server: Server, target: LoadedModel, after: str, by_ids: bool, finish: str
):
    text = f"hello<|im_end|>{after}"
    more = {"token_ids": ids_of(text)} if by_ids else {}
    server.script = lambda body, number: Said(body=reply(text, finish, **more))
    capture = fetched(tmp_path, target, settings_of(server), questions(1))
    assert set(texts(capture).values()) == {"hello<|im_end|>"}
    assert [answer.finish_reason for answer in capture.answers] == ["stop"]
    assert capture.counts.server.noted == ({PAST_END: 1} if "e" in after.replace("<|im_end|>", "") else {})


def test_ids_that_the_model_at_hand_does_not_have_are_refused(tmp_path: Path, server: Server, target: LoadedModel):
    server.script = lambda body, number: Said(body=reply("ab", token_ids=[67, 9000]))
    with pytest.raises(DraftbenchError, match="token id 9,000") as error:
        fetched(tmp_path, target, settings_of(server))
    assert "target.model" in error.value.fix


def test_reasoning_that_was_taken_out_is_refused(tmp_path: Path, server: Server, target: LoadedModel):
    response = reply("yes")
    response["choices"][0]["message"]["reasoning_content"] = "let me think"
    server.script = lambda body, number: Said(body=response)
    with pytest.raises(DraftbenchError, match="takes the reasoning out"):
        fetched(tmp_path, target, settings_of(server))


def called(body: dict[str, Any], number: int) -> Said:
    response = reply("", "tool_calls")
    response["choices"][0]["message"] |= {"content": None, "tool_calls": [CALL]}
    return Said(body=response)


def test_calls_are_written_as_the_prompt_asks_where_the_template_knows_none(
    tmp_path: Path, server: Server, target: LoadedModel
):
    server.script = called
    prompts = [replace(prompt, tools=TOOLS) for prompt in questions(2)]
    capture = fetched(tmp_path, target, settings_of(server, max_new_tokens=99), prompts)
    assert texts(capture)["q0"] == '{"name": "add", "arguments": {"a": 1}}<|im_end|>'
    assert "tools" not in server.requests[0]  # the template ignores them, so they are in the system message
    assert "You can call these functions" in server.requests[0]["messages"][0]["content"]


def test_calls_are_written_as_the_template_writes_them_where_it_does(tmp_path: Path, server: Server):
    server.script = called
    knows = replace(loaded(tiny_llama()), tokenizer=byte_tokenizer(TOOLS_TEMPLATE))
    earlier = (
        {"role": "user", "content": "1?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
        },
    )
    last = {"role": "user", "content": "and?"}
    capture = fetched(tmp_path, knows, settings_of(server), [Prompt("t", (*earlier, last), TOOLS)])
    assert texts(capture)["t"] == '<call>{"a": 1}</call><|im_end|>'
    assert server.requests[0]["tools"] == list(TOOLS)
    assert server.requests[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"a": 2}'


@pytest.mark.parametrize("knows_calls", [True, False])
def test_text_beside_calls_is_kept_where_the_template_has_a_place_for_it_and_else_counted(
    tmp_path: Path, server: Server, target: LoadedModel, knows_calls: bool
):
    def said(body: dict[str, Any], number: int) -> Said:
        response = called(body, number).body
        response["choices"][0]["message"]["content"] = "Let me look."
        return Said(body=response)

    server.script = said
    knows = replace(target, tokenizer=byte_tokenizer(TOOLS_TEMPLATE)) if knows_calls else target
    prompts = [replace(prompt, tools=TOOLS) for prompt in questions(1)]
    capture = fetched(tmp_path, knows, settings_of(server, max_new_tokens=99), prompts)
    if knows_calls:
        assert texts(capture)["q0"] == 'Let me look.<call>{"a": 1}</call><|im_end|>'
        assert capture.counts.server.noted == {}
    else:
        assert texts(capture)["q0"] == '{"name": "add", "arguments": {"a": 1}}<|im_end|>'
        assert capture.counts.server.noted == {"text beside calls left aside": 1}


ODD_CALLS: list[Any] = [
    True,
    "add",
    {"function": {"name": "add"}},
    [CALL, "add"],
    [{"function": "add"}],
    [{"function": None}],
    [{"function": {"name": {"x": 1}, "arguments": "{}"}}],
    [{"function": {"name": "add", "arguments": "[1]"}}],
    [{"function": {"name": "add", "arguments": '"\\ud800"'}}],
    [{"function": {"name": "add", "arguments": 7}}],
    [{"function": {"name": f"add {KEY}", "arguments": "{"}}],
]


@pytest.mark.parametrize("calls", ODD_CALLS)
def test_calls_of_an_odd_kind_cost_only_their_own_prompt(
    tmp_path: Path, server: Server, target: LoadedModel, calls: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    response = reply("", "tool_calls")
    response["choices"][0]["message"]["tool_calls"] = calls
    server.script = lambda body, number: Said(body=response) if number == 0 else good(body, number)
    with pytest.raises(DraftbenchError, match=r"function call|arguments of a call") as error:
        fetched(tmp_path, target, settings_of(server, how={"key_env": "MY_KEY"}))
    assert "5 of 6 prompts are answered" in error.value.why
    assert "secret" not in str(error.value)
    assert len(server.requests) == 6


@pytest.mark.parametrize("arguments", [{"a": 1}, ' {"a": 1}'])
def test_arguments_may_come_as_an_object(tmp_path: Path, server: Server, target: LoadedModel, arguments: Any):
    response = reply("", "tool_calls")
    response["choices"][0]["message"]["tool_calls"] = [{"function": {"name": "add", "arguments": arguments}}]
    server.script = lambda body, number: Said(body=response)
    capture = fetched(tmp_path, target, settings_of(server, max_new_tokens=99))
    assert set(texts(capture).values()) == {'{"name": "add", "arguments": {"a": 1}}<|im_end|>'}


@pytest.mark.parametrize("arguments", [None, '{"a": "\\ud800"}'])
def test_half_a_character_is_learnt_as_unreadable(
    tmp_path: Path, server: Server, target: LoadedModel, arguments: str | None
):
    response = reply("x\ud800y 😀", "stop")
    if arguments:
        response["choices"][0]["message"]["tool_calls"] = [{"function": {"name": "f", "arguments": arguments}}]
    server.script = lambda body, number: Said(body=response)
    capture = fetched(tmp_path, target, settings_of(server, max_new_tokens=99))
    whole = '{"name": "f", "arguments": {"a": "\ufffd"}}' if arguments else "x\ufffdy 😀"
    assert set(texts(capture).values()) == {f"{whole}<|im_end|>"}


def test_answers_survive_a_failure_and_only_the_rest_is_asked_for(tmp_path: Path, server: Server, target: LoadedModel):
    server.script = lambda body, number: good(body, number) if number < 3 else Said(500, {"error": "oops"})
    with pytest.raises(DraftbenchError, match="status 500") as error:
        fetched(tmp_path, target, settings_of(server))
    assert "3 of 6 prompts are answered" in error.value.why
    plan = plan_in(tmp_path, target, settings_of(server))
    with pytest.raises(DraftbenchError, match="not finished"):
        Capture(plan.folder, plan.signal)
    done = {line["id"] for line in read_lines(plan.folder / "answers.jsonl")}
    server.requests.clear()
    server.script = good
    whole = fetched(tmp_path, target, settings_of(server))
    assert len(server.requests) == 3
    assert len(whole.answers) == 6
    assert {body["messages"][-1]["content"] for body in server.requests} == {
        prompt.text for prompt in questions() if prompt.id not in done
    }


def test_prompts_that_always_fail_do_not_end_every_resumed_fetch(tmp_path: Path, server: Server, target: LoadedModel):
    never = {prompt.text for prompt in questions()[:3]}
    server.script = lambda body, number: (
        Said(500, {}) if body["messages"][-1]["content"] in never else good(body, number)
    )
    with pytest.raises(DraftbenchError) as error:
        fetched(tmp_path, target, settings_of(server))
    assert "0 of 6 prompts are answered" in error.value.why
    with pytest.raises(DraftbenchError, match="'q0', 'q1', 'q2'") as error:
        fetched(tmp_path, target, settings_of(server))
    assert "3 of 6 prompts are answered" in error.value.why
    server.requests.clear()
    server.script = good
    assert len(fetched(tmp_path, target, settings_of(server)).answers) == 6
    assert set(server.asked()) == never


def test_a_stopped_fetch_keeps_what_it_has(tmp_path: Path, server: Server, target: LoadedModel):
    progress = Progress(quiet=True, stop_wanted=lambda: len(server.requests) >= 3)
    with pytest.raises(Cancelled):
        fetched(tmp_path, target, settings_of(server), progress=progress)
    kept = list(read_lines(plan_in(tmp_path, target, settings_of(server)).folder / "answers.jsonl"))
    assert 1 <= len(kept) < 6


def test_nested_prompt_sets_share_the_servers_answers(tmp_path: Path, server: Server, target: LoadedModel):
    fetched(tmp_path, target, settings_of(server), questions(4))
    fetched(tmp_path, target, settings_of(server))
    assert len(server.requests) == 6


CHANGES: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "max_new_tokens": 11, "seed": 3}
SAME: dict[str, Any] = {"batch_size": 7, "signal_top_k": 9}


def test_the_address_follows_what_changes_the_answers(tmp_path: Path, server: Server, target: LoadedModel):
    plain = plan_in(tmp_path, target, settings_of(server)).address
    other_weights = loaded(tiny_llama(seed=3), "other")
    other_template = replace(target, tokenizer=byte_tokenizer(TOOLS_TEMPLATE))
    assert plan_in(tmp_path, other_weights, settings_of(server)).address == plain
    assert plan_in(tmp_path, target, settings_of(server, how={"key_env": "MY_KEY", "attempts": 9})).address == plain
    for name, value in SAME.items():
        assert plan_in(tmp_path, target, settings_of(server, **{name: value})).address == plain
    assert plan_in(tmp_path, other_template, settings_of(server)).address != plain
    assert plan_in(tmp_path, target, settings_of(server), questions(3)).address != plain
    for name, value in CHANGES.items():
        assert plan_in(tmp_path, target, settings_of(server, **{name: value})).address != plain
    assert set(CHANGES) | set(SAME) | {"signal", "server"} == set(CaptureSpec.model_fields)


def server_settings(server: Server, *more: str) -> list[str]:
    own = {"base_url": server.base_url, "model": MODEL, "key_env": "MY_KEY", "attempts": 1}
    values = [
        "capture.signal=none",
        "train.loss=sft",
        f"capture.server={json.dumps(own)}",
        "draft.vocabulary=60",
        *more,
    ]
    return [part for value in values for part in ("--set", value)]


def holders_of(secret: str, folder: Path) -> list[Path]:
    """Files under a folder, names included, that hold a text."""
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return [p for p in paths if secret in str(p) or secret.encode() in p.read_bytes()]


@pytest.mark.slow
def test_a_run_trains_on_a_servers_text_and_is_measured_on_the_model_at_hand(
    recipe: Path, server: Server, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    done = draftbench("run", str(recipe), *server_settings(server), "--json")
    assert done.code == 0, done.err
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in server.headers)
    run = RunFolder.open(home(), done.json()["run"])
    events = list(read_lines(run.path / "events.jsonl"))
    watched = [event["exact"] for event in events if event["kind"] == "eval"]
    assert {event["temperature"] for event in events if event["kind"] == "eval"} == {0.0}
    assert watched[-1] >= watched[0]
    origin = read_json(run.path / "provenance.json")
    assert origin["supervision"] == "black_box"
    assert origin["captures"]["training"]["server"]["model"] == MODEL
    assert origin["measurement"]["stands_in_for"] == {"base_url": server.base_url, "model": MODEL}
    assert run.summary().document()["stands_in_for"]["model"] == MODEL
    assert MODEL in (run.path / "log.txt").read_text(encoding="utf-8")
    assert not holders_of(KEY, home().root)
    assert KEY not in done.out + done.err
    greedy = [body for body in server.requests if body["temperature"] == 0]
    assert len(greedy) == 1
    assert len(server.requests) == 8 + 1


@pytest.mark.parametrize("status", [401, 500])
def test_a_failed_run_says_why_shows_no_key_and_goes_on_later(
    recipe: Path, server: Server, draftbench: Draftbench, monkeypatch: pytest.MonkeyPatch, status: int
):
    monkeypatch.setenv("MY_KEY", KEY)
    spoilt = Said(status, {"error": f"your key was {KEY}", "key": KEY}, {"X-Key": KEY})
    server.script = lambda body, number: good(body, number) if number < 4 else spoilt
    failed = draftbench("train", str(recipe), *server_settings(server, "capture.server.concurrency=1"), "--json")
    assert failed.code == 2
    run = RunFolder.open(home(), "latest")
    assert run.status().state == "failed"
    assert str(status) in str(run.status().error)
    assert "[key]" in failed.err + failed.out
    assert KEY not in failed.err + failed.out
    assert not holders_of(KEY, home().root)
    asked = len(server.requests)
    server.script = good
    resumed = draftbench("train", "--resume", run.id, "--json")
    assert resumed.code == 0, resumed.err
    assert len(server.requests) == asked + 8 - 4 + 1


def test_a_look_before_the_run_knows_the_server(recipe: Path, server: Server, monkeypatch: pytest.MonkeyPatch):
    def look(*more: str) -> Any:
        values = server_settings(server, *more)[1::2]
        return {c.name: c for c in checks(home(), read_recipe(home(), str(recipe), values, skip_bad=False))}["server"]

    monkeypatch.delenv("MY_KEY", raising=False)
    assert "MY_KEY is not set" in look().message
    monkeypatch.setenv("MY_KEY", KEY)
    assert look().state == "ok"
    assert MODEL in look().message
    assert look("capture.server.model=served-modal").state == "failed"
    assert "did you mean 'served-model'?" in look("capture.server.model=served-modal").fix
    server.models = []
    assert look().state == "warning"
    assert look("capture.server.base_url=http://127.0.0.1:9/v1").state == "failed"
    assert server.requests == []


def test_the_time_of_a_rate_limited_fetch_is_reported_before(finished_home: Path, recipe: Path, server: Server):
    values = server_settings(server, "capture.server.requests_per_minute=3")[1::2]
    result = estimate(home(), read_recipe(home(), str(recipe), values, skip_bad=False))
    assert result.seconds["answers of the server"] == pytest.approx(180)
    result = estimate(home(), read_recipe(home(), str(recipe), [*values, "measure.against=server"], skip_bad=False))
    assert result.seconds["answers of the server"] == pytest.approx(20 * (8 + 1 + 2 * 5))
    assert not {"MY_KEY"} & set(os.environ)


class Notes(Progress):
    """Keeps what is noted."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_what_deviates_and_is_still_an_answer_is_counted_and_said_also_where_it_is_copied(
    tmp_path: Path, server: Server, target: LoadedModel
):
    server.script = lambda body, number: Said(
        body={**reply("yes", "eos_token"), "model": "another", "usage": {"completion_tokens": 4}}
    )
    progress = Notes()
    capture = fetched(tmp_path, target, settings_of(server), progress=progress)
    counts = {"finish_reason 'eos_token'": 6, "answered as model 'another'": 6}
    assert capture.counts.server.noted == counts
    assert all(any(what in note for note in progress.said) for what in counts)
    assert set(texts(capture).values()) == {"yes<|im_end|>"}
    copied = fetched(tmp_path, target, settings_of(server), questions(3))
    assert copied.counts.server.noted == dict.fromkeys(counts, 3)
    assert copied.counts.server.ids_from_text == 3


def test_a_count_that_is_far_from_the_text_is_noted(tmp_path: Path, server: Server, target: LoadedModel):
    server.script = lambda body, number: Said(body=reply("x" * 30, "length") | {"usage": {"completion_tokens": 9}})
    assert not fetched(tmp_path / "near", target, settings_of(server)).counts.server.noted
    server.script = lambda body, number: Said(body=reply("x" * 39, "length") | {"usage": {"completion_tokens": 2}})
    capture = fetched(tmp_path, target, settings_of(server))
    assert capture.counts.server.noted == {"another count of tokens than the answer has": 6}


MARKS = {
    "a blank before the mark": "{{ m['content'] + ' <|im_end|>' }}",
    "a mark that the settings do not name": "{{ m['content'] + '<|im_start|>' }}",
    "no mark": "{{ m['content'] }}",
    "a line break alone": "{{ m['content'] + '\n' }}",
}


@pytest.mark.parametrize("name", MARKS)
def test_a_served_text_ends_with_an_id_at_which_a_local_capture_stops(tmp_path: Path, server: Server, name: str):
    template = "{% for m in messages %}" + MARKS[name] + "{% endfor %}"
    knows = replace(loaded(tiny_llama()), tokenizer=byte_tokenizer(template))
    server.script = lambda body, number: Said(body=reply("yes"))
    capture = fetched(tmp_path, knows, settings_of(server))
    wanted = "<|im_start|>" if "settings" in name else "<|im_end|>"
    assert set(texts(capture).values()) == {"yes" + wanted}
    assert all(answer.token_ids[-1] in knows.stop_ids for answer in capture.answers)


def test_calls_go_to_the_server_in_the_form_of_the_api(tmp_path: Path, server: Server):
    knows = replace(loaded(tiny_llama()), tokenizer=byte_tokenizer(TOOLS_TEMPLATE))
    record = {
        "messages": [
            {"role": "user", "content": "1?"},
            {"role": "assistant", "tool_calls": [{"name": "add", "arguments": '{"a": 2}'}]},
            {"role": "tool", "content": "3"},
        ]
    }
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    fetched(tmp_path, knows, settings_of(server), read_prompts([PromptSource(path=str(path))]).prompts)
    _, call, answer = server.requests[0]["messages"]
    assert call["tool_calls"] == [
        {"id": "call_0", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    ]
    assert answer["tool_call_id"] == "call_0"


def test_an_answer_that_repeats_the_key_is_not_kept(
    tmp_path: Path, server: Server, target: LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    server.script = lambda body, number: Said(body=reply(f"you sent {KEY}")) if number == 0 else good(body, number)
    with pytest.raises(DraftbenchError, match="repeats the key"):
        fetched(tmp_path, target, settings_of(server, how={"key_env": "MY_KEY"}))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_an_answer_longer_than_was_asked_for_is_cut_and_did_not_end(
    tmp_path: Path, server: Server, target: LoadedModel
):
    server.script = lambda body, number: Said(body=reply("x" * 60))
    (answer,) = fetched(tmp_path, target, settings_of(server), questions(1)).answers
    assert (len(answer.token_ids), answer.finish_reason) == (40, "length")


def test_a_served_capture_in_shards_is_that_of_one_process_and_keeps_what_a_failing_shard_got(
    tmp_path: Path, server: Server, target: LoadedModel
):
    settings = settings_of(server)
    assert settings.server is not None
    alone = fetched(tmp_path / "alone", target, settings)
    plan = plan_in(tmp_path, target, settings)

    def fill(shard: CapturePlan) -> Capture:
        assert settings.server is not None
        return make_served(shard, settings.server, target, limiter=RateLimiter(sleep=no_sleep))

    def sharded() -> Capture:
        return make_in_shards(plan, 3, fill_one_by_one(fill), server_counts=count_served)

    never = questions()[3].text
    server.script = lambda body, number: (
        Said(500, {}) if body["messages"][-1]["content"] == never else good(body, number)
    )
    with pytest.raises(DraftbenchError, match="1 of 3 shards failed"):
        sharded()
    server.script = good
    server.requests.clear()
    whole = sharded()
    assert server.asked() == [never]
    for name in ("answers.jsonl", "signal.bin", "spec.json"):
        assert (whole.folder / name).read_bytes() == (alone.folder / name).read_bytes()
    assert whole.counts.server == alone.counts.server
