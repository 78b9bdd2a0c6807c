"""One prompt as a request to a server, and the server's reply as token ids.

Servers send their answer as text, some of them also as token ids. Ids are used as they are if they spell the text.
Text is tokenised here, and the end of turn (`engine.chat.turns`) is added where the server says that the answer ended.
Whatever follows the first end of turn is left out, as captures stop there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

from engine.capture.plan import CapturePlan
from engine.chat.messages import BadRecordError, for_api, normal_call
from engine.chat.prompt import Message, Prompt, Tool, ToolCall
from engine.chat.rendering import conversation
from engine.chat.template_date import apply_template
from engine.chat.token_ids import token_ids
from engine.chat.turns import until_stop
from engine.errors import DraftbenchError
from engine.fileio import content_hash
from engine.logs.queries import TEXT_BESIDE_CALLS, reference_of
from engine.models.load import LoadedModel
from engine.records.capture import AnswerSignal
from engine.served.likeliest import encode_likeliest
from engine.served.logprobs import TokenBytes, certain_ids, encode_logprobs, spelling_of, text_of
from engine.served.replies import Reply, Unanswered
from engine.served.token_counts import FAR_OFF, far_from_tokens

MORE_IDS = "token ids that spell more than the text"
OTHER_IDS = "token ids that do not spell the text, which was tokenised here"
PAST_END = "text after an end of turn, which was left out"
_NO_SIGNAL = torch.zeros(0, dtype=torch.uint8)
_MAX_SHOWN_ID = 10**12


class TokenisedReply(NamedTuple):
    """A reply as token ids."""

    ids: list[int]
    signal: torch.Tensor
    """[token, bytes_per_token], uint8."""
    source: str
    """'server' for ids that the server sent, 'text' for its text tokenised here."""
    noted: tuple[str, ...] = ()
    """Where the server's counts contradict the ids, in words to be counted."""
    left_out: AnswerSignal | None = None
    """What the signal does not hold, if it has the server's likeliest tokens."""


