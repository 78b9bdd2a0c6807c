"""Decoding for a visitor: one or two drafts on the same seed, round by round, then the target alone for comparison.

Independent of Gradio. What it yields is everything that the page shows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from engine.catalogue import Proposals
from engine.chat.prompt import Prompt
from engine.config.defaults import DECODE
from engine.config.section import temperature_fault
from engine.decode.counts import Counts, count
from engine.decode.events import EMITTED, Round, Token
from engine.errors import DraftbenchError
from engine.jobs.queue import at_work
from engine.models.context import context_of, least_context
from engine.paths import Home
from engine.traces.trace import Trace
from workbench.live.conversation import brings
from workbench.live.conversation import check as check_conversation
from workbench.live.pairs import PAIRS, Pair, in_turn

if TYPE_CHECKING:  # torch takes seconds to load: not before a visitor decodes
    pass

PROPOSALS: tuple[Proposals, ...] = get_args(Proposals)
LIMITS: dict[str, tuple[float, float]] = {
    "gamma": (1, 16),
    "temperature": (0.0, 2.0),
    "top_p": (0.01, 1.0),
    "top_k": (0, 1000),
    "max_new_tokens": (1, 1024),
    "seed": (0, 2**53 - 1),  # a browser rounds larger ones, and another seed would be decoded than the one asked for
}
_ALTERNATIVES = 10


@dataclass(frozen=True)
class Ask:
    """What a visitor wants decoded. `run_ids`: one draft, or two with the same target.

    Without `draft_on` the target decodes alone, to be compared with what it decoded with the draft.
    """

    conversation: Prompt
    run_ids: tuple[str, ...]
    gamma: int = DECODE.num_draft_tokens
    temperature: float = DECODE.temperature
    top_p: float = DECODE.top_p
    top_k: int = DECODE.top_k
    proposals: Proposals = DECODE.proposals
    seed: int = DECODE.seed
    max_new_tokens: int = DECODE.max_new_tokens
    compare_plain: bool = False
    draft_on: bool = True

    def check(self) -> None:
        """Raise DraftbenchError for settings that cannot be decoded."""
        check_conversation(self.conversation)
        if not self.run_ids:
            raise DraftbenchError(
                "no draft is selected", "a draft proposes the tokens", "select a run that has a draft"
            )
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise DraftbenchError(f"{name} is {getattr(self, name)}", "", f"use a value from {low:,} to {high:,}")
        if fault := temperature_fault(self.temperature):
            raise DraftbenchError(f"temperature is {self.temperature:g}", fault, "use 0, or another one such as 0.7")
        if self.proposals not in PROPOSALS:
            raise DraftbenchError(f"proposals is {self.proposals!r}", "", f"use one of {', '.join(PROPOSALS)}")

    def same_answer(self, other: Ask) -> bool:
        """Whether both ask for the same text, with the draft on or off."""
        return replace(self, compare_plain=other.compare_plain, draft_on=other.draft_on) == other


@dataclass
class Side:
    """One draft's answer while it is being decoded."""

    name: str
    rounds: list[Round] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        return count(self.rounds)

    @property
    def tokens(self) -> list[Token]:
        """The emitted ones: the answer."""
        return [token for item in self.rounds for token in item.tokens if token.fate in EMITTED]

    @property
    def seconds(self) -> float:
        return sum(r.seconds for r in self.rounds)

    @property
    def ended(self) -> bool:
        return bool(self.rounds) and self.rounds[-1].finish_reason is not None

    @property
    def tokens_per_s(self) -> float:
        return self.counts.emitted / self.seconds if self.seconds else float("nan")


@dataclass(frozen=True)
class SameText:
    """Whether two answers agree: `part` is the index of the first token that differs, None if none of `compared` does.

    `length`: tokens of the draft's answer. `ours` and `alone`: the differing token with the draft, and without.
    """

    compared: int
    length: int
    part: int | None
    ours: str
    alone: str


