"""Rows on decoding: plain and speculative beside `generate`, the cost of verification, batches, domains.

All at temperature 0 and without stop ids, so that every way writes the same number of tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.speed.generation import generate
from benchmarks.speed.pairs import Paired, Rounds, Sample, Way, interleave
from benchmarks.speed.record import Figure, Row, pairs_of, row_of
from benchmarks.speed.subjects import Subject
from engine.decode.events import Round
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.measure.statistics import bootstrap_ratio

GAMMAS = (2, 3)


@dataclass
class OurLoop:
    """Our loop as a way: decodes the round's prompts and keeps what it did there."""

    target: Any
    draft: Any | None
    prompts: Sequence[Sequence[int]]
    gamma: int
    tokens: int
    rows: int = 1
    rounds: dict[int, list[Round]] = field(default_factory=dict)  # round of the benchmark -> rounds of the loop

    def __call__(self, number: int) -> float:
        texts = in_turn(self.prompts, number, self.rows)
        settings = DecodeSettings(Sampling(0.0), FixedLength(self.gamma), self.tokens, frozenset())
        if self.draft is None:
            events = plain_decode(self.target, texts, settings)
        else:
            events = speculative_decode(self.target, self.draft, texts, settings)
        self.rounds[number] = list(events)
        return float(sum(len(event.emitted) for event in self.rounds[number]))

    def texts(self) -> list[list[int]]:
        """The ids that each round's first row wrote."""
        return [
            [token for event in listed if event.row == 0 for token in event.emitted] for listed in self.rounds.values()
        ]


@dataclass
class Generate:
    """Transformers' `generate` as a way."""

    target: Any
    prompts: Sequence[Sequence[int]]
    tokens: int
    more: dict[str, Any] = field(default_factory=dict)
    written: dict[int, list[int]] = field(default_factory=dict)

    def __call__(self, number: int) -> float:
        text = generate(self.target, in_turn(self.prompts, number, 1), max_new_tokens=self.tokens, **self.more)[0]
        self.written[number] = text
        return float(len(text))


def record_shapes(loops: Iterable[OurLoop], rounds: Rounds) -> None:
    """On a GPU let loops do all rounds once beforehand: they record a step for each shape when it is first met.

    Prompts of other lengths meet other shapes, and a recording within a timed round would count as decoding. Those of
    the most rows come first: a cache that grows moves, and what was recorded on it before is lost.
    """
    for loop in sorted(loops, key=lambda loop: -loop.rows):
        if loop.target.device.type == "cuda":
            for number in range(rounds.most):
                loop(number)
            loop.rounds.clear()


def in_turn(prompts: Sequence[Sequence[int]], number: int, count: int) -> list[Sequence[int]]:
    """The prompts of a round: `count` of them, going round."""
    return [prompts[(number * count + place) % len(prompts)] for place in range(count)]


def waiting(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done what it was given."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def decode_row(
    subject: Subject,
    *,
    tokens: int,
    rounds: Rounds,
    static_cache: bool = False,
    more_ways: dict[str, Way] | None = None,
) -> Row:
    """Plain and speculative decoding, each beside `generate`, in one turning order.

    `static_cache`: `generate` also with the cache for which Transformers compiles the step. `more_ways`: of other
    programs; each is compared with our plain decoding and with `generate`.
    """
    target, prompts = subject.target.model, subject.prompts
    plain, library = OurLoop(target, None, prompts, 0, tokens), Generate(subject.library_target, prompts, tokens)
    ways: dict[str, Way] = {"plain": plain, "generate": library}
    ratios = [("plain", "generate")]
    static = Generate(subject.library_target, prompts, tokens, {"static_cache": True})
    notes = [_why_not(static)] if static_cache else []
    if notes == [""]:
        ways["static"] = static
        ratios.append(("plain", "static"))
    loops = {gamma: OurLoop(target, subject.draft.model, prompts, gamma, tokens) for gamma in GAMMAS}
    for gamma, loop in loops.items():
        ours, theirs = f"speculative_{gamma}", f"assisted_{gamma}"
        ways[ours] = loop
        assisted = {"assistant": subject.library_draft, "num_draft_tokens": gamma}
        ways[theirs] = Generate(subject.library_target, prompts, tokens, assisted)
        ratios += [(ours, "plain"), (ours, "generate"), (ours, theirs)]
    for name, way in (more_ways or {}).items():
        ways[name] = way
        ratios += [(name, "plain"), (name, "generate")]
    record_shapes((plain, *loops.values()), rounds)
    # a static cache is compiled at the second length that it meets
    paired = interleave(ways, rounds, unit="tokens", warm_up=1 + static_cache, wait=waiting(subject.target.device))
    title = "Decoding, batch 1, temperature 0"
    row = row_of("decode", title, paired, pairs_of(*ratios), {**subject.conditions, "tokens": tokens})
    figures: dict[str, Figure] = {"same_text": _same_texts(plain.texts(), list(library.written.values()))}
    for gamma, loop in loops.items():
        figures |= loop_figures(loop, paired, f"speculative_{gamma}", str(gamma))
    return row.model_copy(update={"figures": {**row.figures, **figures}, "notes": [note for note in notes if note]})


