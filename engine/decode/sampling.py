"""Rules of sampling: the distribution that is really sampled, and draws from it.

Both models pass through the same `distribution`, and the q recorded for a draft token is the
one it was drawn from. A draft identical to its target therefore accepts everything, unless it proposes its
likeliest token whatever the target draws: then q is one-hot, and not what the target samples from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from engine.config.section import temperature_fault
from engine.errors import DraftbenchError

NOT_NUMBERS = -1  # in place of an id that was decided by logits with NaN or infinity
_BLOCK = 256  # ids looked at or summed at once when choosing
_BELOW_ONE = 1 - 2**-53  # the largest float64 below one


@dataclass(frozen=True)
class Sampling:
    """Temperature (0 is greedy), top-k (0 is off) and top-p (1 is off), in that order."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Raise DraftbenchError for values that give no distribution."""
        if fault := self._fault():
            raise DraftbenchError(
                f"nothing can be sampled at temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}",
                fault,
                "for greedy decoding use temperature 0",
            )

    def _fault(self) -> str:
        if self.top_k < 0:
            return "top_k counts tokens; 0 is off"
        if not 0 < self.top_p <= 1:
            return "top_p is a share above 0, up to 1, which is off"
        return temperature_fault(self.temperature)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def at(self, rows: Sequence[int]) -> Sampling:
        """The sampling of some rows of a batch."""
        return self


@dataclass(frozen=True)
class SamplingByRow(Sampling):
    """A sampling for each row of a batch, so that different ones are decoded together."""

    temperature: float = math.nan  # that of no row, so that reading it spoils the result for all to see
    rows: tuple[Sampling, ...] = ()

    def _fault(self) -> str:
        return ""  # each row's own was looked at

    def at(self, rows: Sequence[int]) -> SamplingByRow:
        return replace(self, rows=tuple(self.rows[row] for row in rows))