@dataclass
class Live:
    """The state of one visitor's answer; `stage` is 'loading', 'decoding', 'plain', 'alone', 'stopped' or 'done'."""

    ask: Ask
    sides: list[Side]
    plain: Side
    stage: str = "loading"
    target: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)
    context: str = ""  # the tools and other messages sent with the prompt, in words
    unused: list[str] = field(default_factory=list)  # what the target's template leaves out of the conversation
    rewritten: list[str] = field(default_factory=list)  # what it writes in another place or form
    notes: list[str] = field(default_factory=list)  # of the target
    prompt_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()  # of the target
    busy: str = ""  # a run in progress, which disturbs the timing

    def speedup(self, side: Side) -> tuple[float, int] | None:
        """Seconds of plain over speculative decoding, and the number of tokens compared; None before both have enough.

        Both are cut to the tokens that both have decoded.
        """
        have = min(side.counts.emitted, len(self.plain.rounds))
        if have < 2:
            return None
        plain = sum(r.seconds for r in self.plain.rounds[:have])
        tokens, seconds = 0, 0.0
        for item in side.rounds:
            if tokens + len(item.emitted) > have:
                break
            tokens, seconds = tokens + len(item.emitted), seconds + item.seconds
        plain = sum(r.seconds for r in self.plain.rounds[:tokens])
        return (plain / seconds, tokens) if seconds and tokens else None

    def alone_tokens(self) -> tuple[list[Token], int]:
        """The answer of the target alone, and how many tokens were decoded after its end, to compare the times."""
        decoded = self.plain.tokens
        end = next((place for place, token in enumerate(decoded) if token.token_id in self.stop_ids), len(decoded))
        return decoded[: end + 1], max(0, len(decoded) - end - 1)

    def same_text(self, side: Side) -> SameText | None:
        """Greedy decoding with the draft against the target alone; None if draws decide, or before both have stopped.

        Sampled answers may differ: both follow the target's distribution, each with draws of its own.
        """
        if self.ask.temperature > 0 or self.stage not in ("done", "stopped"):
            return None
        ours, alone = side.tokens, self.plain.tokens
        compared = min(len(ours), len(alone))
        if not compared:
            return None
        places = (i for i in range(compared) if ours[i].token_id != alone[i].token_id)
        part = next(places, None)
        words = ("", "") if part is None else (ours[part].text, alone[part].text)
        return SameText(compared, len(ours), part, *words)

    def trace(self, side: Side) -> Trace:
        """The side's answer as a trace; `draft` is empty for the target alone."""
        question = self.ask.conversation.text
        words = " ".join(question.split())
        title = words if len(words) <= 60 else words[:59] + "…"
        settings: dict[str, Any] = {
            **self.conditions,
            "target": self.target,
            "draft": "" if side is self.plain else side.name,
            "num_draft_tokens": 0 if side is self.plain else self.ask.gamma,
            "temperature": self.ask.temperature,
            "top_p": self.ask.top_p,
            "top_k": self.ask.top_k,
            "proposals": self.ask.proposals,
            "max_new_tokens": self.ask.max_new_tokens,
            "seed": self.ask.seed,
        }
        if self.context:
            settings["context"] = self.context
            settings["messages"] = list(self.ask.conversation.messages)
            settings["tools"] = list(self.ask.conversation.tools)
        return Trace("", title, question, settings, tuple(side.rounds))


def decode(home: Home, ask: Ask, stop: threading.Event, before: Live | None = None) -> Iterator[Live]:
    """Yield the same `Live` after every round, with the drafts taking turns.

    Stops before the next round once `stop` is set. Seconds are those of decoding only, without waiting for other
    visitors. `before`: the visitor's last answer, whose other half is kept beside this one if it is of the same ask.
    """
    ask.check()
    live = Live(ask, [Side(run_id) for run_id in ask.run_ids], Side("plain"))
    kept = before if before is not None and before.ask.same_answer(ask) else None
    working = at_work(home)
    live.busy = working.id if working else ""
    yield live
    with PAIRS.use(home, ask.run_ids) as pair:
        live.target, live.notes = pair.target.spec.label, pair.notes
        live.conditions = {"dtype": pair.target.dtype_name, "device": str(pair.target.device)}
        live.context = brings(ask.conversation)
        ids, live.unused, live.rewritten = sent_ids(pair, ask)
        live.prompt_tokens, live.stop_ids = len(ids), pair.target.stop_ids
        if ask.draft_on:
            yield from _with_drafts(live, pair, ids, stop, kept)
        else:
            live.stage = "alone"
            if kept is not None:
                live.sides = kept.sides
            yield from _turn_by_turn(live, [live.plain], [_rounds(pair, None, ids, ask)], stop)
    live.stage = "stopped" if stop.is_set() else "done"
    yield live


