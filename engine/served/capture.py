"""A capture whose text comes from a server: the same folder without a signal, read like any other.

The text is what the target wrote, but its token ids may differ from those the target wrote it with (a model may split
a word into other tokens than its tokenizer would, and the server may have cut white space at the ends). The draft then
learns the tokenizer's way of splitting it (`engine.served.prompt_request`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.capture.plan import CapturePlan, plan_for_writer
from engine.capture.rows import Answer
from engine.capture.signal import SERVER_LOGPROBS
from engine.capture.store import Capture, GrowingCapture, completed, exclusive
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, ServerSpec
from engine.errors import DraftbenchError
from engine.fileio import content_hash, disk_errors, read_json, read_lines, write_json
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.capture import ServedAnswers
from engine.served.client import ChatServer, holds_key, read_key
from engine.served.logprobs import TokenBytes, decode_logprobs, text_of
from engine.served.prompt_request import PromptRequest
from engine.served.replies import Reply, Unanswered
from engine.served.request_rate import RateLimiter
from engine.served.requests import request_all

_FORMAT = 2  # increase it when the same reply becomes other tokens, or requests ask for other text
_UNANSWERED = "unanswered.json"  # in the capture's folder: prompts without an answer when they were last requested
_SHOWN_FAILURES = 3
_MAX_NOTED = 20  # kinds of deviations that are listed, the most frequent first
_PROBES = (
    1,
    19,
)  # prompts requested until an answer has a token with a log-probability; after them the server has none


def plan_served(
    captures: Path,
    target: LoadedModel,
    prompts: Sequence[Prompt],
    settings: CaptureSpec,
    *,
    with_logprobs: bool = False,
) -> CapturePlan:
    """Plan a capture of answers of `settings.server`, whose log-probabilities are kept if `with_logprobs`.

    The server, its model and the tokenizer are part of its address. The weights at hand are not.
    """
    assert settings.server is not None
    writer = {
        "format": _FORMAT,
        "server": {"base_url": settings.server.base_url.rstrip("/"), "model": settings.server.model},
        "tokenizer": tokenizer_hash(target.tokenizer),
        **target.turns.end_identity(),
    }
    return plan_for_writer(writer, captures, target, prompts, settings, SERVER_LOGPROBS if with_logprobs else "none")


def is_served(plan: CapturePlan) -> bool:
    """Whether a plan's answers come from a server."""
    return "server" in plan.spec


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash what decides the ids of a text: the fast tokenizer's own file, or the vocabulary of a slow one."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return content_hash(fast.to_str() if fast is not None else tokenizer.get_vocab())


def make_served(
    plan: CapturePlan,
    spec: ServerSpec,
    target: LoadedModel,
    *,
    limiter: RateLimiter | None = None,
    progress: Progress = SILENT,
) -> Capture:
    """Return the capture of a plan, after requesting the missing answers from the server.

    Answers are kept as they come. Raises DraftbenchError if a prompt got none; the same command then requests only
    the rest. Raises Cancelled when the progress says so.
    """
    return completed(plan, lambda: _Filling(plan, spec, target, limiter, progress).fill(), progress)


