"""Several servers of one model: they share the load, one that is gone comes back, another model is refused."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.capture.store import Capture
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, ServerSpec
from engine.errors import DraftbenchError
from engine.models.load import LoadedModel
from engine.paths import Home
from engine.served.capture import make_served, plan_served
from engine.served.keys import allow, is_allowed, not_allowed, require_allowed
from engine.served.request_rate import RateLimiter
from tests.chat_server import MODEL, Said, Server, chat_server, good
from tests.conftest import tiny_llama
from tests.tiny_pair import blend, loaded
from tests.unit.served.asking import Clock
from tests.unit.served.telling import Telling
from tests.unit.served.test_signal import Notes

pytestmark = pytest.mark.slow

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(24)]
GONE = Said(500, {"error": "starting"})


def sure(model: Any) -> LoadedModel:
    """A target that is surer of its tokens than a random one: sharper logits, as a trained model has them."""
    with torch.no_grad():
        model.model.norm.weight.mul_(4)
    return loaded(model)


@pytest.fixture
def target() -> LoadedModel:
    return sure(tiny_llama())


@pytest.fixture
def servers(target: LoadedModel) -> Iterator[list[Server]]:
    """Three servers of the tiny target."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(chat_server(Telling(target))) for _ in range(3)]


def fetched(
    folder: Path, servers: list[Server], target: LoadedModel, progress: Notes, clock: Clock, **changes: Any
) -> Capture:
    own = {"attempts": 3, "concurrency": 2, "logprobs": 5, **changes}
    spec = ServerSpec(base_url=[server.base_url for server in servers], model=MODEL, **own)
    signal = "compact" if own["logprobs"] else "none"
    asked = CaptureSpec(max_new_tokens=8, signal=signal, server=spec)
    plan = plan_served(folder / "captures", target, PROMPTS, asked)
    limiter = RateLimiter(None, clock, clock.sleep, random.Random(0))
    return make_served(plan, spec, target, limiter=limiter, progress=progress)


def answers_of(server: Server) -> int:
    return sum(body["max_tokens"] == 8 for body in server.requests)


def test_the_load_is_shared_and_the_capture_is_that_of_one_server(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock
):
    progress = Notes()
    shared = fetched(tmp_path / "shared", servers, target, progress, clock)
    alone = fetched(tmp_path / "alone", servers[:1], target, progress, clock)
    assert shared.address == alone.address
    for one, other in zip(shared.answers, alone.answers, strict=True):
        assert one.token_ids == other.token_ids
        assert shared.raw_signal(one).equal(alone.raw_signal(other))
    assert shared.counts.server is not None
    answered_by = shared.counts.server.answered_by
    assert set(answered_by) == {server.base_url for server in servers}
    assert sum(answered_by.values()) == len(PROMPTS)
    assert min(answered_by.values()) >= 1
    assert all(server.most_at_once <= 2 for server in servers)
    assert sum("serves the same model as" in note for note in progress.said) == 2


def test_a_dead_server_is_left_out_said_once_and_comes_back(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock
):
    whole, dead = Telling(target), servers[0]
    seen: Counter[str] = Counter()

    def dies(body: dict[str, Any], number: int) -> Said:
        """Gone from its first answer on, until it has been tried twice more."""
        seen["asked"] += 1
        seen["answers"] += body["max_tokens"] == 8
        seen["tried"] += seen["answers"] > 0
        return GONE if 0 < seen["tried"] < 4 else whole(body, number)

    def slowly(body: dict[str, Any], number: int) -> Said:
        clock.now += 4.0 if seen["tried"] else 0.0  # meanwhile the pause passes, with many prompts still to answer
        return whole(body, number)

    dead.script = dies
    servers[1].script = servers[2].script = slowly
    progress = Notes()
    capture = fetched(tmp_path, servers, target, progress, clock)
    assert capture.counts.prompts == len(PROMPTS)
    left_out = [note for note in progress.said if "is left out" in note]
    back = [note for note in progress.said if "answers again" in note]
    assert len(left_out) == 1
    assert dead.base_url in left_out[0]
    assert "2 of 3 servers continue" in left_out[0]
    assert back == [f"{dead.base_url} answers again"]
    assert seen["asked"] < 30  # it is not hammered while it is gone


def test_a_server_that_was_never_there_costs_no_prompt(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock
):
    servers[2].script = lambda body, number: Said(close=True)
    progress = Notes()
    capture = fetched(tmp_path, servers, target, progress, clock, attempts=1)
    assert capture.counts.prompts == len(PROMPTS)
    assert answers_of(servers[0]) + answers_of(servers[1]) == len(PROMPTS)
    assert sum("is left out" in note for note in progress.said) == 1


