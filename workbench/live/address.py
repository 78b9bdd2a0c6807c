"""The live view's address: the form from it, and it from what was decoded.

What is short is written out. A sample prompt, and the tools of one, go by the sample's id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.chat.messages import BadRecordError, normal
from engine.chat.prompt import Prompt, Tool
from engine.config.section import LEAST_TEMPERATURE, temperature_fault
from engine.errors import DraftbenchError
from engine.untrusted import json_text
from workbench.live.conversation import asked, asked_with, every_sample, parts, read_tools, sample, sample_of
from workbench.live.decode import LIMITS, PROPOSALS, Ask
from workbench.shared.pages import link

LONGEST = 4000  # characters of a link: what chats, mail programs and proxies carry whole
LONGEST_KEPT = 16_000  # in the browser's own address bar, for a reload: servers refuse requests four times as long
NUMBERS = {"gamma": int, "temperature": float, "top_p": float, "top_k": int, "seed": int, "max_new_tokens": int}
_SWITCHES = ("plain", "draft")


@dataclass
class Wanted:
    """What an address asks for; `wrong` says what it asks for in vain."""

    conversation: Prompt | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    proposals: str | None = None
    switches: dict[str, bool] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def read(params: Mapping[str, str], domain: str) -> Wanted:
    """What the address asks for; without any conversation in it a sample prompt of the domain."""
    wanted = Wanted()
    wanted.conversation = _conversation(params, domain, wanted.wrong)
    for name in (name for name in NUMBERS if name in params):
        value = _number(name, params[name])
        if value is None:
            wanted.wrong.append(f"{name} is {params[name]!r}, not {_between(name)}")
        else:
            wanted.numbers[name] = value
    if (proposals := params.get("proposals")) is not None:
        if proposals in PROPOSALS:
            wanted.proposals = proposals
        else:
            wanted.wrong.append(f"proposals is {proposals!r}, not {' or '.join(PROPOSALS)}")
    for name in _SWITCHES:
        if params.get(name) in ("0", "1"):
            wanted.switches[name] = params[name] == "1"
        elif name in params:
            wanted.wrong.append(f"{name} is {params[name]!r}, not 0 or 1")
    return wanted


def _conversation(params: Mapping[str, str], domain: str, wrong: list[str]) -> Prompt | None:
    words, context = params.get("prompt"), params.get("context")
    named = sample(words or "")
    if context and sample(context) is None:
        wrong.append(f"there is no sample prompt {context!r}")
    if named is not None:
        found: Prompt | None = named
    elif words is not None:
        found = asked_with(words, sample(context or ""))
    elif context and sample(context):
        found = sample(context)
    else:
        found = asked("") if {"system", "turns", "tools"} & params.keys() else sample_of(domain)
    if found is None:
        return None
    if "turns" in params:
        try:
            written = normal(json_text.loads(params["turns"]), "turns")
            found = replace(found, messages=(*_system_of(found), *written))
        except (BadRecordError, ValueError) as error:
            wrong.append(f"the turns in the address cannot be read: {error}")
    if "system" in params:
        rest = found.messages[len(_system_of(found)) :]
        found = replace(found, messages=({"role": "system", "content": params["system"]}, *rest))
    if "tools" in params:
        found = replace(found, tools=_tools(params["tools"], wrong))
    return found


def _system_of(conversation: Prompt) -> tuple[Any, ...]:
    return tuple(message for message in conversation.messages[:1] if message["role"] == "system")


def _tools(text: str, wrong: list[str]) -> tuple[Tool, ...]:
    """Tools in the address: JSON, or the id of a sample that brings them."""
    if not text.lstrip().startswith(("[", "{")):
        named = sample(text)
        if named is None:
            wrong.append(f"the tools in the address are neither JSON nor a sample prompt's: {text[:60]!r}")
        return named.tools if named else ()
    try:
        return read_tools(text)
    except DraftbenchError as error:
        wrong.append(error.what)
        return ()


def _number(name: str, text: str) -> float | None:
    """A number from the URL; None if it is not a number, or outside the form's limits."""
    try:
        value = NUMBERS[name](text)
    except ValueError:
        return None
    low, high = LIMITS[name]
    return value if low <= value <= high and not (name == "temperature" and temperature_fault(value)) else None


def _between(name: str) -> str:
    """'a whole number from 1 to 16': the form's limits in words."""
    low, high = LIMITS[name]
    if name == "temperature":
        return f"0 or a number from {LEAST_TEMPERATURE:g} to {high:g}"
    return f"a whole number from {low:,} to {high:,}" if NUMBERS[name] is int else f"a number from {low:g} to {high:g}"


def address(ask: Ask) -> str:
    """The URL that fills the form with this. It may be longer than `LONGEST`, which no link should be."""
    return link(
        "live",
        run=ask.run_ids[0],
        run2=ask.run_ids[1] if len(ask.run_ids) > 1 else None,
        **_said(ask.conversation),
        gamma=ask.gamma,
        temperature=ask.temperature,
        top_p=ask.top_p,
        top_k=ask.top_k,
        proposals=ask.proposals,
        seed=ask.seed,
        max_new_tokens=ask.max_new_tokens,
        plain=int(ask.compare_plain),
        draft=int(ask.draft_on),
    )


def _said(conversation: Prompt) -> dict[str, str]:
    """The parameters of a conversation: the shortest that hold it whole."""
    key = conversation.key()
    for known in every_sample():
        if known.key() == key:
            return {"prompt": known.id}
        if len(known.messages) == len(conversation.messages) and (
            asked_with(conversation.text, known).key() == key and (known.tools or len(known.messages) > 1)
        ):
            return {"context": known.id, "prompt": conversation.text}
    system, turns, _ = parts(conversation)
    said = {"system": system} if system else {}
    if len(turns) == 1 and turns[0] == {"role": "user", "content": conversation.text}:
        said["prompt"] = conversation.text
    else:
        said["turns"] = json.dumps(turns, ensure_ascii=False, separators=(",", ":"))
    if conversation.tools:
        tools = json.dumps(list(conversation.tools), ensure_ascii=False, separators=(",", ":"))
        said["tools"] = next((known.id for known in every_sample() if known.tools == conversation.tools), tools)
    return said