def _with_drafts(live: Live, pair: Pair, ids: list[int], stop: threading.Event, kept: Live | None) -> Iterator[Live]:
    ask, live.stage = live.ask, "decoding"
    yield from _turn_by_turn(live, live.sides, [_rounds(pair, i, ids, ask) for i in range(len(live.sides))], stop)
    most = max(side.counts.emitted for side in live.sides)
    if kept is not None and (kept.plain.ended or len(kept.plain.rounds) >= most):
        live.plain = kept.plain
    elif ask.compare_plain and not stop.is_set():
        live.stage = "plain"
        yield from _turn_by_turn(live, [live.plain], [_rounds(pair, None, ids, ask, most)], stop)


def _turn_by_turn(
    live: Live, sides: list[Side], sources: list[Iterator[Round]], stop: threading.Event
) -> Iterator[Live]:
    """Add rounds to the sides from their sources in turn, until all end or `stop` is set."""
    waiting = list(zip(sides, sources, strict=True))
    while waiting:
        for side, source in list(waiting):
            if stop.is_set():
                return
            item = in_turn(lambda source=source: next(source, None))  # type: ignore[misc]
            if item is None:
                waiting.remove((side, source))
                continue
            side.rounds.append(item)
            yield live


def _rounds(pair: Pair, draft: int | None, ids: list[int], ask: Ask, most: int | None = None) -> Iterator[Round]:
    """Rounds of one draft, or of the target alone if `draft` is None; exactly `most` tokens if that is said."""
    from engine.decode.sampling import Sampling
    from engine.decode.settings import DecodeSettings, FixedLength
    from engine.decode.speculative import speculative_decode
    from engine.decode.text import TextStream

    settings = DecodeSettings(
        Sampling(ask.temperature, ask.top_k, ask.top_p),
        FixedLength(ask.gamma),
        most or ask.max_new_tokens,
        frozenset() if most else pair.target.stop_ids,
        ask.seed,
        ask.proposals,
    )
    model = None if draft is None else pair.drafts[draft].model
    alternatives = 0 if draft is None else _ALTERNATIVES
    rounds = speculative_decode(pair.target.model, model, [ids], settings, alternatives=alternatives)
    return map(TextStream(pair.target.tokenizer).read, rounds)


def sent_ids(pair: Pair, ask: Ask) -> tuple[list[int], list[str], list[str]]:
    """The conversation as the target reads it, what its template leaves out, and moves (`engine.chat.unwritten`).

    Raises DraftbenchError with the numbers if the answer would not fit after it.
    """
    from engine.chat.rendering import render
    from engine.chat.unwritten import rewritten, unused

    target = pair.target
    tokenizer, rows = target.tokenizer, target.input_rows
    ids = render(tokenizer, ask.conversation, context_tokens=None, max_new_tokens=0, rows=rows)
    drafts = [context_of(draft.model.config) for draft in pair.drafts] if ask.draft_on else []
    check_room(len(ids), target.context_tokens, ask.max_new_tokens, drafts)
    return ids, unused(tokenizer, ask.conversation), rewritten(tokenizer, ask.conversation)


def check_room(
    prompt_tokens: int, context_tokens: int | None, max_new_tokens: int, drafts: Sequence[int | None] = ()
) -> None:
    """Raise DraftbenchError if an answer of `max_new_tokens` does not fit into the context after the prompt.

    `drafts`: the contexts of the drafts that are decoded with.
    """
    least = least_context(context_tokens, *drafts)
    if least is None or prompt_tokens + max_new_tokens <= least:
        return
    reader = "the target" if least == context_tokens else "the draft"
    context_tokens = least
    left = context_tokens - prompt_tokens
    shorter = f", or lower Max new tokens to {left:,} or less" if left > 0 else ""
    raise DraftbenchError(
        f"the conversation has {prompt_tokens:,} tokens and its answer up to {max_new_tokens:,}, but {reader} reads "
        f"{context_tokens:,} at most",
        f"the answer would run past {reader}'s context",
        f"remove turns or tools{shorter}",
    )
