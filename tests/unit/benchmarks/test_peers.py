"""Programs in other environments: asked line by line, and heard when they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.speed.peers import PROGRAMS, SET_UP, Peer, environment, set_up
from engine.errors import DraftbenchError

PROGRAM = f"""
import json, sys
sys.path.insert(0, {str(PROGRAMS)!r})
from lines import Channel, most_bytes
channel, job = Channel(), json.loads(sys.argv[1])
print("a library's banner")
channel.send(ready=True, name=job["name"])
while (request := channel.receive()) is not None:
    print("noise")
    if request["number"] < 0:
        raise SystemExit("cannot count below zero")
    channel.send(double=2 * request["number"], most_bytes=most_bytes())
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_a_peer_answers_each_request_whatever_it_prints(program: str, tmp_path: Path):
    with Peer(program, {"name": "x"}, tmp_path / "log", python=Path(sys.executable)) as peer:
        assert peer.about == {"ready": True, "name": "x"}
        answers = [peer.ask(number=number) for number in (1, 2)]
    assert [answer["double"] for answer in answers] == [2, 4]
    assert answers[0]["most_bytes"] > 1_000_000
    assert (tmp_path / "log").read_text().splitlines() == ["a library's banner", "noise", "noise"]
    assert peer.process.returncode == 0


def test_a_peer_that_ends_says_why(program: str, tmp_path: Path):
    with (
        Peer(program, {"name": "x"}, tmp_path / "log", python=Path(sys.executable)) as peer,
        pytest.raises(DraftbenchError, match="program has ended with status 1"),
    ):
        peer.ask(number=-1)
    assert "cannot count below zero" in (tmp_path / "log").read_text()


def test_a_folder_without_an_environment_tells_how_to_make_one(tmp_path: Path):
    with pytest.raises(DraftbenchError) as error:
        environment(tmp_path, "trl")
    assert f"{tmp_path}/bin/python -m pip install torch==" in error.value.fix


@pytest.mark.parametrize("peer", SET_UP)
def test_set_up_is_a_list_of_commands(peer: str):
    assert set_up(peer).startswith("python -m venv FOLDER\n")
