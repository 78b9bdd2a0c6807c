"""A capture whose text comes from a server: the same folder, no signal, read like any other.

Text is what the target wrote, though not always the ids it wrote it with (a model may spell a word
with other tokens than its tokenizer would, and leading or trailing white space may have been cut),
so the draft then learns the tokenizer's spelling (`engine.served.question`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.generate import Answer
from engine.capture.plan import CapturePlan, plan_for_writer
from engine.capture.signal import SERVER_LOGPROBS
from engine.capture.store import Capture, GrowingCapture, completed, exclusive
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, ServerSpec
from engine.errors import DraftbenchError
from engine.fileio import content_hash, disk_errors, read_json, read_lines, write_json
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.served.client import ChatServer, holds_key, read_key
from engine.served.logprobs import Spelling, read_told, spelt
from engine.served.prompt_request import Answered, Question
from engine.served.replies import Reply, Unanswered
from engine.served.request_rate import Pace
from engine.served.requests import fetch

_FORMAT = 2  # raise it when a reply becomes other tokens, or a server is asked for others
_FAILED = "unanswered.json"  # in the capture's folder: prompts that got no answer when they were last asked
_SHOWN_FAILURES = 3
_MOST_NOTED = 20  # kinds of deviations that are listed, the most frequent first
_PROBES = (1, 19)  # prompts asked at once until an answer has a token that can be used; then a server tells none


def plan_served(
    captures: Path, target: LoadedModel, prompts: Sequence[Prompt], settings: CaptureSpec, *, told: bool = False
) -> CapturePlan:
    """As `plan_capture`, for answers of `settings.server`; `told`: with what the server says of its tokens.

    The address covers what changes the answers or their tokens: server, model, tokenizer,
    template, prompts and sampling. The weights at hand are not part of it: they only stand in.
    """
    assert settings.server is not None
    writer = {
        "format": _FORMAT,
        "server": {"base_url": settings.server.base_url.rstrip("/"), "model": settings.server.model},
        "tokenizer": tokenizer_hash(target.tokenizer),
        **target.turns.end_identity(),
    }
    return plan_for_writer(writer, captures, target, prompts, settings, SERVER_LOGPROBS if told else "none")


def is_served(plan: CapturePlan) -> bool:
    """Whether a plan's answers come from a server."""
    return "server" in plan.spec


