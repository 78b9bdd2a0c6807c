"""The live view's address: samples go by their id, what is out of reach is named."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest

from engine.chat.prompt import Prompt
from engine.errors import DraftbenchError
from workbench.live.address import address, read
from workbench.live.conversation import asked, asked_with, every_sample, parts, read_form
from workbench.live.decode import Ask


def params(conversation: Prompt) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address(Ask(conversation, ("r",)))).query))


def with_tools() -> Prompt:
    """The first sample question that brings tools."""
    return next(prompt for prompt in every_sample() if prompt.tools)


def test_each_kind_of_conversation_comes_back_whole():
    known, system = with_tools(), {"role": "system", "content": "Be brief."}
    talks = [
        known,
        asked_with("Other words?", known),
        replace(asked("Of my own"), messages=(system, *asked("Of my own").messages), tools=known.tools),
        replace(asked("Of my own"), messages=(system, *asked("Of my own").messages)),
        next(prompt for prompt in every_sample() if len(prompt.messages) > 2),
    ]
    for talk in talks:
        said = params(talk)
        assert read(said, "").conversation is not None
        assert read(said, "").conversation.key() == talk.key(), said  # type: ignore[union-attr]
    assert params(talks[0])["prompt"] == known.id
    assert params(talks[1])["context"] == known.id
    assert params(talks[2])["tools"] == known.id


def test_what_the_form_shows_is_what_it_sends():
    for talk in (with_tools(), next(prompt for prompt in every_sample() if len(prompt.messages) > 1)):
        system, turns, tools = parts(talk)
        assert read_form(turns, system, tools).key() == talk.key()


def test_what_cannot_be_read_is_named():
    wanted = read({"turns": "[{]", "tools": "no-such", "context": "none-such", "draft": "yes", "proposals": "best"}, "")
    said = "; ".join(wanted.wrong)
    for part in ("the turns in the address", "'no-such'", "'none-such'", "draft is 'yes'", "proposals is 'best'"):
        assert part in said


@pytest.mark.parametrize(("given", "taken"), [("0", True), ("0.001", True), ("1e-40", False), ("2.1", False)])
def test_a_temperature_is_greedy_or_one_that_can_be_decoded_at(given: str, taken: bool):
    wanted = read({"temperature": given}, "general")
    assert ("temperature" in wanted.numbers) is taken
    assert wanted.wrong == ([] if taken else [f"temperature is {given!r}, not 0 or a number from 0.001 to 2"])
    if not taken:
        with pytest.raises(DraftbenchError, match="temperature is"):
            Ask(asked("x"), ("r",), temperature=float(given)).check()


@pytest.mark.parametrize(
    ("name", "given", "limits"),
    [
        ("gamma", "2.0", "a whole number from 1 to 16"),
        ("gamma", "17", "a whole number from 1 to 16"),
        ("seed", "-1", "a whole number from 0 to 9,007,199,254,740,991"),
        ("seed", str(2**53), "a whole number from 0 to 9,007,199,254,740,991"),
        ("top_p", "0", "a number from 0.01 to 1"),
    ],
)
def test_a_number_that_the_form_cannot_hold_is_named_with_its_limits(name: str, given: str, limits: str):
    """A browser holds no seed above 2**53: another one was decoded, and nothing said so."""
    wanted = read({name: given}, "")
    assert wanted.wrong == [f"{name} is {given!r}, not {limits}"]
    assert name not in wanted.numbers


@pytest.mark.parametrize("seed", [-1, 2**53])
def test_a_seed_that_a_browser_would_round_is_refused(seed: int):
    Ask(asked("x"), ("a",), seed=2**53 - 1).check()
    with pytest.raises(DraftbenchError, match=f"seed is {seed}"):
        Ask(asked("x"), ("a",), seed=seed).check()
