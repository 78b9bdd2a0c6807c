"""What a server must show before its answers are learnt from, with a few requests of few tokens.

*One distribution.* The log-probabilities that become a signal must be those of the whole distribution at temperature 1.
A server that renormalises over the tokens it sends gives its likeliest two other probabilities when it is asked for two
than when it is asked for twenty; one that applies the temperature or a cut before it reports gives others with these
settings than without.

*One model.* Servers that share the load must serve the same model: their greedy answers to a few prompts must have the
same probabilities, up to rounding, as far as their texts agree.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from engine.errors import DraftbenchError
from engine.served.replies import Reply, Unanswered
from engine.served.reply_tokens import Alternative, ReplyToken

Ask = Callable[[Mapping[str, Any]], Awaitable[Reply]]
"""Sends a request and returns its reply; raises as `engine.served.client.ChatServer.answer`."""

CHECKED_PROMPTS = 4  # whose first token is asked for
_SAME_SERVER = 0.03  # mean distance of two distributions of one server: bfloat16 rounds logits to 0.1
_SAME_MODEL = 0.1  # largest distance of two servers at one position; they may round differently, or be quantised
_OPEN = 0.05  # mean probability of other tokens than the likeliest, below which the first check would see nothing
_GREEDY_TOKENS, _COMPARED = 16, 5
_PLAIN = {"temperature": 1.0, "top_p": 1.0}


@dataclass
class ServerChecks:
    """The checks of a capture's servers. `bodies`: its requests. Each server is checked once, and again after `forget`.

    `logprobs`: likeliest tokens that the signal is made of; 0 where there is no such signal. `several`: whether
    servers share the load.
    """

    bodies: Sequence[Mapping[str, Any]]
    note: Callable[[str], None]
    logprobs: int = 0
    several: bool = False
    _checked: set[str] = field(default_factory=set)
    _reference: tuple[str, list[Reply | None]] | None = None

    async def check(self, url: str, ask: Ask) -> None:
        """Check a server. Raises DraftbenchError if its answers must not be learnt from, or as `ask`."""
        if url in self._checked or not self.bodies:
            return
        if self.several:
            await self._check_model(url, ask)
        if self.logprobs:
            await self._check_distribution(url, ask)
        self._checked.add(url)

    def is_checked(self, url: str) -> bool:
        """Whether a server needs no check."""
        return url in self._checked or not (self.several or self.logprobs)

    def forget(self, url: str) -> None:
        """Check a server again before its next answer: it was gone, and another may have come in its place."""
        self._checked.discard(url)

    async def _check_model(self, url: str, ask: Ask) -> None:
        replies = [await self._greedy(url, ask, body) for body in self.bodies[:CHECKED_PROMPTS]]
        if self._reference is None:
            self._reference = (url, replies)
            return
        other, expected = self._reference
        pairs = [(one, two) for one, two in zip(expected, replies, strict=True) if one is not None and two is not None]
        distances = [largest_distance(one.tokens, two.tokens) for one, two in pairs]
        known = [distance for distance in distances if distance is not None]
        if not known:
            same = bool(pairs) and all(one.text == two.text for one, two in pairs)
            self.note(
                f"{url} and {other} send no log-probabilities that could be compared; their greedy answers are "
                + ("the same" if same else "NOT the same: make sure that they serve the same model")
            )
        elif max(known) > _SAME_MODEL:
            raise DraftbenchError(
                f"{url} does not serve the same model as {other}",
                f"their greedy answers to the same prompts have probabilities that are {max(known):.2f} apart "
                f"(total variation; rounding stays below {_SAME_MODEL:g})",
                "serve the same weights at every address, with the same chat template and precision, or take one away",
            )
        else:
            self.note(f"{url} serves the same model as {other}: probabilities at most {max(known):.3f} apart")

    async def _greedy(self, url: str, ask: Ask, body: Mapping[str, Any]) -> Reply | None:
        """The beginning of the greedy answer, with log-probabilities if the server sends them; None if it refuses."""
        asked = {**body, **_PLAIN, "temperature": 0.0, "max_tokens": _GREEDY_TOKENS}
        asked.pop("top_k", None)
        without = {name: value for name, value in asked.items() if "logprobs" not in name}
        top = {"logprobs": True, "top_logprobs": self.logprobs or _COMPARED}
        for request in ({**without, **top}, without):
            try:
                return await ask(request)
            except Unanswered as error:
                if error.exhausted:
                    raise
                why = error
        self.note(f"{url} does not answer one of the first prompts ({why}): the models are compared on the others")
        return None

    async def _check_distribution(self, url: str, ask: Ask) -> None:
        few: list[float] = []
        own: list[float] = []
        open_mass: list[float] = []
        unanswered = None
        for body in self.bodies[:CHECKED_PROMPTS]:
            plain = {**body, **_PLAIN, "max_tokens": 1}
            plain.pop("top_k", None)
            try:
                whole = await self._first_token(url, ask, plain)
                if self.logprobs > 2:
                    few.append(distance_of(whole, await self._first_token(url, ask, {**plain, "top_logprobs": 2})))
                if {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} != _PLAIN:
                    own.append(distance_of(whole, await self._first_token(url, ask, {**body, "max_tokens": 1})))
            except Unanswered as error:  # this prompt is refused; the others may not be
                if error.exhausted:
                    raise
                unanswered = error
                continue
            open_mass.append(1 - math.exp(whole.top_logprob or 0.0))
        if not open_mass and unanswered is not None:
            raise unanswered
        if few and fmean(few) > _SAME_SERVER:
            raise _refused(
                url,
                f"the probabilities of its likeliest tokens depend on how many are asked for (by {fmean(few):.2f})",
                "they are not those of the whole distribution, so nothing is left for the tokens that are not sent",
                "use a server that reports the whole distribution (vLLM: --logprobs-mode raw_logprobs)",
            )
        if own and fmean(own) > _SAME_SERVER:
            raise _refused(
                url,
                f"the probabilities that it sends change with the sampling settings (by {fmean(own):.2f})",
                "a signal holds the distribution at temperature 1 with nothing cut off, whatever the text is drawn at",
                "vLLM: --logprobs-mode raw_logprobs; or capture at temperature 1 with top_p 1 and top_k 0",
            )
        if fmean(open_mass) < _OPEN:
            self.note(
                f"{url}: the first tokens of the answers are all but certain, so it could not be checked on them that "
                "the log-probabilities are those of the whole distribution at temperature 1"
            )

    async def _first_token(self, url: str, ask: Ask, body: Mapping[str, Any]) -> ReplyToken:
        try:
            reply = await ask(body)
        except Unanswered as error:
            if error.exhausted or "logprob" not in str(error):
                raise
            raise _refused(
                url,
                f"it refuses {body['top_logprobs']} log-probabilities per token: {error}",
                "its operator allows fewer",
                "lower capture.server.logprobs to what it allows (vLLM: 20, or as its --max-logprobs says)",
            ) from None
        if not reply.tokens or not reply.tokens[0].alternatives:
            raise _refused(
                url,
                "it sends no likeliest tokens with its answers",
                "`logprobs: true` and `top_logprobs` were asked for, and there is no distribution to learn from",
                "use a server that answers them (vLLM, SGLang, llama.cpp's own), or capture.signal: none with the "
                "loss sft",
            )
        token = reply.tokens[0]
        if any(one.logprob is None for one in token.alternatives):
            raise _refused(
                url,
                "what it sends as log-probabilities are none",
                "a log-probability is at most 0; these may be logits",
                "start it without raw or processed logits (vLLM: --logprobs-mode raw_logprobs)",
            )
        if len(token.alternatives) < int(body["top_logprobs"]) and body["top_logprobs"] == self.logprobs:
            self.note(f"{url} sends {len(token.alternatives)} likeliest tokens, {self.logprobs} were asked for")
        return token


def largest_distance(first: Sequence[ReplyToken], second: Sequence[ReplyToken]) -> float | None:
    """The largest distance of two answers' distributions as far as their texts agree; None if there are none."""
    largest = None
    for one, other in zip(first, second, strict=False):
        if not (one.alternatives and other.alternatives):
            break
        largest = max(largest or 0.0, distance_of(one, other))
        if (one.id, one.text) != (other.id, other.text):
            break
    return largest


