"""A worker that fills shards on a node: it loads the target once, and works in the home or sends its answers.

It may be called twice for one shard, as after a lost node. In a home that the node sees, the shard's lock and its
resumption make that harmless; elsewhere rows hold single answers, each with its checksum, and who collects them takes
each prompt once.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.capture.plan import CapturePlan
from engine.capture.shards import fill_shard
from engine.capture.store import Capture
from engine.chat.rendering import template_hash
from engine.cluster.node import differing_build
from engine.cluster.shared_home import node_folder, sees_home
from engine.config.reading import parse_recipe
from engine.config.schema import CaptureSpec
from engine.errors import DraftbenchError, first_line
from engine.fileio import content_hash, read_lines
from engine.models.load import LoadedModel
from engine.progress import SILENT
from engine.records.capture import CaptureCounts
from engine.runs.faults import explain
from engine.runs.session import answering, load_target
from engine.served.capture import is_served, tokenizer_hash

CLOSING = -1  # the index of a row that says that a shard is done, or failed
_BATCH_BYTES = 16_000_000
_COLUMNS = pa.schema(
    [
        ("shard", pa.int64()),
        ("index", pa.int64()),
        ("line", pa.string()),
        ("signal", pa.large_binary()),
        ("error", pa.string()),
    ]
)
"""shard: number of the task. index: of the prompt in its shard, or CLOSING. line: of answers.jsonl; of a closing row
what the session did (`LastSession`), "" from a shared home. error: the parts of a DraftbenchError as JSON, or ""."""


@dataclass(frozen=True)
class Task:
    """A shard, and the indices of those of its prompts that have no answer at home."""

    shard: CapturePlan
    missing: list[int]


class ShardWorker:
    """Fills shards, one per call. What stands in the way of all of them is the answer to each."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        """`order`: recipe, home, token and build of the machine that sends it."""
        self.order = order
        self.target: LoadedModel | None = None
        self.refusal = differing_build(order["build"], socket.gethostname())
        if self.refusal is None:
            try:
                self.recipe = parse_recipe(order["recipe"], stored=True)
                if not self.recipe.resources.gpus:
                    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the node may lend its cards to others
                self.target = load_target(self.recipe)
            except Exception as error:
                self.refusal = _in_words(error)

    def work(self, number: int, task: Task) -> Iterator[pa.Table]:
        """Do the task of this number; yields rows, the last of which is a closing one."""
        try:
            if self.target is None:
                yield _rows([_closing(number, error=self.refusal)])
            elif sees_home(Path(self.order["home"]), self.order["token"]):
                _check_target(task.shard, self.target)
                fill_shard(task.shard, answering(self.target, self.recipe.capture, SILENT))
                yield _rows([_closing(number)])
            else:
                _check_target(task.shard, self.target)
                yield from _apart(number, task, self.target, self.recipe.capture, self.order["token"])
        except Exception as error:
            yield _rows([_closing(number, error=_in_words(error))])


def _apart(number: int, task: Task, target: LoadedModel, settings: CaptureSpec, token: str) -> Iterator[pa.Table]:
    """Answer what is missing of a shard in a folder of this node, and yield the answers."""
    folder = node_folder(token) / "shards"
    part = replace(task.shard.part(task.missing, folder), whole=None)
    part = replace(part, folder=folder / content_hash(part.spec)[:24])  # a second call goes on from there
    capture = answering(target, settings, SILENT)(part)
    yield from _answers(number, task, part, capture)
    shutil.rmtree(part.folder, ignore_errors=True)


def _answers(number: int, task: Task, part: CapturePlan, capture: Capture) -> Iterator[pa.Table]:
    places = {prompt.id: task.missing[i] for i, prompt in enumerate(part.prompts)}
    rows: list[dict[str, Any]] = []
    size = 0
    with open(part.folder / "signal.bin", "rb") as file:
        for line in read_lines(part.folder / "answers.jsonl"):
            file.seek(line["offset"])
            raw = file.read(part.signal.bytes_per_token * len(line["token_ids"]))
            text = json.dumps(line, ensure_ascii=False)
            rows.append({"shard": number, "index": places[line["id"]], "line": text, "signal": raw, "error": ""})
            size += len(raw) + len(text)
            if size >= _BATCH_BYTES:
                yield _rows(rows)
                rows, size = [], 0
    yield _rows([*rows, _closing(number, capture.counts)])


def _closing(number: int, counts: CaptureCounts | None = None, error: dict[str, str] | None = None) -> dict[str, Any]:
    line = "" if counts is None else counts.last_session.model_dump_json()
    words = "" if error is None else json.dumps(error)
    return {"shard": number, "index": CLOSING, "line": line, "signal": b"", "error": words}


def _rows(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=_COLUMNS)


def _check_target(shard: CapturePlan, target: LoadedModel) -> None:
    """Refuse to answer for another target than the plan's: a model's name may mean other files on another node."""
    here = {"template": template_hash(target.tokenizer)}
    here |= (
        {"tokenizer": tokenizer_hash(target.tokenizer)}
        if is_served(shard)
        else {"target": target.fingerprint, "dtype": target.dtype_name}
    )
    wrong = [name for name, value in here.items() if shard.spec[name] != value]
    if wrong:
        raise DraftbenchError(
            f"the {' and the '.join(wrong)} of {target.spec.model} on node {socket.gethostname()} is not the capture's",
            "its answers would be those of another model",
            "put the same files on every node, and name a dtype (--set target.dtype=float32) where devices differ",
        )


def _in_words(error: Exception) -> dict[str, str]:
    explained = explain(error)
    if explained is not None:
        return explained.as_dict()
    return {"what": f"{type(error).__name__}: {first_line(error)}", "why": traceback.format_exc()[-2000:], "fix": ""}
