"""Prompt files, packs of prompts and imports as text. `--json` prints the same values in full."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.cli.text import console
from engine.data.columns import remarks
from engine.data.packs.build import PackInfo
from engine.data.packs.fetch import Fetched, ListedPack
from engine.data.packs.leaks import LeakReport
from engine.data.packs.sets import SetsInfo
from engine.logs.importing import ImportSummary

_LEAKS_SHOWN = 20
_QUERY_CHARACTERS = 100


def prompts(report: dict[str, Any]) -> None:
    """Print the counts, token lengths and bad rows of the checked prompt files."""
    counts = ("prompts", "with_tools", "repeated", "too_long")
    console.table("", ["", "number"], [[name.replace("_", " "), report[name]] for name in counts])
    tokens = report["tokens"]
    console.line(f"tokens per prompt: minimum {tokens['least']}, median {tokens['median']}, maximum {tokens['most']}")
    console.paragraph("groups: " + ", ".join(f"{name} {n}" for name, n in report["groups"].items()))
    for source in report["sources"]:
        for remark in remarks(source):
            console.paragraph(f"{source['path']}: {remark}")
    for part in report["unwritten"]:
        console.paragraph(f"the target's chat template does not write {part}")
    for mark in report["marks"]:
        console.paragraph(f"a mark of the target's chat template as text: {mark}")
    for bad in report["bad_rows"]:
        console.line(f"bad: {bad['file']}:{bad['line']}: {bad['reason']}")


def fetched(report: Fetched) -> None:
    """Print each fetched pack, then the sets that the packs form together."""
    for description in report["packs"]:
        pack(description)
        console.line("")
    sets(report["sets"])


def pack(description: PackInfo) -> None:
    """Print a pack's counts, what each filter removed, its licence and its attribution."""
    name, requirement = description["name"], description["requirement"]
    megabytes = sum(file["bytes"] for file in description["files"].values()) / 1e6
    console.line(f"{name}: {description['kept']:,} prompts, {megabytes:.1f} MB, from {requirement}")
    columns = ["domain", "scenario", "training", "with reference", "held-out", "with reference"]
    rows = [
        [
            row["domain"],
            row["scenario"],
            row["train"],
            row["train_with_reference"],
            row["heldout"],
            row["heldout_with_reference"],
        ]
        for row in description["counts"]
    ]
    console.table("", columns, rows)
    console.table("", ["removed as", "number"], [["(read)", description["read"]], *description["removed"].items()])
    console.paragraph(f"licence: {description['licence']}")
    console.paragraph(f"attribution: {description['attribution']}")
    console.line(f"folder: {description['folder']}")


def sets(counts: SetsInfo) -> None:
    """Print the sets that a recipe can name, and how many training prompts repeated a held-out query."""
    names = ", ".join(one["name"] for one in counts["packs"])
    rows = [[row["set"], row["records"], row["with_reference"], _repeats(row)] for row in counts["sets"]]
    columns = ["set", "prompts", "with reference", "removed: repeats a held-out query"]
    console.table(f"sets for prompts.train and prompts.heldout, from the packs {names}:", columns, rows)
    console.line(
        f"{counts['heldout_queries']:,} held-out queries, including those of sample_data, are kept out of every "
        "training set"
    )


def _repeats(row: Mapping[str, Any]) -> str:
    if row["set"].endswith("-heldout"):
        return ""
    removed = row["removed_as_heldout"]
    return f"{removed['exact']} exact, {removed['near']} near"


def listed(packs: Sequence[ListedPack]) -> None:
    """Print the packs that can be fetched, and which ones have been."""
    rows = [
        [one["name"], "yes" if one["fetched"] else "no", f"{one['megabytes']:.0f} MB", one["about"], one["licence"]]
        for one in packs
    ]
    console.table("", ["pack", "fetched", "download", "contents", "licence"], rows)
    missing = [one["name"] for one in packs if not one["fetched"] and not one["name"].startswith("hub:")]
    if missing:
        console.line(f"to fetch those that are not from the hub: draftbench data fetch {' '.join(missing)}")


