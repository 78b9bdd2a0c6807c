"""Filters between a package and its pack; each counts the records that it removes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable

from engine.data.overlap import duplicates_within, normalise
from engine.data.packs.entry import Entry, as_prompt

# Bytes of UTF-8, not characters: a Chinese character costs a small model as many tokens as three letters.
MAX_CONVERSATION_BYTES = 3_000
MAX_TOOLS_CHARACTERS = 3_000
MAX_REFERENCE_BYTES = 6_000
MIN_QUERY_CHARACTERS = 4

Removed = dict[str, int]
Key = tuple[str, ...]


def tool_names(entry: Entry) -> Key:
    """The names of an entry's tools, sorted."""
    return tuple(sorted(tool["function"]["name"] for tool in entry.get("tools", [])))


def is_empty(entry: Entry) -> bool:
    return any(not str(m.get("content", "")).strip() for m in entry["messages"]) or entry.get("reference") == ""


def is_too_short(entry: Entry) -> bool:
    return len(normalise(as_prompt(entry).text)) < MIN_QUERY_CHARACTERS


def is_too_long(entry: Entry) -> bool:
    written = sum(len(str(message["content"]).encode()) for message in entry["messages"])
    return written > MAX_CONVERSATION_BYTES or len(entry.get("reference", "").encode()) > MAX_REFERENCE_BYTES


def has_long_tools(entry: Entry) -> bool:
    return len(json.dumps(entry.get("tools", []), ensure_ascii=False)) > MAX_TOOLS_CHARACTERS


FILTERS: dict[str, Callable[[Entry], bool]] = {
    "empty": is_empty,
    "too short": is_too_short,
    "conversation too long": is_too_long,
    "tool schemas too long": has_long_tools,
}


def keep_useful(entries: Iterable[Entry]) -> tuple[list[Entry], Removed]:
    """Return the entries that pass every filter and repeat no earlier one, and the number each filter removed."""
    removed: Counter[str] = Counter(dict.fromkeys([*FILTERS, "exact duplicate", "near duplicate"], 0))
    kept: list[Entry] = []
    for entry in entries:
        reason = next((name for name, applies in FILTERS.items() if applies(entry)), None)
        if reason is None:
            kept.append(entry)
        else:
            removed[reason] += 1
    repeats = find_repeats(kept)
    removed.update(f"{kind} duplicate" for kind in repeats.values())
    return [entry for entry in kept if entry["id"] not in repeats], dict(removed)


def find_repeats(entries: list[Entry]) -> dict[str, str]:
    """Return the ids of entries that repeat an earlier one with the same tools -> exact or near.

    The same words with other tools are another task: the right call is another one.
    """
    by_tools: dict[Key, list[Entry]] = {}
    for entry in entries:
        by_tools.setdefault(tool_names(entry), []).append(entry)
    return {
        repeat.prompt_id: repeat.kind
        for group in by_tools.values()
        for repeat in duplicates_within([as_prompt(entry) for entry in group])
    }
