"""Pad texts with the target's signal into batches for teacher forcing, in training and for exact acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from engine.capture.answered import AnsweredPrompt
from engine.capture.store import Capture

_GPU_WIDTHS = 64  # positions between two widths of a batch on a GPU


@dataclass(frozen=True)
class Sample:
    """A text to learn from: a prompt, the tokens written after it, and the target's signal at each of them."""

    prompt_id: str
    prompt_ids: list[int]
    token_ids: list[int]
    raw_signal: torch.Tensor  # [token, bytes_per_token], uint8, on the CPU
    places: torch.Tensor  # [token], int64: number of the position in its capture; -1: not in a capture
    keep: torch.Tensor | None = None  # [token], bool: tokens to learn from; None: all
    weights: torch.Tensor | None = None  # [token, term], float32: factor on each loss term; None: 1


@dataclass(frozen=True)
class Batch:
    """Samples padded on the right.

    `responds` marks the positions whose logits predict a token to learn from: at most the last of the prompt to the
    last but one of the text. Flat tensors have one entry per such position, row by row.
    """

    ids: torch.Tensor  # [row, position], int64
    mask: torch.Tensor  # [row, position], int64, 1 for real tokens
    responds: torch.Tensor  # [row, position], bool
    token_ids: torch.Tensor  # [response position], int64: the token to predict
    raw_signal: torch.Tensor  # [response position, bytes_per_token], uint8
    places: torch.Tensor  # [response position], int64, on the CPU: number of the position in its capture, or -1
    lengths: list[int]  # response positions of each row
    names: list[str]  # prompt id of each row
    weights: torch.Tensor | None = None  # [response position, term], float32
    flat: torch.Tensor | None = None  # [response position], int64: where `responds` is set; None: not looked up yet

    @property
    def flat_places(self) -> torch.Tensor:
        """[response position], int64: index of each in the flattened rows. `flat` saves a GPU from being waited for."""
        return self.responds.flatten().nonzero().squeeze(-1) if self.flat is None else self.flat

    @property
    def tokens(self) -> int:
        """The number of positions to learn from."""
        return int(self.token_ids.shape[0])

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on another device, those that stay on the CPU excepted."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if field.name != "places" and isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **moved)

    def only(self, selected: torch.Tensor) -> Batch:
        """Return the batch with only the selected response positions. selected: [response position], bool."""
        responds = self.responds.clone()
        responds[self.responds] = selected.to(responds.device)
        kept = selected.cpu()
        return replace(
            self,
            responds=responds,
            token_ids=self.token_ids[selected.to(self.token_ids.device)],
            raw_signal=self.raw_signal[selected.to(self.raw_signal.device)],
            places=self.places[kept],
            lengths=[int(part.sum()) for part in torch.split(kept, self.lengths)],
            weights=None if self.weights is None else self.weights[selected.to(self.weights.device)],
            flat=None if self.flat is None else self.flat[selected.to(self.flat.device)],
        )


def sequence_tokens(sample: AnsweredPrompt | Sample) -> int:
    """The positions of a text in a batch: its last token is predicted, never read."""
    return len(sample.prompt_ids) + len(sample.token_ids) - 1


def captured(capture: Capture, answer: AnsweredPrompt, keep: torch.Tensor | None = None) -> Sample:
    """An answer of a capture as a sample; `keep` [token] selects the tokens to learn from, None all."""
    return Sample(
        answer.prompt_id, answer.prompt_ids, answer.token_ids, capture.raw_signal(answer), capture.places(answer), keep
    )


def collate(capture: Capture, answers: Sequence[AnsweredPrompt], device: torch.device) -> Batch:
    """Pad complete answers of a capture into a batch on `device`."""
    return collate_samples([captured(capture, answer) for answer in answers], device)


def padded_tokens(tokens: int, device: torch.device) -> int:
    """The width that a text of so many positions gets in a batch.

    A GPU works best on few shapes, so there it is a multiple of 64; on a CPU padding only costs time.
    """
    return tokens if device.type == "cpu" else -(-tokens // _GPU_WIDTHS) * _GPU_WIDTHS


def collate_samples(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Pad samples into a batch on `device`. Either all of them have weights or none.

    What goes to a GPU is copied without waiting, from memory that cannot be paged out; the signal goes with it.
    """
    width = padded_tokens(max(sequence_tokens(sample) for sample in samples), device)
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    mask, responds = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    kept = [torch.ones(len(s.token_ids), dtype=torch.bool) if s.keep is None else s.keep for s in samples]
    for row, (sample, keep) in enumerate(zip(samples, kept, strict=True)):
        length = sequence_tokens(sample)
        ids[row, :length] = torch.tensor([*sample.prompt_ids, *sample.token_ids[:-1]])
        mask[row, :length] = 1
        responds[row, len(sample.prompt_ids) - 1 : length] = keep
    tokens = torch.cat([torch.tensor(s.token_ids)[keep] for s, keep in zip(samples, kept, strict=True)])
    weights = [s.weights[keep] for s, keep in zip(samples, kept, strict=True) if s.weights is not None]
    return Batch(
        _on(ids, device),
        _on(mask, device),
        _on(responds, device),
        _on(tokens, device),
        _on(torch.cat([s.raw_signal[keep] for s, keep in zip(samples, kept, strict=True)]), device),
        torch.cat([s.places[keep] for s, keep in zip(samples, kept, strict=True)]),
        [int(keep.sum()) for keep in kept],
        [s.prompt_id for s in samples],
        _on(torch.cat(weights), device) if weights else None,
        _on(responds.flatten().nonzero().squeeze(-1), device),
    )


def _on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
