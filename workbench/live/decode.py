"""Decoding for a visitor: one or two drafts on the same seed, round by round, then the target alone for comparison.

Independent of Gradio. What it yields is everything that the page shows.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from engine.chat.prompt import Prompt
from engine.config.defaults import DECODE
from engine.decode.counts import Counts, count
from engine.decode.events import Round
from engine.errors import DraftbenchError
from engine.jobs.queue import at_work
from engine.measure.decision import decide
from engine.paths import PROJECT_ROOT, Home
from engine.records.summary import Summary
from engine.traces.trace import Trace
from workbench.live.pairs import PAIRS, Pair, in_turn

LIMITS = {
    "gamma": (1, 16),
    "temperature": (0.0, 2.0),
    "top_p": (0.01, 1.0),
    "top_k": (0, 1000),
    "max_new_tokens": (1, 1024),
}
_LONGEST_PROMPT = 20_000  # characters
_ALTERNATIVES = 10


@dataclass(frozen=True)
class Ask:
    """What a visitor wants decoded. `run_ids`: one draft, or two with the same target.

    `context`: id of the sample prompt whose tools and earlier messages accompany the prompt; '' for none.
    """

    prompt: str
    run_ids: tuple[str, ...]
    gamma: int = DECODE.num_draft_tokens
    temperature: float = DECODE.temperature
    top_p: float = DECODE.top_p
    top_k: int = DECODE.top_k
    seed: int = DECODE.seed
    max_new_tokens: int = DECODE.max_new_tokens
    compare_plain: bool = False
    context: str = ""

    def check(self) -> None:
        """Raise DraftbenchError for settings that cannot be decoded."""
        if not self.prompt.strip():
            raise DraftbenchError(
                "the prompt is empty", "there is nothing to answer", "type a question, or choose a sample prompt"
            )
        if len(self.prompt) > _LONGEST_PROMPT:
            raise DraftbenchError(
                f"the prompt has {len(self.prompt):,} characters",
                f"the limit is {_LONGEST_PROMPT:,}",
                "shorten it",
            )
        if not self.run_ids:
            raise DraftbenchError(
                "no draft is selected", "a draft proposes the tokens", "select a run that has a draft"
            )
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise DraftbenchError(f"{name} is {getattr(self, name)}", "", f"use a value from {low} to {high}")
        if self.seed < 0:
            raise DraftbenchError(f"seed is {self.seed}", "", "use 0 or more")
        if self.context and sample(self.context) is None:
            raise DraftbenchError(
                f"there is no sample prompt {self.context!r}",
                "the prompt was to be sent with its tools",
                "choose one from the list, or none",
            )


@dataclass
class Side:
    """One draft's answer while it is being decoded."""

    name: str
    rounds: list[Round] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        return count(self.rounds)

    @property
    def seconds(self) -> float:
        return sum(r.seconds for r in self.rounds)

    @property
    def ended(self) -> bool:
        return bool(self.rounds) and self.rounds[-1].finish_reason is not None

    @property
    def tokens_per_s(self) -> float:
        return self.counts.emitted / self.seconds if self.seconds else float("nan")


@dataclass
class Live:
    """The state of one visitor's answer; `stage` is 'loading', 'decoding', 'plain', 'stopped' or 'done'."""

    ask: Ask
    sides: list[Side]
    plain: Side
    stage: str = "loading"
    target: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)
    context: str = ""  # the tools and earlier messages sent with the prompt, in words
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

    def trace(self, side: Side) -> Trace:
        """The side's answer as a trace."""
        words = " ".join(self.ask.prompt.split())
        title = words if len(words) <= 60 else words[:59] + "…"
        settings = {
            **self.conditions,
            "target": self.target,
            "draft": side.name,
            "num_draft_tokens": self.ask.gamma,
            "temperature": self.ask.temperature,
            "top_p": self.ask.top_p,
            "top_k": self.ask.top_k,
            "max_new_tokens": self.ask.max_new_tokens,
            "seed": self.ask.seed,
        }
        if self.ask.context:
            settings["context"] = self.context
        return Trace("", title, self.ask.prompt, settings, tuple(side.rounds))


def decode(home: Home, ask: Ask, stop: threading.Event) -> Iterator[Live]:
    """Yield the same `Live` after every round, with the drafts taking turns.

    Stops before the next round once `stop` is set. Seconds are those of decoding only, without
    waiting for other visitors.
    """
    ask.check()
    live = Live(ask, [Side(run_id) for run_id in ask.run_ids], Side("plain"))
    working = at_work(home)
    live.busy = working.id if working else ""
    yield live
    with PAIRS.use(home, ask.run_ids) as pair:
        live.target, live.stage = pair.target.spec.model, "decoding"
        live.conditions = {"dtype": pair.target.dtype_name, "device": str(pair.target.device)}
        prompt, ids = _render(pair, ask)
        live.context = f"{brings(prompt)} of sample {ask.context}" if ask.context else ""
        yield from _turn_by_turn(live, live.sides, [_rounds(pair, i, ids, ask) for i in range(len(live.sides))], stop)
        if ask.compare_plain and not stop.is_set():
            live.stage = "plain"
            most = max(side.counts.emitted for side in live.sides)
            yield from _turn_by_turn(live, [live.plain], [_rounds(pair, None, ids, ask, most)], stop)
    live.stage = "stopped" if stop.is_set() else "done"
    yield live


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
    """Rounds of one draft, or, if `draft` is None, exactly `most` tokens of the target alone."""
    from engine.decode.sampling import Sampling
    from engine.decode.settings import DecodeSettings, FixedLength
    from engine.decode.speculative import speculative_decode
    from engine.decode.text import TextStream

    settings = DecodeSettings(
        Sampling(ask.temperature, ask.top_k, ask.top_p),
        FixedLength(ask.gamma),
        most or ask.max_new_tokens,
        frozenset() if draft is None else pair.target.stop_ids,
        ask.seed,
    )
    model = None if draft is None else pair.drafts[draft].model
    alternatives = 0 if draft is None else _ALTERNATIVES
    rounds = speculative_decode(pair.target.model, model, [ids], settings, alternatives=alternatives)
    return map(TextStream(pair.target.tokenizer).read, rounds)


