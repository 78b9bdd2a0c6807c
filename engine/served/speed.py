"""How fast a server answers: some prompts, one request at a time, its own count of tokens over the seconds it took.

measure/speed.parquet   timed answers
measure/summary.json    tokens a second with an interval over prompts, and whose they are

That is all that can be measured of a served model: without its weights there is no plain decoding to compare with. The
seconds hold the way there and back, and whatever else the server does meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd

from engine.chat.messages import for_api
from engine.chat.prompt import Prompt, prompts_hash
from engine.config.schema import MeasureSpec, ServerSpec
from engine.errors import DraftbenchError
from engine.measure.statistics import bootstrap_ratio
from engine.measure.suite import Measured
from engine.progress import SILENT, TIMING, Progress
from engine.records.speed import Speed
from engine.records.summary import Conditions, Served, Summary
from engine.served.client import ChatServer, read_key
from engine.served.replies import Unanswered
from engine.served.token_counts import FAR_OFF

_WARM_UP_TOKENS = 4


def measure_server(
    server: ServerSpec, prompts: Sequence[Prompt], settings: MeasureSpec, *, progress: Progress = SILENT
) -> tuple[Measured, list[str]]:
    """Time the server on the first `settings.speed_prompts` prompts, after one request that is not counted.

    Also returns why prompts were left out: no answer at the first attempt, or no count of its tokens that can
    be. Raises
    DraftbenchError if none is left.
    """
    asked = prompts[: settings.speed_prompts]
    if not asked:
        raise DraftbenchError("measure.speed_prompts is 0", "speed is all that can be measured of a server", "set it")
    rows, left_out = asyncio.run(_time(server, asked, settings, progress))
    if not rows:
        raise DraftbenchError(
            f"{server.base_url} gave no answer that can be timed",
            left_out[0] if left_out else "",
            "check the server's log, and that its answers count their tokens (`usage`)",
        )
    table = pd.DataFrame(rows)
    rate = bootstrap_ratio(table.tokens, table.seconds, samples=settings.bootstrap_samples, seed=settings.seed)
    kept = [prompt for prompt in asked if prompt.id in set(table.prompt_id)]
    summary = Summary(
        subject="target alone",
        conditions=Conditions(
            heldout_hash=prompts_hash(kept),
            heldout_prompts=len(kept),
            max_new_tokens=settings.speed_tokens,
            seed=settings.seed,
            served_by=f"{server.model} at {server.base_url}",
        ),
        speed=Speed(temperature=settings.speed_temperature, tokens_per_s={"served": rate}),
        served=Served(base_url=server.base_url, model=server.model, positions=[]),
    )
    return Measured(summary, {"speed": table}), left_out


async def _time(
    server: ServerSpec, prompts: Sequence[Prompt], settings: MeasureSpec, progress: Progress
) -> tuple[list[dict[str, Any]], list[str]]:
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    far_off = 0
    once = server.model_copy(update={"attempts": 1, "concurrency": 1})  # a second attempt would count the first's time
    async with ChatServer(once, read_key(once), note=progress.note) as chat:
        try:
            await chat.answer(_body(server, prompts[0], settings, tokens=_WARM_UP_TOKENS))
        except Unanswered as error:
            left_out.append(f"the request before the timing: {error}")
        progress.start(TIMING, len(prompts), "answers")
        for prompt in prompts:
            began = time.perf_counter()
            try:
                reply = await chat.answer(_body(server, prompt, settings, tokens=settings.speed_tokens))
            except Unanswered as error:
                left_out.append(f"{prompt.id}: {error}")
            else:
                seconds = time.perf_counter() - began
                if reply.completion_tokens:
                    row = {"prompt_id": prompt.id, "way": "served", "tokens": reply.completion_tokens}
                    rows.append({**row, "seconds": seconds})
                    far_off += FAR_OFF in reply.noted
                else:
                    why = reply.count_problem or "the server does not say how many tokens it wrote"
                    left_out.append(f"{prompt.id}: {why}")
            progress.advance(1)
            progress.stop_if_asked()
    progress.finish()
    if far_off:
        progress.note(f"in {far_off} of {len(rows)} timed answers: {FAR_OFF}; the speed is by the server's count")
    return rows, left_out


def _body(server: ServerSpec, prompt: Prompt, settings: MeasureSpec, *, tokens: int) -> dict[str, Any]:
    body = {
        "model": server.model,
        "messages": for_api(prompt.messages),
        "temperature": settings.speed_temperature,
        "max_tokens": tokens,
        "seed": settings.seed,
    }
    return body | ({"tools": list(prompt.tools)} if prompt.tools else {})
