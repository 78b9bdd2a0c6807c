"""The rows of a machine: what `make bench` and benchmarks/gpu.py measure, with the counts of each kind of machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.train_steps import Training
from benchmarks.speed import capturing, commands, decoding, training
from benchmarks.speed.pairs import Rounds, Sample, Way
from benchmarks.speed.peers import Peer, environment
from benchmarks.speed.record import Row, pairs_of
from benchmarks.speed.session import Planned
from benchmarks.speed.subjects import (
    DOMAINS,
    LLAMA_1B,
    LLAMA_8B,
    SMOLLM2,
    TINY,
    Shape,
    Subject,
    embedded,
    has_embedded_model,
    random_subject,
)
from engine.capture.batch_size import free_bytes
from engine.config.schema import ModelSpec
from engine.errors import DraftbenchError

_MANY = 96  # prompts, so that three rounds of a capture on a processor have none in common
_MOST_TOGETHER = 32  # prompts of a large target
_USUAL = ("plain", "generate")  # what a new way of decoding is compared with


@dataclass(frozen=True)
class Scale:
    """How much of each row is done. Tokens are those of an answer."""

    prompts: int
    tokens: int
    rounds: int
    batch_tokens: int
    capture_batch: int
    capture_prompts: int
    capture_tokens: int
    train_answers: int
    train_tokens: int
    train_steps: int


CPU = Scale(6, 48, 6, 24, 32, 32, 64, 16, 48, 6)
CUDA = Scale(6, 64, 6, 48, 256, 512, 64, 128, 128, 6)
SMALL = Scale(3, 24, 3, 12, 4, 6, 6, 4, 6, 2)  # the same code in seconds


@dataclass(frozen=True)
class Rows:
    """Everything that the rows of a machine need. `tiny`: random weights of a tiny shape in place of real ones."""

    device: torch.device
    tiny: bool
    baseline: Path | None = None
    trl: Path | None = None
    vllm: Path | None = None
    rounds: int | None = None

    @property
    def scale(self) -> Scale:
        scale = SMALL if self.tiny else CUDA if self.device.type == "cuda" else CPU
        return scale if self.rounds is None else replace(scale, rounds=self.rounds)

    @property
    def shape(self) -> Shape:
        return TINY if self.tiny else SMOLLM2

    @property
    def real(self) -> bool:
        """Whether the embedded model is used."""
        return not self.tiny and has_embedded_model()

    @cached_property
    def subject(self) -> Subject:
        """The pair that most rows are about, with as many prompts as there are."""
        if self.real:
            return embedded("function_calling", prompts=max(_MANY, self.scale.capture_prompts), device=str(self.device))
        return random_subject(self.shape, self.device, prompts=self.scale.capture_prompts)

    @property
    def few(self) -> Subject:
        """The same with the prompts of a decoding row."""
        return self.subject.first(self.scale.prompts)

    def planned(self) -> dict[str, Planned]:
        """Every row that this machine can measure, in the order in which they are measured."""
        rows = self._on_processor() if self.device.type == "cpu" and not self.tiny else self._on_gpu()
        return {row.name: row for row in rows}

    def _on_processor(self) -> list[Planned]:
        turns = self._in_turns
        return [
            turns("decode", 130, self._decode),
            *([turns("int8", 70, self._int8)] if "quantize" in ModelSpec.model_fields else []),
            *([turns("before", 70, self._before)] if self.baseline is not None else []),
            turns("verify", 60, self._verify),
            turns("batches", 60, self._batches),
            *(turns(f"domain_{name}", 50, partial(self._domain, name)) for name in DOMAINS),
            turns("capture", 90, self._capture),
            turns("training", 150, self._training),
            Planned("exact", 130, commands.exact_row),
            turns("start", 40, self._start),
            Planned("quickstart", 320, commands.quickstart_row),
        ]

    def _on_gpu(self) -> list[Planned]:
        turns = self._in_turns
        return [
            turns("decode", 120, self._decode, beside_s=35),  # in which Transformers compiles its step
            turns("verify", 35, self._verify),
            turns("batches", 30, self._batches),
            turns("capture", 45, self._capture),
            turns("trainer", 25, self._trainer),
            turns("inner", 25, self._inner),
            *([Planned("quickstart", 80, commands.quickstart_row)] if self.real else []),
            turns("large", 30, self._large),
            turns("verify_large", 25, self._verify_large),
            turns("batches_large", 25, self._batches_large),
        ]

    def _in_turns(self, name: str, needs_s: float, measure: Callable[..., Row], *, beside_s: float = 0.0) -> Planned:
        """A row whose rounds end when its time is over. `beside_s`: what it takes beside its rounds."""
        return Planned(name, needs_s, partial(measure, rounds=Rounds(self.scale.rounds, needs_s - beside_s)))

    def _verify(self, folder: Path, *, rounds: Rounds) -> Row:
        return decoding.verify_row(self.few, tokens=self.scale.tokens // 2, rounds=rounds)

    def _batches(self, folder: Path, *, rounds: Rounds) -> Row:
        return decoding.batches_row(self.few, tokens=self.scale.batch_tokens, rounds=rounds)

    def _decode(self, folder: Path, *, rounds: Rounds) -> Row:
        few, tokens = self.few, self.scale.tokens
        more: dict[str, Way] = {}
        with ExitStack() as stack:
            if self.vllm is not None:
                more["vllm"] = self._vllm(stack, folder, few, tokens=tokens, rows=1)
            compiles = self.device.type == "cuda" or self.tiny
            return decoding.decode_row(few, tokens=tokens, rounds=rounds, static_cache=compiles, more_ways=more)

    def _int8(self, folder: Path, *, rounds: Rounds) -> Row:
        """The target with int8 weights in our loop, plain and speculative."""
        few, tokens = self.few, self.scale.tokens
        int8 = embedded(few.name, prompts=1, device="cpu", quantize="int8")
        gamma, target, draft = few.gamma, int8.target.model, int8.draft.model
        ways: dict[str, Way] = {
            "int8": decoding.OurLoop(target, None, few.prompts, 0, tokens),
            f"int8_speculative_{gamma}": decoding.OurLoop(target, draft, few.prompts, gamma, tokens),
        }
        title, ratios = "Decoding with int8 weights", pairs_of(*((way, over) for way in ways for over in _USUAL))
        return decoding.beside_row("int8", title, few, ways, ratios, tokens=tokens, rounds=rounds)

    def _before(self, folder: Path, *, rounds: Rounds) -> Row:
        """Our loop beside that of the other checkout."""
        few, tokens, gamma = self.few, self.scale.tokens, self.few.gamma
        speculative = f"speculative_{gamma}"
        with self._other_checkout(folder, few) as peer:
            ways: dict[str, Way] = {
                speculative: decoding.OurLoop(few.target.model, few.draft.model, few.prompts, gamma, tokens),
                "baseline_plain": asked(peer, few, 1, work="decode", gamma=0, tokens=tokens),
                f"baseline_{speculative}": asked(peer, few, 1, work="decode", gamma=gamma, tokens=tokens),
            }
            ratios = pairs_of(("plain", "baseline_plain"), (speculative, f"baseline_{speculative}"))
            title = "Decoding beside another checkout"
            return decoding.beside_row("before", title, few, ways, ratios, tokens=tokens, rounds=rounds)

    def _domain(self, name: str, folder: Path, *, rounds: Rounds) -> Row:
        subject = embedded(name, prompts=self.scale.prompts, device=str(self.device))
        return decoding.domain_row(subject, tokens=self.scale.tokens, rounds=rounds)

    def _capture(self, folder: Path, *, rounds: Rounds) -> Row:
        scale = self.scale
        more: dict[str, Way] = {}
        with ExitStack() as stack:
            if self.baseline is not None:
                job = {"work": "capture", "batch": scale.capture_batch, "tokens": scale.capture_tokens}
                peer = stack.enter_context(self._other_checkout(folder, self.subject))
                more["baseline"] = asked(peer, self.subject, scale.capture_prompts, **job)
            if self.vllm is not None:
                more["vllm"] = self._vllm(
                    stack, folder, self.subject, tokens=scale.capture_tokens, rows=scale.capture_prompts, stopping=True
                )
            return capturing.capture_row(
                self.subject,
                folder,
                batch_size=scale.capture_batch,
                prompts_a_round=scale.capture_prompts,
                max_new_tokens=scale.capture_tokens,
                rounds=rounds,
                more_ways=more,
            )

    def _other_checkout(self, folder: Path, subject: Subject) -> Peer:
        """The engine of the other checkout, with the same pair."""
        return Peer("decode_rounds.py", {"domain": subject.name}, folder / "baseline.log", checkout=self.baseline)

    def _vllm(
        self, stack: ExitStack, folder: Path, subject: Subject, *, tokens: int, rows: int, stopping: bool = False
    ) -> Way:
        """vLLM's own engine on the same weights and prompts, in an environment of its own."""
        assert self.vllm is not None
        place = folder / "vllm-target"
        subject.target.model.save_pretrained(place)
        subject.target.tokenizer.save_pretrained(place)
        stops = sorted(subject.stop_ids) if stopping else []
        job = {"model": str(place), "dtype": subject.target.dtype_name, "most_rows": rows}
        peer = stack.enter_context(
            Peer("vllm_generate.py", job, folder / "vllm.log", python=environment(self.vllm, "vllm"))
        )

        return asked(peer, subject, rows, tokens=tokens, stop_ids=stops)

    def _training(self, folder: Path, *, rounds: Rounds) -> Row:
        return training.training_row(
            folder, rounds=rounds, steps=self.scale.train_steps, baseline=self.baseline, trl=self.trl
        )

    def _random_training(self, **more: Any) -> AbstractContextManager[Training]:
        scale, train = self.scale, {"loss": "forward_kl", **more}
        return training.random_training(
            self.shape, self.device, answers=scale.train_answers, tokens=scale.train_tokens, layers=4, more=train
        )

    def _trainer(self, folder: Path, *, rounds: Rounds) -> Row:
        with self._random_training() as made:
            return training.trainer_row(made, self.shape, steps=self.scale.train_steps, rounds=rounds)

    def _inner(self, folder: Path, *, rounds: Rounds) -> Row:
        with self._random_training(micro_batch_tokens=2**16) as made:  # all positions of a step at once
            return training.inner_row(made, self.shape, rounds=rounds)

    @cached_property
    def _large_subject(self) -> Subject:
        shape, draft = (TINY, TINY) if self.tiny else (LLAMA_8B, LLAMA_1B)
        needed = 1.5 * (shape.weight_bytes + draft.weight_bytes)  # with embeddings, caches and what a step takes
        if self.device.type == "cuda" and (free := free_bytes(str(self.device))) < needed:
            raise DraftbenchError(
                f"{free / 1e9:.0f} GB of the device are free",
                f"the {shape.name} and its draft need {needed / 1e9:.0f} GB",
                "use a larger device",
            )
        return random_subject(shape, self.device, prompts=_MOST_TOGETHER, assisted=False, draft_shape=draft)

    def _large(self, folder: Path, *, rounds: Rounds) -> Row:
        shape, scale = TINY if self.tiny else LLAMA_8B, self.scale
        return decoding.large_row(
            self._large_subject.first(scale.prompts),
            shape.weight_bytes,
            tokens=scale.tokens // 2,
            rounds=rounds,
            gigabytes=0.01 if self.tiny else 2.0,
        )

    def _verify_large(self, folder: Path, *, rounds: Rounds) -> Row:
        tokens = self.scale.tokens // 2
        few = self._large_subject.first(self.scale.prompts)
        row = decoding.verify_row(few, tokens=tokens, rounds=rounds, gammas=(1, 3, 5))
        return row.model_copy(update={"name": "verify_large", "title": f"{row.title}, {few.name}"})

    def _batches_large(self, folder: Path, *, rounds: Rounds) -> Row:
        subject, sizes = self._large_subject, (2, 4) if self.tiny else (8, _MOST_TOGETHER)
        row = decoding.batches_row(subject, tokens=self.scale.batch_tokens // 2, rounds=rounds, sizes=sizes, gamma=3)
        return row.model_copy(update={"name": "batches_large", "title": f"{row.title}, {subject.name}"})

    def _start(self, folder: Path, *, rounds: Rounds) -> Row:
        return commands.start_row(folder, rounds=rounds, baseline=self.baseline)


def asked(peer: Peer, subject: Subject, rows: int, **request: Any) -> Way:
    """A way that sends a peer the prompts of the round, and believes its own clock."""

    def way(number: int) -> Sample:
        prompts = [list(ids) for ids in decoding.in_turn(subject.prompts, number, rows)]
        answer = peer.ask(prompts=prompts, **request)
        return Sample(answer["amount"], answer["seconds"])

    return way
