"""Teacher forcing: captured answers as padded batches, for training and for exact acceptance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.capture.store import AnsweredPrompt, Capture


@dataclass(frozen=True)
class Batch:
    """Some answered prompts, padded on the right.

    `responds` marks the positions whose logits predict a token of the answer: the last of the
    prompt to the last but one of the answer. Flat tensors follow those positions row by row.
    """

    ids: torch.Tensor  # [row, position], int64
    mask: torch.Tensor  # [row, position], int64, 1 for real tokens
    responds: torch.Tensor  # [row, position], bool
    token_ids: torch.Tensor  # [response position], int64: the token to predict
    raw_signal: torch.Tensor  # [response position, bytes_per_token], uint8, on the CPU
    places: torch.Tensor  # [response position], int64, on the CPU: number of the position in the whole capture
    lengths: list[int]  # answer tokens of each row
    names: list[str]  # prompt id of each row

    @property
    def tokens(self) -> int:
        return int(self.token_ids.shape[0])


def sequence_tokens(answer: AnsweredPrompt) -> int:
    """Positions the answer takes in a batch: its last token is predicted, never read."""
    return len(answer.prompt_ids) + len(answer.token_ids) - 1


def collate(capture: Capture, answers: Sequence[AnsweredPrompt], device: torch.device) -> Batch:
    """Pad some answers of a capture to one batch on `device`."""
    width = max(sequence_tokens(answer) for answer in answers)
    ids = torch.zeros(len(answers), width, dtype=torch.long)
    mask, responds = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(answers):
        length = sequence_tokens(answer)
        ids[row, :length] = torch.tensor([*answer.prompt_ids, *answer.token_ids[:-1]])
        mask[row, :length] = 1
        responds[row, len(answer.prompt_ids) - 1 : length] = True
    tokens = torch.tensor([token for answer in answers for token in answer.token_ids])
    raw = torch.cat([capture.raw_signal(answer) for answer in answers])
    return Batch(
        ids.to(device),
        mask.to(device),
        responds.to(device),
        tokens.to(device),
        raw,
        torch.cat([capture.places(answer) for answer in answers]),
        [len(a.token_ids) for a in answers],
        [a.prompt_id for a in answers],
    )
