"""How far the distributions of a served capture reach, and whether its text is drawn from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from engine.capture.plan import CapturePlan
from engine.capture.signal import CompactSignal
from engine.errors import DraftbenchError
from engine.measure.statistics import ALARM_Z, calibration_z
from engine.records.capture import AnswerSignal, ServedSignal

_MOST_APART = 0.15  # between two shares of likeliest tokens; a server that cuts at 5% of the likeliest stays below
_FEW = 200  # tokens, among which such a distance may be chance


def served_signal(plan: CapturePlan, lines: Sequence[Mapping[str, Any]]) -> ServedSignal:
    """Sum up a capture's compact signal. `lines`: of its answers.jsonl.

    Raises DraftbenchError if the likeliest token was written far more or less often than the probabilities say, where
    the text should be drawn from them: at temperature 1 with nothing cut off, or greedily.
    """
    kept, tail, hits, chances = [], [], [], []
    for ids, signal in _signals(plan, lines):
        best, place = signal.logprobs.max(-1)
        likeliest = signal.token_ids.gather(-1, place.unsqueeze(-1)).squeeze(-1)
        kept.append((signal.token_ids < signal.vocab).sum(-1))
        tail.append(signal.tail_mass)
        hits.append(likeliest == ids)
        chances.append(best.exp())
    lost = [AnswerSignal.model_validate(line.get("signal", {})) for line in lines]
    left_out = AnswerSignal(
        short=sum(answer.short for answer in lost),
        unnamed=math.fsum(answer.unnamed for answer in lost),
        likeliest_unnamed=sum(answer.likeliest_unnamed for answer in lost),
        cut=sum(answer.cut for answer in lost),
        ends_left_out=sum(answer.ends_left_out for answer in lost),
    )
    written, expected = torch.cat(hits).double(), torch.cat(chances).double().clamp_max(1)
    outcome = ServedSignal(
        logprobs=plan.spec["server"]["logprobs"],
        kept=float(torch.cat(kept).double().mean()),
        tail=float(torch.cat(tail).double().mean()),
        left_out=left_out,
        likeliest_written=float(written.mean()),
        likeliest_expected=float(expected.mean()),
    )
    spec = plan.spec
    if spec["temperature"] == 0:
        _refuse_other_text(outcome.likeliest_written, 1.0, len(written), spec)
    elif (spec["temperature"], spec["top_p"], spec["top_k"]) == (1, 1, 0):
        _refuse_other_text(outcome.likeliest_written, outcome.likeliest_expected, len(written), spec)
        z = calibration_z(written.numpy(), expected.numpy()).z
        outcome = outcome.model_copy(update={"z": z if math.isfinite(z) else math.nan})
    return outcome


def remarks(signal: ServedSignal, model: str, temperature: float) -> Iterator[str]:
    """What a log says of a served signal."""
    lost = signal.left_out
    yield (
        f"signal of {model}: {signal.kept:.1f} tokens at each position, which hold {1 - signal.tail:.1%} of the "
        "probability; the rest is one bucket, inside which the draft learns nothing"
    )
    if temperature != 1:
        yield f"its text is drawn at temperature {temperature:g}, its signal is the distribution at temperature 1"
    if lost.short:
        yield f"at {lost.short:,} positions it sent fewer than the {signal.logprobs} likeliest tokens asked for"
    if lost.unnamed > 0:
        yield f"tokens without a certain id hold a mass of {lost.unnamed:,.2f} positions in all: it is in the bucket"
    if lost.likeliest_unnamed:
        yield (
            f"at {lost.likeliest_unnamed:,} positions the likeliest token is one of those: argmax_ce takes the next "
            "one there"
        )
    if lost.cut:
        yield f"{lost.cut:,} tokens at the ends of answers were left out: their id or distribution is not certain"
    if lost.ends_left_out:
        yield (
            f"{lost.ends_left_out:,} answers end without a distribution at their end: from these the draft does not "
            "learn when to end"
        )
    if abs(signal.z) >= ALARM_Z:
        yield (
            f"the likeliest token was written at {signal.likeliest_written:.1%} of the positions, by the "
            f"probabilities it would be {signal.likeliest_expected:.1%} (z = {signal.z:+.1f}): the text is not drawn "
            "from the whole distribution (a server's own top_k, min_p or penalty); the draft learns the distribution"
        )


def _signals(plan: CapturePlan, lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[torch.Tensor, CompactSignal]]:
    """The ids and the signal of each answer, read one after the other."""
    stride = plan.signal.bytes_per_token
    with open(plan.folder / "signal.bin", "rb") as file:
        for line in lines:
            file.seek(line["offset"])
            raw = torch.frombuffer(bytearray(file.read(stride * len(line["token_ids"]))), dtype=torch.uint8)
            signal = plan.signal.decode(raw.view(-1, stride), None)
            assert isinstance(signal, CompactSignal)
            yield torch.tensor(line["token_ids"]), signal


def _refuse_other_text(written: float, expected: float, tokens: int, spec: Mapping[str, Any]) -> None:
    if abs(written - expected) <= _MOST_APART or tokens < _FEW:
        return
    name, temperature = spec["server"]["model"], spec["temperature"]
    raise DraftbenchError(
        f"{name} wrote its likeliest token at {written:.1%} of {tokens:,} positions; at temperature {temperature:g} "
        f"the probabilities it sends make that {expected:.1%}",
        "what it sends is not the distribution that it draws from: logits, probabilities of another temperature or of "
        "a cut, or text of another model",
        "vLLM: --logprobs-mode raw_logprobs and --generation-config vllm; then delete the capture "
        "(`draftbench paths` shows where captures are) and run again",
    )
