"""Online mode: the draft learns from its refusals while it serves a stream of queries [OSD, arXiv 2310.07177].

Queries are taken in stream order, each once. Every `update_interval` of them are decoded
speculatively by the draft as it is; the positions at which the target refused it become the next
update's batch; then the new weights are swapped in, between queries. The text that a query
leaves is the target's own, so a position to learn from is a position of a captured answer: the same
batches, losses and gradients as offline, at fewer places.

Two ways to run the stream. *Decode* is the real thing. *Replay* draws the fates for the text of a
capture: at a judged position the target's token x was accepted with probability
P(accepted, x) / P(x) = min(p(x), q(x)) / p(x), so text and fates together have the distribution of a
decoded stream, for one forward pass instead of one a token. It also lets runs of different
modes learn from the very same text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engine.capture.batches import Batch, Sample, captured
from engine.capture.signal import SignalFormat
from engine.capture.store import Capture
from engine.config.schema import OnlineSpec, TrainSpec
from engine.decode.events import Round
from engine.decode.sampling import Sampling, Uniforms
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.distill.reading import SignalReader
from engine.distill.source import BatchSource, Material, Query
from engine.distill.stream import Streamed, StreamLog, streamed
from engine.errors import DraftbenchError
from engine.measure.acceptance import PromptAcceptance, exact_acceptance
from engine.models.head import Head
from engine.models.precision import copy_in
from engine.records.events import Event


def source(material: Material) -> OnlineBatches:
    """The batches of the mode."""
    return OnlineBatches(
        _stream(material),
        material.queries,
        material.settings,
        material.reader(material.training),
        material.draft.model,
        material.folder / "stream",
        dtype=material.target.dtype,
        most_at_once=material.capture.side_by_side,
        emit=material.emit,
    )


def _stream(material: Material) -> Stream:
    capture, spec = material.capture, material.settings.online
    sampling = Sampling(capture.temperature, capture.top_k, capture.top_p)
    gamma, most = spec.num_draft_tokens, capture.max_new_tokens
    if material.training is not None:
        seed = material.settings.seed
        return ReplayedStream(material.training, material.head, sampling, gamma=gamma, max_new_tokens=most, seed=seed)
    settings = DecodeSettings(sampling, FixedLength(gamma), most, material.target.stop_ids, capture.seed)
    return DecodedStream(material.target.model, material.signal, settings)


class Stream(Protocol):
    """Something that answers queries with the target and a draft."""

    signal: SignalFormat

    def answer(
        self, draft_model: Any, queries: Sequence[Query], first: int, update: int
    ) -> list[tuple[Streamed, torch.Tensor | None]]:
        """What becomes of each query, and its signal [token, bytes_per_token] if it is not in a capture.

        `first` is the number of the first query in the stream, from 0.
        """
        ...

    def sample(self, entry: Streamed, raw_signal: torch.Tensor, keep: torch.Tensor) -> Sample:
        """A query of the past to learn from; `raw_signal` is what the log kept of it."""
        ...


class DecodedStream:
    """Queries are decoded speculatively, those between two updates side by side.

    A row's rounds do not depend on the rows beside it, so this is the same as one after another, up to the
    rounding of batched kernels.
    """

    def __init__(self, target: Any, signal: SignalFormat, settings: DecodeSettings) -> None:
        self.target, self.signal, self.settings = target, signal, settings

    def answer(
        self, draft_model: Any, queries: Sequence[Query], first: int, update: int
    ) -> list[tuple[Streamed, torch.Tensor | None]]:
        rounds: list[list[Round]] = [[] for _ in queries]
        hidden: list[list[torch.Tensor]] = [[] for _ in queries]
        decoding = speculative_decode(
            self.target,
            draft_model,
            [query.prompt_ids for query in queries],
            self.settings,
            names=[query.prompt_id for query in queries],
            observe=lambda row, states: hidden[row].append(states),
        )
        for item in decoding:
            rounds[item.row].append(item)
        return [
            (streamed(first + i, update, query.prompt_id, query.prompt_ids, rounds[i]), self._signal(hidden[i]))
            for i, query in enumerate(queries)
        ]

    def _signal(self, hidden: Sequence[torch.Tensor]) -> torch.Tensor:
        states = torch.cat(list(hidden))
        logits = states if self.signal.kind == "exact" else Head.of(self.target).logits(states)
        return self.signal.encode(states, logits).cpu()

    def sample(self, entry: Streamed, raw_signal: torch.Tensor, keep: torch.Tensor) -> Sample:
        nowhere = torch.full((len(entry.token_ids),), -1)
        return Sample(entry.prompt_id, entry.prompt_ids, entry.token_ids, raw_signal, nowhere, keep)


class ReplayedStream:
    """The text of a capture, its fates drawn as if the draft had just been refused or accepted there."""

    def __init__(
        self, capture: Capture, target_head: Head, sampling: Sampling, *, gamma: int, max_new_tokens: int, seed: int
    ) -> None:
        if capture.format.kind != "exact":
            raise DraftbenchError(
                f"a stream cannot be replayed from a capture with signal {capture.format.kind!r}",
                "whether a token was accepted depends on the target's probability of it",
                "set capture.signal: exact, or train.online.stream: decode",
            )
        self.capture, self.head, self.sampling = capture, target_head, sampling
        self.gamma, self.max_new_tokens, self.seed = gamma, max_new_tokens, seed
        self.signal = capture.format
        self._answers = {answer.prompt_id: answer for answer in capture.answers}

    def answer(
        self, draft_model: Any, queries: Sequence[Query], first: int, update: int
    ) -> list[tuple[Streamed, torch.Tensor | None]]:
        answers = [self._answers[query.prompt_id] for query in queries]
        acceptance = exact_acceptance(draft_model, self.head, self.capture, self.sampling, answers)
        uniforms = Uniforms(self.seed, [f"stream:{query.prompt_id}" for query in queries])
        entries: list[tuple[Streamed, torch.Tensor | None]] = []
        for i, (query, accepted) in enumerate(zip(queries, acceptance, strict=True)):
            draws = uniforms.take([i], len(accepted.token_ids))[0]
            fates = replay_fates(accepted, draws, gamma=self.gamma, limit=self.max_new_tokens)
            expected = float(accepted.overlap[fates.judged].double().sum())
            entry = Streamed(
                first + i,
                update,
                query.prompt_id,
                query.prompt_ids,
                accepted.token_ids,
                fates.judged,
                fates.wrong,
                fates.rounds,
                fates.drafted,
                expected,
            )
            entries.append((entry, None))
        return entries

    def sample(self, entry: Streamed, raw_signal: torch.Tensor, keep: torch.Tensor) -> Sample:
        return captured(self.capture, self._answers[entry.prompt_id], keep)


@dataclass
class Fates:
    """The tokens of a text, by index from 0, that were judged, and those of them that were refused."""

    judged: list[int]
    wrong: list[int]
    rounds: int = 0
    drafted: int = 0


def replay_fates(text: PromptAcceptance, uniforms: torch.Tensor, *, gamma: int, limit: int) -> Fates:
    """The fates of the tokens of a target's text, drawn given the text.

    uniforms: [token] in [0, 1). `limit` is the most tokens the text could have had: near it less is proposed, as
    in decoding. A refused position ends its round, and so does the bonus token after a round without refusal,
    which is neither judged nor wrong.
    """
    p, q = text.target_prob.double().tolist(), text.draft_prob.double().tolist()
    draws, count = uniforms.tolist(), len(text.token_ids)
    fates, place = Fates([], []), 0
    while place < count:
        proposed = min(gamma, limit - place - 1)
        fates.rounds, fates.drafted = fates.rounds + 1, fates.drafted + proposed
        for _ in range(proposed):
            if place == count:  # the text ended inside the block
                break
            fates.judged.append(place)
            refused = not draws[place] * p[place] < q[place]  # u < min(1, q / p) without dividing
            if refused:
                fates.wrong.append(place)
            place += 1
            if refused:
                break
        else:
            place += 1  # the bonus token
    return fates


class OnlineBatches(BatchSource):
    """The refusals of a stream, update by update.

    `draft_model` is the one in training: its weights are read, never changed.

    The stream is logged in `folder`, so that an interrupted run can be resumed. `most_at_once`: queries that
    are answered side by side.
    """

    def __init__(
        self,
        stream: Stream,
        queries: Sequence[Query],
        settings: TrainSpec,
        reader: SignalReader,
        draft_model: Any,
        folder: Path,
        *,
        dtype: torch.dtype,
        most_at_once: int,
        emit: Callable[[Event], None] = lambda event: None,
    ) -> None:
        super().__init__(settings, reader, draft_model.device)
        online = settings.online
        self.stream, self.online, self.emit, self.folder = stream, online, emit, folder
        self.most_at_once = most_at_once
        self.queries = in_order(queries, online, settings.seed)
        self.steps = online.steps(len(queries))
        self.draft_model = draft_model
        self.decoding = copy_in(draft_model, dtype).requires_grad_(False)  # the one that serves the stream
        self.log: StreamLog | None = None

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """Stream the update's queries if this is its first step, and return the batches to learn from."""
        update = step // self.online.steps_per_update
        log = self._opened(step)
        first = update * self.online.update_interval
        if len(log.entries) == first:
            self._swap(update)
            self._run(log, first, update)
        fresh = range(first, len(log.entries))
        samples = [self._sample(log, number) for number in (*fresh, *self._replayed(first, len(fresh), step))]
        return self.grouped([s for s in samples if s.keep is None or bool(s.keep.any())])

    def target_tokens(self, step: int, batches: Sequence[Batch]) -> int:
        """Tokens of the text that the stream passed before this step and after the one before."""
        if step % self.online.steps_per_update or self.log is None:
            return 0
        update = step // self.online.steps_per_update
        return sum(len(entry.token_ids) for entry in self.log.entries if entry.update == update)

    def _opened(self, step: int) -> StreamLog:
        """The log, on the first call cut back to what the weights of this step had seen."""
        if self.log is None:
            self.log = StreamLog(
                self.folder, 0 if isinstance(self.stream, ReplayedStream) else self.stream.signal.bytes_per_token
            )
            self.log.cut(updates := -(-step // self.online.steps_per_update))
            passed = min(len(self.queries), updates * self.online.update_interval)
            if len(self.log.entries) < passed:
                raise DraftbenchError(
                    f"{self.folder} holds {len(self.log.entries)} whole queries; this run has passed {passed}",
                    "the draft has learnt from the rest, which was lost or damaged since",
                    "start a new run from its config.yaml",
                )
        return self.log

    def _run(self, log: StreamLog, first: int, update: int) -> None:
        last = min(len(self.queries), first + self.online.update_interval)
        for start in range(first, last, self.most_at_once):
            queries = self.queries[start : min(start + self.most_at_once, last)]
            for entry, signal in self.stream.answer(self.decoding, queries, start, update):
                log.append(entry, signal)
                self.emit(entry.event(self.online.steps_per_update))

    def _sample(self, log: StreamLog, number: int) -> Sample:
        entry = log.entries[number]
        return self.stream.sample(entry, log.raw_signal(number), entry.keep(self.online.positions))

    def _replayed(self, first: int, fresh: int, step: int) -> list[int]:
        """Earlier queries to learn from once more, as many as make `replay_share` of the batches, over some steps."""
        share = self.online.replay_share
        per_step = fresh * share / (1 - share)  # seldom whole: rounded step by step, a small share would be none
        wanted = min(first, round(per_step * (step + 1)) - round(per_step * step))
        generator = np.random.default_rng([self.settings.seed, step])
        return sorted(int(i) for i in generator.choice(first, wanted, replace=False)) if wanted else []

    def _swap(self, update: int) -> None:
        """Give the draft that decodes the weights of the one that learns, if it is time to."""
        every = self.online.swap_every
        if update and every and update % every == 0:
            _copy(self._weights(self.draft_model), self._weights(self.decoding))

    def state(self) -> dict[str, torch.Tensor]:
        """The weights that decode, where they are not those that learn: kept with a checkpoint.

        What the stream left is on disk before the checkpoint says that it was seen.
        """
        if self.log is not None:
            self.log.flush()
        if self.online.swap_every <= 1:
            return {}
        return {name: t.detach().cpu().contiguous() for name, t in self._weights(self.decoding).items()}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        _copy(state, self._weights(self.decoding))

    def _weights(self, model: Any) -> dict[str, torch.Tensor]:
        """The tensors that training changes; what is shared with the target stays as it is."""
        learning = {name for name, parameter in self.draft_model.named_parameters() if parameter.requires_grad}
        return {name: parameter for name, parameter in model.named_parameters() if name in learning}


def in_order(queries: Sequence[Query], online: OnlineSpec, seed: int) -> list[Query]:
    """The stream: as given, or mixed by the seed."""
    if online.order == "given":
        return list(queries)
    return [queries[i] for i in np.random.default_rng(seed).permutation(len(queries))]


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
