"""Answers that other captures already hold: prompt sets overlap, and an answer costs a hundred times its copy.

An answer depends on its prompt, the target, the sampling settings and the prompt's own random
stream, not on the prompts beside it. So a capture whose description differs in the prompts alone
has the same answer for each prompt that is in both: nested sets of a scaling curve are written
once, and a set that is made smaller or larger loses nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.generate import Answer
from engine.fileio import read_json, read_lines

_OF_A_SERVER = ("ids", "prompt_tokens", "noted")  # written beside a served answer (engine.served.capture)


def answers_elsewhere(folder: Path, spec: Mapping[str, Any], wanted: Mapping[str, Sequence[int]]) -> Iterator[Answer]:
    """Answers to the wanted prompts out of the folders beside `folder`, finished or not, each at most once.

    With what a server's answer has beside it. `wanted`: prompt id -> the ids it was rendered to; `index` counts in
    its order. Bytes that do not have their checksum are passed over.
    """
    place = {name: index for index, name in enumerate(wanted)}
    stride = int(spec["signal"]["bytes_per_token"])
    for beside in sorted(path for path in folder.parent.iterdir() if path != folder and _alike(path, spec)):
        for line in read_lines(beside / "answers.jsonl"):
            index = place.get(line["id"])
            if index is None or line["prompt_ids"] != list(wanted[line["id"]]):
                continue
            raw = _bytes_at(beside / "signal.bin", line["offset"], stride * len(line["token_ids"]))
            if zlib.crc32(raw) == line["crc32"]:
                del place[line["id"]]
                signal = (
                    torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.zeros(0, dtype=torch.uint8)
                )
                beside_it = {name: line[name] for name in _OF_A_SERVER if name in line}
                yield Answer(index, line["token_ids"], line["finish_reason"], signal, beside_it)


def _alike(folder: Path, spec: Mapping[str, Any]) -> bool:
    """Whether a capture differs from `spec` in its prompts alone."""
    path = folder / "spec.json"
    if not path.exists():
        return False
    return {**read_json(path), "prompts": None} == {**spec, "prompts": None}


def _bytes_at(path: Path, offset: int, count: int) -> bytes:
    if count == 0 or not path.exists():
        return b""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(count)
