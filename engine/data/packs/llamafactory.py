"""Read the demonstration sets in LLaMA-Factory's source distribution: tool calls, Chinese and general conversations.

The licence is the package's own label; the sets have none of their own. The card of llamafactory/alpaca_zh names
hfl/alpaca_zh_51k as the origin of alpaca_zh_demo.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.chat.prompt import Message
from engine.data.packs.bfcl import as_tool, calls_text
from engine.data.packs.biology import is_biology
from engine.data.packs.entry import Domain, Entry
from engine.packages import read_member

LICENCE = "Apache-2.0"
ATTRIBUTION = (
    "LLaMA-Factory by hiyouga and contributors; glaive-function-calling-v2, alpaca_zh_demo (said to come from "
    "hfl/alpaca_zh_51k), DPO and KTO sets. Apache-2.0 is the package's label; the sets carry none of their own"
)
_ORIGIN = "LLaMA-Factory demonstration data"
_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
Row = dict[str, Any]


def read(archive: Path) -> Iterator[Entry]:
    """Yield the records of all sets with a free lineage, without the tool calls of the Chinese glaive set: the
    translation changed arguments ("John Doe" became a Chinese name), so its calls do not follow from the queries."""
    for name, entry_of in _READERS.items():
        for number, row in enumerate(_rows(archive, name)):
            entry = entry_of(name, row)
            if entry is not None:
                entry["id"] = f"llamafactory-{name}-{number}"
                yield entry


def _rows(archive: Path, name: str) -> list[Row]:
    top = archive.name.removesuffix(".tar.gz")
    if name.startswith("reason_tool_use"):
        text = read_member(archive, f"{top}/data/{name}.jsonl").decode("utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    rows: list[Row] = json.loads(read_member(archive, f"{top}/data/{name}.json"))
    return rows


def _entry(name: str, domain: Domain, messages: list[Message], reference: str, group: str) -> Entry:
    return {
        "id": "",
        "domain": domain,
        "scenario": "curated",
        "messages": messages,
        "reference": reference.strip(),
        "source": f"{_ORIGIN}, {name}",
        "licence": LICENCE,
        "group": group,
    }


def _glaive(name: str, row: Row) -> Entry | None:
    """With tools: the turns up to the first call, or the first answer if there is none; without: the first question."""
    turns, tools = row["conversations"], json.loads(row["tools"] or "[]")
    chinese = "_zh_" in name
    if not tools:
        text = turns[0]["value"]
        return _entry(name, _domain(text, chinese=chinese), [_message(turns[0])], turns[1]["value"], "conversation")
    if chinese:
        return None
    at = next((i for i, turn in enumerate(turns) if turn["from"] == "function_call"), 1)
    answer = turns[at]
    if any(turn["from"] not in _ROLES for turn in turns[:at]):
        return None
    called = answer["from"] == "function_call"
    calls = json.loads(answer["value"]) if called else []
    reference = calls_text(calls if isinstance(calls, list) else [calls]) if called else answer["value"]
    group = ("call" if at == 1 else "call after questions") if called else "no call"
    entry = _entry(name, "function_calling", [_message(turn) for turn in turns[:at]], reference, group)
    entry["tools"] = [as_tool(tool) for tool in tools]
    return entry


def _tool_use(name: str, row: Row) -> Entry | None:
    """The first question, without the system message, which asks for reasoning that the reference does not have."""
    question, answer = row["messages"][1], row["messages"][2]
    text = "".join(part["value"] for part in question["content"] if part["type"] == "text")
    calls = [json.loads(part["value"]) for part in answer["content"] if part["type"] == "tool_call"]
    answer_text = "".join(part["value"] for part in answer["content"] if part["type"] == "text")
    reference = calls_text(calls) if calls else answer_text
    group = "call" if calls else "no call"
    entry = _entry(name, "function_calling", [{"role": "user", "content": text}], reference, group)
    entry["tools"] = [as_tool(tool["function"]) for tool in json.loads(row["tools"])]
    return entry


def _alpaca(name: str, row: Row) -> Entry:
    text = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return _entry(
        name,
        "chinese",
        [{"role": "user", "content": text}],
        row["output"].removeprefix("输出：").strip(),
        "instruction",
    )


def _preferred(name: str, row: Row) -> Entry:
    messages = [_message(turn) for turn in row["conversations"]]
    domain = _domain(messages[-1]["content"], chinese="_zh_" in name)
    return _entry(name, domain, messages, row["chosen"]["value"], "conversation")


def _desirable(name: str, row: Row) -> Entry | None:
    *messages, answer = row["messages"]
    if not row["label"] or answer["role"] != "assistant":
        return None
    return _entry(name, _domain(messages[-1]["content"], chinese=False), messages, answer["content"], "conversation")


def _domain(text: str, *, chinese: bool) -> Domain:
    if chinese:
        return "chinese"
    return "biology" if len(text) < 600 and is_biology(text) else "general"


def _message(turn: Row) -> Message:
    return {"role": _ROLES[turn["from"]], "content": turn["value"]}


# alpaca_en_demo is left out: its lineage forbids commercial use.
_READERS: dict[str, Callable[[str, Row], Entry | None]] = {
    "glaive_toolcall_en_demo": _glaive,
    "glaive_toolcall_zh_demo": _glaive,
    "reason_tool_use_demo_50": _tool_use,
    "alpaca_zh_demo": _alpaca,
    "dpo_zh_demo": _preferred,
    "dpo_en_demo": _preferred,
    "kto_en_demo": _desirable,
}