def check_logprobs(
    plan: CapturePlan,
    spec: ServerSpec,
    target: LoadedModel,
    *,
    limiter: RateLimiter | None = None,
    progress: Progress = SILENT,
) -> None:
    """Request the first answers of a plan that needs log-probabilities, to fail early where there are none.

    The answers are kept in the capture. Raises DraftbenchError if the server sends no log-probabilities, or sends
    them for tokens that are not those of the model at hand.
    """
    if (plan.folder / "done.json").exists():
        return
    with disk_errors(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(plan.folder, progress, f"capture {plan.address}"):
            _Filling(plan, spec, target, limiter, progress).probe()
            progress.finish()


class _Filling:
    """Requests the missing answers of a capture from its server. The caller holds the folder's lock."""

    def __init__(
        self,
        plan: CapturePlan,
        spec: ServerSpec,
        target: LoadedModel,
        limiter: RateLimiter | None,
        progress: Progress,
    ) -> None:
        self.plan, self.spec, self.target, self.limiter, self.progress = plan, spec, target, limiter, progress
        self.growing = GrowingCapture(plan, progress)
        # Prompts that failed before come last: a few that are never answered must not end every resumed capture.
        path = plan.folder / _UNANSWERED
        self._failed_before = set(read_json(path)) if path.exists() else set[str]()
        self.missing = sorted(self.growing.missing, key=lambda i: plan.prompts[i].id in self._failed_before)

    def fill(self) -> None:
        """Request all missing answers and finish the capture."""
        if self.plan.signal.kind == SERVER_LOGPROBS and self.missing:
            self.probe()
        failed = self._request(self.missing)
        if failed:
            self.progress.finish()
            write_json(
                self.plan.folder / _UNANSWERED, sorted({*self._failed_before, *(prompt_id for prompt_id, _ in failed)})
            )
            raise _unanswered(self.plan, self.spec, failed)
        counts, prompts = count_served(self.plan), len(self.plan.prompts)
        if counts.other_prompt_tokens:
            self.progress.note(
                f"{counts.other_prompt_tokens} of {prompts} prompts have another number of tokens on the server: if "
                "its chat template is not the local one, the draft learns from other prompts than it is served with"
            )
        for deviation, count in counts.noted.items():
            self.progress.note(f"in {count} of {prompts} answers of {self.spec.model}: {deviation}")
        self.growing.finish(counts)

    def probe(self) -> None:
        """Request one prompt, then a few, until an answer has a token with a certain id and a probability."""
        failed: list[tuple[str, str]] = []
        for count in _PROBES:
            if self._has_logprobs() or not self.missing:
                break
            batch = self.missing[:count]
            failed = self._request(batch)
            unanswered = {prompt_id for prompt_id, _ in failed}
            self.missing = [i for i in self.missing if i not in batch or self.plan.prompts[i].id in unanswered]
        if self._has_logprobs():
            return
        if failed:
            raise _unanswered(self.plan, self.spec, failed)
        raise DraftbenchError(
            f"no token of {self.spec.model}'s first answers has a certain id and a probability",
            "its tokens are not those of the model at hand, or the server sends no log-probabilities",
            "name a model with the served one's tokenizer in target.model, or set measure.against: model",
        )

    def _has_logprobs(self) -> bool:
        """Whether the answers kept so far have a token with a probability."""
        path = self.plan.folder / "signal.bin"
        raw = bytearray(path.read_bytes()) if path.exists() else bytearray()
        if not raw:
            return False
        signal = torch.frombuffer(raw, dtype=torch.uint8).view(-1, self.plan.signal.bytes_per_token)
        return bool(torch.isfinite(decode_logprobs(signal)[0]).any())

    def _request(self, indices: Sequence[int]) -> list[tuple[str, str]]:
        """Request these prompts and keep the answers; return the id of each prompt that got none, and why."""
        if not indices:
            return []
        key = read_key(self.spec)
        token_bytes = TokenBytes(self.target.tokenizer) if self.plan.signal.kind == SERVER_LOGPROBS else None
        requests = [PromptRequest(self.plan, index, self.target, token_bytes) for index in indices]
        unanswered = len(self.growing.missing)
        has_answered = unanswered < len(self.plan.prompts) or len(indices) < unanswered

        def keep(number: int, reply: Reply) -> None:
            request, tokenised = requests[number], requests[number].answer(reply)
            if holds_key(f"{reply.text} {reply.reasoning} {reply.tool_calls} {text_of(reply.tokens)}", key):
                raise Unanswered("an answer that repeats the key, which must not be kept (not retried)")
            if not tokenised.ids:
                raise Unanswered("an answer without tokens (not retried)")
            answer = Answer(number, tokenised.ids, request.ending(tokenised.ids, reply), tokenised.signal)
            noted = sorted({*reply.noted, *tokenised.noted})
            more = {"ids": tokenised.source, "prompt_tokens": reply.prompt_tokens} | ({"noted": noted} if noted else {})
            self.growing.add(request.index, answer, **more)

        async def request_them() -> list[tuple[int, str]]:
            async with ChatServer(self.spec, key, self.limiter, self.progress.note) as server:
                bodies = [request.body() for request in requests]
                failed = await request_all(server, bodies, keep, self.progress.stop_if_asked, has_answered=has_answered)
                if server.samples_its_own_way:
                    self.progress.note(
                        f"{self.spec.model} refuses top_k, min_p and repetition_penalty: it draws with its own "
                        "settings, and the draft does not learn what they cut off"
                    )
                return failed

        return [(requests[number].prompt.id, why) for number, why in asyncio.run(request_them())]


def count_served(plan: CapturePlan) -> ServedAnswers:
    """Count how the answers became ids, prompts that the server counts differently, and deviations in answers."""
    lines = list(read_lines(plan.folder / "answers.jsonl"))
    counted = [line for line in lines if isinstance(line.get("prompt_tokens"), int)]
    noted = Counter(deviation for line in lines for deviation in line.get("noted", []))
    counts = ServedAnswers(
        base_url=plan.spec["server"]["base_url"],
        model=plan.spec["server"]["model"],
        ids_from_server=sum(line.get("ids") == "server" for line in lines),
        ids_from_text=sum(line.get("ids") == "text" for line in lines),
        other_prompt_tokens=sum(line["prompt_tokens"] != len(line["prompt_ids"]) for line in counted),
    )
    return counts.model_copy(update={"noted": dict(noted.most_common(_MAX_NOTED))}) if noted else counts


def _unanswered(plan: CapturePlan, spec: ServerSpec, failed: list[tuple[str, str]]) -> DraftbenchError:
    done = sum(1 for _ in read_lines(plan.folder / "answers.jsonl"))
    names = ", ".join(repr(prompt_id) for prompt_id, _ in failed[:_SHOWN_FAILURES])
    more = f" and {len(failed) - _SHOWN_FAILURES} more" if len(failed) > _SHOWN_FAILURES else ""
    return DraftbenchError(
        f"{spec.base_url} did not answer {names}{more}: {failed[-1][1]}",
        f"{done} of {len(plan.prompts)} prompts are answered, and their answers are kept",
        "the same command goes on with the rest once the server answers (a run: `draftbench run --resume ID`); "
        "capture.server.attempts, timeout_s and requests_per_minute control the requests. "
        "A prompt that the server always refuses has to be taken out",
    )
