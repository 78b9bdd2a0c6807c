"""The signal: the target's distribution at each generated position, its layout in bytes and its use.

*exact* stores the last hidden state in bfloat16, from which the target's own head computes all logits again. *compact*
stores the top-k log-probabilities and the mass of everything else; this tail stays one bucket of the distribution,
since dropping it and renormalising would bias the draft towards the top-k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from engine.errors import DraftbenchError
from engine.models.head import Head

SERVER_LOGPROBS = "told"  # on disk, the kind of a signal of log-probabilities that a server sent
_TAIL_FLOOR = 1e-12  # keeps log of an empty tail finite; far below what float16 log-probabilities resolve


class Signal(Protocol):
    """A target's distribution at some positions."""

    def align(self, draft_logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of target and draft on one support: two tensors [position, support], float32.

        draft_logits: [position, draft vocab]. Rows that only one of the models has are padding of its embedding, and
        are left out of both distributions.
        """
        ...


@dataclass(frozen=True)
class ExactSignal:
    """Full distributions, as hidden states and the head that turns them into logits."""

    hidden: torch.Tensor  # [position, width]
    head: Head

    def align(self, draft_logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            target_logits = self.head.logits(self.hidden)
            common = min(target_logits.shape[-1], draft_logits.shape[-1])
            target = _log_softmax(target_logits[..., :common], temperature)
        return target, _log_softmax(draft_logits[..., :common], temperature)


@dataclass(frozen=True)
class LogitsSignal:
    """Full distributions given as logits, for on-the-fly scoring and tests."""

    target_logits: torch.Tensor  # [position, vocab]

    def align(self, draft_logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        common = min(self.target_logits.shape[-1], draft_logits.shape[-1])
        target = _log_softmax(self.target_logits[..., :common].detach(), temperature)
        return target, _log_softmax(draft_logits[..., :common], temperature)


@dataclass(frozen=True)
class TrimmedSignal:
    """Full distributions for a draft with a trimmed vocabulary: p at the draft's ids, not renormalised.

    There p sums to less than one. No draft with these ids can win the rest, so it adds nothing to a gradient;
    renormalising p would say that the draft could always be accepted. Only the draft's rows of the head are multiplied;
    the normaliser over all rows is given, since it is the same in every epoch.
    """

    hidden: torch.Tensor  # [position, width]
    head: Head  # the rows of the draft's ids
    log_totals: torch.Tensor  # [position], logsumexp of the target's logits over its whole vocabulary

    def align(self, draft_logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            scores = self.head.logits(self.hidden).float() / temperature
            target = scores - self.log_totals.unsqueeze(-1)
        return target, _log_softmax(draft_logits, temperature)


@torch.no_grad()
def log_totals(hidden: torch.Tensor, head: Head, temperature: float) -> torch.Tensor:
    """Logsumexp of the target's logits at a temperature. hidden: [position, width] -> [position], float32."""
    return torch.logsumexp(head.logits(hidden).float() / temperature, dim=-1)


@dataclass(frozen=True)
class CompactSignal:
    """The k likeliest tokens and one bucket for the rest: a support of k + 1."""

    token_ids: torch.Tensor  # [position, k], int64
    logprobs: torch.Tensor  # [position, k], float32
    tail_mass: torch.Tensor  # [position], float32
    vocab: int  # of the target
    has_unused: bool = False  # whether an entry of the k may be no token: its id is `vocab`

    def align(self, draft_logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        if temperature != 1:
            raise DraftbenchError(
                f"a compact signal cannot be read at temperature {temperature}",
                "the probabilities inside its tail are not known, so the temperature cannot be applied to them",
                "capture with signal: exact",
            )
        target, draft, _ = self.on_support(_log_softmax(draft_logits[..., : self.vocab], 1.0))
        return target, draft

    def pads(self, rows: int) -> bool:
        """Whether the support may have entries that are no token of a draft of so many rows."""
        return self.has_unused or rows < self.vocab

    def on_support(self, draft: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probabilities of target and draft on the support: [position, k + 1] each; the draft's columns of the k.

        draft: [position, rows] log-probabilities, `rows` at most `vocab`. A column of the k is `rows` where the draft
        has no such token or the entry is unused.
        """
        ids, kept = self.token_ids, self.logprobs
        if self.pads(draft.shape[-1]):
            # a padding row of the target in its top-k is no token of the draft: no mass on either side
            padding, nothing = ids >= draft.shape[-1], math.log(_TAIL_FLOOR)
            ids, kept = ids.masked_fill(padding, draft.shape[-1]), kept.masked_fill(padding, nothing)
            draft = torch.nn.functional.pad(draft, (0, 1), value=nothing)
        tail = self.tail_mass.clamp_min(_TAIL_FLOOR).log().unsqueeze(-1)
        target = torch.cat([kept, tail], dim=-1)
        target = target - target.logsumexp(-1, keepdim=True)  # float16 rounding leaves the sum just off one
        rest = draft.scatter(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
        return target, torch.cat([draft.gather(-1, ids), rest], dim=-1), ids


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    scores = logits.float()
    return torch.log_softmax(scores if temperature == 1 else scores / temperature, dim=-1)


@dataclass(frozen=True)
class SignalFormat:
    """The layout of a signal on disk: `bytes_per_token` raw bytes per position, with nothing between."""

    kind: str  # exact, compact, none or SERVER_LOGPROBS
    width: int  # of the hidden state
    vocab: int
    top_k: int  # of the compact signal
    has_unused: bool = False  # whether a compact signal may have fewer than top_k tokens: a server's has

    @property
    def id_dtype(self) -> torch.dtype:
        return torch.int32 if self.vocab > 65536 else torch.uint16

    @property
    def bytes_per_token(self) -> int:
        if self.kind == "exact":
            return 2 * self.width
        if self.kind == SERVER_LOGPROBS:
            return 2 * torch.float32.itemsize
        return self.top_k * (self.id_dtype.itemsize + 2) + 4 if self.kind == "compact" else 0

    def encode(self, hidden: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """hidden: [row, width], logits: [row, vocab] -> bytes: [row, bytes_per_token], uint8 on the same device."""
        if self.kind == "exact":
            return hidden.to(torch.bfloat16).contiguous().view(torch.uint8)
        if self.kind == "none":
            return torch.zeros(logits.shape[0], 0, dtype=torch.uint8, device=logits.device)
        best = torch.log_softmax(logits.float(), dim=-1).topk(self.top_k, dim=-1)
        return self._compact(best.indices, best.values.half())

    def decode(self, raw: torch.Tensor, head: Head | None, device: torch.device | None = None) -> Signal:
        """raw: [position, bytes_per_token] uint8 -> a signal on `device`. An exact signal needs the target's head."""
        if self.kind == "exact":
            if head is None:
                raise DraftbenchError(
                    "an exact signal needs its target's head", "it stores hidden states", "load the target"
                )
            return ExactSignal(raw.contiguous().view(torch.bfloat16).to(device), head)
        if self.kind in ("none", SERVER_LOGPROBS):
            raise DraftbenchError(
                "this capture has no signal", "it was captured with capture.signal: none", "use the loss sft"
            )
        ids_end = self.top_k * self.id_dtype.itemsize
        probs_end = ids_end + 2 * self.top_k
        ids = raw[:, :ids_end].contiguous().view(self.id_dtype).to(device).long()
        logprobs = raw[:, ids_end:probs_end].contiguous().view(torch.float16).to(device).float()
        tail = raw[:, probs_end:].contiguous().view(torch.float32).to(device).squeeze(-1)
        if self.has_unused:
            ids = ids.masked_fill(logprobs == -math.inf, self.vocab)
        return CompactSignal(ids, logprobs, tail, self.vocab, self.has_unused)

    def encode_known(self, ids: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
        """What a server sent of some distributions -> bytes: [row, bytes_per_token], uint8.

        ids, logprobs: [row, top_k]; -inf where an entry is unused. The tail is what they leave of one.
        """
        return self._compact(ids, logprobs.half())

    def _compact(self, ids: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        tail = (1 - kept.double().exp().sum(-1, keepdim=True)).clamp_min(0).float()
        parts = [ids.to(self.id_dtype), kept, tail]
        return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)


def signal_format(kind: str, model: object, top_k: int) -> SignalFormat:
    """The format for a model; top_k is limited to one less than its vocabulary, so that a tail remains."""
    weight: torch.Tensor = model.get_output_embeddings().weight  # type: ignore[attr-defined]
    vocab, width = weight.shape
    return SignalFormat(kind, width, vocab, min(top_k, vocab - 1))