def _render(pair: Pair, ask: Ask) -> tuple[Prompt, list[int]]:
    """The prompt and its token ids, with the tools and earlier messages that the visitor chose."""
    from engine.chat.rendering import render

    target = pair.target
    prompt = asked_with(ask.prompt, sample(ask.context) if ask.context else None)
    tokens = render(
        target.tokenizer,
        prompt,
        context_tokens=target.context_tokens,
        max_new_tokens=ask.max_new_tokens,
        rows=target.input_rows,
    )
    return prompt, tokens


def asked_with(words: str, context: Prompt | None) -> Prompt:
    """Replace a sample prompt's question by these words, keeping its tools and other messages."""
    if context is None:
        return Prompt("prompt", ({"role": "user", "content": words},))
    last = max(i for i, message in enumerate(context.messages) if message["role"] == "user")
    messages = list(context.messages)
    messages[last] = {**messages[last], "content": words}
    return replace(context, messages=tuple(messages))


def brings(prompt: Prompt) -> str:
    """'3 tools and 1 other message': what a sample prompt has besides its question; '' if nothing."""
    counts = ((len(prompt.tools), "tool"), (len(prompt.messages) - 1, "other message"))
    return " and ".join(f"{n} {name}{'s' if n > 1 else ''}" for n, name in counts if n)


@lru_cache(maxsize=1)
def samples() -> dict[str, tuple[Prompt, ...]]:
    """The held-out sample prompts by domain; empty without sample_data."""
    from engine.config.schema import PromptSource
    from engine.data.readers import read_prompts

    files = sorted((PROJECT_ROOT / "sample_data" / "prompts").glob("*/heldout.jsonl"))
    return {
        path.parent.name: tuple(read_prompts([PromptSource(path=str(path))], skip_bad=True).prompts) for path in files
    }


def sample(prompt_id: str) -> Prompt | None:
    """The sample prompt with that id."""
    return next((p for prompts in samples().values() for p in prompts if p.id == prompt_id), None)


@dataclass(frozen=True)
class Choice:
    """A run with a draft: its name, and a description that distinguishes it from others."""

    run_id: str
    name: str
    about: str
    domain: str = ""
    gamma: int | None = None  # of its measurement

    @property
    def label(self) -> str:
        return f"{self.name} · {self.about}" if self.about else self.name


def choices(home: Home) -> list[Choice]:
    """Every finished run that has a draft, without archived ones: what is worth serving, the fastest first, then
    the baseline, then the newest."""
    from engine.index import queries
    from engine.index.connection import reading
    from engine.index.ingest import ingest_all

    with contextlib.suppress(DraftbenchError, OSError):  # a busy index shows its last state
        ingest_all(home)
    with reading(home.index) as con:
        known = queries.overview(con)
    offered = known[~known.archived.fillna(False).astype(bool) & (known.state == "done")]
    rows = [row for row in offered.to_dict("records") if has_draft(home, row["run_id"])]
    answers = {row["run_id"]: _answer(home, row["run_id"]) for row in rows}

    def place(row: Mapping[Any, Any]) -> tuple[bool, float, bool]:
        served = answers[row["run_id"]] == "serve it"
        return not served, -row["speedup"] if served else 0.0, row["baseline"] is not True

    return [_choice(row, answers[row["run_id"]]) for row in sorted(rows, key=place)]


def _answer(home: Home, run_id: str) -> str:
    """Whether the run's draft is worth serving; '' without a measurement that can be read."""
    with contextlib.suppress(DraftbenchError):
        summary = Summary.read(home.run(run_id))
        return decide(summary).answer if summary and summary.speed else ""
    return ""


def has_draft(home: Home, run_id: str) -> bool:
    """Whether the run has a trained draft."""
    return (home.run(run_id) / "draft" / "best" / "draft.json").exists()


def _choice(row: Mapping[Any, Any], answer: str) -> Choice:
    # a data frame holds NaN where a text is missing
    domain, loss, target, title = (
        row[key] if isinstance(row[key], str) else "" for key in ("domain", "loss", "target", "title")
    )
    parts = [domain, loss]
    exact = row["exact"]
    if exact is not None and exact == exact:
        parts.append(f"exact acceptance {exact:.3f} at temperature {row['temperature']:g}")
    parts += [answer, f"for {target}" if target else ""]
    gamma = int(row["num_draft_tokens"]) if row["num_draft_tokens"] == row["num_draft_tokens"] else None
    return Choice(row["run_id"], title or row["run_id"], " · ".join(part for part in parts if part), domain, gamma)
