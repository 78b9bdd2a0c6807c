"""A capture whose text comes from a server: the same folder, no signal, read like any other.

The server tells its answer as text, some also as token ids. Ids are taken as they are. Text is
split by the local tokenizer, and the end-of-turn token follows where the server says that the
answer ended: that is the text the target wrote, though not always the ids it wrote it with (a
model may spell a word with other tokens than its tokenizer would, and leading or trailing white
space may have been cut), so the draft then learns the tokenizer's spelling.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError

from engine.capture.fetch import fetch
from engine.capture.generate import Answer
from engine.capture.pace import Pace
from engine.capture.replies import Reply, Unanswered
from engine.capture.server import ChatServer, read_key
from engine.capture.signal import signal_format
from engine.capture.store import Capture, CapturePlan, GrowingCapture, completed
from engine.capture.told import Spelling, certain_ids, spelt, told_signal
from engine.config import CaptureSpec, ServerSpec
from engine.data.logs import reference_of
from engine.data.prompts import Message, Prompt, Tool
from engine.data.records import BadRecordError
from engine.data.rendering import conversation, end_of_turn, render, template_hash
from engine.errors import DraftbenchError
from engine.fileio import content_hash, read_json, read_lines, write_json
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress

_FORMAT = 2  # raise it when a reply becomes other tokens, or a server is asked for others
_FAILED = "unanswered.json"  # in the capture's folder: prompts that got no answer when they were last asked
_SHOWN_FAILURES = 3
_NO_SIGNAL = torch.zeros(0, dtype=torch.uint8)


def plan_served(
    captures: Path, target: LoadedModel, prompts: Sequence[Prompt], settings: CaptureSpec, *, told: bool = False
) -> CapturePlan:
    """As `plan_capture`, for answers of `settings.server`; `told`: with what the server says of its tokens.

    The address covers what changes the answers or their tokens: server, model, tokenizer,
    template, prompts and sampling. The weights at hand are not part of it: they only stand in.
    """
    assert settings.server is not None
    rendered = [
        render(
            target.tokenizer,
            prompt,
            context_tokens=target.context_tokens,
            max_new_tokens=settings.max_new_tokens,
            rows=target.input_rows,
        )
        for prompt in prompts
    ]
    signal = signal_format("told" if told else "none", target.model, settings.signal_top_k)
    spec = {
        "format": _FORMAT,
        "server": {"base_url": settings.server.base_url.rstrip("/"), "model": settings.server.model},
        "tokenizer": tokenizer_hash(target.tokenizer),
        "template": template_hash(target.tokenizer),
        "prompts": content_hash([[prompt.id, ids] for prompt, ids in zip(prompts, rendered, strict=True)]),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "signal": {"kind": signal.kind, "bytes_per_token": signal.bytes_per_token},
    }
    return CapturePlan(captures / content_hash(spec)[:24], spec, signal, list(prompts), rendered)


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


def _fill(plan: CapturePlan, spec: ServerSpec, target: LoadedModel, pace: Pace | None, progress: Progress) -> None:
    key = read_key(spec)
    growing = GrowingCapture(plan, progress)
    spelling = Spelling(target.tokenizer) if plan.signal.kind == "told" else None
    asked = [_Question(plan, which, target, spelling) for which in _in_turn(plan, growing.missing)]
    answered_before = len(asked) < len(plan.prompts)

    def keep(index: int, reply: Reply) -> None:
        question = asked[index]
        ids, signal, source = question.answer(reply)
        told = {"ids": source, "prompt_tokens": reply.prompt_tokens}
        growing.add(question.which, Answer(index, ids, reply.finish_reason, signal), **told)

    async def ask() -> list[tuple[int, str]]:
        async with ChatServer(spec, key, pace) as server:
            bodies = [question.body() for question in asked]
            failed = await fetch(server, bodies, keep, progress.stop_if_asked, has_answered=answered_before)
            if server.samples_its_own_way:
                progress.note(
                    f"{spec.model} refuses top_k, min_p and repetition_penalty: it draws with its own settings, "
                    "and what they cut off is not learnt"
                )
            return failed

    failed = [(asked[index].prompt.id, why) for index, why in asyncio.run(ask())] if asked else []
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
    growing.finish(server={**plan.spec["server"], **told})


def _in_turn(plan: CapturePlan, missing: Sequence[int]) -> list[int]:
    """The missing prompts, last those that got no answer before: a few that never will must not end each resumed fetch."""
    failed = _failed_before(plan)
    return sorted(missing, key=lambda which: plan.prompts[which].id in failed)


def _failed_before(plan: CapturePlan) -> set[str]:
    path = plan.folder / _FAILED
    return set(read_json(path)) if path.exists() else set()


@dataclass(frozen=True)
class _Question:
    """One prompt as the server is asked it, and its reply as token ids."""

    plan: CapturePlan
    which: int
    target: LoadedModel
    spelling: Spelling | None = None  # where it matters which tokens certainly were written

    @property
    def prompt(self) -> Prompt:
        return self.plan.prompts[self.which]

    @cached_property
    def _said(self) -> tuple[list[Message], tuple[Tool, ...]]:
        return conversation(self.target.tokenizer, self.prompt)

    def body(self) -> dict[str, Any]:
        """The request, without what authenticates it. Each prompt has a seed of its own."""
        spec, (messages, tools) = self.plan.spec, self._said
        body: dict[str, Any] = {
            "model": spec["server"]["model"],
            "messages": [_as_sent(message) for message in messages],
            "temperature": spec["temperature"],
            "top_p": spec["top_p"],
            "max_tokens": spec["max_new_tokens"],
            "seed": int(content_hash([spec["seed"], self.prompt.id])[:7], 16),
            "stream": False,
        }
        body |= {"tools": list(tools)} if tools else {}
        body |= {"logprobs": True, "top_logprobs": 1} if self.spelling is not None else {}
        return body | ({"top_k": spec["top_k"]} if spec["top_k"] else {})

    def answer(self, reply: Reply) -> tuple[list[int], torch.Tensor, str]:
        """The answer's ids, with the end of turn if it ended there and at most max_new_tokens of them; its signal,
        [token, bytes_per_token]; and whether the ids are the server's or of its text."""
        source = "text" if reply.token_ids is None else "server"
        if self.spelling is None:
            ids = list(self._checked(reply.token_ids)) if reply.token_ids is not None else self._ids_of_text(reply)
            return self._ended(ids, reply), _NO_SIGNAL, source
        temperature = self.plan.spec["temperature"]
        if reply.tokens:
            certain = certain_ids(reply, self.spelling, self.target.vocab_rows)
            rest = reply.tokens[len(certain) :]
            ids = certain + (self._ids_of(spelt(rest)) if rest else [])
            source = "text" if rest else "server"
        elif temperature == 0 and reply.token_ids is not None:
            ids = certain = list(self._checked(reply.token_ids))
        else:
            raise _untold(temperature)
        ids = self._ended(ids, reply)
        return ids, told_signal(ids, len(certain), reply.tokens, temperature), source

    def _ended(self, ids: list[int], reply: Reply) -> list[int]:
        """The ids with the end of turn if the server says that the answer ended, cut at max_new_tokens."""
        end = end_of_turn(self.target.tokenizer)
        if reply.finish_reason == "stop" and not (ids and ids[-1] in self.target.stop_ids | {end}):
            ids = [*ids, end]
        return ids[: self.plan.spec["max_new_tokens"]]

    def _checked(self, ids: list[int]) -> list[int]:
        if min(ids) >= 0 and max(ids) < self.target.vocab_rows:
            return ids
        raise DraftbenchError(
            f"the server's answer to prompt {self.prompt.id!r} has the token id {max(ids):,}, "
            f"and {self.target.spec.label} has {self.target.vocab_rows:,}",
            "the draft would learn other tokens than the served model writes",
            "name a model with the tokenizer of the served one in target.model",
        )

    def _ids_of_text(self, reply: Reply) -> list[int]:
        if reply.reasoning:
            raise DraftbenchError(
                "the server takes the reasoning out of its answers, and tells no token ids",
                "the draft would learn to leave out what the target writes",
                "start the server without a reasoning parser (vLLM: no --reasoning-parser; "
                "llama.cpp: --reasoning-format none)",
            )
        return self._ids_of(_whole_characters(self._text(reply)))

    def _ids_of(self, text: str) -> list[int]:
        return list(self.target.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, reply: Reply) -> str:
        """What the target wrote: calls that the server parsed out of it are written as the template writes them,
        or, for a template that has no form for them, as the prompt asks for them."""
        if not reply.tool_calls:
            return reply.text
        spoken = {"role": "assistant", "content": reply.text, "tool_calls": [_call(c) for c in reply.tool_calls]}
        try:
            return self._by_template(spoken) or reference_of(spoken)
        except (BadRecordError, RecursionError) as error:
            raise Unanswered(f"a function call that cannot be read: {error}") from None

    def _by_template(self, spoken: Message) -> str:
        """The assistant's turn as the template writes it, up to its end; "" if it drops the calls."""
        tokenizer, (messages, tools) = self.target.tokenizer, self._said
        try:
            before, whole, without = (
                str(tokenizer.apply_chat_template(turns, tools=list(tools) or None, tokenize=False, **more))
                for turns, more in (
                    (messages, {"add_generation_prompt": True}),
                    ([*messages, spoken], {}),
                    ([*messages, {**spoken, "tool_calls": []}], {}),
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError, RecursionError):
            return ""
        if not whole.startswith(before) or whole == without:
            return ""
        end = tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer))
        said, ended, _ = whole[len(before) :].rpartition(end)
        return said if ended else whole[len(before) :].rstrip()


