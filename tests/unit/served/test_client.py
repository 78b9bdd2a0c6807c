"""What is sent to a server and to no other: addresses, fields, models and the key, which is never shown."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config.reading import parse_section
from engine.config.schema import ServerSpec
from engine.errors import DraftbenchError
from engine.served.client import listed_models
from engine.served.replies import Unanswered
from tests.chat_server import MODEL, Said, Server, chat_server, good
from tests.unit.served.asking import (
    KEY,
    Clock,
    ask,
    key_of,
    spec_of,
)


def test_a_wrong_model_names_those_there_are(server: Server, clock: Clock):
    server.script = lambda body, number: Said(404, {"error": "no such model"})
    server.models = ["served-modal", "other"]
    with pytest.raises(DraftbenchError) as error:
        ask(spec_of(server), clock)
    assert "did you mean 'served-modal'?" in error.value.fix
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_at_once_and_is_not_shown(server: Server, clock: Clock, status: int):
    server.script = lambda body, number: Said(status, {"error": f"bad key {KEY}!"})
    with pytest.raises(DraftbenchError) as error:
        ask(spec_of(server, key_env="MY_KEY"), clock, key=KEY)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert len(server.requests) == 1
    assert "MY_KEY" in error.value.fix
    assert "bad key [key]!" in str(error.value)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("echo", [f"<{KEY}>", KEY * 30, KEY.replace("/", "\\/")])
def test_a_server_that_echoes_the_key_does_not_get_it_shown(server: Server, clock: Clock, echo: str):
    server.script = lambda body, number: Said(500, echo.encode())
    with pytest.raises(Unanswered) as error:
        ask(spec_of(server, attempts=1), clock, key=KEY)
    assert "secret" not in str(error.value)
    assert "[key]" in str(error.value)


def test_a_key_is_not_sent_on_to_another_address(server: Server, clock: Clock):
    with chat_server() as other:
        server.script = lambda body, number: Said(307, b"", {"Location": other.base_url + "/chat/completions"})
        with pytest.raises(DraftbenchError, match="does not serve this API") as error:
            ask(spec_of(server), clock, key=KEY)
        assert other.requests == []
    assert "redirects to http://127" in error.value.why


def test_fields_that_a_strict_server_does_not_know_are_left_out_from_then_on(server: Server, clock: Clock):
    def strict(body: dict[str, Any], number: int) -> Said:
        return Said(422, {"detail": "unexpected fields"}) if "return_token_ids" in body else good(body, number)

    server.script = strict
    assert len(ask(spec_of(server), clock, bodies=3)) == 3
    assert ["return_token_ids" in body for body in server.requests] == [True, False, False, False]
    assert {body.get("top_k") for body in server.requests[1:]} == {0}


def test_the_whole_distribution_is_asked_for_whatever_a_server_does_by_itself(server: Server, clock: Clock):
    ask(spec_of(server), clock)
    whole = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert whole.items() <= server.requests[0].items()

    def bare(body: dict[str, Any], number: int) -> Said:
        return Said(400, {"error": "unknown field"}) if "min_p" in body else good(body, number)

    server.requests.clear()
    server.script = bare
    ask(spec_of(server), clock, bodies=2)
    assert [body.get("top_k") for body in server.requests] == [-1, 0, None, None]


def test_the_key_comes_from_the_environment_and_hides_itself():
    key = key_of(f" {KEY}\n")
    assert key is not None
    assert key.get_secret_value() == KEY
    assert "secret-" not in repr(key)
    assert key_of(None, key_env=None) is None


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY}\nX-Other: 1", f"{KEY} ü"])
def test_a_missing_or_impossible_key_is_refused_without_showing_it(value: str | None):
    with pytest.raises(DraftbenchError, match="MY_KEY") as error:
        key_of(value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://10.0.0.5:8000/v1", "http://example.org/v1", "http://127.0.0.1.example.org/v1"])
def test_a_key_does_not_travel_unencrypted(url: str):
    with pytest.raises(DraftbenchError, match="unencrypted"):
        key_of(KEY, base_url=url)
    assert key_of(KEY, base_url=url, key_env=None) is None


@pytest.mark.parametrize("url", ["https://example.org/v1", "http://localhost:1/v1", "http://[::1]:1/v1"])
def test_a_key_travels_encrypted_or_not_at_all(url: str):
    assert key_of(KEY, base_url=url) is not None


@pytest.mark.parametrize("url", [f"https://me:{KEY}@example.org/v1", f"https://example.org/v1?key={KEY}"])
def test_an_address_with_a_key_in_it_is_refused_without_showing_it(url: str):
    with pytest.raises(DraftbenchError, match="key_env") as error:
        parse_section(ServerSpec, {"base_url": url, "model": "m"})
    assert "secret" not in str(error.value)


def test_a_key_in_the_place_of_its_variables_name_is_not_shown():
    with pytest.raises(DraftbenchError, match="key_env") as error:
        parse_section(ServerSpec, {"base_url": "https://example.org/v1", "model": "m", "key_env": KEY})
    assert "secret" not in str(error.value)


def test_models_are_listed_for_a_look_before(server: Server):
    assert listed_models(spec_of(server)) == [MODEL]


def test_a_look_at_a_server_that_is_not_there_says_so():
    with chat_server() as gone:
        spec = spec_of(gone)
    with pytest.raises(DraftbenchError, match="cannot be reached") as error:
        listed_models(spec, timeout_s=1)
    assert "start the server" in error.value.fix


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "http://[::1", "http://", "http://127.0.0.1:x/v1"])
def test_an_address_that_is_none_is_said_so(url: str, clock: Clock):
    spec = ServerSpec(base_url=url, model="m")
    with pytest.raises(DraftbenchError, match="does not serve this API"):
        ask(spec, clock)
    with pytest.raises(DraftbenchError, match="does not serve this API"):
        listed_models(spec)
    with pytest.raises(DraftbenchError, match="does not serve this API"):
        key_of(KEY, base_url=url)


def test_a_look_at_a_server_does_not_follow_it_elsewhere(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with chat_server() as other:
        server.listing = Said(302, b"", {"Location": other.base_url + "/models"})
        with pytest.raises(DraftbenchError, match="does not serve this API") as error:
            listed_models(spec_of(server, key_env="MY_KEY"))
        assert other.looks == 0
    assert "redirects" in error.value.why
    server.listing = Said(body={"data": [{"id": f"m-{KEY}"}, {"id": "x" * 10**6}, {"id": 7}, 8]})
    assert listed_models(spec_of(server, key_env="MY_KEY")) == ["m-[key]"]
    server.listing = Said(body=b" " * 5_000_000)
    with pytest.raises(DraftbenchError, match="MB"):
        listed_models(spec_of(server))