def distance_of(first: ReplyToken, second: ReplyToken) -> float:
    """Total variation of what two replies say of one position, at least: a token that one of them does not list is
    there at most as likely as the least likely of its list, in which the token that was written may stand by luck."""
    one, other = _probabilities(first), _probabilities(second)
    least_one, least_other = _least(first, one), _least(second, other)
    apart = sum(abs(one[name] - other[name]) for name in one.keys() & other.keys())
    apart += sum(max(0.0, one[name] - least_other) for name in one.keys() - other.keys())
    apart += sum(max(0.0, other[name] - least_one) for name in other.keys() - one.keys())
    return apart / 2


def _least(token: ReplyToken, probabilities: Mapping[int | bytes, float]) -> float:
    written = token.text if token.id is None else token.id
    return min((p for name, p in probabilities.items() if name != written), default=1.0)


def _probabilities(token: ReplyToken) -> dict[int | bytes, float]:
    """Probability by id or spelling, without tokens that have neither."""
    listed = [*token.alternatives, Alternative(token.logprob, token.id, None if token.id is not None else token.text)]
    named = [(one.text if one.id is None else one.id, one.logprob) for one in listed]
    return {name: math.exp(logprob) for name, logprob in named if name is not None and logprob is not None}


def _refused(url: str, what: str, why: str, fix: str) -> DraftbenchError:
    return DraftbenchError(f"{url} cannot give a signal: {what}", why, fix)