def records(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print records, each under its id."""
    for entry in entries:
        console.line(f"{entry['id']}  ({entry['source']}, {entry['licence']})")
        for tool in entry.get("tools", []):
            console.line(f"  tool: {json.dumps(tool['function'], ensure_ascii=False)}")
        for message in entry["messages"]:
            console.line(f"  {message['role']}: {message['content']}")
        if "reference" in entry:
            console.line(f"  reference: {entry['reference']}")


def overlap(report: LeakReport) -> None:
    """Print the training sets that were compared and every held-out query that one of them contains."""
    rows = [[row["name"], row["prompts"], row.get("leaks", 0)] for row in report["training"]]
    console.table("", ["training set", "prompts", "held-out queries in it"], rows)
    for row in report["training"]:
        if bad := row.get("bad_rows"):
            console.paragraph(
                f"{row['name']}: rows that are no prompts were not compared: {bad:,} "
                "(`draftbench data check` lists them)"
            )
    heldout = sum(part["prompts"] for part in report["heldout"])
    console.line(f"compared with {heldout:,} held-out queries in {len(report['heldout'])} sets")
    for leak in report["leaks"][:_LEAKS_SHOWN]:
        console.line(f"{leak['kind']} ({leak['jaccard']:.2f}):")
        console.line(f"  {leak['training']}, {leak['id']}: {console.shortened(leak['text'], _QUERY_CHARACTERS)}")
        query = console.shortened(leak["heldout_text"], _QUERY_CHARACTERS)
        console.line(f"  {leak['heldout']}, {leak['heldout_id']}: {query}")
    if len(report["leaks"]) > _LEAKS_SHOWN:
        console.line(f"... and {len(report['leaks']) - _LEAKS_SHOWN} more; --json lists them all")
    for names in report["divided_tool_sets"]:
        console.line(f"tool set on both sides: {names}")
    if report["ok"]:
        console.line("no held-out query is in a training set")
    else:
        console.line("HELD-OUT QUERIES ARE IN TRAINING SETS: remove these training prompts")


def imported(report: ImportSummary, folder: str) -> None:
    """Print what an import read, removed and replaced, and how a recipe names the result."""
    rows = sum(file["rows"] for file in report["files"])
    steps = [[step["step"], step["removed"], step["left"]] for step in report["steps"]]
    console.table("", ["step", "removed", "left"], [["rows read", "", rows], *steps])
    for file in report["files"]:
        for remark in remarks(file):
            console.paragraph(f"{file['file']}: {remark}")
    for example in report["bad_examples"]:
        console.line(f"left out: {example}")
    if more := report["bad_rows"] - len(report["bad_examples"]):
        console.line(f"left out: {more:,} more")
    pii, counts = report["pii"], report["counts"]
    if pii["scrubbed"]:
        replaced = ", ".join(f"{name} {n}" for name, n in pii["found"].items())
        where = f"replaced in {pii['prompts']} prompts: {replaced}"
        console.paragraph(where if replaced else "personal data and keys: none of a recognisable form was found")
        console.paragraph(f"note: {pii['remark']}")
    else:
        console.paragraph("personal data and keys were kept as they are (--keep-pii)")
    for note in report["notes"]:
        console.paragraph(f"note: {note}")
    for side in ("train", "heldout"):
        answered = counts[f"{side}_with_reference"]
        console.line(f"{folder}/{side}.jsonl: {counts[side]} prompts, {answered} with a reference answer")
    if counts["heldout"]:
        console.paragraph(f"in a recipe: prompts.train: {folder}/train.jsonl, prompts.heldout: {folder}/heldout.jsonl")
    else:
        console.paragraph(
            f"in a recipe: prompts.train: {folder}/train.jsonl; for prompts.heldout there is no prompt yet"
        )
