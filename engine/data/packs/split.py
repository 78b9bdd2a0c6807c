"""Assign records to the training or the held-out side by a hash that never changes."""

from __future__ import annotations

import hashlib
import json

from engine.data.overlap import normalise
from engine.data.packs.entry import Domain, Entry, Scenario, Side, as_prompt
from engine.data.packs.filters import tool_names

# Small sets hold out a larger share, or too few prompts would be left to measure on.
HELDOUT_SHARE = 0.12
HELDOUT_SHARES: dict[tuple[Domain, Scenario], float] = {
    ("general", "historical"): 0.05,
    # One share for both: a set of tools that users and experts ask about must be on one side.
    ("function_calling", "historical"): 0.15,
    ("function_calling", "curated"): 0.15,
    ("biology", "historical"): 0.2,
    ("biology", "curated"): 0.2,
    ("chinese", "historical"): 0.25,
}
_SALT = "draftbench split 1"


def split_key(entry: Entry) -> str:
    """The key whose records must stay on one side: the tools if there are any, else the first user message.

    A draft that has seen a tool set knows the schemas that a held-out call copies from. Later turns of a conversation
    stay with its first message.
    """
    names = tool_names(entry)
    if names:
        return json.dumps(names, ensure_ascii=False)
    first = next((m["content"] for m in entry["messages"] if m["role"] == "user"), as_prompt(entry).key())
    return normalise(str(first))


def side_of(entry: Entry, share: float | None = None) -> Side:
    """Return `heldout` for the share of keys that the entry's domain and scenario hold out, else `train`.

    A key has the same hash in every set, so a set with a larger share holds out all that one with a smaller share does.
    `share` replaces the one in the table.
    """
    if share is None:
        share = HELDOUT_SHARES.get((entry["domain"], entry["scenario"]), HELDOUT_SHARE)
    digest = hashlib.sha256(f"{_SALT}\0{split_key(entry)}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8]) < share * 2**64 else "train"


def order_key(entry: Entry) -> str:
    """A sort key that mixes the sources: the first n records of a set are a sample of it, for every n."""
    return hashlib.sha256(f"{_SALT}\0{entry['id']}".encode()).hexdigest()
