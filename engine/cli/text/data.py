"""Packs of prompts, what they hold and what was left out of them, as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.cli.text import console
from engine.data.columns import remarks

_SHOWN_LEAKS = 20
_SHOWN_CHARACTERS = 100


def fetched(report: dict[str, Any]) -> None:
    """Every pack that was fetched, and the sets that the packs make together."""
    for described in report["packs"]:
        pack(described)
        console.line("")
    sets(report["sets"])


def pack(described: dict[str, Any]) -> None:
    """What a pack holds, what each filter took out, and whom to name."""
    megabytes = sum(file["bytes"] for file in described["files"].values()) / 1e6
    console.line(
        f"{described['name']}: {described['kept']:,} prompts, {megabytes:.1f} MB, from {described['requirement']}"
    )
    columns = ["domain", "scenario", "training", "with reference", "held-out", "with reference"]
    keys = ("domain", "scenario", "train", "train_with_reference", "heldout", "heldout_with_reference")
    console.table("", columns, [[row[key] for key in keys] for row in described["counts"]])
    removed = [[name, count] for name, count in described["removed"].items()]
    console.table("", ["left out as", "number"], [["(read)", described["read"]], *removed])
    console.paragraph(f"licence: {described['licence']}")
    console.paragraph(f"attribution: {described['attribution']}")
    console.line(f"lies in {described['folder']}")


def sets(counts: dict[str, Any]) -> None:
    """The sets a recipe can name, and how many training prompts repeat a held-out query and were taken out."""
    names = ", ".join(one["name"] for one in counts["packs"])
    rows = [[row["set"], row["records"], row["with_reference"], _taken(row)] for row in counts["sets"]]
    columns = ["set", "prompts", "with reference", "repeat a held-out query (taken out)"]
    console.table(f"What a recipe can name as prompts.train and prompts.heldout, made of {names}:", columns, rows)
    console.line(
        f"held-out queries kept out of all training sets: {counts['heldout_queries']:,}, sample_data's included"
    )


def _taken(row: Mapping[str, Any]) -> str:
    if row["set"].endswith("-heldout"):
        return ""
    removed = row["removed_as_heldout"]
    return f"{removed['exact']} exact, {removed['near']} near"


def listed(packs: Sequence[dict[str, Any]]) -> None:
    """The packs that can be fetched, and which are here."""
    rows = [
        [one["name"], "yes" if one["fetched"] else "no", f"{one['megabytes']:.0f} MB", one["about"], one["licence"]]
        for one in packs
    ]
    console.table("", ["pack", "fetched", "download", "what", "licence"], rows)
    missing = [one["name"] for one in packs if not one["fetched"] and not one["name"].startswith("hub:")]
    if missing:
        console.line(f"draftbench data fetch {' '.join(missing)}")


def records(entries: Sequence[Mapping[str, Any]]) -> None:
    """Some records, each under its id."""
    for entry in entries:
        console.line(f"{entry['id']}  ({entry['source']}, {entry['licence']})")
        for tool in entry.get("tools", []):
            console.line(f"  tool: {json.dumps(tool['function'], ensure_ascii=False)}")
        for message in entry["messages"]:
            console.line(f"  {message['role']}: {message['content']}")
        if "reference" in entry:
            console.line(f"  reference: {entry['reference']}")


def overlap(report: dict[str, Any]) -> None:
    """Which training sets were compared, and every held-out query found in one."""
    console.table("", ["training set", "prompts", "held-out in it"], [list(row.values()) for row in report["training"]])
    heldout = sum(part["prompts"] for part in report["heldout"])
    console.line(f"compared with {heldout:,} held-out queries of {len(report['heldout'])} sets")
    for leak in report["leaks"][:_SHOWN_LEAKS]:
        console.line(f"{leak['kind']} ({leak['jaccard']:.2f}):")
        console.line(f"  {leak['training']}, {leak['id']}: {_short(leak['text'])}")
        console.line(f"  {leak['heldout']}, {leak['heldout_id']}: {_short(leak['heldout_text'])}")
    if len(report["leaks"]) > _SHOWN_LEAKS:
        console.line(f"... and {len(report['leaks']) - _SHOWN_LEAKS} more: --json lists them all")
    for names in report["divided_tool_sets"]:
        console.line(f"tool set on both sides: {names}")
    if report["ok"]:
        console.line("no held-out query is in a training set")
    else:
        console.line("HELD-OUT QUERIES ARE IN TRAINING SETS: take the training prompts out")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else flat[: _SHOWN_CHARACTERS - 1] + "…"


def imported(told: dict[str, Any], folder: str) -> None:
    """What an import read, what each step took out, what was scrubbed, and what to name in a recipe."""
    rows = sum(file["rows"] for file in told["files"])
    steps = [[step["step"], step["removed"], step["left"]] for step in told["steps"]]
    console.table("", ["step", "removed", "left"], [["rows read", "", rows], *steps])
    for file in told["files"]:
        for remark in remarks(file):
            console.paragraph(f"{file['file']}: {remark}")
    pii, counts = told["pii"], told["counts"]
    if pii["scrubbed"]:
        found = ", ".join(f"{name} {n}" for name, n in pii["found"].items()) or "nothing"
        console.paragraph(f"replaced in {pii['prompts']} prompts: {found}")
        console.paragraph(f"note: {pii['remark']}")
    else:
        console.paragraph("personal data and keys were left as they are (--keep-pii)")
    for note in told["notes"]:
        console.paragraph(f"note: {note}")
    for side in ("train", "heldout"):
        answered = counts[f"{side}_with_reference"]
        console.line(f"{folder}/{side}.jsonl: {counts[side]} prompts, {answered} with what was answered")
    console.paragraph(f"in a recipe: prompts.train: {folder}/train.jsonl, prompts.heldout: {folder}/heldout.jsonl")