@dataclass(frozen=True)
class PromptRequest:
    """A prompt of a capture plan as a request; `answer` turns its reply into token ids."""

    plan: CapturePlan
    index: int
    """Of the prompt in the plan."""
    target: LoadedModel
    token_bytes: TokenBytes | None = None
    """Given where log-probabilities are asked for, which need to know which tokens were written."""

    @property
    def prompt(self) -> Prompt:
        return self.plan.prompts[self.index]

    @cached_property
    def _conversation(self) -> tuple[list[Message], tuple[Tool, ...]]:
        return conversation(self.target.tokenizer, self.prompt)

    def body(self) -> dict[str, Any]:
        """The body of the request. Each prompt has its own seed."""
        spec, (messages, tools) = self.plan.spec, self._conversation
        body: dict[str, Any] = {
            "model": spec["server"]["model"],
            "messages": for_api(messages),
            "temperature": spec["temperature"],
            "top_p": spec["top_p"],
            "max_tokens": spec["max_new_tokens"],
            "seed": int(content_hash([spec["seed"], self.prompt.id])[:7], 16),
            "stream": False,
        }
        body |= {"tools": list(tools)} if tools else {}
        if self.token_bytes is not None:
            body |= {"logprobs": True, "top_logprobs": spec["server"].get("logprobs", 1)}
        return body | ({"top_k": spec["top_k"]} if spec["top_k"] else {})

    def answer(self, reply: Reply) -> TokenisedReply:
        """Turn the reply into at most max_new_tokens ids, with the end of turn if the answer ended.

        Raises Unanswered for calls that cannot be read, and DraftbenchError where no reply of this server can be used.
        """
        if self.token_bytes is None:
            ids, source, noted = self._ids_or_text(reply)
            noted += (*_contradiction(len(ids), reply), *self._past_end(ids))
            return TokenisedReply(self._ended(ids, reply), _NO_SIGNAL, source, noted)
        if self.plan.signal.kind == "compact":
            return self._with_likeliest(reply, self.token_bytes)
        temperature = self.plan.spec["temperature"]
        if reply.tokens:
            certain = certain_ids(reply, self.token_bytes, self.target.vocab_rows)
            rest = reply.tokens[len(certain) :]
            ids = certain + (self._ids_of(text_of(rest)) if rest else [])
            source, noted = "text" if rest else "server", ()
        elif temperature == 0 and reply.token_ids is not None:
            ids, source, noted = self._ids_or_text(reply)
            certain = ids if source == "server" else []
        else:
            raise DraftbenchError(
                "the server sends no log-probabilities with its answers"
                + ("" if temperature else ", and no token ids"),
                f"without them acceptance at temperature {temperature:g} cannot be measured against its text",
                "use a server that answers `logprobs: true` (vLLM, SGLang, llama.cpp's own), or measure.against: model",
            )
        noted += (*_contradiction(len(reply.tokens or ids), reply), *self._past_end(ids))
        ids = self._ended(ids, reply)
        return TokenisedReply(ids, encode_logprobs(ids, len(certain), reply.tokens, temperature), source, noted)

    def _with_likeliest(self, reply: Reply, token_bytes: TokenBytes) -> TokenisedReply:
        """The answer as far as each token has a certain id and a distribution. Raises Unanswered for one without any.

        What follows a token of unknown id was written after another text than the draft would be shown, so it is left
        out; and so is an end of turn that the server does not report, since nothing says how likely it was.
        """
        if not reply.tokens:
            raise Unanswered("an answer without log-probabilities (not retried)")
        spec, turns = self.plan.spec, self.target.turns
        whole = certain_ids(reply, token_bytes, self.target.vocab_rows, as_shown=True)
        certain = until_stop(whole, turns.ends)[: spec["max_new_tokens"]]
        raw, left_out = encode_likeliest(
            certain, reply.tokens, token_bytes, self.plan.signal, spec["server"]["logprobs"]
        )
        ids = certain[: len(raw)]
        if not ids:
            raise Unanswered("an answer whose first token has no certain id or no probabilities (not retried)")
        is_whole = ids[-1] in turns.ends
        sent = len(ids) if is_whole else max(len(reply.tokens), len(reply.token_ids or ()))
        end = int(reply.finish_reason == "stop" and not is_whole)
        left_out = left_out.model_copy(update={"cut": sent - len(ids), "ends_left_out": end})
        noted = (*_contradiction(len(reply.tokens), reply), *self._past_end(whole))
        if any(len(token.alternatives) > spec["server"]["logprobs"] + 1 for token in reply.tokens):
            noted += ("more likeliest tokens than were asked for",)
        return TokenisedReply(ids, raw, "server", noted, left_out)

    def ending(self, ids: list[int]) -> Literal["stop", "length"]:
        """How the answer ended: one longer than max_new_tokens was cut here, whatever the server says."""
        return "stop" if ids and ids[-1] in self.target.turns.ends else "length"

    def _ended(self, ids: list[int], reply: Reply) -> list[int]:
        """Cut after the first end of turn, which is appended if the server says that the answer ended; at most
        max_new_tokens."""
        turns = self.target.turns
        ids = until_stop(ids, turns.ends)
        if reply.finish_reason == "stop" and not (ids and ids[-1] in turns.ends):
            ids = [*ids, turns.end]
        return ids[: self.plan.spec["max_new_tokens"]]

    def _past_end(self, ids: list[int]) -> tuple[str, ...]:
        """A note if text follows the first end of turn; blanks and further marks there are no text."""
        after = ids[len(until_stop(ids, self.target.turns.ends)) :]
        return (PAST_END,) if str(self.target.tokenizer.decode(after, skip_special_tokens=True)).strip() else ()

    def _ids_or_text(self, reply: Reply) -> tuple[list[int], str, tuple[str, ...]]:
        """The ids that the server sends if they spell its text, else those of the text; which of both, and notes.

        Raises Unanswered for ids beside which there is no text.
        """
        if reply.token_ids is None:
            ids, noted = self._ids_of_text(reply)
            return ids, "text", noted
        ids = list(self._checked(reply.token_ids))
        spelling = spelling_of(self.target.tokenizer, ids, reply, self.target.turns.ends)
        if spelling == "other" and not (reply.text.strip() or reply.tool_calls):
            raise Unanswered("an answer whose token ids spell text that it does not have (not retried)")
        if spelling == "other":
            ids, noted = self._ids_of_text(reply)
            return ids, "text", (OTHER_IDS, *noted)
        return ids, "server", (MORE_IDS,) if spelling == "more" else ()

    def _checked(self, ids: list[int]) -> list[int]:
        unknown = next((token for token in ids if not 0 <= token < self.target.vocab_rows), None)
        if unknown is None:
            return ids
        shown = f"{unknown:,}" if abs(unknown) < _MAX_SHOWN_ID else "of more than 12 digits"
        raise DraftbenchError(
            f"the server's answer to prompt {self.prompt.id!r} has the token id {shown}, "
            f"but {self.target.spec.label} has {self.target.vocab_rows:,} tokens",
            "the draft would learn other tokens than the served model writes",
            "name a model with the tokenizer of the served one in target.model",
        )

    def _ids_of_text(self, reply: Reply) -> tuple[list[int], tuple[str, ...]]:
        if reply.reasoning:
            raise DraftbenchError(
                "the server takes the reasoning out of its answers and sends no token ids that spell them",
                "the draft would learn to leave out text that the target writes",
                "start the server without a reasoning parser (vLLM: no --reasoning-parser; "
                "llama.cpp: --reasoning-format none)",
            )
        text, noted = self._text(reply)
        return self._ids_of(_without_surrogates(text)), noted

    def _ids_of(self, text: str) -> list[int]:
        return token_ids(self.target.tokenizer, text, "the server's answer")

    def _text(self, reply: Reply) -> tuple[str, tuple[str, ...]]:
        """The text that the target wrote, and notes. Calls that the server parsed out of it are written as the template
        writes them, or, for a template without a form for calls, as the prompt asks for them."""
        if not reply.tool_calls:
            return reply.text, ()
        try:
            calls = [_normal(call) for call in reply.tool_calls]
            message = {"role": "assistant", "content": reply.text, "tool_calls": calls}
            written, seen = self._by_template(message), Counter[str]()
            if written:
                return written, () if reply.text.strip() in written else (TEXT_BESIDE_CALLS,)
            return reference_of(message, seen), tuple(+seen)
        except (BadRecordError, RecursionError) as error:
            raise Unanswered(f"a function call that cannot be read: {error} (not retried)") from None

    def _by_template(self, answer: Message) -> str:
        """The assistant's turn as the template writes it, up to its end; "" if the template drops the calls."""
        tokenizer, (messages, tools) = self.target.tokenizer, self._conversation
        try:
            before, whole, without = (
                apply_template(tokenizer, turns, tools, **more)
                for turns, more in (
                    (messages, {"add_generation_prompt": True}),
                    ([*messages, answer], {}),
                    ([*messages, {**answer, "tool_calls": []}], {}),
                )
            )
        except Exception:  # a template that does not know calls breaks on them in whatever way it does
            return ""
        if not whole.startswith(before) or whole == without:
            return ""
        turns = self.target.turns
        marks = [re.escape(str(tokenizer.convert_ids_to_tokens(i))) for i in turns.ends]
        written = whole[len(before) :]
        ended = re.search(rf"((?:{'|'.join(marks)})\s*)+\Z", written)  # Phi-3 writes two marks
        return written[: ended.start()] if ended else written.rstrip()


def _normal(call: Mapping[str, Any]) -> ToolCall:
    """A call in normal form, without its id, which most servers make up. Raises BadRecordError."""
    if isinstance(call.get("function"), str) and not call.keys() & {"arguments", "parameters"}:
        raise BadRecordError("it has no arguments")
    return {"type": "function", "function": normal_call(call)["function"]}


def _contradiction(tokens: int, reply: Reply) -> tuple[str, ...]:
    return (FAR_OFF,) if far_from_tokens(reply.completion_tokens, tokens) else ()


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer takes, by the mark for unreadable characters.

    JSON can contain them, and a server that cuts an answer between two bytes may send one.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
