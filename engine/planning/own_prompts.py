"""A user's own prompts: kept in the home, so that a run's recipe names a file that stays, and split to train on them.

prompts/<hash>/NAME.jsonl         as it was given, under the hash of its bytes
prompts/<hash>/split/train.jsonl  what a draft is trained on, and heldout.jsonl, what it is measured on
prompts/<hash>/split/import.json  what each step of the split removed
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.formats import FILE_READERS
from engine.errors import DraftbenchError
from engine.fileio import read_json, sha256_file, write_atomic
from engine.logs.importing import MARKER, ImportOptions, import_logs
from engine.logs.queries import LogSource
from engine.paths import Home, resolve_input

MOST_BYTES = 50_000_000  # of a file that comes through the browser
_HASH_DIGITS = 16
_WANTED_HELDOUT, _LEAST_SHARE, _MOST_SHARE = 30, 0.12, 0.4
_FEW_HELDOUT = 20
_OTHER_SIDE = "held out"  # the step of an import that removes nothing
LEAST_PROMPTS = 16  # of fewer, no side has enough


@dataclass(frozen=True)
class Split:
    """Where both sides of a user's prompts lie, how many each has, and what each step removed, in words."""

    train: str
    heldout: str
    train_prompts: int
    heldout_prompts: int
    steps: tuple[str, ...]


def keep(home: Home, name: str, content: bytes) -> Path:
    """Keep a prompt file in the home. The same bytes under the same name are kept once.

    Raises DraftbenchError for a kind of file that no reader reads, and for one that is empty or too large.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in FILE_READERS:
        raise DraftbenchError(
            f"{name!r} is not a file of prompts",
            f"files that are read end in {', '.join(sorted(FILE_READERS))}",
            "save the prompts as JSON lines: a `prompt` or `messages` in each line",
        )
    if not content.strip():
        raise DraftbenchError(f"{name!r} is empty", "there is nothing to measure on", "give a file with prompts in it")
    if len(content) > MOST_BYTES:
        raise DraftbenchError(
            f"{name!r} has {len(content):,} bytes",
            f"at most {MOST_BYTES:,} are taken through the browser",
            "give its path instead",
        )
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem).strip("-.")[:60] or "prompts"
    path = _folder(home, hashlib.sha256(content).hexdigest()) / f"{stem}{suffix}"
    if not path.exists():
        write_atomic(path, content)
    return path


def keep_pasted(home: Home, text: str) -> Path:
    """Keep pasted prompts: a JSON array, JSON lines, or plain text with one prompt a line."""
    stripped = text.strip()
    if _is_json(stripped, list):
        return keep(home, "pasted.json", stripped.encode())
    if not _is_json(stripped.partition("\n")[0], dict):
        prompts = [line.strip() for line in stripped.splitlines() if line.strip()]
        stripped = "\n".join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts)
    return keep(home, "pasted.jsonl", stripped.encode())


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def split(home: Home, name: str, *, skip_bad: bool = False) -> Split:
    """Split a prompt file into training and held-out prompts, as `draftbench data import` does with logs.

    By conversation, without repeats; made once for each content of the file. Nothing of the text is changed: it stays
    on this machine. Raises DraftbenchError if it cannot be read or has too few prompts for two sides.
    """
    if name.startswith(("hub:", "pack:")):
        raise DraftbenchError(
            f"{name} is not split here", "a set of that kind has its own sides", "choose both in Launch"
        )
    path = resolve_input(name)
    if not path.is_file():
        raise DraftbenchError(f"{name} is a folder", "one file is split into two sides", "choose both sides in Launch")
    out = _folder(home, sha256_file(path)) / ("split-without-bad-rows" if skip_bad else "split")
    if not (out / MARKER).exists():
        rows = sum(1 for line in path.open("rb") if line.strip()) if path.suffix == ".jsonl" else _WANTED_HELDOUT * 4
        share = min(_MOST_SHARE, max(_LEAST_SHARE, _WANTED_HELDOUT / max(1, rows)))
        options = ImportOptions(scenario="curated", keep_pii=True, skip_bad=skip_bad, heldout_share=share)
        import_logs([LogSource(path=str(path))], out, options)
    made = _described(out, read_json(out / MARKER))
    if made.train_prompts < LEAST_PROMPTS // 2 or made.heldout_prompts < 2:
        raise DraftbenchError(
            f"training needs at least {LEAST_PROMPTS} different prompts, and these are too few",
            f"{made.train_prompts} would be left to train on and {made.heldout_prompts} to measure on"
            + "".join(f"; {step}" for step in made.steps),
            "they are enough to measure speed; to train, give more, better some hundred",
        )
    return made


def _described(out: Path, summary: dict[str, Any]) -> Split:
    steps = [
        f"left out: {step['removed']:,}, each {step['step']}"
        for step in summary["steps"]
        if step["removed"] and step["step"] != _OTHER_SIDE
    ]
    heldout = int(summary["counts"]["heldout"])
    if heldout < _FEW_HELDOUT:
        steps.append(f"{heldout} are few to measure on, so intervals will be wide: more prompts make them narrower")
    return Split(
        str(out / "train.jsonl"),
        str(out / "heldout.jsonl"),
        int(summary["counts"]["train"]),
        heldout,
        tuple(steps),
    )


def _folder(home: Home, sha256: str) -> Path:
    return home.root / "prompts" / sha256[:_HASH_DIGITS]