def beside_row(
    name: str,
    title: str,
    subject: Subject,
    ways: Mapping[str, Way],
    ratios: Mapping[str, tuple[str, str]],
    *,
    tokens: int,
    rounds: Rounds,
) -> Row:
    """Other ways of decoding beside our plain loop and `generate`."""
    usual: dict[str, Way] = {
        "plain": OurLoop(subject.target.model, None, subject.prompts, 0, tokens),
        "generate": Generate(subject.library_target, subject.prompts, tokens),
    }
    record_shapes((way for way in (*usual.values(), *ways.values()) if isinstance(way, OurLoop)), rounds)
    paired = interleave({**usual, **ways}, rounds, unit="tokens", wait=waiting(subject.target.device))
    return row_of(name, title, paired, ratios, {**subject.conditions, "tokens": tokens})


def _why_not(way: Generate) -> str:
    """Why `generate` does not work with a static cache here, such as a compiler that is missing; '' if it does."""
    try:
        for number in range(2):  # at the second length it is compiled again, for any
            way(number)
    except Exception as error:  # whatever a compiler raises; the other ways can still be measured
        return f"generate with a static cache failed: {type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return ""


def _same_texts(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> Figure:
    """The share of prompts at which both wrote the same ids."""
    same = [float(list(a) == list(b)) for a, b in zip(ours, theirs, strict=True)]
    return Figure(value=statistics.fmean(same), n=len(same), unit="of prompts")


def loop_figures(loop: OurLoop, paired: Paired, way: str, suffix: str) -> dict[str, Figure]:
    """Where a speculative loop's time goes, and how near it is to what its parts allow."""
    listed = list(loop.rounds.values())
    overhead = [sum(r.overhead_s for r in rounds) for rounds in listed]
    whole = [sum(r.seconds for r in rounds) for rounds in listed]
    emitted = [len(r.emitted) for rounds in listed for r in rounds]
    seconds = [sample.seconds for sample in paired.samples[way]]
    allowed = _allowed_seconds(listed)
    return {
        f"overhead_{suffix}": Figure.of(bootstrap_ratio(overhead, whole), "of a round"),
        f"reached_{suffix}": Figure.of(bootstrap_ratio(allowed, seconds), "of what its parts allow"),
        f"tau_{suffix}": Figure(value=statistics.fmean(emitted), unit="tokens a target forward"),
    }


def _allowed_seconds(listed: Sequence[Sequence[Round]]) -> list[float]:
    """What each answer would take with draft and target forwards alone, each at its median, and the prefill as it was.

    That is the speed which measured draft, verification and acceptance allow: the rounds needed are those that were.
    """
    later = [r for rounds in listed for r in rounds if r.number > 0]
    drafting = [r.draft_s / r.drafted for r in later if r.drafted]
    draft_s = statistics.median(drafting) if drafting else 0.0
    verify_s = {
        gamma: statistics.median(r.verify_s for r in later if r.drafted == gamma)
        for gamma in {r.drafted for r in later}
    }
    return [
        sum(r.draft_s + r.verify_s if r.number == 0 else r.drafted * draft_s + verify_s[r.drafted] for r in rounds)
        for rounds in listed
    ]


def verify_row(subject: Subject, *, tokens: int, rounds: Rounds, gammas: Sequence[int] = (1, 2, 3, 4, 5)) -> Row:
    """Target forwards over several tokens beside those over one, as the loop itself times them."""
    target, prompts = subject.target.model, subject.prompts
    loops = {
        f"{gamma + 1} tokens": OurLoop(target, subject.draft.model if gamma else None, prompts, gamma, tokens)
        for gamma in (0, *gammas)
    }

    def way(loop: OurLoop, number: int) -> Sample:
        loop(number)
        times = [r.verify_s for r in loop.rounds[number] if r.number > 0 and r.drafted == loop.gamma]
        return Sample(float(len(times)), sum(times))

    ways: dict[str, Way] = {name: partial(way, loop) for name, loop in loops.items()}
    record_shapes(loops.values(), rounds)
    paired = interleave(ways, rounds, unit="forwards", wait=waiting(subject.target.device))
    # seconds of a verification over those of a plain step: the rates the other way round
    ratios = {f"verify_{gamma + 1}": ("1 tokens", f"{gamma + 1} tokens") for gamma in gammas}
    row = row_of("verify", "Target forwards over several tokens", paired, ratios, subject.conditions)
    step = paired.samples["1 tokens"]
    rate = bootstrap_ratio([1000 * s.seconds for s in step], [s.amount for s in step])
    drafting = [
        [r for r in listed if r.number > 0 and r.drafted]
        for listed in loops[f"{max(gammas) + 1} tokens"].rounds.values()
    ]
    drafted_ms, drafted = (
        [1000 * sum(r.draft_s for r in some) for some in drafting],
        [sum(r.drafted for r in some) for some in drafting],
    )
    figures = {
        "step_ms": Figure.of(rate, "ms"),
        "draft_ms": Figure.of(bootstrap_ratio(drafted_ms, drafted), "ms a token"),
    }
    return row.model_copy(update={"figures": {**row.figures, **figures}})


def batches_row(
    subject: Subject, *, tokens: int, rounds: Rounds, sizes: Sequence[int] = (1, 4, 8), gamma: int | None = None
) -> Row:
    """Plain and speculative decoding of several prompts together. `gamma`: the draft's own if None."""
    target, draft, gamma = subject.target.model, subject.draft.model, gamma or subject.gamma
    loops = {}
    for size in sizes:
        loops[f"plain_{size}"] = OurLoop(target, None, subject.prompts, 0, tokens, size)
        loops[f"speculative_{size}"] = OurLoop(target, draft, subject.prompts, gamma, tokens, size)
    ways: dict[str, Way] = {**loops}
    record_shapes(loops.values(), rounds)
    paired = interleave(ways, rounds, unit="tokens", wait=waiting(subject.target.device))
    ratios = pairs_of(*((f"speculative_{size}", f"plain_{size}") for size in sizes))
    conditions = {**subject.conditions, "gamma": gamma, "tokens": tokens}
    return row_of("batches", "Decoding several prompts together", paired, ratios, conditions)


def domain_row(subject: Subject, *, tokens: int, rounds: Rounds) -> Row:
    """The draft that is served for a domain, at its own gamma."""
    target, prompts = subject.target.model, subject.prompts
    plain, loop = (OurLoop(target, draft, prompts, subject.gamma, tokens) for draft in (None, subject.draft.model))
    library = Generate(subject.library_target, prompts, tokens)
    ways: dict[str, Way] = {"plain": plain, "speculative": loop, "generate": library}
    record_shapes((plain, loop), rounds)
    paired = interleave(ways, rounds, unit="tokens", wait=waiting(subject.target.device))
    ratios = pairs_of(("speculative", "plain"), ("speculative", "generate"))
    conditions = {**subject.conditions, "gamma": subject.gamma, "tokens": tokens}
    row = row_of(f"domain_{subject.name}", f"The draft served for {subject.name}", paired, ratios, conditions)
    return row.model_copy(update={"figures": {**row.figures, **loop_figures(loop, paired, "speculative", "own")}})


def bandwidth(device: torch.device, gigabytes: float) -> float:
    """Bytes a second that a large copy reads and writes: what a step that reads all weights is limited by."""
    source = torch.empty(int(gigabytes * 1e9 / 4), dtype=torch.float32, device=device).fill_(1.0)
    place, wait = torch.empty_like(source), waiting(device)

    def copy(_: int) -> float:
        for _ in range(5):
            place.copy_(source)
        return 5 * 2.0 * source.numel() * source.element_size()

    return interleave({"copy": copy}, Rounds(4), unit="bytes", wait=wait).rate("copy").value


def large_row(subject: Subject, weight_bytes: int, *, tokens: int, rounds: Rounds, gigabytes: float) -> Row:
    """Plain decoding of a large target beside `generate` and beside what reading its weights takes."""
    target, prompts = subject.target.model, subject.prompts
    loop = OurLoop(target, None, prompts, 0, tokens)
    ways: dict[str, Way] = {"plain": loop, "generate": Generate(subject.library_target, prompts, tokens)}
    record_shapes([loop], rounds)
    paired = interleave(ways, rounds, unit="tokens", warm_up=2, wait=waiting(subject.target.device))
    row = row_of("large", "A large target, plain", paired, pairs_of(("plain", "generate")), subject.conditions)
    limit_s = weight_bytes / bandwidth(subject.target.device, gigabytes)
    steps = [[r.seconds for r in rounds if r.number > 0] for rounds in loop.rounds.values()]
    seconds, counts = [sum(times) for times in steps], [len(times) for times in steps]
    figures = {
        "limit_ms": Figure(value=1000 * limit_s, unit="ms"),
        "step_ms": Figure.of(bootstrap_ratio([1000 * s for s in seconds], counts), "ms"),
        "step/limit": Figure.of(bootstrap_ratio(seconds, [n * limit_s for n in counts]), "of the bandwidth limit"),
    }
    return row.model_copy(update={"figures": {**row.figures, **figures}})
