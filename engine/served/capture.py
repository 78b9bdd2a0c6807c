"""A capture whose text comes from a server: the same folder, read like any other, without a signal or with the
likeliest tokens that the server sends (`engine.served.likeliest`).

The text is what the target wrote, but its token ids may differ from those the target wrote it with (a model may split
a word into other tokens than its tokenizer would, and the server may have cut white space at the ends). The draft then
learns the tokenizer's way of splitting it (`engine.served.prompt_request`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import SecretStr

from engine.capture.answer import Answer
from engine.capture.plan import CapturePlan, plan_for_writer
from engine.capture.signal import SERVER_LOGPROBS, signal_format
from engine.capture.store import Capture, GrowingCapture, completed, exclusive
from engine.chat.prompt import Prompt
from engine.config.schema import CaptureSpec, ServerSpec
from engine.errors import DraftbenchError
from engine.fileio import content_hash, disk_errors, read_json, read_lines, write_json
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.capture import ServedAnswers
from engine.served.client import ChatServer, holds_key, read_keys
from engine.served.logprobs import TokenBytes, decode_logprobs, text_of
from engine.served.pool import ServerPool
from engine.served.prompt_request import PromptRequest
from engine.served.replies import Reply, Unanswered
from engine.served.request_rate import RateLimiter
from engine.served.requests import request_all
from engine.served.server_checks import CHECKED_PROMPTS, ServerChecks
from engine.served.signal_counts import remarks, served_signal

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
    """Plan a capture of answers of `settings.server`: with its likeliest tokens if the signal is compact, or with the
    log-probabilities of its text if `with_logprobs`.

    The first server, its model, the tokenizer and the log-probabilities asked for are part of its address. The weights
    at hand are not, nor are servers that share the load.
    """
    spec = settings.server
    assert spec is not None
    server: dict[str, Any] = {"base_url": spec.base_url.rstrip("/"), "model": spec.model}
    kind, entries = SERVER_LOGPROBS if with_logprobs else settings.signal, 1
    if kind == "compact":
        assert spec.logprobs is not None  # the schema asks for it
        server["logprobs"], entries = spec.logprobs, spec.logprobs + 1  # the token written may be none of the likeliest
    writer = {
        "format": _FORMAT,
        "server": server,
        "tokenizer": tokenizer_hash(target.tokenizer),
        **target.turns.end_identity(),
    }
    signal = replace(signal_format(kind, target.model, entries), has_unused=True)
    return plan_for_writer(writer, captures, target, prompts, settings, signal)


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


def check_logprobs(plan: CapturePlan, spec: ServerSpec, target: LoadedModel, *, progress: Progress = SILENT) -> None:
    """Request the first answers of a plan that needs log-probabilities, to fail early where there are none.

    The answers are kept in the capture. Raises DraftbenchError if the server sends no log-probabilities, or sends
    them for tokens that are not those of the model at hand.
    """
    if (plan.folder / "done.json").exists():
        return
    with disk_errors(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(plan.folder, progress, f"capture {plan.address}"):
            _Filling(plan, spec, target, None, progress).probe()
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
        self.needs_bytes = plan.signal.kind in (SERVER_LOGPROBS, "compact")
        self._checks = self._server_checks()
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
        if counts.signal is not None:
            for remark in remarks(counts.signal, self.spec.model, self.plan.spec["temperature"]):
                self.progress.note(remark)
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
        key = read_keys(self.spec)
        token_bytes = TokenBytes(self.target.tokenizer) if self.needs_bytes else None
        requests = [PromptRequest(self.plan, index, self.target, token_bytes) for index in indices]
        unanswered = len(self.growing.missing)
        has_answered = unanswered < len(self.plan.prompts) or len(indices) < unanswered

        def keep(number: int, reply: Reply) -> None:
            request, tokenised = requests[number], requests[number].answer(reply)
            if holds_key(f"{reply.text} {reply.reasoning} {reply.tool_calls} {text_of(reply.tokens)}", key):
                raise Unanswered("an answer that repeats the key, which must not be kept (not retried)")
            if not tokenised.ids:
                raise Unanswered("an answer without tokens (not retried)")
            answer = Answer(number, tokenised.ids, request.ending(tokenised.ids), tokenised.signal)
            noted = sorted({*reply.noted, *tokenised.noted})
            more: dict[str, Any] = {"ids": tokenised.source, "prompt_tokens": reply.prompt_tokens}
            more |= {"noted": noted} if noted else {}
            more |= {"server": reply.server} if reply.server else {}
            more |= {"signal": tokenised.left_out.document()} if tokenised.left_out is not None else {}
            self.growing.add(request.index, answer, **more)

        async def request_them() -> list[tuple[int, str]]:
            async with self._opened(key) as server:
                bodies = [request.body() for request in requests]
                if isinstance(server, ChatServer):
                    try:
                        await self._checks.check(self.spec.base_url, server.answer)
                    except Unanswered as error:
                        return [(0, server.without_key(str(error)))]
                failed = await request_all(server, bodies, keep, self.progress.stop_if_asked, has_answered=has_answered)
                if server.samples_its_own_way:
                    self.progress.note(
                        f"{self.spec.model} refuses top_k, min_p and repetition_penalty: it draws with its own "
                        "settings, and the draft does not learn what they cut off"
                    )
                return failed

        return [(requests[number].prompt.id, why) for number, why in asyncio.run(request_them())]

    def _opened(self, key: SecretStr | None) -> ChatServer | ServerPool:
        """The server, or all of them."""
        if self.spec.also_at:
            return ServerPool(self.spec, key, self.limiter, self.progress.note, self._checks)
        return ChatServer(self.spec, key, self.limiter, self.progress.note)

    def _server_checks(self) -> ServerChecks:
        """What the servers must show, with requests for the first prompts."""
        logprobs = int(self.plan.spec["server"].get("logprobs", 0))
        several = bool(self.spec.also_at)
        if not (logprobs or several):
            return ServerChecks([], self.progress.note)
        token_bytes = TokenBytes(self.target.tokenizer) if self.needs_bytes else None
        numbers = range(min(CHECKED_PROMPTS, len(self.plan.prompts)))
        bodies = [PromptRequest(self.plan, number, self.target, token_bytes).body() for number in numbers]
        return ServerChecks(bodies, self.progress.note, logprobs, several)


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
    more: dict[str, Any] = {"noted": dict(noted.most_common(_MAX_NOTED))} if noted else {}
    if answered_by := Counter(line["server"] for line in lines if line.get("server")):
        more["answered_by"] = dict(answered_by)
    if plan.signal.kind == "compact":
        more["signal"] = served_signal(plan, lines)
    return counts.model_copy(update=more) if more else counts


def _unanswered(plan: CapturePlan, spec: ServerSpec, failed: list[tuple[str, str]]) -> DraftbenchError:
    done = sum(1 for _ in read_lines(plan.folder / "answers.jsonl"))
    names = ", ".join(repr(prompt_id) for prompt_id, _ in failed[:_SHOWN_FAILURES])
    more = f" and {len(failed) - _SHOWN_FAILURES} more" if len(failed) > _SHOWN_FAILURES else ""
    return DraftbenchError(
        f"{spec.base_url} did not answer {names}{more}: {failed[-1][1]}",
        f"{done} of {len(plan.prompts)} prompts are answered, and their answers are kept",
        "the same command continues with the rest once the server answers (a run: `draftbench run --resume ID`); "
        "capture.server.attempts, timeout_s and requests_per_minute control the requests. "
        "A prompt that the server always refuses has to be taken out",
    )
