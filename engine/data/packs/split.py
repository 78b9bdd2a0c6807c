"""Which side a record falls on: by hash, before anything is generated, the same for ever."""

from __future__ import annotations

import hashlib
import json

from engine.data.overlap import normalise
from engine.data.packs.entry import Domain, Entry, Scenario, Side, as_prompt
from engine.data.packs.filters import tool_names

# Small sets hold out more of themselves, or too few prompts would be left to measure on; large ones need less.
HELDOUT_SHARE = 0.12
HELDOUT_SHARES: dict[tuple[Domain, Scenario], float] = {
    ("general", "historical"): 0.05,
    # One share for all tool sets: a set of tools that users and experts ask about must fall on one side.
    ("function_calling", "historical"): 0.15,
    ("function_calling", "curated"): 0.15,
    ("biology", "historical"): 0.2,
    ("biology", "curated"): 0.2,
    ("chinese", "historical"): 0.25,
}
_SALT = "draftbench split 1"


def split_key(entry: Entry) -> str:
    """What must not be divided: the set of tools where there are any, else what the conversation opens with.

    A draft that has seen a tool set knows the schemas that a held-out call copies from. A
    conversation is known by its first user message, so its later turns stay with it.
    """
    names = tool_names(entry)
    if names:
        return json.dumps(names, ensure_ascii=False)
    first = next((m["content"] for m in entry["messages"] if m["role"] == "user"), as_prompt(entry).key())
    return normalise(str(first))


def side_of(entry: Entry, share: float | None = None) -> Side:
    """`heldout` for the share of the keys that the entry's domain and scenario keep back, `train` for the others.

    One key has one place on the scale in every set, so what a set with a small share holds
    out, one with a larger share holds out too. `share` takes the place of the table's.
    """
    if share is None:
        share = HELDOUT_SHARES.get((entry["domain"], entry["scenario"]), HELDOUT_SHARE)
    digest = hashlib.sha256(f"{_SALT}\0{split_key(entry)}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8]) < share * 2**64 else "train"


def order_key(entry: Entry) -> str:
    """Sorting by it mixes the sources: the first n of a set are a sample of it, for every n."""
    return hashlib.sha256(f"{_SALT}\0{entry['id']}".encode()).hexdigest()
