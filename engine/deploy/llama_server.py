"""llama.cpp's `llama-server`: how it is started with a draft, asked and read.

Read in build 10434. It proposes the draft's likeliest token (`draft-simple` with `p_min` 0) and keeps it if it is the
token that the target's sampler drew. A round proposes up to n_max tokens, but never more than are still wanted less
one; a round without a proposal is no round in its counters. The first token comes from the pass over the prompt.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.chat.prompt import Message, Tool
from engine.deploy.readers.prometheus import samples
from engine.deploy.readers.reading import as_whole, place, seconds
from engine.deploy.server_process import Program
from engine.deploy.server_rounds import rule_of
from engine.deploy.serving import (
    AnswerNotGiven,
    Asked,
    Deployment,
    ServedAnswer,
    exchange,
    exchange_json,
    ids,
    unexpected,
    whole,
)
from engine.errors import DraftbenchError
from engine.records.served import RoundTotals
from engine.served.http import Client

_NOT_PARSED = "does not match the expected"
"""What build 10434 answers, with status 500, where a text ends inside a character, as one of three bytes may."""
_COUNTERS = "llamacpp:spec_decode_"


class LlamaServer:
    """`llama-server` on the CPU, one slot, so that its counters are those of one request at a time."""

    name = "llama.cpp"
    rule = rule_of("llama.cpp")
    health = "/health"
    startup_s = 120.0
    concurrency = 1

    def program(self, executable: Path, deployment: Deployment) -> Program:
        """The command that serves a target in GGUF, with or without a draft in GGUF."""
        threads = str(torch.get_num_threads())  # as many as the times were measured with that predict a speed-up
        command = [str(executable), "-m", str(deployment.target), "-c", str(deployment.context_tokens), "-np", "1"]
        command += ["-ngl", "0", "--device", "none", "-t", threads, "--metrics", "--offline", "--log-colors", "off"]
        if deployment.draft is not None:
            command += ["-md", str(deployment.draft), "--spec-type", "draft-simple"]
            command += ["--spec-draft-n-max", str(deployment.gamma), "--spec-draft-p-min", "0"]
            command += ["--spec-draft-ngl", "0", "--spec-draft-device", "none", "--spec-draft-threads", threads]
        return Program(tuple(command), {"LD_LIBRARY_PATH": str(executable.resolve().parent)})

    def version(self, executable: Path) -> str:
        """The version as the program prints it."""
        environment = {"LD_LIBRARY_PATH": str(executable.resolve().parent)}
        try:
            done = subprocess.run(
                [str(executable), "--version"], capture_output=True, text=True, timeout=60, check=False, env=environment
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DraftbenchError(
                f"{executable} cannot be started: {error}",
                "it should print its version",
                "name another with --program, or `draftbench served setup llama.cpp`",
            ) from None
        printed = re.search(r"version: (.+)", done.stdout + done.stderr)
        if printed is None:
            raise DraftbenchError(
                f"{executable} prints no version of llama.cpp",
                f"it ended with status {done.returncode}",
                "name another with --program, or `draftbench served setup llama.cpp`",
            )
        return printed[1].strip()

    async def ask(self, client: Client, url: str, asked: Asked, *, timed: bool) -> ServedAnswer:
        """Answer one prompt. The counters by place are read before and after, so nobody else may ask meanwhile."""
        body = {
            "prompt": list(asked.prompt_ids),
            "n_predict": asked.limit,
            "temperature": asked.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "samplers": ["temperature"],  # penalties, DRY, XTC and the like are not in the chain at all
            "seed": asked.seed,
            "cache_prompt": False,  # or the prompt's last token alone would be read, in a batch of another shape
            "return_tokens": True,
        }
        before = await _counters(client, url)
        where = f"{url}/completion"
        try:
            reply = await exchange_json(client, where, body)
        except DraftbenchError as error:
            if _NOT_PARSED in error.what:
                raise AnswerNotGiven(error.what, error.why, error.fix) from None
            raise
        after = await _counters(client, url)
        tokens = ids(reply.get("tokens"), "list of tokens", where)
        timings = reply.get("timings")
        if not isinstance(timings, dict):
            raise unexpected(where, "timings", timings)
        taken = seconds(timings, "predicted_ms", where, per_unit=1e-3)
        if taken is None:
            raise unexpected(where, "timings.predicted_ms", taken)
        totals = _totals(timings, before, after, len(tokens), where)
        return ServedAnswer(asked.prompt_id, asked.temperature, tokens, totals, taken)

    async def chat_ids(self, client: Client, url: str, messages: Sequence[Message], tools: Sequence[Tool]) -> list[int]:
        """The ids of `/apply-template`, which is the chat route without the answer."""
        body: dict[str, Any] = {"messages": list(messages)} | ({"tools": list(tools)} if tools else {})
        where = f"{url}/apply-template"
        text = (await exchange_json(client, where, body)).get("prompt")
        if not isinstance(text, str):
            raise unexpected(where, "prompt", text)
        where = f"{url}/tokenize"
        asked = {"content": text, "add_special": False, "parse_special": True}
        return ids((await exchange_json(client, where, asked)).get("tokens"), "list of tokens", where)


@dataclass(frozen=True)
class _Counters:
    """What `/metrics` counts: rounds, and accepted tokens by place. Both None without a draft."""

    rounds: int | None
    accepted_at: list[int]


async def _counters(client: Client, url: str) -> _Counters:
    where = f"{url}/metrics"
    text = (await exchange(client, where)).decode("utf-8", "replace")
    rounds: int | None = None
    places: dict[int, int] = {}
    for (name, labels), value in samples(text, where).items():
        if name == f"{_COUNTERS}num_drafts":
            rounds = as_whole(value, f"{where}: {name}")
        elif name == f"{_COUNTERS}num_accepted_tokens_per_pos":
            number = place(dict(labels).get("position", ""), f"{where}: position")
            places[number] = as_whole(value, f"{where}: {name}")
    return _Counters(rounds, [places.get(number, 0) for number in range(max(places, default=-1) + 1)])


def _totals(
    timings: dict[str, Any], before: _Counters, after: _Counters, emitted: int, where: str
) -> RoundTotals | None:
    """The rounds of one request. None without a draft; an answer of one token has a draft, but no round."""
    if after.rounds is None or before.rounds is None or not after.accepted_at:
        return None
    if len(before.accepted_at) > len(after.accepted_at):
        raise unexpected(where, "count of a place that it had before", after.accepted_at)
    earlier = before.accepted_at + [0] * (len(after.accepted_at) - len(before.accepted_at))
    totals = RoundTotals(
        requests=1,
        rounds=as_whole(after.rounds - before.rounds, f"{where}: the change of {_COUNTERS}num_drafts"),
        proposed=whole(timings.get("draft_n", 0), "timings.draft_n", where),
        accepted=whole(timings.get("draft_n_accepted", 0), "timings.draft_n_accepted", where),
        accepted_at=[
            as_whole(late - early, f"{where}: the change of a count by place")
            for late, early in zip(after.accepted_at, earlier, strict=True)
        ],
        emitted=emitted,
    )
    if sum(totals.accepted_at or []) != totals.accepted:
        raise DraftbenchError(
            f"llama-server reports {totals.accepted} accepted tokens in its reply and {totals.accepted_at} by place",
            "the two belong to one request only if nobody else asks meanwhile",
            "let nothing else use the server",
        )
    return totals