def test_where_all_are_dead_it_ends_as_with_one_and_goes_on_later(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock
):
    for server in servers:
        server.script = lambda body, number: GONE
    with pytest.raises(DraftbenchError, match="status 500") as error:
        fetched(tmp_path, servers, target, Notes(), clock)
    assert "3 attempts" in error.value.what
    for server in servers:
        server.script = Telling(target)
    assert fetched(tmp_path, servers, target, Notes(), clock).counts.prompts == len(PROMPTS)


@pytest.mark.parametrize("logprobs", [5, None])
def test_another_model_is_refused_and_what_was_answered_is_kept(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock, logprobs: int | None
):
    other = sure(blend(tiny_llama(), tiny_llama(seed=9), 0.1))
    servers[2].script = Telling(other)
    with pytest.raises(DraftbenchError, match="does not serve the same model") as error:
        fetched(tmp_path, servers, target, Notes(), clock, logprobs=logprobs)
    assert "total variation" in error.value.why
    assert answers_of(servers[2]) == 0
    servers[2].script = Telling(target)
    assert fetched(tmp_path, servers, target, Notes(), clock, logprobs=logprobs).counts.prompts == len(PROMPTS)


def test_another_model_that_comes_back_in_place_of_the_one_that_left_is_refused(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock
):
    whole, other = Telling(target), Telling(sure(blend(tiny_llama(), tiny_llama(seed=9), 0.1)))
    seen: Counter[str] = Counter()

    def changes(body: dict[str, Any], number: int) -> Said:
        seen["asked"] += 1
        return whole(body, number) if seen["asked"] < 14 else GONE if seen["asked"] == 14 else other(body, number)

    def slowly(body: dict[str, Any], number: int) -> Said:
        clock.now += 4.0
        return whole(body, number)

    servers[0].script, servers[1].script, servers[2].script = slowly, changes, slowly
    with pytest.raises(DraftbenchError, match="does not serve the same model"):
        fetched(tmp_path, servers, target, Notes(), clock)


def test_servers_of_text_alone_are_compared_by_their_text(
    tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock
):
    for server in servers:
        server.script = good
    progress = Notes()
    fetched(tmp_path, servers, target, progress, clock, logprobs=None)
    assert sum("greedy answers are the same" in note for note in progress.said) == 2
    servers[1].script = lambda body, number: Said(body={**good(body, number).body, "x": 1})
    servers[2].script = lambda body, number: good({"messages": [{"content": "another"}]}, number)
    fetched(tmp_path / "other", servers, target, progress, clock, logprobs=None)
    assert any("NOT the same" in note for note in progress.said)


def test_a_busy_server_gets_less(tmp_path: Path, servers: list[Server], target: LoadedModel, clock: Clock):
    whole = Telling(target)
    servers[0].script = lambda body, number: (
        Said(429, {}, {"Retry-After": "3000"}) if body["max_tokens"] == 8 else whole(body, number)
    )
    progress = Notes()
    assert fetched(tmp_path, servers, target, progress, clock).counts.prompts == len(PROMPTS)
    assert answers_of(servers[0]) < len(PROMPTS) / len(servers)  # a pause ends when everyone waits: the clock moves on


def test_a_key_needs_the_consent_for_each_address(tmp_path: Path):
    home = Home(tmp_path)
    urls = ["https://one.example/v1", "https://two.example/v1"]
    spec = ServerSpec(base_url=urls, model="m", key_env="MY_KEY")
    assert not_allowed(home, spec) == urls
    allow(home, "MY_KEY", urls[0])
    assert not_allowed(home, spec) == urls[1:]
    with pytest.raises(DraftbenchError, match=r"two\.example"):
        require_allowed(home, spec)
    allow(home, "MY_KEY", urls[1])
    assert is_allowed(home, spec)


def test_a_list_of_addresses_is_the_first_and_others_beside_it():
    spec = ServerSpec(base_url=["http://a/v1", "http://b/v1"], model="m")
    assert (spec.base_url, spec.also_at) == ("http://a/v1", ["http://b/v1"])
    assert ServerSpec.model_validate(spec.model_dump()) == spec
    assert [one.base_url for one in spec.each] == spec.urls
    for wrong in (
        {"base_url": []},
        {"base_url": ["http://a/v1", "http://a/v1/"]},
        {"base_url": ["http://a/v1"], "also_at": ["http://b/v1"]},
        {"base_url": "http://a/v1", "also_at": ["http://user:key@b/v1"]},
        {"base_url": "http://a/v1", "also_at": ["b"]},
    ):
        with pytest.raises(ValueError, match=r"base_url|pattern"):
            ServerSpec.model_validate({"model": "m", **wrong})