def distribution(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """logits: [..., vocab] -> probabilities: [..., vocab], float32, one-hot when greedy.

    With a sampling for each row, logits are [row, ..., vocab]; ValueError if there are more or fewer rows.
    """
    if isinstance(sampling, SamplingByRow):
        return torch.stack([distribution(row, own) for row, own in zip(logits, sampling.rows, strict=True)])
    if sampling.greedy:
        return one_hot(likeliest(logits), logits.shape[-1])
    scores = logits.float() if sampling.temperature == 1 else logits.float() / sampling.temperature
    if 0 < sampling.top_k < scores.shape[-1]:
        scores = _keep_top_k(scores, sampling.top_k)
    probs = torch.softmax(scores, dim=-1)
    return probs if sampling.top_p >= 1 else _keep_nucleus(probs, sampling.top_p)


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The id of the largest logit, the lowest of equal ones: [..., vocab] -> [...].

    In two steps, first over blocks of ids and then inside one: on a CPU torch's own argmax takes eight times as long
    for bfloat16, since only its maximum is vectorised.
    """
    if logits.device.type != "cpu" or logits.shape[-1] % _BLOCK:
        return logits.argmax(-1)
    blocks = logits.reshape(*logits.shape[:-1], logits.shape[-1] // _BLOCK, _BLOCK)
    best = blocks.amax(-1).argmax(-1)
    inside = blocks.gather(-2, best[..., None, None].expand(*best.shape, 1, _BLOCK)).squeeze(-2).argmax(-1)
    return best * _BLOCK + inside


def one_hot(ids: torch.Tensor, vocab: int) -> torch.Tensor:
    """All probability on one token: [...] -> [..., vocab], float32."""
    probs = torch.zeros(*ids.shape, vocab, device=ids.device)
    return probs.scatter_(-1, ids.unsqueeze(-1), 1.0)


def _keep_top_k(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Everything but the k best becomes -inf; ties at the edge go to the lower id."""
    edge = scores.topk(k, dim=-1).values[..., -1:]
    above, tied = scores > edge, scores == edge  # torch.topk picks among the tied ones as it likes
    room = k - above.sum(-1, keepdim=True)
    return scores.masked_fill(~(above | (tied & (tied.cumsum(-1) <= room))), float("-inf"))


def _keep_nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest set of likeliest tokens whose mass reaches top_p, renormalised."""
    ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, torch.zeros_like(ordered))
    nucleus = torch.zeros_like(probs).scatter(-1, ids, kept)
    return nucleus / nucleus.sum(-1, keepdim=True)


def draw(probs: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Ids drawn by inverting the cumulative distribution.

    probs: [..., vocab] of any positive total; uniforms: [...] in [0, 1) -> ids: [...].
    The total is taken from the cumulative sum itself, so rounding cannot run past the end, and a
    token of probability zero is never drawn. The sum is inverted in two steps, first over blocks of
    ids and then inside one, because only sums of float64 and no row of it need be written.
    Of NaN some id is drawn: see `are_numbers`.
    """
    wide = probs.cpu() if probs.device.type == "mps" else probs  # which knows no float64
    blocks = _blocks(wide)
    block, left = _invert(blocks.sum(-1, dtype=torch.float64), uniforms.to(wide.device, torch.float64))
    index = block[..., None, None].expand(*block.shape, 1, blocks.shape[-1])
    inside, _ = _invert(blocks.gather(-2, index).squeeze(-2).double(), left)
    return (block * blocks.shape[-1] + inside).clamp_max(probs.shape[-1] - 1).to(probs.device)


def _blocks(probs: torch.Tensor) -> torch.Tensor:
    """[..., vocab] -> [..., block, _BLOCK], filled up with zeros, which are never drawn."""
    missing = -probs.shape[-1] % _BLOCK
    padded = F.pad(probs, (0, missing)) if missing else probs
    return padded.reshape(*probs.shape[:-1], padded.shape[-1] // _BLOCK, _BLOCK)


def _invert(masses: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first index whose cumulative mass exceeds the uniform's share of the total, and how far into it that lies.

    masses: [..., n] float64 of positive total, uniforms: [...] in [0, 1) -> indices [...], shares [...] in [0, 1).
    """
    cumulative = masses.cumsum(-1)
    # the product may round up to the total itself, after which nothing lies
    threshold = torch.minimum(uniforms * cumulative[..., -1], cumulative[..., -1] * _BELOW_ONE).unsqueeze(-1)
    # limited, since NaN would point past the end
    index = torch.searchsorted(cumulative, threshold, right=True).clamp_max(masses.shape[-1] - 1)
    mass = masses.gather(-1, index)
    into = threshold - (cumulative.gather(-1, index) - mass)
    return index.squeeze(-1), (into / mass).clamp(0, _BELOW_ONE).squeeze(-1)


def are_numbers(logits: torch.Tensor) -> torch.Tensor:
    """Whether logits can be chosen from: [..., vocab] -> [...], bool. A NaN anywhere is also their maximum."""
    largest = logits.amax(-1)
    return largest - largest == 0  # of infinity it is NaN; `isfinite` takes twice as many kernels


def not_numbers(model: Any, name: str, tokens: int) -> DraftbenchError:
    """The refusal of logits that are no numbers, after `tokens` of the answer to the prompt of that name."""
    prompt = f" for prompt {name!r}" if name else ""
    return DraftbenchError(
        f"the logits of {type(model).__name__} are not numbers{prompt}, after {tokens:,} tokens of the answer",
        "its weights are damaged, or its values are too large for the dtype; nothing can be chosen from them",
        "fetch the model again, or set target.dtype: float32",
    )


def next_ids(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor) -> torch.Tensor:
    """Ids sampled from logits [..., vocab] with uniforms [...]: [...]. The draw itself, where q is not asked for."""
    if sampling.greedy:
        return likeliest(logits)
    return draw(distribution(logits, sampling), uniforms)


def overlap(target_probs: torch.Tensor, draft_probs: torch.Tensor) -> torch.Tensor:
    """sum_v min(p, q): the expected acceptance at a position [Leviathan et al. 2023, eq. 3]. [..., vocab] -> [...]"""
    return torch.minimum(target_probs, draft_probs).sum(-1)


def residual(target_probs: torch.Tensor, draft_probs: torch.Tensor) -> torch.Tensor:
    """normalise(max(0, p - q)): what a refused token is replaced from. [..., vocab] -> [..., vocab]

    Where p and q agree up to rounding nothing is left over, refusal has probability zero up to
    rounding, and p itself is returned.
    """
    left = (target_probs - draft_probs).clamp_min(0)
    total = left.sum(-1, keepdim=True)
    return torch.where(total > 0, left / total.clamp_min(torch.finfo(left.dtype).tiny), target_probs)


class Uniforms:
    """A stream of uniform draws for each row, so that a row's text does not depend on its batch."""

    def __init__(self, seed: int, rows: list[str]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=_stream_key(seed, row))) for row in rows]

    def take(self, rows: list[int], count: int) -> torch.Tensor:
        """The next `count` draws of each row in `rows`: [len(rows), count], float64 in [0, 1)."""
        return torch.from_numpy(np.stack([self._streams[row].random(count) for row in rows]))


def _stream_key(seed: int, row: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{row}".encode()).digest()[:16], "little")