def tokenizer_hash(tokenizer: Any) -> str:
    """What decides which ids a text becomes: the tokenizer's own file, or its tokens if it is of the slow kind."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return content_hash(fast.to_str() if fast is not None else tokenizer.get_vocab())


def make_served(
    plan: CapturePlan, spec: ServerSpec, target: LoadedModel, *, pace: Pace | None = None, progress: Progress = SILENT
) -> Capture:
    """The capture of a plan: read if it is finished, else what is missing is asked of the server.

    Answers are kept as they come. Raises DraftbenchError if a prompt got none; the same command
    then asks only for the rest. Raises Cancelled when the progress says so.
    """
    return completed(plan, lambda: _fill(plan, spec, target, pace, progress), progress)


def prove_told(
    plan: CapturePlan, spec: ServerSpec, target: LoadedModel, *, pace: Pace | None = None, progress: Progress = SILENT
) -> None:
    """Ask a prompt or a few of a plan that needs log-probabilities, before anything is built on their coming.

    The answers are kept in the capture. Raises DraftbenchError if the server tells none, or of tokens that are not
    those of the model at hand.
    """
    if (plan.folder / "done.json").exists():
        return
    with disk_errors(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(plan.folder, progress, f"capture {plan.address}"):
            _prove(GrowingCapture(plan, progress), spec, target, pace, progress)
            progress.finish()


def _prove(
    growing: GrowingCapture, spec: ServerSpec, target: LoadedModel, pace: Pace | None, progress: Progress
) -> list[int]:
    """Ask one prompt, then a few, until an answer tells of a token which it is and how likely it was; the rest."""
    missing, failed = _in_turn(growing.plan, growing.missing), list[tuple[str, str]]()
    for count in _PROBES:
        if _tells(growing.plan) or not missing:
            break
        wanted = missing[:count]
        failed = _ask(growing, wanted, spec, target, pace, progress)
        without = {name for name, _ in failed}
        missing = [w for w in missing if w not in wanted or growing.plan.prompts[w].id in without]
    if _tells(growing.plan):
        return missing
    if failed:
        raise _unanswered(growing.plan, spec, failed)
    raise DraftbenchError(
        f"of no token of {spec.model}'s first answers it is certain which one it is and how likely",
        "its tokens are not those of the model at hand, or the server sends no log-probabilities of them",
        "name a model with the served one's tokenizer in target.model, or set measure.against: model",
    )


def _tells(plan: CapturePlan) -> bool:
    """Whether the answers kept so far hold a token with its probability."""
    path = plan.folder / "signal.bin"
    raw = bytearray(path.read_bytes()) if path.exists() else bytearray()
    if not raw:
        return False
    told = torch.frombuffer(raw, dtype=torch.uint8).view(-1, plan.signal.bytes_per_token)
    return bool(torch.isfinite(read_told(told)[0]).any())


def _fill(plan: CapturePlan, spec: ServerSpec, target: LoadedModel, pace: Pace | None, progress: Progress) -> None:
    growing = GrowingCapture(plan, progress)
    told_plan = plan.signal.kind == SERVER_LOGPROBS and bool(growing.missing)
    missing = _prove(growing, spec, target, pace, progress) if told_plan else _in_turn(plan, growing.missing)
    failed = _ask(growing, missing, spec, target, pace, progress) if missing else []
    if failed:
        progress.finish()
        write_json(plan.folder / _FAILED, sorted({*_failed_before(plan), *(name for name, _ in failed)}))
        raise _unanswered(plan, spec, failed)
    told = _told(plan)
    if told["other_prompt_tokens"]:
        progress.note(
            f"{told['other_prompt_tokens']} of {len(plan.prompts)} prompts have another number of tokens on the server: "
            "if its chat template is not the local one, the draft learns from other prompts than it will be served with"
        )
    for deviation, count in told.get("noted", {}).items():
        progress.note(f"in {count} of {len(plan.prompts)} answers of {spec.model}: {deviation}")
    growing.finish(server={**plan.spec["server"], **told})


def _ask(
    growing: GrowingCapture,
    wanted: Sequence[int],
    spec: ServerSpec,
    target: LoadedModel,
    pace: Pace | None,
    progress: Progress,
) -> list[tuple[str, str]]:
    """Ask these prompts of the server and keep its answers; who got none, and why."""
    plan, key = growing.plan, read_key(spec)
    spelling = Spelling(target.tokenizer) if plan.signal.kind == SERVER_LOGPROBS else None
    asked = [Question(plan, which, target, spelling) for which in wanted]
    answered_before = len(growing.missing) < len(plan.prompts) or len(wanted) < len(growing.missing)

    def keep(index: int, reply: Reply) -> None:
        question, answered = asked[index], asked[index].answer(reply)
        if holds_key(f"{reply.text} {reply.reasoning} {reply.tool_calls} {spelt(reply.tokens)}", key):
            raise Unanswered("an answer that repeats the key, which must not be kept (not asked again)")
        if not answered.ids:
            raise Unanswered("an answer without tokens (not asked again)")
        growing.add(
            question.which,
            Answer(index, answered.ids, question.ending(answered.ids, reply), answered.signal),
            **_beside(reply, answered),
        )

    async def ask() -> list[tuple[int, str]]:
        async with ChatServer(spec, key, pace, progress.note) as server:
            bodies = [question.body() for question in asked]
            failed = await fetch(server, bodies, keep, progress.stop_if_asked, has_answered=answered_before)
            if server.samples_its_own_way:
                progress.note(
                    f"{spec.model} refuses top_k, min_p and repetition_penalty: it draws with its own settings, "
                    "and what they cut off is not learnt"
                )
            return failed

    return [(asked[index].prompt.id, why) for index, why in asyncio.run(ask())]


def _beside(reply: Reply, answered: Answered) -> dict[str, Any]:
    """What is kept of a reply beside its tokens."""
    noted = sorted({*reply.noted, *answered.noted})
    return {"ids": answered.source, "prompt_tokens": reply.prompt_tokens, **({"noted": noted} if noted else {})}


def _in_turn(plan: CapturePlan, missing: Sequence[int]) -> list[int]:
    """The missing prompts, last those that got no answer before: a few that never will must not end each resumed fetch."""
    failed = _failed_before(plan)
    return sorted(missing, key=lambda which: plan.prompts[which].id in failed)


def _failed_before(plan: CapturePlan) -> set[str]:
    path = plan.folder / _FAILED
    return set(read_json(path)) if path.exists() else set()


def _told(plan: CapturePlan) -> dict[str, Any]:
    """How the answers became ids, how many prompts the server counts otherwise, and in what answers deviate."""
    lines = list(read_lines(plan.folder / "answers.jsonl"))
    counted = [line for line in lines if isinstance(line.get("prompt_tokens"), int)]
    noted = Counter(deviation for line in lines for deviation in line.get("noted", []))
    return {
        "ids_from_server": sum(line.get("ids") == "server" for line in lines),
        "ids_from_text": sum(line.get("ids") == "text" for line in lines),
        "other_prompt_tokens": sum(line["prompt_tokens"] != len(line["prompt_ids"]) for line in counted),
        **({"noted": dict(noted.most_common(_MOST_NOTED))} if noted else {}),
    }


def _unanswered(plan: CapturePlan, spec: ServerSpec, failed: list[tuple[str, str]]) -> DraftbenchError:
    done = sum(1 for _ in read_lines(plan.folder / "answers.jsonl"))
    names = ", ".join(repr(name) for name, _ in failed[:_SHOWN_FAILURES])
    more = f" and {len(failed) - _SHOWN_FAILURES} more" if len(failed) > _SHOWN_FAILURES else ""
    return DraftbenchError(
        f"{spec.base_url} did not answer {names}{more}: {failed[-1][1]}",
        f"{done} of {len(plan.prompts)} prompts are answered, and their answers are kept",
        "the same command goes on with the rest once the server answers (a run: `draftbench run --resume ID`); "
        "capture.server.attempts, timeout_s and requests_per_minute say how it is asked. "
        "A prompt that the server always refuses has to be taken out",
    )
