"""Forward KL and argmax_ce without the target's logits: what they need of it is worked out once, not once an epoch.

With a linear head the draft's log-probabilities are log q(v) = h . w_v / T - Z, Z their log-sum-exp. So

    KL(p || q) = sum p log p - h . m / T + Z sum p,   m = sum p(v) w_v,

and its gradient with respect to h is (sum p q(v) w_v - m) / T: of the target only m, its entropy and its mass are
needed, `width` + 2 numbers a position, and nothing of its vocabulary is left out. A token of the target's text is a
distribution too, with all its mass on one id, so -log q(x) at temperature 1 joins in by adding w_x to m. So is the
target's likeliest token, at any temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.config.schema import LossTerm
from engine.decode.device import on_device
from engine.distill.fused import TargetLogits, expected_rows, leaves_out, target_of
from engine.distill.reading import SignalReader
from engine.distill.source import BatchSource
from engine.models.head import Head

_BLOCK = 128  # positions of the file worked out together: in float32 over 150,000 ids they are 77 MB
_MOST_BYTES = 2**30  # of a table
_OF_TARGET = {"forward_kl", "argmax_ce"}  # losses whose gradient is linear in a distribution that the target gives
_LEAST_VISITS = 2  # of a position: its moments cost two multiplications by the head, and save one each time


@dataclass(frozen=True)
class Moments:
    """A target at some positions, as forward KL and argmax_ce see it. Tensors are float32 but for the ids."""

    mean_row: torch.Tensor  # [position, width]: sum of p(v) times the draft's row of v
    log_mean: torch.Tensor  # [position]: sum of p log p
    mass: torch.Tensor  # [position]: sum of p, less than 1 for a trimmed vocabulary
    choice: torch.Tensor | None = None  # [position], int64: the likeliest id's row of the draft; None: in mean_row

    def weighted(
        self,
        terms: Sequence[LossTerm],
        weights: torch.Tensor | None,
        token_ids: torch.Tensor,
        head: Head,
    ) -> Moments:
        """Those of a weighted sum of the losses that have any. weights: [position, term]; token_ids: -1: none."""
        divergence, hard, text = (torch.zeros_like(self.mass) for _ in range(3))
        for number, term in enumerate(terms):
            factor = term.weight * (1.0 if weights is None else weights[:, number])
            if term.name == "argmax_ce":
                hard.add_(factor * term.hard_weight)
                divergence.add_(factor * (1 - term.hard_weight))
            else:
                (divergence if term.name == "forward_kl" else text).add_(factor)
        text = torch.where(token_ids < 0, torch.zeros_like(text), text)
        names = {term.name for term in terms}
        mean_row = divergence.unsqueeze(-1) * self.mean_row
        if "sft" in names:
            mean_row += text.unsqueeze(-1) * head.weight[token_ids.clamp_min(0)].float()
        if "argmax_ce" in names:
            assert self.choice is not None
            mean_row += hard.unsqueeze(-1) * head.weight[self.choice].float()
        return Moments(mean_row, divergence * self.log_mean, divergence * self.mass + hard + text)


class MomentTable:
    """The moments of a capture's positions, each worked out when it is first asked for, its whole block together.

    A block always has the same rows, so that they round the same way whatever batch asks first, and a resumed run goes
    on bit for bit. `head`: the draft's, which must not change.
    """

    def __init__(self, reader: SignalReader, head: Head) -> None:
        assert reader.capture is not None
        self.reader, self.head = reader, head
        width = head.weight.shape[1]
        self._table = torch.full((reader.capture.positions, width + 2), torch.nan, device=head.weight.device)
        self._choices = torch.zeros(reader.capture.positions, dtype=torch.long, device=head.weight.device)
        self._open = torch.ones(-(-reader.capture.positions // _BLOCK), dtype=torch.bool)

    def read(self, places: torch.Tensor) -> Moments | None:
        """The moments at some places of the capture, [position] on the CPU; None if one is not in it (-1)."""
        if bool((places < 0).any()):
            return None
        blocks = torch.unique(places // _BLOCK)
        for block in blocks[self._open[blocks]].tolist():
            self._fill(block)
        at = on_device(places, self._table.device)
        rows = self._table[at]
        return Moments(rows[:, :-2], rows[:, -2], rows[:, -1], self._choices[at])

    @torch.no_grad()
    def _fill(self, block: int) -> None:
        part = slice(block * _BLOCK, min((block + 1) * _BLOCK, len(self._table)))
        target = target_of(self.reader.read_positions(part), [LossTerm(name="forward_kl")])
        assert isinstance(target, TargetLogits)
        weight = self.head.weight
        scores = target.scores(len(weight), self.reader.temperature)
        largest = scores.probs.amax(0) if leaves_out(weight) else None
        self._table[part, :-2] = expected_rows(scores.probs.to(weight.dtype), weight, largest)
        self._table[part, -2] = torch.linalg.vecdot(scores.probs, scores.log_probs)
        self._table[part, -1] = scores.probs.sum(-1)
        self._choices[part] = scores.scores.argmax(-1)
        self._open[block] = False


def moment_table(source: BatchSource, head: Head) -> MomentTable | None:
    """A table for the losses of a source and the draft's head; None where it would not do, or not pay."""
    reader, names = source.reader, {term.name for term in source.terms}
    target_head = reader.own_head or reader.head
    if names - {*_OF_TARGET, "sft"} or not names & _OF_TARGET or ("sft" in names and reader.temperature != 1):
        return None
    if head.weight.requires_grad or head.bias is not None or head.softcap is not None:
        return None
    if reader.capture is None or reader.format.kind != "exact" or not source.reads_capture():
        return None
    if target_head is None or len(head.weight) > len(target_head.weight):
        return None
    fits = 4 * reader.capture.positions * (head.weight.shape[1] + 2) <= _MOST_BYTES
    return MomentTable(reader, head) if fits and source.visits >= _LEAST_VISITS else None
