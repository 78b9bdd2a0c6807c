"""A key goes to a server only after the pair of its variable and that server was confirmed."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys

import pytest

from engine.cli.app import main
from engine.config.schema import ServerSpec
from engine.errors import DraftbenchError
from engine.paths import PROJECT_ROOT, home
from engine.served import keys
from engine.served.client import read_key


def spec(base_url: str = "https://api.example/v1", key_env: str | None = "MY_KEY") -> ServerSpec:
    return ServerSpec(base_url=base_url, model="m", key_env=key_env)


def test_a_pair_is_allowed_for_that_variable_at_that_server_alone():
    assert not keys.is_allowed(home(), spec())
    keys.allow(home(), "MY_KEY", "https://API.example:443/other/path")
    assert keys.is_allowed(home(), spec())
    for other in (
        spec("http://api.example/v1"),
        spec("https://api.example:8443/v1"),
        spec("https://api.example.evil.test/v1"),
        spec(key_env="OTHER_KEY"),
    ):
        assert not keys.is_allowed(home(), other)
    assert keys.is_allowed(home(), spec(key_env=None))


def test_pairs_are_remembered_in_a_file_of_the_users_own():
    keys.allow(home(), "A_KEY", "https://a.example")
    keys.allow(home(), "B_KEY", "http://[::1]:8000/v1")
    keys.allow(home(), "A_KEY", "https://a.example")
    path = home().root / "allowed-keys.json"
    assert json.loads(path.read_text()) == [["A_KEY", "https://a.example:443"], ["B_KEY", "http://[::1]:8000"]]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["", "{", "{}", "[1, null]", "[" * 100_000, "\xff"])
def test_a_damaged_file_allows_nothing_and_is_replaced(damage: str):
    path = home().root / "allowed-keys.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage.encode("latin-1"))
    assert not keys.is_allowed(home(), spec())
    keys.allow(home(), "MY_KEY", "https://api.example")
    assert keys.is_allowed(home(), spec())


@pytest.mark.parametrize("address", ["api.example", "https://", "https://a:99999", "https://[x", ""])
def test_what_is_no_address_is_refused(address: str):
    with pytest.raises(DraftbenchError, match="is not the address of a server"):
        keys.allow(home(), "MY_KEY", address)


def test_no_key_is_read_for_another_machine_before_that(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with pytest.raises(DraftbenchError, match=r"never sent to https://api\.example:443") as message:
        read_key(spec())
    assert "draftbench allow-key MY_KEY https://api.example/v1" in message.value.fix
    assert "secret" not in str(message.value)
    with pytest.raises(SystemExit) as ended:
        main(["allow-key", "MY_KEY", "https://api.example/v1"])
    assert ended.value.code == 0
    key = read_key(spec())
    assert key is not None
    assert key.get_secret_value() == "secret"


def test_the_command_that_allows_an_address_runs_nothing_of_it():
    url = "https://api.example/$(touch pwned);x'y"
    with pytest.raises(DraftbenchError, match="never sent") as message:
        keys.require_allowed(home(), spec(url))
    command = message.value.fix.partition("`")[2].removesuffix("`")
    assert shlex.split(command) == ["draftbench", "allow-key", "MY_KEY", url]
    assert "$(touch" not in command.split("'")[0]


def test_a_server_of_this_machine_needs_no_confirmation_on_the_command_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "secret")
    assert read_key(spec("http://127.0.0.1:8000/v1")) is not None


def test_a_run_that_nobody_watches_is_refused_and_does_not_wait(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "secret")
    settings = [
        "capture.server.base_url=https://api.example/v1",
        "capture.server.model=m",
        "capture.server.key_env=MY_KEY",
        "capture.signal=none",
        "train.loss=sft",
    ]
    command = [sys.executable, "-m", "engine", "run", "recipes/from_layers.yaml", "--queue"]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(
        command, cwd=PROJECT_ROOT, stdin=subprocess.PIPE, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "MY_KEY was never sent to https://api.example:443 before" in done.stderr
    assert not (home().root / "runs").exists()


@pytest.mark.parametrize("given", ["sk-abc123", "my_key", "", "A B", "KEY=1", "KEY\n"])
def test_what_is_no_name_of_a_variable_is_refused_and_not_repeated(given: str):
    with pytest.raises(DraftbenchError, match="not the name of a variable") as refused:
        keys.allow(home(), given, "https://api.example/v1")
    assert not given or given not in str(refused.value)
    assert not home().root.exists()