def _as_sent(message: Message) -> Message:
    """A message with the arguments of its calls as JSON text, which is how the API has them."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    sent = []
    for number, call in enumerate(calls):
        function = dict(call["function"])
        if not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
        sent.append({"id": f"call_{number}", "type": "function", **call, "function": function})
    return {**message, "tool_calls": sent}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call of a reply with its arguments as an object, which is how templates want them.

    Raises Unanswered if the call has no name, or arguments that are no object.
    """
    told = call.get("function")
    function = told if isinstance(told, dict) else {}
    name = function.get("name")
    if not (isinstance(name, str) and name):
        raise Unanswered("a function call without a function's name (not asked again)")
    arguments = _parsed(function.get("arguments") or {})
    if not isinstance(arguments, dict):
        raise Unanswered(f"the arguments of a call of {name!r} are no JSON object (not asked again)")
    return {"type": "function", "function": {**function, "arguments": arguments}}


def _parsed(arguments: Any) -> Any:
    """Arguments out of their JSON text, which is how the API has them (null: there are none); None if it is broken."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
        return {} if parsed is None else parsed
    except (ValueError, RecursionError):
        return None


def _whole_characters(text: str) -> str:
    """A text with the mark for unreadable characters in place of halves of one, which no tokenizer takes.

    JSON can name such halves, and a server that cuts an answer between two bytes may send one.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _untold(temperature: float) -> DraftbenchError:
    return DraftbenchError(
        "the server tells no log-probabilities with its answers" + ("" if temperature else ", and no token ids"),
        f"without them acceptance at temperature {temperature:g} cannot be measured against its text",
        "use a server that answers `logprobs: true` (vLLM, SGLang, llama.cpp's own), or measure.against: model",
    )


def _told(plan: CapturePlan) -> dict[str, int]:
    """How the answers became ids, and how many prompts the server counts otherwise."""
    lines = list(read_lines(plan.folder / "answers.jsonl"))
    counted = [line for line in lines if isinstance(line.get("prompt_tokens"), int)]
    return {
        "ids_from_server": sum(line.get("ids") == "server" for line in lines),
        "ids_from_text": sum(line.get("ids") == "text" for line in lines),
        "other_prompt_tokens": sum(line["prompt_tokens"] != len(line["prompt_ids"]) for line in counted),
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
