"""The modes of training: each makes the source of batches that its name says. A new mode is a line in `MODES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.capture.signal import SignalFormat
from engine.capture.store import Capture
from engine.config.schema import CaptureSpec, TrainSpec
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.distill.modes.offline import OfflineBatches
from engine.distill.modes.on_policy import OnPolicyBatches
from engine.distill.modes.online import DecodedStream, OnlineBatches, Query, ReplayedStream, Stream
from engine.distill.reading import SignalReader
from engine.distill.source import BatchSource
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel


@dataclass(frozen=True)
class Material:
    """What a mode may draw on."""

    draft: Draft  # in training
    target: LoadedModel
    queries: Sequence[Query]  # in the order of the prompt files
    signal: SignalFormat
    training: Capture | None  # the target's answers to them; None where a stream is decoded
    settings: TrainSpec
    capture: CaptureSpec
    folder: Path  # of the run
    emit: Callable[[dict[str, Any]], None]

    @property
    def head(self) -> Head:
        return Head.of(self.target.model)

    def reader(self, capture: Capture | None) -> SignalReader:
        """Reads a signal of the training captures' format for the draft; `capture`: the one it is of, if any."""
        ids = Head.of(self.draft.model).ids
        return SignalReader(self.signal, self.head, self.target.device, ids, self.settings, capture)


def needs_capture(settings: TrainSpec) -> bool:
    """Whether the target must have answered the training prompts before training begins."""
    return not (settings.mode == "online" and settings.online.stream == "decode")


def offline(material: Material) -> BatchSource:
    assert material.training is not None
    ids = Head.of(material.draft.model).ids
    return OfflineBatches(material.training, material.settings, material.head, material.target.device, ids)


def online(material: Material) -> BatchSource:
    return OnlineBatches(
        _stream(material),
        material.queries,
        material.settings,
        material.reader(material.training),
        material.draft.model,
        material.folder / "stream",
        dtype=material.target.dtype,
        most_at_once=material.capture.batch_size,
        emit=material.emit,
    )


def _stream(material: Material) -> Stream:
    capture, spec = material.capture, material.settings.online
    sampling = Sampling(capture.temperature, capture.top_k, capture.top_p)
    gamma, most = spec.num_draft_tokens, capture.max_new_tokens
    if material.training is not None:
        seed = material.settings.seed
        return ReplayedStream(material.training, material.head, sampling, gamma=gamma, max_new_tokens=most, seed=seed)
    stop_ids = material.target.stop_ids
    settings = DecodeSettings(sampling, FixedLength(gamma), most, stop_ids, capture.seed)
    return DecodedStream(material.target.model, material.signal, settings)


def on_policy(material: Material) -> BatchSource:
    assert material.training is not None
    draft, target = material.draft.model, material.target
    return OnPolicyBatches(draft, target, material.training, material.settings, material.capture)


MODES: dict[str, Callable[[Material], BatchSource]] = {"offline": offline, "online": online, "on_policy": on_policy}
